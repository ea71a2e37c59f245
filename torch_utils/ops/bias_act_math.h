// The activation functions, their derivatives, and what becomes of one element. bias_act.py holds the same formulas in torch.
//
// value(u)    act(u), of u = x + b.
// slope(d, s) d * act'(u), computed from s = v = act(u), or from s = u where FROM_U.
// curve(d, s) d * the derivative of act'(u) with respect to s, where CURVED.
// Comparisons are written so that a NaN passes through value and clamp: training must see it.
#pragma once

#include "bias_act.h"
#include "kernel.h"

namespace kdgan {

constexpr double SELU_SCALE = 1.0507009873554805, SELU_BOTTOM = SELU_SCALE * 1.6732632423543772;

template <bool CURVED_, bool FROM_U_ = false> struct Activation {
    static constexpr bool CURVED = CURVED_, FROM_U = FROM_U_;
};

template <class C> KDGAN_INLINE C sigmoid(C u) { return C(1) / (C(1) + std::exp(-u)); }

struct Linear : Activation<false> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u; }
    template <class C> static KDGAN_INLINE C slope(C d, C, C) { return d; }
};

struct Relu : Activation<false> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u < 0 ? C(0) : u; }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return v > 0 ? d : C(0); }
};

struct Lrelu : Activation<false> {
    template <class C> static KDGAN_INLINE C value(C u, C alpha) { return u < 0 ? u * alpha : u; }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C alpha) { return v > 0 ? d : d * alpha; }
};

struct Tanh : Activation<true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return std::tanh(u); }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return d * (C(1) - v * v); }
    template <class C> static KDGAN_INLINE C curve(C d, C v, C) { return d * v * C(-2); }
};

struct Sigmoid : Activation<true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return sigmoid(u); }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return d * v * (C(1) - v); }
    template <class C> static KDGAN_INLINE C curve(C d, C v, C) { return d * (C(1) - C(2) * v); }
};

struct Elu : Activation<true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u < 0 ? std::expm1(u) : u; }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return v < 0 ? d * (v + C(1)) : d; }
    template <class C> static KDGAN_INLINE C curve(C d, C v, C) { return v < 0 ? d : C(0); }
};

struct Selu : Activation<true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u < 0 ? C(SELU_BOTTOM) * std::expm1(u) : C(SELU_SCALE) * u; }
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return d * (v < 0 ? v + C(SELU_BOTTOM) : C(SELU_SCALE)); }
    template <class C> static KDGAN_INLINE C curve(C d, C v, C) { return v < 0 ? d : C(0); }
};

struct Softplus : Activation<true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u > 20 ? u : std::log1p(std::exp(u)); }     // exp overflows above
    template <class C> static KDGAN_INLINE C slope(C d, C v, C) { return d * -std::expm1(-v); }
    template <class C> static KDGAN_INLINE C curve(C d, C v, C) { return d * std::exp(-v); }
};

struct Swish : Activation<true, true> {
    template <class C> static KDGAN_INLINE C value(C u, C) { return u * sigmoid(u); }
    template <class C> static KDGAN_INLINE C slope(C d, C u, C) {
        const C s = sigmoid(u);
        return d * s * (C(1) + u * (C(1) - s));
    }
    template <class C> static KDGAN_INLINE C curve(C d, C u, C) {
        const C s = sigmoid(u);
        return d * s * (C(1) - s) * (C(2) + u * (C(1) - C(2) * s));
    }
};

// The arguments in the type that is computed in.
template <class C> struct Scalars {
    C alpha, gain, over_gain, limit;
    bool clamped;
};

// The limit is rounded as results are: a result at the limit must be recognised as one when the derivatives look at it.
template <class T> KDGAN_INLINE Scalars<Real<T>> scalars_of(const BiasActParams& p) {
    using C = Real<T>;
    return {C(p.alpha), C(p.gain), C(p.over_gain), to_real<T>(from_real<T>(C(p.clamp))), p.clamp >= 0};
}

template <class F, class C> KDGAN_INLINE C forward(C x, C b, const Scalars<C>& a) {
    const C y = F::value(x + b, a.alpha) * a.gain;
    return !a.clamped ? y : y > a.limit ? a.limit : y < -a.limit ? -a.limit : y;
}

template <class F, class C> KDGAN_INLINE C source(C saved, C b, const Scalars<C>& a) { return F::FROM_U ? saved + b : saved * a.over_gain; }

// d where the result is not clamped, else 0.
template <class F, class C> KDGAN_INLINE C masked(C d, C saved, C s, const Scalars<C>& a) {
    if (!a.clamped)
        return d;
    const C y = F::FROM_U ? F::value(s, a.alpha) * a.gain : saved;
    return y >= a.limit || y <= -a.limit ? C(0) : d;
}

template <class F, class C> KDGAN_INLINE C slope(C dy, C saved, C b, const Scalars<C>& a) {
    const C s = source<F>(saved, b, a);
    return masked<F>(F::slope(dy, s, a.alpha) * a.gain, saved, s, a);
}

// With s = v, the factor gain of dx and the factor 1 / gain of v = y / gain cancel.
template <class F, class C> KDGAN_INLINE C curve(C ddx, C dy, C saved, C b, const Scalars<C>& a) {
    const C s = source<F>(saved, b, a);
    return masked<F>(F::curve(ddx * dy, s, a.alpha) * (F::FROM_U ? a.gain : C(1)), saved, s, a);
}

}  // namespace kdgan
