// The source of the CUDA kernels as plain C++, and what tests ask of it: see torch_utils/ops/kernel.h, tests/host_build.py.
// One file, so that torch's headers are read once.
#include "bias_act.cpp"
#include "scaled_bias_act.cpp"
#include "upfirdn2d.cpp"
#include "bias_act.cu"
#include "scaled_bias_act.cu"
#include "upfirdn2d.cu"

#include <cstddef>

using namespace kdgan;

namespace {

// Sizes of the structs, then where each member lies: ops/_launch_bias_act.py and its neighbours mirror them.
const int64_t layout[] = {
    sizeof(BiasActParams),
#define AT(member) offsetof(BiasActParams, member)
    AT(x), AT(saved), AT(ddx), AT(bias), AT(out), AT(n), AT(inner), AT(channels), AT(alpha), AT(gain), AT(clamp), AT(over_gain), AT(packed),
    AT(bias_kind), AT(blocks), AT(step_inner), AT(step_channel),
#undef AT
    sizeof(Upfirdn2dParams),
#define AT(member) offsetof(Upfirdn2dParams, member)
    AT(x), AT(f), AT(y), AT(images), AT(depth), AT(in_w), AT(in_h), AT(out_w), AT(out_h), AT(in), AT(out), AT(channels_last), AT(separable),
    AT(flip), AT(taps_x), AT(taps_y), AT(upx), AT(upy), AT(downx), AT(downy), AT(left), AT(top), AT(gain), AT(packed), AT(tile_w), AT(tile_h),
    AT(tile_k), AT(box_w), AT(box_h), AT(shift_y), AT(tiles_x), AT(tiles_y), AT(tiles_k), AT(blocks), AT(weights), AT(box_size),
    AT(middle_size), AT(box_0), AT(box_1), AT(middle_0), AT(middle_1), AT(strip_0), AT(strip_1),
#undef AT
    sizeof(ScaledBiasActParams),
#define AT(member) offsetof(ScaledBiasActParams, member)
    AT(x), AT(y), AT(dy), AT(ddx), AT(out), AT(out_x), AT(scale), AT(ddscale), AT(bias), AT(noise), AT(row_sums), AT(column_sums), AT(samples),
    AT(rows), AT(columns), AT(noise_step), AT(alpha), AT(gain), AT(clamp), AT(row_tiles), AT(column_tiles), AT(blocks), AT(lanes), AT(packed),
#undef AT
    -1};

}  // namespace

extern "C" {

void kdgan_set_multiprocessors(int count) { host_multiprocessors = count; }
const int64_t* kdgan_layout() { return layout; }
const char* kdgan_last_body() { return last_launch.body; }
int kdgan_last_shared_bytes() { return last_launch.shared_bytes; }
const void* kdgan_last_params() { return last_launch.params.data(); }
const char* kdgan_launch_scaled_bias_act(const ScaledBiasActParams* params, int dtype, bool channels_last, int pass) {
    return launch_scaled_bias_act(*params, static_cast<Dtype>(dtype), channels_last, static_cast<Pass>(pass), nullptr);
}

}  // extern "C"
