// Adds kernels to the operators that scaled_bias_act.py declares.
#include "scaled_bias_act.h"
#include "device.h"

#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

namespace kdgan {
namespace {

using Optional = std::optional<at::Tensor>;

at::MemoryFormat format_of(const at::Tensor& x) {
    return !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

// The operators on one x: its layout, checked arguments, and the tensors that must live until the kernel is in the stream.
class Work {
public:
    Work(const at::Tensor& given, const at::Tensor& scale, double alpha, double gain, double clamp)
        : dtype(dtype_of("scaled_bias_act", given)), device(given) {
        TORCH_CHECK(given.dim() == 4, "scaled_bias_act: x has shape ", given.sizes(), ", it must be [N, C, H, W]");
        TORCH_CHECK(gain > 0, "scaled_bias_act: gain is ", gain, ", it must be above 0");
        format = format_of(given);
        last = format == at::MemoryFormat::ChannelsLast;
        x = given.contiguous(format);
        n = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
        p.samples = n;
        p.rows = last ? pixels : channels;
        p.columns = last ? channels : pixels;
        p.alpha = alpha, p.gain = gain, p.clamp = clamp;
        p.x = x.const_data_ptr();
        p.scale = small("scale", scale, {n, channels});
        tile_scaled_bias_act(p, dtype);
    }

    // In the layout of x.
    const void* large(const char* name, const at::Tensor& t) {
        TORCH_CHECK(t.sizes() == x.sizes() && t.scalar_type() == x.scalar_type() && t.device() == x.device(), "scaled_bias_act: ", name, " is ",
                    t.scalar_type(), t.sizes(), " on ", t.device(), ", it must be ", x.scalar_type(), x.sizes(), " on ", x.device());
        return keep(t.contiguous(format));
    }

    // Contiguous, in the type that is computed in; null where there is none.
    const void* small(const char* name, const Optional& t, at::IntArrayRef sizes) {
        if (!t.has_value())
            return nullptr;
        TORCH_CHECK(t->sizes() == sizes && t->scalar_type() == real() && t->device() == x.device(), "scaled_bias_act: ", name, " is ",
                    t->scalar_type(), t->sizes(), " on ", t->device(), ", it must be ", real(), sizes, " on ", x.device());
        return keep(t->contiguous());
    }

    const void* noise(const char* name, const Optional& t) {
        const bool shared = t.has_value() && t->dim() == 4 && t->size(0) == 1;
        p.noise_step = shared ? 0 : pixels;
        return small(name, t, {shared ? 1 : n, 1, x.size(2), x.size(3)});
    }

    at::Tensor out() const { return at::empty_like(x); }
    at::Tensor partial(int64_t sums, int64_t a, int64_t b) const { return at::empty({sums, n, a, b}, x.options().dtype(real())); }
    at::ScalarType real() const { return dtype == Dtype::float64 ? at::kDouble : at::kFloat; }

    // Runs the kernel. -> what it summed over pixels [sums, N, C] and over channels [N, 1, H, W].
    std::pair<at::Tensor, at::Tensor> run(Pass pass) {
        const int over_pixels = sums_over_pixels(pass), over_channels = sums_over_channels(pass);
        if (x.numel() == 0)
            return {at::zeros({over_pixels, n, channels}, x.options().dtype(real())),
                    at::zeros({n, 1, x.size(2), x.size(3)}, x.options().dtype(real()))};
        const at::Tensor by_row = partial(last ? over_channels : over_pixels, p.rows, p.column_tiles);
        const at::Tensor by_column = partial(last ? over_pixels : over_channels, p.row_tiles, p.columns);
        p.row_sums = by_row.mutable_data_ptr();
        p.column_sums = by_column.mutable_data_ptr();
        const char* error = launch_scaled_bias_act(p, dtype, last, pass, device.stream());
        TORCH_CHECK(error == nullptr, "scaled_bias_act: ", error);
        const at::Tensor &of_pixels = last ? by_column : by_row, &of_channels = last ? by_row : by_column;
        return {over_pixels > 0 ? added_up(of_pixels, last ? 2 : 3) : at::Tensor(),
                over_channels > 0 ? added_up(of_channels, last ? 3 : 2).reshape({n, 1, x.size(2), x.size(3)}) : at::Tensor()};
    }

    at::Tensor x;
    ScaledBiasActParams p{};

private:
    static at::Tensor added_up(const at::Tensor& partial, int64_t dim) { return partial.size(dim) == 1 ? partial.squeeze(dim) : partial.sum(dim); }

    const void* keep(at::Tensor t) {
        kept.push_back(std::move(t));
        return kept.back().const_data_ptr();
    }

    Dtype dtype;
    OnDeviceOf device;
    at::MemoryFormat format;
    bool last;
    int64_t n, channels, pixels;
    std::vector<at::Tensor> kept;
};

at::Tensor scaled_bias_act(const at::Tensor& x, const at::Tensor& scale, const Optional& noise, const at::Tensor& b, double alpha, double gain,
                           double clamp) {
    Work work(x, scale, alpha, gain, clamp);
    const at::Tensor y = work.out();
    work.p.bias = work.small("b", b, {x.size(1)});
    work.p.noise = work.noise("noise", noise);
    work.p.out = y.mutable_data_ptr();
    work.run(Pass::forward);
    return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> scaled_bias_act_grad(
        const at::Tensor& dy, const at::Tensor& y, const at::Tensor& x, const at::Tensor& scale, double alpha, double gain, double clamp) {
    Work work(x, scale, alpha, gain, clamp);
    const at::Tensor dx = work.out();
    work.p.dy = work.large("dy", dy);
    work.p.y = work.large("y", y);
    work.p.out = dx.mutable_data_ptr();
    const auto [over_pixels, dnoise] = work.run(Pass::grad);
    // dscale comes first: a result may not begin in the midst of its memory, which the fake does not
    return {dx, over_pixels.select(0, 0), dnoise, over_pixels.select(0, 1).sum(0)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> scaled_bias_act_grad2(
        const at::Tensor& ddx, const Optional& ddscale, const Optional& ddnoise, const Optional& ddb, const at::Tensor& dy, const at::Tensor& y,
        const at::Tensor& x, const at::Tensor& scale, double alpha, double gain, double clamp) {
    Work work(x, scale, alpha, gain, clamp);
    const at::Tensor d_dy = work.out(), d_x = work.out();
    work.p.ddx = work.large("ddx", ddx);
    work.p.dy = work.large("dy", dy);
    work.p.y = work.large("y", y);
    work.p.ddscale = work.small("ddscale", ddscale, {x.size(0), x.size(1)});
    work.p.bias = work.small("ddb", ddb, {x.size(1)});
    work.p.noise = work.noise("ddnoise", ddnoise);
    work.p.out = d_dy.mutable_data_ptr();
    work.p.out_x = d_x.mutable_data_ptr();
    return {d_dy, d_x, work.run(Pass::grad2).first.select(0, 0)};
}

KDGAN_KERNELS(m) {
    m.impl("scaled_bias_act", &scaled_bias_act);
    m.impl("scaled_bias_act_grad", &scaled_bias_act_grad);
    m.impl("scaled_bias_act_grad2", &scaled_bias_act_grad2);
}

}  // namespace
}  // namespace kdgan
