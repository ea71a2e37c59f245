// The interface between scaled_bias_act.cpp (torch) and scaled_bias_act.cu (arithmetic): plain data, no torch, no CUDA headers.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace kdgan {

enum class Pass { forward, grad, grad2 };           // kdgan::scaled_bias_act, scaled_bias_act_grad, scaled_bias_act_grad2

// Large tensors are [samples, rows, columns] in memory. In contiguous ones a row is a channel and a column a pixel; in channels_last
// ones a row is a pixel and a column a channel. Small tensors are contiguous, of the type that is computed in.
struct ScaledBiasActParams {
    const void* x;              // all passes
    const void* y;              // grad, grad2: the result
    const void* dy;             // grad, grad2
    const void* ddx;            // grad2: gradient of dx
    void* out;                  // y; dx; gradient of dy
    void* out_x;                // grad2: gradient of x
    const void* scale;          // [samples, channels]
    const void* ddscale;        // grad2: [samples, channels] gradient of dscale, or null
    const void* bias;           // [channels]; grad2: gradient of db, or null
    const void* noise;          // [samples or 1, pixels] or null; grad2: gradient of dnoise, or null
    void* row_sums;             // partial sums [sums, samples, rows, column_tiles]
    void* column_sums;          // partial sums [sums, samples, row_tiles, columns]
    int64_t samples, rows, columns;
    int64_t noise_step;         // from one sample to the next: 0 where all share one
    double alpha, gain, clamp;  // clamp < 0 = none
    // Filled in by tile_scaled_bias_act:
    int64_t row_tiles, column_tiles, blocks;
    int lanes;                  // threads along a row of the tile, a power of 2
    bool packed;                // 16 bytes at a time
};

// What is summed over pixels (dscale, db) and over channels (dnoise), as the sums of one layout lie: those over a row end up in
// row_sums, those over a column in column_sums. grad: [dscale, db] and [dnoise]; grad2: [dscale] and none.
constexpr int sums_over_pixels(Pass pass) { return pass == Pass::grad ? 2 : pass == Pass::grad2 ? 1 : 0; }
constexpr int sums_over_channels(Pass pass) { return pass == Pass::grad ? 1 : 0; }

// How the work is split; the caller then makes room for the partial sums.
void tile_scaled_bias_act(ScaledBiasActParams& params, Dtype dtype);

// Returns nullptr, or what went wrong. No tensor is empty; gain > 0. `stream` is a cudaStream_t.
const char* launch_scaled_bias_act(const ScaledBiasActParams& params, Dtype dtype, bool channels_last, Pass pass, void* stream);

}  // namespace kdgan
