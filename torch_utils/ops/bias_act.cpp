// Adds kernels to the operators that bias_act.py declares.
#include "bias_act.h"
#include "device.h"

#include <iterator>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

namespace kdgan {
namespace {

Act act_of(const std::string& name) {
    static const char* const names[] = {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};
    for (size_t i = 0; i < std::size(names); i++)
        if (name == names[i])
            return static_cast<Act>(i);
    TORCH_CHECK(false, "bias_act: act is '", name, "', which has no kernel");
}

bool has_curve(Act act) { return act != Act::linear && act != Act::relu && act != Act::lrelu; }

bool same_strides(const at::Tensor& a, const at::Tensor& b) {
    for (int64_t i = 0; i < a.dim(); i++)
        if (a.size(i) > 1 && a.stride(i) != b.stride(i))
            return false;
    return true;
}

// The same values in the layout of `base`.
at::Tensor laid_out_as(const at::Tensor& base, const at::Tensor& x, const char* name) {
    TORCH_CHECK(x.sizes() == base.sizes() && x.scalar_type() == base.scalar_type() && x.device() == base.device(), "bias_act: ", name, " is ",
                x.scalar_type(), x.sizes(), " on ", x.device(), ", it must be ", base.scalar_type(), base.sizes(), " on ", base.device());
    return same_strides(x, base) ? x : at::empty_like(base).copy_(x);
}

// Points the kernel at the channel of each element. In a dense tensor the storage order alone tells: a channel lasts `stride` elements.
void set_channels(BiasActParams& p, const at::Tensor& base, const at::Tensor& b, int64_t dim) {
    TORCH_CHECK(dim >= -base.dim() && dim < base.dim(), "bias_act: dim is ", dim, ", x has ", base.dim(), " dimensions");
    p.channels = base.size(dim);
    p.inner = p.channels == 1 ? p.n : base.stride(dim);     // the stride of a dimension of size 1 means nothing
    TORCH_CHECK(b.dim() == 1 && b.size(0) == p.channels && b.scalar_type() == base.scalar_type() && b.device() == base.device(), "bias_act: b is ",
                b.scalar_type(), b.sizes(), " on ", b.device(), ", it must be ", base.scalar_type(), "[", p.channels, "] on ", base.device());
    p.bias = b.const_data_ptr();
}

struct Arguments {
    int64_t dim;
    const std::string& act;
    double alpha, gain, clamp;
};

// `base` decides on the layout of the result: x, dy or ddx.
at::Tensor run(Derivative derivative, const at::Tensor& given_base, const at::Tensor& dy, const at::Tensor& saved, const std::optional<at::Tensor>& b,
               const Arguments& a) {
    const Act act = act_of(a.act);
    const Dtype dtype = dtype_of("bias_act", given_base);
    if (derivative != Derivative::none && (a.gain == 0 || (derivative == Derivative::curve && !has_curve(act))))
        return at::zeros_like(given_base);
    const OnDeviceOf device(given_base);
    const at::Tensor base = given_base.is_non_overlapping_and_dense() ? given_base : given_base.clone();
    const at::Tensor out = at::empty_like(base), bias = b.has_value() ? b->contiguous() : at::Tensor();
    BiasActParams p{};
    p.n = p.inner = base.numel();
    p.channels = 1;
    p.alpha = a.alpha, p.gain = a.gain, p.clamp = a.clamp;
    if (p.n == 0)
        return out;
    if (bias.defined())
        set_channels(p, base, bias, a.dim);
    at::Tensor incoming = base, from;                       // these hold the memory until the kernel is in the stream
    if (derivative != Derivative::none) {
        from = laid_out_as(base, saved, "saved");
        p.saved = from.const_data_ptr();
    }
    if (derivative == Derivative::curve) {
        incoming = laid_out_as(base, dy, "dy");
        p.ddx = base.const_data_ptr();
    }
    p.x = incoming.const_data_ptr();
    p.out = out.mutable_data_ptr();
    const char* error = launch_bias_act(p, dtype, act, derivative, device.stream());
    TORCH_CHECK(error == nullptr, "bias_act: ", error);
    return out;
}

at::Tensor bias_act(const at::Tensor& x, const std::optional<at::Tensor>& b, int64_t dim, std::string act, double alpha, double gain, double clamp) {
    return run(Derivative::none, x, {}, {}, b, {dim, act, alpha, gain, clamp});
}

at::Tensor bias_act_slope(const at::Tensor& dy, const at::Tensor& saved, const std::optional<at::Tensor>& b, int64_t dim, std::string act,
                          double alpha, double gain, double clamp) {
    return run(Derivative::slope, dy, {}, saved, b, {dim, act, alpha, gain, clamp});
}

at::Tensor bias_act_curve(const at::Tensor& ddx, const at::Tensor& dy, const at::Tensor& saved, const std::optional<at::Tensor>& b, int64_t dim,
                          std::string act, double alpha, double gain, double clamp) {
    return run(Derivative::curve, ddx, dy, saved, b, {dim, act, alpha, gain, clamp});
}

KDGAN_KERNELS(m) {
    m.impl("bias_act", &bias_act);
    m.impl("bias_act_slope", &bias_act_slope);
    m.impl("bias_act_curve", &bias_act_curve);
}

}  // namespace
}  // namespace kdgan
