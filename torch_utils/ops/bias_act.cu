// Chooses the kernel and the grid of bias_act. The work itself is in bias_act_pass.h. ops/_launch_bias_act.py makes the same choice for
// the kernels that NVRTC compiles: a change here is one there.
#include "bias_act_pass.h"

namespace kdgan {
namespace {

// The grid is as many blocks as reside at once: with a few more, most of the GPU would wait for a second round of the few.
template <class Body> const char* launch_grid(BiasActParams p, void* stream) {
    const int64_t packs = (p.n + Body::SIZE - 1) / Body::SIZE, needed = (packs + THREADS - 1) / THREADS, resident = resident_blocks<Body>();
    p.blocks = needed < resident ? needed : resident;
    const int64_t step = p.blocks * THREADS * Body::SIZE;
    p.step_inner = step % p.inner;
    p.step_channel = step / p.inner % p.channels;
    return launch<Body>(p, 0, stream);
}

template <class T, class F> const char* launch_derivative(const BiasActParams& p, Derivative derivative, void* stream) {
    if (derivative == Derivative::none)
        return launch_grid<BiasAct<T, F, Derivative::none>>(p, stream);
    if (derivative == Derivative::slope)
        return launch_grid<BiasAct<T, F, Derivative::slope>>(p, stream);
    if constexpr (F::CURVED)
        return launch_grid<BiasAct<T, F, Derivative::curve>>(p, stream);
    return "this activation has no curve";
}

template <class T> const char* launch_act(BiasActParams p, Act act, Derivative derivative, void* stream) {
    constexpr int64_t SIZE = Pack<T>::SIZE;
    p.over_gain = p.gain == 0 ? 0 : 1 / p.gain;
    p.packed = is_aligned(p.x) && is_aligned(p.saved) && is_aligned(p.ddx) && is_aligned(p.out);
    p.bias_kind = p.bias == nullptr ? BiasKind::none : p.inner % SIZE == 0 ? BiasKind::one
                  : p.inner == 1 && p.channels % SIZE == 0 && is_aligned(p.bias) ? BiasKind::run : BiasKind::walk;
    switch (act) {
        case Act::linear: return launch_derivative<T, Linear>(p, derivative, stream);
        case Act::relu: return launch_derivative<T, Relu>(p, derivative, stream);
        case Act::lrelu: return launch_derivative<T, Lrelu>(p, derivative, stream);
        case Act::tanh: return launch_derivative<T, Tanh>(p, derivative, stream);
        case Act::sigmoid: return launch_derivative<T, Sigmoid>(p, derivative, stream);
        case Act::elu: return launch_derivative<T, Elu>(p, derivative, stream);
        case Act::selu: return launch_derivative<T, Selu>(p, derivative, stream);
        case Act::softplus: return launch_derivative<T, Softplus>(p, derivative, stream);
        case Act::swish: return launch_derivative<T, Swish>(p, derivative, stream);
    }
    return "unknown activation";
}

}  // namespace

const char* launch_bias_act(BiasActParams params, Dtype dtype, Act act, Derivative derivative, void* stream) {
    switch (dtype) {
        case Dtype::half: return launch_act<half_t>(params, act, derivative, stream);
        case Dtype::bfloat16: return launch_act<bfloat16_t>(params, act, derivative, stream);
        case Dtype::float32: return launch_act<float>(params, act, derivative, stream);
        case Dtype::float64: return launch_act<double>(params, act, derivative, stream);
    }
    return "unknown dtype";
}

}  // namespace kdgan
