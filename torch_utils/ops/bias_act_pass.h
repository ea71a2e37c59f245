// What the threads of bias_act do: every thread takes packs of 16 bytes, a whole grid apart, until the tensor ends.
#pragma once

#include "bias_act_math.h"

namespace kdgan {

// Where the first element of a pack lies: `inner` steps to the next channel. One division at the start, additions from then on.
struct Walk {
    int64_t inner, channel;

    KDGAN_INLINE Walk(const BiasActParams& p, int64_t i) {
        if (p.n <= 0x7fffffff) {                        // a GPU divides 32-bit numbers several times faster
            const uint32_t outer = static_cast<uint32_t>(i) / static_cast<uint32_t>(p.inner);
            inner = static_cast<uint32_t>(i) % static_cast<uint32_t>(p.inner);
            channel = outer % static_cast<uint32_t>(p.channels);
        } else {
            inner = i % p.inner;
            channel = i / p.inner % p.channels;
        }
    }

    KDGAN_INLINE void advance(const BiasActParams& p, int64_t by_inner, int64_t by_channel) {
        inner += by_inner;
        channel += by_channel;
        if (inner >= p.inner) {
            inner -= p.inner;
            channel++;
        }
        if (channel >= p.channels)
            channel -= p.channels;
    }
};

template <class T> struct Packs {
    using C = Real<T>;
    static constexpr int SIZE = Pack<T>::SIZE;

    static KDGAN_INLINE void read(C (&to)[SIZE], const void* from, int64_t i, const BiasActParams& p) {
        const T* at = static_cast<const T*>(from) + i;
        if (p.packed && i + SIZE <= p.n) {
            const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(at);
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) to[k] = to_real<T>(pack.at[k]);
        } else {
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) to[k] = i + k < p.n ? to_real<T>(at[k]) : C(0);
        }
    }

    static KDGAN_INLINE void write(void* to, const C (&from)[SIZE], int64_t i, const BiasActParams& p) {
        T* at = static_cast<T*>(to) + i;
        if (p.packed && i + SIZE <= p.n) {
            Pack<T> pack;
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) pack.at[k] = from_real<T>(from[k]);
            *reinterpret_cast<Pack<T>*>(at) = pack;
        } else {
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) if (i + k < p.n) at[k] = from_real<T>(from[k]);
        }
    }

    static KDGAN_INLINE void read_bias(C (&to)[SIZE], Walk walk, const BiasActParams& p) {
        const T* bias = static_cast<const T*>(p.bias);
        if (p.bias_kind == BiasKind::run) {
            const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(bias + walk.channel);
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) to[k] = to_real<T>(pack.at[k]);
        } else if (p.bias_kind == BiasKind::walk) {
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) {
                to[k] = to_real<T>(bias[walk.channel]);
                walk.advance(p, 1, 0);
            }
        } else {
            const C one = p.bias_kind == BiasKind::one ? to_real<T>(bias[walk.channel]) : C(0);
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) to[k] = one;
        }
    }
};

template <class T, class F, Derivative DERIVATIVE> struct BiasAct {
    using Params = BiasActParams;
    using C = Real<T>;
    static constexpr int PHASES = 1, SIZE = Pack<T>::SIZE;

    template <int> static KDGAN_INLINE void phase(const Params& p, int64_t block, int thread, void*) {
        const Scalars<C> a = scalars_of<T>(p);
        int64_t i = (block * THREADS + thread) * SIZE;
        for (Walk walk(p, i); i < p.n; i += p.blocks * THREADS * SIZE, walk.advance(p, p.step_inner, p.step_channel)) {
            C x[SIZE], bias[SIZE], saved[SIZE], ddx[SIZE], out[SIZE];
            Packs<T>::read(x, p.x, i, p);
            if constexpr (DERIVATIVE != Derivative::none) Packs<T>::read(saved, p.saved, i, p);
            if constexpr (DERIVATIVE == Derivative::curve) Packs<T>::read(ddx, p.ddx, i, p);
            if constexpr (DERIVATIVE == Derivative::none || F::FROM_U) Packs<T>::read_bias(bias, walk, p);
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) {
                if constexpr (DERIVATIVE == Derivative::none)
                    out[k] = forward<F>(x[k], bias[k], a);
                else if constexpr (DERIVATIVE == Derivative::slope)
                    out[k] = slope<F>(x[k], saved[k], F::FROM_U ? bias[k] : C(0), a);
                else
                    out[k] = curve<F>(ddx[k], x[k], saved[k], F::FROM_U ? bias[k] : C(0), a);
            }
            Packs<T>::write(p.out, out, i, p);
        }
    }
};

}  // namespace kdgan
