// What the torch side of all operators needs from the device, and under which name the kernels are registered.
// KDGAN_HOST: the build for tests, whose kernels run on the CPU under a name of their own.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "dtype.h"

#if defined(KDGAN_HOST)
#define KDGAN_KERNELS(m) TORCH_LIBRARY_IMPL(kdgan_host, CPU, m)
#else
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define KDGAN_KERNELS(m) TORCH_LIBRARY_IMPL(kdgan, CUDA, m)
#endif

namespace kdgan {

// While it lives, the tensor's device is the current one.
class OnDeviceOf {
public:
#if defined(KDGAN_HOST)
    explicit OnDeviceOf(const at::Tensor&) {}
    void* stream() const { return nullptr; }
#else
    explicit OnDeviceOf(const at::Tensor& x) : guard(x.device()) {}
    void* stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

private:
    c10::cuda::CUDAGuard guard;
#endif
};

inline Dtype dtype_of(const char* op, const at::Tensor& x) {
    switch (x.scalar_type()) {
        case at::kHalf: return Dtype::half;
        case at::kBFloat16: return Dtype::bfloat16;
        case at::kFloat: return Dtype::float32;
        case at::kDouble: return Dtype::float64;
        default: TORCH_CHECK(false, op, ": x is ", x.scalar_type(), ", it must be float16, bfloat16, float32 or float64");
    }
}

}  // namespace kdgan
