// What all operators share: number types, 16-byte accesses, and how a body of work becomes a kernel.
//
// The same source compiles in three ways. nvcc makes CUDA kernels of it, and functions that launch them. NVRTC makes the kernels alone,
// without a header of CUDA or C++ (torch_utils/nvrtc.py). A host compiler (KDGAN_HOST) makes plain loops over the same blocks and
// threads, so that tests can run all arithmetic and all indices without a GPU. A body of work is a struct with
//     Params                                        plain data with a member `blocks`
//     PHASES                                        steps between which the threads of a block wait for each other
//     phase<I>(params, block, thread, shared)       what one thread does in step I; nothing outlives a step but `shared`
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC_RTC__)
#include "half_rtc.h"
#define KDGAN_INLINE __device__ __forceinline__
#elif defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define KDGAN_INLINE __host__ __device__ __forceinline__
#else
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#define KDGAN_INLINE inline
#endif

#if defined(__CUDA_ARCH__)
#define KDGAN_UNROLL _Pragma("unroll")
#else
#define KDGAN_UNROLL                        // host compilers do not know this pragma
#endif

namespace kdgan {

constexpr int THREADS = 256;                // of a block

#if defined(__CUDACC_RTC__)
using half_t = Half;
using bfloat16_t = Bfloat16;
#elif defined(__CUDACC__)
using half_t = __half;
using bfloat16_t = __nv_bfloat16;
#else
using half_t = c10::Half;
using bfloat16_t = c10::BFloat16;
#endif

// What T is computed in.
template <class T> struct RealOf { using type = float; };
template <> struct RealOf<double> { using type = double; };
template <class T> using Real = typename RealOf<T>::type;

template <class T> KDGAN_INLINE Real<T> to_real(T value) { return static_cast<Real<T>>(value); }
template <class T> KDGAN_INLINE T from_real(Real<T> value) { return static_cast<T>(value); }
#if defined(__CUDACC__)
// The names are those of CUDA; half_rtc.h has its own functions under them.
template <> KDGAN_INLINE float to_real<half_t>(half_t value) { return __half2float(value); }
template <> KDGAN_INLINE float to_real<bfloat16_t>(bfloat16_t value) { return __bfloat162float(value); }
template <> KDGAN_INLINE half_t from_real<half_t>(float value) { return __float2half_rn(value); }
template <> KDGAN_INLINE bfloat16_t from_real<bfloat16_t>(float value) { return __float2bfloat16_rn(value); }
#endif

// 16 bytes, which the GPU moves in one access where the address is a multiple of 16.
template <class T> struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T at[SIZE];
};

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

#if defined(__CUDACC__)

template <class Body, int I> __device__ __forceinline__ void run_phases(const typename Body::Params& params, int thread, void* shared) {
    if constexpr (I < Body::PHASES) {
        if constexpr (I > 0)
            __syncthreads();
        Body::template phase<I>(params, blockIdx.x, thread, shared);
        run_phases<Body, I + 1>(params, thread, shared);
    }
}

template <class Body> __global__ void __launch_bounds__(THREADS) kernel(const typename Body::Params params) {
    extern __shared__ uint4 shared[];       // uint4 for the alignment
    run_phases<Body, 0>(params, static_cast<int>(threadIdx.x), shared);
}

#if !defined(__CUDACC_RTC__)

// Starts the body on a stream (a cudaStream_t). Returns nullptr, or what went wrong.
template <class Body> const char* launch(const typename Body::Params& params, int shared_bytes, void* stream) {
    kernel<Body><<<static_cast<unsigned>(params.blocks), THREADS, shared_bytes, static_cast<cudaStream_t>(stream)>>>(params);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int multiprocessors() {
    int device = 0, count = 1;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}

// How many blocks of a body without shared memory the device runs at once. The answer of the first device serves for all: others only
// get a grid that suits them less.
template <class Body> int64_t resident_blocks() {
    static const int each = [] {
        int count = 0;
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel<Body>, THREADS, 0);
        return count > 0 ? count : 1;
    }();
    return int64_t(each) * multiprocessors();
}

#endif  // not NVRTC
#endif  // a compiler of CUDA

}  // namespace kdgan

#if !defined(__CUDACC__)
#include "kernel_host.h"
#endif
