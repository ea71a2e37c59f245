// Half precision for NVRTC, which brings none: two types that only hold bits, and the conversions of cuda_fp16.h and cuda_bf16.h that
// the kernels use, in the same rounding (to the nearest, ties to even).
#pragma once

#include <cstdint>

namespace kdgan {

struct Half { uint16_t bits; };
struct Bfloat16 { uint16_t bits; };

__device__ __forceinline__ float __half2float(Half value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ __forceinline__ Half __float2half_rn(float value) {
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

__device__ __forceinline__ float __bfloat162float(Bfloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }

__device__ __forceinline__ Bfloat16 __float2bfloat16_rn(float value) {
    Bfloat16 result;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const uint32_t bits = __float_as_uint(value);                       // what is cut off decides, and at one half the last bit that stays
    result.bits = value != value ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
    return result;
}

}  // namespace kdgan
