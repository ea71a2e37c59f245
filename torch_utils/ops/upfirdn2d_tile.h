// What the threads of a block do for one tile of the output of upfirdn2d: read the box, filter it, write the tile.
//
// Along one axis, output o covers the pixels s .. s + taps - 1 of the enlarged image, s = o * down - padding. Of these only every
// up-th is not an inserted zero: taps tap, tap + up, ... meet the input's pixels first, first + 1, ... with
//     tap = -s mod up,    first = (s + tap) / up.
#pragma once

#include "kernel.h"
#include "upfirdn2d.h"

namespace kdgan {

KDGAN_INLINE int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
KDGAN_INLINE int ceil_div(int a, int b) { return floor_div(a + b - 1, b); }

inline Divisor divisor(int by) { return {static_cast<uint32_t>(by), by == 1 ? 0 : 0xffffffffu / by + 1}; }

KDGAN_INLINE int divide(int value, const Divisor& d) {
    return d.by == 1 ? value : static_cast<int>((static_cast<uint64_t>(value) * d.factor) >> 32);
}

struct Phase {
    int tap, first;
    KDGAN_INLINE Phase(int s, int up) : tap(ceil_div(s, up) * up - s), first(ceil_div(s, up)) {}
};

// Position `index` of an array whose innermost axis is k (channels_last) or x, in the order in which threads are spread over it.
struct Place {
    int x, y, k;
    KDGAN_INLINE Place(int index, const Divisor& extent_0, const Divisor& extent_1, bool channels_last) {
        const int rest = divide(index, extent_0), c = divide(rest, extent_1);
        const int a = index - rest * static_cast<int>(extent_0.by), b = rest - c * static_cast<int>(extent_1.by);
        x = channels_last ? b : a;
        y = channels_last ? c : b;
        k = channels_last ? a : c;
    }
};

// The same array's distances in shared memory.
struct SharedStrides {
    int x, y, k;
    KDGAN_INLINE SharedStrides(int width, int height, int depth, bool channels_last)
        : x(channels_last ? depth : 1), y(channels_last ? depth * width : width), k(channels_last ? 1 : width * height) {}
};

// Which tile a block works on: the first output it makes and the first input it reads, both perhaps outside the image.
struct Tile {
    int64_t n, k;
    int ox, oy, ix, iy;

    KDGAN_INLINE Tile(const Upfirdn2dParams& p, int64_t block, int pack) {
        uint32_t rest = static_cast<uint32_t>(block), tk, tx, ty;       // 32 bits: divisions of 64 take a GPU several times longer
        if (p.channels_last) {                          // neighbours in the order of memory run at about the same time
            tk = rest % p.tiles_k, rest /= p.tiles_k;
            tx = rest % p.tiles_x, rest /= p.tiles_x;
            ty = rest % p.tiles_y, n = rest / p.tiles_y;
        } else {
            tx = rest % p.tiles_x, rest /= p.tiles_x;
            ty = rest % p.tiles_y, rest /= p.tiles_y;
            tk = rest % p.tiles_k, n = rest / p.tiles_k;
        }
        k = int64_t(tk) * p.tile_k;
        ox = static_cast<int>(tx) * p.tile_w;
        oy = static_cast<int>(ty) * p.tile_h - p.shift_y;
        ix = ceil_div(ox * p.downx - p.left, p.upx);
        iy = ceil_div(oy * p.downy - p.top, p.upy);
        if (p.packed && !p.channels_last)
            ix = floor_div(ix, pack) * pack;
    }
};

// UP, DOWN, TAPS: of both axes, known to the compiler, so that loops unroll and weights stay in registers; TAPS = 0: any, from params.
template <class T, int UP, int DOWN, int TAPS, bool SEPARABLE> struct Upfirdn2d {
    using Params = Upfirdn2dParams;
    using C = Real<T>;
    static constexpr int PHASES = SEPARABLE ? 3 : 2;
    static constexpr int ROWS = TAPS == 0 ? 1 : 4;              // of the output, that a thread makes at once
    static constexpr int PACK = Pack<T>::SIZE;

    template <int I> static KDGAN_INLINE void phase(const Params& p, int64_t block, int thread, void* shared) {
        C* weights = static_cast<C*>(shared);
        C* box = weights + p.weights;
        C* middle = box + p.box_size;
        const Tile tile(p, block, PACK);
        const SharedStrides strides(p.box_w, p.box_h, p.tile_k, p.channels_last);
        if constexpr (I == 0) {
            read_weights(p, thread, weights);
            if (p.packed)
                read_box<Pack<T>>(p, tile, thread, box);
            else
                read_box<T>(p, tile, thread, box);
        } else if constexpr (!SEPARABLE) {
            make_strips<TAPS / UP, false>(p, tile, thread, weights, p.taps_x, box, strides);
        } else if constexpr (I == 1) {
            filter_rows(p, tile, thread, weights, box, strides, middle);
        } else {
            const SharedStrides filtered(p.tile_w, p.box_h, p.tile_k, p.channels_last);
            make_strips<1, true>(p, tile, thread, weights + p.taps_x, 1, middle, filtered);
        }
    }

private:
    static constexpr bool GENERAL = TAPS == 0;   // all sizes come from the parameters
    static KDGAN_INLINE int upx(const Params& p) { return GENERAL ? p.upx : UP; }
    static KDGAN_INLINE int upy(const Params& p) { return GENERAL ? p.upy : UP; }
    static KDGAN_INLINE int downx(const Params& p) { return GENERAL ? p.downx : DOWN; }
    static KDGAN_INLINE int downy(const Params& p) { return GENERAL ? p.downy : DOWN; }

    // In the order of a correlation. Separable: the weights in x, then those in y, with the gain. Otherwise [taps_y][taps_x].
    static KDGAN_INLINE void read_weights(const Params& p, int thread, C* weights) {
        const int count = SEPARABLE ? p.taps_x : p.taps_x * p.taps_y;
        for (int i = thread; i < count; i += THREADS) {
            const C w = C(p.f[p.flip ? i : count - 1 - i]);
            if (SEPARABLE)
                weights[i] = w;
            weights[SEPARABLE ? count + i : i] = w * C(p.gain);
        }
    }

    // Unit: T, or a pack of them. The reads of a batch are all under way before the first value is needed, so that a thread waits for
    // memory once per batch. Where there is nothing to read it reads the image's first pixel: a branch would keep the reads apart.
    template <class Unit> static KDGAN_INLINE void read_box(const Params& p, const Tile& tile, int thread, C* box) {
        constexpr int BATCH = 4, SIZE = sizeof(Unit) / sizeof(T), STEP = THREADS * SIZE;
        const T* image = static_cast<const T*>(p.x) + tile.n * p.in.n;
        for (int start = thread * SIZE; start < p.box_size; start += BATCH * STEP) {
            Unit units[BATCH];
            bool inside[BATCH];
            KDGAN_UNROLL for (int j = 0; j < BATCH; j++) {
                const int i = start + j * STEP;
                const Place at(i, p.box_0, p.box_1, p.channels_last);
                const int ix = tile.ix + at.x, iy = tile.iy + at.y;
                const int64_t k = tile.k + at.k;        // the conditions for `packed` make a pack lie inside as a whole, or outside
                inside[j] = i < p.box_size && ix >= 0 && ix < p.in_w && iy >= 0 && iy < p.in_h && k < p.depth;
                units[j] = *reinterpret_cast<const Unit*>(image + (inside[j] ? k * p.in.k + iy * p.in.y + ix * p.in.x : 0));
            }
            KDGAN_UNROLL for (int j = 0; j < BATCH; j++)
                if (start + j * STEP < p.box_size)
                    write_unit(box + start + j * STEP, units[j], inside[j]);
        }
    }

    static KDGAN_INLINE void write_unit(C* to, T value, bool inside) { *to = inside ? to_real<T>(value) : C(0); }

    // In accesses of 16 bytes too: single numbers PACK apart would queue up for the same banks of shared memory.
    static KDGAN_INLINE void write_unit(C* to, const Pack<T>& pack, bool inside) {
        constexpr int SIZE = Pack<C>::SIZE;
        KDGAN_UNROLL for (int j = 0; j < PACK; j += SIZE) {
            Pack<C> part;
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) part.at[k] = inside ? to_real<T>(pack.at[j + k]) : C(0);
            *reinterpret_cast<Pack<C>*>(to + j) = part;
        }
    }

    // box -> middle: filtered, enlarged and thinned in x.
    static KDGAN_INLINE void filter_rows(const Params& p, const Tile& tile, int thread, const C* weights, const C* box,
                                         const SharedStrides& strides, C* middle) {
        constexpr int KX = GENERAL ? 1 : TAPS / UP;
        C w[KX] = {};
        int held = -1;                                  // the first tap of the weights in w
        for (int i = thread; i < p.middle_size; i += THREADS) {
            const Place at(i, p.middle_0, p.middle_1, p.channels_last);
            const Phase px((tile.ox + at.x) * downx(p) - p.left, upx(p));
            const C* from = box + at.k * strides.k + at.y * strides.y + (px.first - tile.ix) * strides.x;
            C sum = 0;
            if constexpr (GENERAL) {
                for (int tap = px.tap; tap < p.taps_x; tap += p.upx, from += strides.x)
                    sum += weights[tap] * *from;
            } else {
                if (px.tap != held) {
                    held = px.tap;
                    KDGAN_UNROLL for (int j = 0; j < KX; j++) w[j] = weights[held + j * UP];
                }
                KDGAN_UNROLL for (int j = 0; j < KX; j++) sum += w[j] * from[j * strides.x];
            }
            middle[i] = sum;
        }
    }

    // box -> tile, or, with FILTERED_X, middle -> tile, which leaves one weight in x. A thread makes strips of ROWS outputs below
    // each other, so that a pixel it has read serves them all.
    template <int KX, bool FILTERED_X>
    static KDGAN_INLINE void make_strips(const Params& p, const Tile& tile, int thread, const C* weights, int weights_row, const C* source,
                                         const SharedStrides& strides) {
        constexpr int KY = GENERAL ? 1 : TAPS, KX1 = KX > 0 ? KX : 1;
        C w[KY][KX1] = {};
        int held = -1;
        const int count = p.tile_w * p.tile_k * (p.tile_h / ROWS);
        for (int i = thread; i < count; i += THREADS) {
            Place at(i, p.strip_0, p.strip_1, p.channels_last);
            at.y *= ROWS;
            const Phase px = FILTERED_X ? Phase(at.x + tile.ix, 1) : Phase((tile.ox + at.x) * downx(p) - p.left, upx(p));
            const Phase py((tile.oy + at.y) * downy(p) - p.top, upy(p));
            const C* from = source + at.k * strides.k + (px.first - tile.ix) * strides.x + (py.first - tile.iy) * strides.y;
            C out[ROWS] = {};
            if constexpr (GENERAL) {
                out[0] = one_output<FILTERED_X>(p, px.tap, py.tap, weights, weights_row, from, strides);
            } else {
                if (px.tap != held) {
                    held = px.tap;
                    KDGAN_UNROLL for (int ky = 0; ky < KY; ky++)
                        KDGAN_UNROLL for (int j = 0; j < KX1; j++) w[ky][j] = weights[ky * weights_row + held + j * UP];
                }
                one_strip(out, w, from, strides);
            }
            write_strip(p, tile, at, out);
        }
    }

    template <bool FILTERED_X>
    static KDGAN_INLINE C one_output(const Params& p, int tap_x, int tap_y, const C* weights, int weights_row, const C* from,
                                     const SharedStrides& strides) {
        C sum = 0;
        for (int ky = tap_y; ky < p.taps_y; ky += p.upy, from += strides.y) {
            const C* pixel = from;
            for (int kx = tap_x; kx < (FILTERED_X ? 1 : p.taps_x); kx += p.upx, pixel += strides.x)
                sum += weights[ky * weights_row + kx] * *pixel;
        }
        return sum;
    }

    // The strip starts at a pixel (shift_y sees to it): row m of the input meets tap m * UP - r * DOWN of output r.
    template <int KY, int KX>
    static KDGAN_INLINE void one_strip(C (&out)[ROWS], const C (&w)[KY][KX], const C* from, const SharedStrides& strides) {
        constexpr int ROWS_READ = ((ROWS - 1) * DOWN + KY - 1) / UP + 1;
        KDGAN_UNROLL for (int m = 0; m < ROWS_READ; m++) {
            C pixel[KX];
            KDGAN_UNROLL for (int j = 0; j < KX; j++) pixel[j] = from[m * strides.y + j * strides.x];
            KDGAN_UNROLL for (int r = 0; r < ROWS; r++) {
                const int ky = m * UP - r * DOWN;
                if (ky >= 0 && ky < KY)
                    KDGAN_UNROLL for (int j = 0; j < KX; j++) out[r] += w[ky][j] * pixel[j];
            }
        }
    }

    static KDGAN_INLINE void write_strip(const Params& p, const Tile& tile, const Place& at, const C (&out)[ROWS]) {
        const int ox = tile.ox + at.x, oy = tile.oy + at.y;
        const int64_t k = tile.k + at.k;
        if (ox >= p.out_w || k >= p.depth)
            return;
        T* to = static_cast<T*>(p.y) + tile.n * p.out.n + k * p.out.k + ox * p.out.x;
        KDGAN_UNROLL for (int r = 0; r < ROWS; r++)
            if (oy + r >= 0 && oy + r < p.out_h)
                to[(oy + r) * p.out.y] = from_real<T>(out[r]);
    }
};

}  // namespace kdgan
