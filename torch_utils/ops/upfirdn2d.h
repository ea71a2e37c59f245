// The interface between upfirdn2d.cpp (torch) and upfirdn2d.cu (arithmetic): plain data, no torch, no CUDA headers.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace kdgan {

constexpr int MAX_KERNEL_TAPS = 32;         // per direction; upfirdn2d.py has the same numbers
constexpr int64_t MAX_EXTENT = 1 << 30;     // of an image with its padding: positions, and those a tile beyond, fit into 32 bits

// Division of numbers below 2^16 by a fixed number below 2^16 as one multiplication: exact there.
struct Divisor {
    uint32_t by = 1, factor = 0;
};

// A 4D array [n, k, y, x] with these distances in elements. k counts channels where they are innermost (channels_last); otherwise it
// counts images times channels, and n is 1.
struct Strides {
    int64_t n, k, y, x;
};

// The output is cut into tiles of tile_w x tile_h x tile_k (x, y, k), one per block of threads. For a tile, a box of the input is
// copied to shared memory with zeros around the image, then filtered from there.
struct Upfirdn2dParams {
    const void* x;              // [n, k, in_h, in_w]
    const float* f;             // [taps_y, taps_x] contiguous, or [taps_x] if separable (then taps_y = taps_x)
    void* y;                    // [n, k, out_h, out_w]
    int64_t images, depth;      // sizes of n and k
    int in_w, in_h, out_w, out_h;
    Strides in, out;
    bool channels_last, separable, flip;
    int taps_x, taps_y, upx, upy, downx, downy, left, top;
    double gain;
    // Filled in by launch_upfirdn2d:
    bool packed;                // the input can be read in accesses of 16 bytes
    int tile_w, tile_h, tile_k, box_w, box_h;
    int shift_y;                // tiles start this many rows before the output, so that each starts at a pixel, not at an inserted zero
    uint32_t tiles_x, tiles_y, tiles_k;
    int64_t blocks;             // their product times images, below 2^31
    int weights;                // numbers in shared memory before the box: the filter
    int box_size, middle_size;  // numbers in the box, and in the box after filtering in x (separable only)
    Divisor box_0, box_1, middle_0, middle_1, strip_0, strip_1;     // of the two innermost extents of what threads are spread over
};

// Returns nullptr, or what went wrong. Sizes are at least 1. `stream` is a cudaStream_t.
const char* launch_upfirdn2d(Upfirdn2dParams params, Dtype dtype, void* stream);

}  // namespace kdgan
