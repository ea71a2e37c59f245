// The interface between bias_act.cpp (torch) and bias_act.cu (arithmetic): plain data, no torch, no CUDA headers.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace kdgan {

enum class Act { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };
enum class Derivative { none, slope, curve };       // kdgan::bias_act, bias_act_slope, bias_act_curve

// How a pack of consecutive elements finds its biases.
enum class BiasKind {
    none,       // there is no bias
    one,        // the elements of a pack share one
    run,        // a pack needs as many consecutive ones, in one 16-byte access
    walk,       // anything else
};

// All tensors have n elements in one and the same dense layout, in which element i belongs to channel (i / inner) % channels.
struct BiasActParams {
    const void* x;              // forward: x; derivatives: dy
    const void* saved;          // derivatives: y, or x where the activation needs it (swish); forward: null
    const void* ddx;            // curve: ddx; otherwise null
    const void* bias;           // [channels] or null
    void* out;                  // y, dx, or the gradient of saved
    int64_t n, inner, channels;
    double alpha, gain, clamp;  // clamp < 0 = none
    // Filled in by launch_bias_act:
    double over_gain;           // 1 / gain, or 0: a GPU divides doubles slowly, and every thread would
    bool packed;                // all pointers are multiples of 16 bytes
    BiasKind bias_kind;
    int64_t blocks;
    int64_t step_inner, step_channel;   // how far one round of the grid moves on in (position within inner, channel)
};

// Returns nullptr, or what went wrong. n > 0 and, except for Derivative::none, gain != 0. `curve` exists for the activations that have
// a curve; the others give zeros, which is the caller's work. `stream` is a cudaStream_t.
const char* launch_bias_act(BiasActParams params, Dtype dtype, Act act, Derivative derivative, void* stream);

}  // namespace kdgan
