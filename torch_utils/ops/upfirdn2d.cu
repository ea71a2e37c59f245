// Chooses the kernel and the tile size of upfirdn2d. The work itself is in upfirdn2d_tile.h. ops/_launch_upfirdn2d.py makes the same
// choice for the kernels that NVRTC compiles: a change here is one there.
#include "upfirdn2d_tile.h"

namespace kdgan {
namespace {

constexpr int SHARED_WANTED = 24 << 10, SHARED_LIMIT = 48 << 10;    // bytes: several blocks fit together; what every GPU gives
constexpr int OUTPUTS = 2048;                                       // of a tile, about: eight per thread
constexpr int BLOCKS_PER_MULTIPROCESSOR = 2;                        // wanted, where an image is large enough for them

int power_of_two_from(int64_t value, int limit) {
    int power = 1;
    while (power < value && power < limit)
        power *= 2;
    return power;
}

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Extents of the box and what shared memory holds for the tile size at hand. `pack`: elements in 16 bytes, `real`: bytes per number.
int64_t set_box(Upfirdn2dParams& p, int pack, int real) {
    p.box_w = ((p.tile_w - 1) * p.downx + p.taps_x - 1) / p.upx + 1;
    p.box_h = ((p.tile_h - 1) * p.downy + p.taps_y - 1) / p.upy + 1;
    if (p.packed && !p.channels_last)
        p.box_w = round_up(p.box_w + pack - 1, pack);               // it may start up to pack - 1 pixels earlier
    p.weights = round_up(p.separable ? 2 * p.taps_x : p.taps_x * p.taps_y, 4);
    const int64_t box = int64_t(p.box_w) * p.box_h * p.tile_k, middle = p.separable ? int64_t(p.tile_w) * p.box_h * p.tile_k : 0;
    p.box_size = static_cast<int>(box);
    p.middle_size = static_cast<int>(middle);
    return (p.weights + box + middle) * real;
}

void set_tiles(Upfirdn2dParams& p) {
    const auto needed = [](int64_t extent, int tile) { return (extent + tile - 1) / tile; };
    const int64_t x = needed(p.out_w, p.tile_w), y = needed(p.out_h + p.shift_y, p.tile_h), k = needed(p.depth, p.tile_k);
    p.tiles_x = static_cast<uint32_t>(x), p.tiles_y = static_cast<uint32_t>(y), p.tiles_k = static_cast<uint32_t>(k);
    p.blocks = k * x * y * p.images;
}

// Halves the extent that costs least: channels, which share no border, then the longer side.
bool halve(Upfirdn2dParams& p) {
    if (p.tile_k > (p.channels_last ? 16 : 1)) p.tile_k /= 2;
    else if (p.tile_h > 8 && p.tile_h >= p.tile_w) p.tile_h /= 2;
    else if (p.tile_w > 8) p.tile_w /= 2;
    else return false;                                              // smaller tiles would mostly read borders
    return true;
}

bool halve_further(Upfirdn2dParams& p, int smallest_h, int smallest_k) {
    if (p.tile_k > smallest_k) p.tile_k /= 2;
    else if (p.tile_h > smallest_h) p.tile_h /= 2;
    else if (p.tile_w > 1) p.tile_w /= 2;
    else return false;
    return true;
}

// Fewer blocks would leave a part of the GPU idle, and each thread of the others with more to do one after another.
bool is_too_large(const Upfirdn2dParams& p, int64_t bytes) {
    return bytes > SHARED_WANTED || p.blocks < BLOCKS_PER_MULTIPROCESSOR * multiprocessors();
}

// The largest tile, of at most about OUTPUTS outputs, whose box fits. All three extents are powers of two; tile_h is a multiple of rows.
// Returns the bytes of shared memory.
int64_t set_tile(Upfirdn2dParams& p, int rows, int pack, int real) {
    p.tile_w = power_of_two_from(p.out_w, p.channels_last ? 16 : 64);
    p.tile_h = power_of_two_from(p.out_h + p.shift_y, p.channels_last ? 16 : 32);
    p.tile_h = p.tile_h < rows ? rows : p.tile_h;
    p.tile_k = p.channels_last ? power_of_two_from(p.depth, 16) : 1;
    while (p.tile_k < p.depth && p.tile_w * p.tile_h * p.tile_k < OUTPUTS)
        p.tile_k *= 2;                                              // small images: several channels in one tile
    set_tiles(p);
    int64_t bytes = set_box(p, pack, real);
    while (is_too_large(p, bytes) && halve(p))
        set_tiles(p), bytes = set_box(p, pack, real);
    while (bytes > SHARED_LIMIT && halve_further(p, rows, p.channels_last && p.packed ? pack : 1))
        set_tiles(p), bytes = set_box(p, pack, real);
    return bytes;
}

template <class T, int UP, int DOWN, int TAPS, bool SEPARABLE> const char* launch_tiles(Upfirdn2dParams p, void* stream) {
    using Body = Upfirdn2d<T, UP, DOWN, TAPS, SEPARABLE>;
    constexpr int PACK = Body::PACK;
    p.packed = is_aligned(p.x) && (p.channels_last ? p.depth % PACK == 0 : p.in_w % PACK == 0 && p.in_w >= 2 * PACK);
    p.shift_y = TAPS == 0 ? 0 : ceil_div(-p.top, UP) * UP + p.top;
    const int64_t bytes = set_tile(p, Body::ROWS, PACK, sizeof(typename Body::C));
    if (bytes > SHARED_LIMIT)
        return "the filter and its input do not fit into shared memory";
    if (p.blocks > 0x7fffffff)
        return "more than 2^31 - 1 tiles";
    const bool cl = p.channels_last;
    p.box_0 = divisor(cl ? p.tile_k : p.box_w), p.box_1 = divisor(cl ? p.box_w : p.box_h);
    p.middle_0 = divisor(cl ? p.tile_k : p.tile_w), p.middle_1 = divisor(cl ? p.tile_w : p.box_h);
    p.strip_0 = p.middle_0, p.strip_1 = divisor(cl ? p.tile_w : p.tile_h / Body::ROWS);
    return launch<Body>(p, static_cast<int>(bytes), stream);
}

bool has(const Upfirdn2dParams& p, int up, int down, int taps, bool separable) {
    return p.upx == up && p.upy == up && p.downx == down && p.downy == down && p.taps_x == taps && p.taps_y == taps && p.separable == separable;
}

// The filter between resolutions, [1, 3, 3, 1]: as a matrix, which training uses, and separable.
template <class T> const char* launch_filter(const Upfirdn2dParams& p, void* stream) {
    if (has(p, 2, 1, 4, false)) return launch_tiles<T, 2, 1, 4, false>(p, stream);
    if (has(p, 1, 2, 4, false)) return launch_tiles<T, 1, 2, 4, false>(p, stream);
    if (has(p, 1, 1, 4, false)) return launch_tiles<T, 1, 1, 4, false>(p, stream);
    if (has(p, 2, 1, 4, true)) return launch_tiles<T, 2, 1, 4, true>(p, stream);
    if (has(p, 1, 2, 4, true)) return launch_tiles<T, 1, 2, 4, true>(p, stream);
    if (has(p, 1, 1, 4, true)) return launch_tiles<T, 1, 1, 4, true>(p, stream);
    return p.separable ? launch_tiles<T, 1, 1, 0, true>(p, stream) : launch_tiles<T, 1, 1, 0, false>(p, stream);
}

}  // namespace

const char* launch_upfirdn2d(Upfirdn2dParams params, Dtype dtype, void* stream) {
    switch (dtype) {
        case Dtype::half: return launch_filter<half_t>(params, stream);
        case Dtype::bfloat16: return launch_filter<bfloat16_t>(params, stream);
        case Dtype::float32: return launch_filter<float>(params, stream);
        case Dtype::float64:            // for checks of gradients, where speed does not matter
            return params.separable ? launch_tiles<double, 1, 1, 0, true>(params, stream) : launch_tiles<double, 1, 1, 0, false>(params, stream);
    }
    return "unknown dtype";
}

}  // namespace kdgan
