// Chooses the kernel and the tiles of scaled_bias_act. The work itself is in scaled_bias_act_tile.h. ops/_launch_scaled_bias_act.py makes
// the same choice for the kernels that NVRTC compiles: a change here is one there.
#include "scaled_bias_act_tile.h"

namespace kdgan {
namespace {

template <class T, bool LAST, Pass PASS> const char* launch_tiles(const ScaledBiasActParams& p, void* stream) {
    using Body = ScaledBiasAct<T, LAST, PASS>;
    return launch<Body>(p, Body::shared_bytes(p), stream);
}

template <class T> const char* launch_pass(ScaledBiasActParams p, bool last, Pass pass, void* stream) {
    const void* const large[] = {p.x, p.y, p.dy, p.ddx, p.out, p.out_x};
    p.packed = p.columns % Pack<T>::SIZE == 0;
    for (const void* pointer : large) p.packed = p.packed && is_aligned(pointer);
    switch (pass) {
        case Pass::forward: return last ? launch_tiles<T, true, Pass::forward>(p, stream) : launch_tiles<T, false, Pass::forward>(p, stream);
        case Pass::grad: return last ? launch_tiles<T, true, Pass::grad>(p, stream) : launch_tiles<T, false, Pass::grad>(p, stream);
        case Pass::grad2: return last ? launch_tiles<T, true, Pass::grad2>(p, stream) : launch_tiles<T, false, Pass::grad2>(p, stream);
    }
    return "unknown pass";
}

}  // namespace

void tile_scaled_bias_act(ScaledBiasActParams& p, Dtype dtype) {
    const int size = dtype == Dtype::float64 ? 2 : dtype == Dtype::float32 ? 4 : 8;         // of a pack
    p.lanes = 1;
    while (p.lanes < 32 && p.lanes * size < p.columns) p.lanes *= 2;
    const int64_t rows = THREADS / p.lanes * ROWS_EACH, columns = p.lanes * size;
    p.row_tiles = (p.rows + rows - 1) / rows;
    p.column_tiles = (p.columns + columns - 1) / columns;
    p.blocks = p.samples * p.row_tiles * p.column_tiles;
}

const char* launch_scaled_bias_act(const ScaledBiasActParams& params, Dtype dtype, bool channels_last, Pass pass, void* stream) {
    switch (dtype) {
        case Dtype::half: return launch_pass<half_t>(params, channels_last, pass, stream);
        case Dtype::bfloat16: return launch_pass<bfloat16_t>(params, channels_last, pass, stream);
        case Dtype::float32: return launch_pass<float>(params, channels_last, pass, stream);
        case Dtype::float64: return launch_pass<double>(params, channels_last, pass, stream);
    }
    return "unknown dtype";
}

}  // namespace kdgan
