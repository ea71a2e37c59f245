// Adds a kernel to the operator that upfirdn2d.py declares.
#include "device.h"
#include "upfirdn2d.h"

#include <ATen/ops/empty.h>
#include <algorithm>

namespace kdgan {
namespace {

Strides strides_of(bool channels_last, int64_t channels, int64_t height, int64_t width) {
    return channels_last ? Strides{channels * height * width, 1, channels * width, channels} : Strides{0, height * width, width, 1};
}

void check_filter(const at::Tensor& x, const at::Tensor& f) {
    TORCH_CHECK(x.dim() == 4, "upfirdn2d: x has ", x.dim(), " dimensions, it must have 4");
    TORCH_CHECK(f.scalar_type() == at::kFloat && f.device() == x.device(), "upfirdn2d: f is ", f.scalar_type(), " on ", f.device(),
                ", it must be float32 on ", x.device());
    TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0 && f.size(0) <= MAX_KERNEL_TAPS && f.size(-1) <= MAX_KERNEL_TAPS,
                "upfirdn2d: f has shape ", f.sizes(), ", the kernel takes [taps] or [height, width] with 1 to ", MAX_KERNEL_TAPS, " taps");
}

struct Axis {
    const char* name;
    int64_t size, up, down, before, after, taps;

    // Each number by itself first, so that the sums after them cannot overflow.
    void check() const {
        const auto within = [](int64_t value, int64_t lowest) { return value >= lowest && value <= MAX_EXTENT; };
        TORCH_CHECK(within(up, 1) && within(down, 1), "upfirdn2d: up", name, " is ", up, ", down", name, " is ", down, ", they must be 1 to ",
                    MAX_EXTENT);
        TORCH_CHECK(within(before, -MAX_EXTENT) && within(after, -MAX_EXTENT), "upfirdn2d: the padding in ", name, " is ", before, " and ", after,
                    ", the largest extent is ", MAX_EXTENT);
        TORCH_CHECK(size <= MAX_EXTENT && size * up + std::max<int64_t>(before, 0) + std::max<int64_t>(after, 0) <= MAX_EXTENT,
                    "upfirdn2d: the image with its padding is too large in ", name, ": the largest extent is ", MAX_EXTENT);
        TORCH_CHECK(size * up + before + after >= taps, "upfirdn2d: the padded image is smaller than the filter");
    }

    int64_t out() const { return (size * up + before + after - taps) / down + 1; }
};

at::Tensor upfirdn2d(const at::Tensor& given_x, const at::Tensor& given_f, int64_t upx, int64_t upy, int64_t downx, int64_t downy, int64_t left,
                     int64_t right, int64_t top, int64_t bottom, bool flip, double gain) {
    check_filter(given_x, given_f);
    const OnDeviceOf device(given_x);
    const bool channels_last = !given_x.is_contiguous() && given_x.is_contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor x = channels_last ? given_x : given_x.contiguous(), f = given_f.contiguous();
    const int64_t n = x.size(0), c = x.size(1), in_h = x.size(2), in_w = x.size(3);
    const Axis axis_x{"x", in_w, upx, downx, left, right, f.size(-1)}, axis_y{"y", in_h, upy, downy, top, bottom, f.size(0)};
    axis_x.check(), axis_y.check();
    const int64_t out_h = axis_y.out(), out_w = axis_x.out();
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const at::Tensor y = at::empty({n, c, out_h, out_w}, x.options(), format);
    if (y.numel() == 0)
        return y;
    TORCH_CHECK(x.numel() > 0, "upfirdn2d: x is empty: ", x.sizes());
    Upfirdn2dParams p{};
    p.x = x.const_data_ptr(), p.f = f.const_data_ptr<float>(), p.y = y.mutable_data_ptr();
    p.images = channels_last ? n : 1, p.depth = channels_last ? c : n * c;
    p.in_w = int(in_w), p.in_h = int(in_h), p.out_w = int(out_w), p.out_h = int(out_h);
    p.in = strides_of(channels_last, c, in_h, in_w), p.out = strides_of(channels_last, c, out_h, out_w);
    p.channels_last = channels_last, p.separable = f.dim() == 1, p.flip = flip;
    p.taps_x = int(f.size(-1)), p.taps_y = int(f.size(0));
    p.upx = int(upx), p.upy = int(upy), p.downx = int(downx), p.downy = int(downy), p.left = int(left), p.top = int(top);
    p.gain = gain;
    const char* error = launch_upfirdn2d(p, dtype_of("upfirdn2d", x), device.stream());
    TORCH_CHECK(error == nullptr, "upfirdn2d: ", error, " (x has shape ", x.sizes(), ", f ", f.sizes(), ", y ", y.sizes(), ")");
    return y;
}

KDGAN_KERNELS(m) { m.impl("upfirdn2d", &upfirdn2d); }

}  // namespace
}  // namespace kdgan
