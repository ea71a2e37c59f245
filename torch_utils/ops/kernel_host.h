// The host build's kernels: loops over blocks and threads, for tests. What a GPU would tell is a variable, which a test sets, and the
// last launch can be looked at.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "kernel.h"

namespace kdgan {

struct HostLaunch {
    const char* body = "";                  // a text with the full name of the body's type
    int shared_bytes = 0;
    std::vector<char> params;
};

inline HostLaunch last_launch;
inline int host_multiprocessors = 1;        // of the GPU that the tile sizes are chosen for

inline int multiprocessors() { return host_multiprocessors; }

template <class Body> int64_t resident_blocks() { return int64_t(8) * multiprocessors(); }

template <class Body, int I> void run_phases(const typename Body::Params& params, int64_t block, void* shared) {
    if constexpr (I < Body::PHASES) {
        for (int thread = 0; thread < THREADS; thread++)
            Body::template phase<I>(params, block, thread, shared);
        run_phases<Body, I + 1>(params, block, shared);
    }
}

// Shared memory starts as NaN, so that a result which rests on a place nobody wrote shows. It is of exactly that size, so that a
// sanitizer sees an access beyond it.
template <class Body> const char* launch(const typename Body::Params& params, int shared_bytes, void*) {
    const char* bytes = reinterpret_cast<const char*>(&params);
    last_launch = {__PRETTY_FUNCTION__, shared_bytes, std::vector<char>(bytes, bytes + sizeof params)};
    std::vector<double> shared;
    for (int64_t block = 0; block < params.blocks; block++) {
        shared.assign((shared_bytes + sizeof(double) - 1) / sizeof(double), std::numeric_limits<double>::quiet_NaN());
        run_phases<Body, 0>(params, block, shared.data());
    }
    return nullptr;
}

}  // namespace kdgan
