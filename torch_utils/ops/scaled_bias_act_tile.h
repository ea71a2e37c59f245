// What the threads of scaled_bias_act do: a block takes a tile of rows and columns of one sample, writes its part of the result, and leaves
// the sums of each row and each column of the tile behind, which torch adds up. No atomics: the same input gives the same bytes.
#pragma once

#include "bias_act_math.h"
#include "scaled_bias_act.h"

namespace kdgan {

constexpr int ROWS_EACH = 4;                // rows of a thread

// A value for each element of a pack: one for all, or one each.
template <class T> struct Few {
    using C = Real<T>;
    static constexpr int SIZE = Pack<T>::SIZE;
    C at[SIZE];

    KDGAN_INLINE void fill(C value) {
        KDGAN_UNROLL for (int k = 0; k < SIZE; k++) at[k] = value;
    }

    // Of a large tensor; elements beyond `count` are 0.
    KDGAN_INLINE void read(const void* from, int64_t i, int count, bool packed) {
        const T* source = static_cast<const T*>(from) + i;
        if (packed) {
            const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(source);
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) at[k] = to_real<T>(pack.at[k]);
        } else {
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) at[k] = k < count ? to_real<T>(source[k]) : C(0);
        }
    }

    KDGAN_INLINE void write(void* to, int64_t i, int count, bool packed) const {
        T* target = static_cast<T*>(to) + i;
        if (packed) {
            Pack<T> pack;
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) pack.at[k] = from_real<T>(at[k]);
            *reinterpret_cast<Pack<T>*>(target) = pack;
        } else {
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) if (k < count) target[k] = from_real<T>(at[k]);
        }
    }

    // Of a small tensor.
    KDGAN_INLINE void read_small(const void* from, int64_t i, int count) {
        KDGAN_UNROLL for (int k = 0; k < SIZE; k++) at[k] = from != nullptr && k < count ? static_cast<const C*>(from)[i + k] : C(0);
    }
};

template <class C> KDGAN_INLINE C small_at(const void* from, int64_t i) { return from == nullptr ? C(0) : static_cast<const C*>(from)[i]; }

// Which part of the tensors a thread works on.
struct Spot {
    int64_t sample, row_tile, column_tile, row, column;     // the row is the first of the thread's, the others follow `groups` apart
    int lane, group, groups;

    KDGAN_INLINE Spot(const ScaledBiasActParams& p, int64_t block, int thread, int size) {
        column_tile = block % p.column_tiles;
        row_tile = block / p.column_tiles % p.row_tiles;
        sample = block / p.column_tiles / p.row_tiles;
        lane = thread % p.lanes, group = thread / p.lanes, groups = THREADS / p.lanes;
        row = row_tile * tile_rows() + group;
        column = (column_tile * p.lanes + lane) * size;
    }
    KDGAN_INLINE int tile_rows() const { return groups * ROWS_EACH; }
};

template <class T, bool LAST, Pass PASS> struct ScaledBiasAct {
    using Params = ScaledBiasActParams;
    using C = Real<T>;
    static constexpr int PHASES = PASS == Pass::forward ? 1 : 2, SIZE = Pack<T>::SIZE;
    static constexpr int ROW_SUMS = LAST ? sums_over_channels(PASS) : sums_over_pixels(PASS);
    static constexpr int COLUMN_SUMS = LAST ? sums_over_pixels(PASS) : sums_over_channels(PASS);

    // Shared memory: [ROW_SUMS, lanes, tile_rows + 1], the 1 for different banks, then [COLUMN_SUMS, SIZE, THREADS].
    static KDGAN_INLINE int row_place(const Spot& at, int lanes, int sum, int lane, int row) {
        return (sum * lanes + lane) * (at.tile_rows() + 1) + row;
    }
    static KDGAN_INLINE int column_place(const Spot& at, int lanes, int sum, int k, int thread) {
        return ROW_SUMS * lanes * (at.tile_rows() + 1) + (sum * SIZE + k) * THREADS + thread;
    }
    static int shared_bytes(const Params& p) {
        return sizeof(C) * (ROW_SUMS * p.lanes * (THREADS / p.lanes * ROWS_EACH + 1) + COLUMN_SUMS * SIZE * THREADS);
    }

    template <int I> static KDGAN_INLINE void phase(const Params& p, int64_t block, int thread, void* shared) {
        const Spot at(p, block, thread, SIZE);
        if constexpr (I == 0)
            work(p, at, thread, static_cast<C*>(shared));
        else
            add_up(p, at, thread, static_cast<const C*>(shared));
    }

    struct Small {                          // the values of the small tensors at the elements of a pack
        Few<T> scale, ddscale, bias, noise;
    };

    // What the rows of a thread share.
    static KDGAN_INLINE void read_by_column(Small& s, const Params& p, const Spot& at, int count) {
        if constexpr (LAST) {
            const int64_t first = at.sample * p.columns + at.column;
            s.scale.read_small(p.scale, first, count);
            s.bias.read_small(p.bias, at.column, count);
            if constexpr (PASS == Pass::grad2) s.ddscale.read_small(p.ddscale, first, count);
        } else {
            s.noise.read_small(p.noise, at.sample * p.noise_step + at.column, count);
        }
    }

    static KDGAN_INLINE void read_by_row(Small& s, const Params& p, const Spot& at, int64_t row) {
        if constexpr (LAST) {
            s.noise.fill(small_at<C>(p.noise, at.sample * p.noise_step + row));
        } else {
            s.scale.fill(small_at<C>(p.scale, at.sample * p.rows + row));
            s.bias.fill(small_at<C>(p.bias, row));
            if constexpr (PASS == Pass::grad2) s.ddscale.fill(small_at<C>(p.ddscale, at.sample * p.rows + row));
        }
    }

    static KDGAN_INLINE void work(const Params& p, const Spot& at, int thread, C* shared) {
        const Scalars<C> a{C(p.alpha), C(p.gain), C(1), to_real<T>(from_real<T>(C(p.clamp))), p.clamp >= 0};
        const int64_t left = p.columns - at.column;
        const int count = left < 0 ? 0 : left < SIZE ? static_cast<int>(left) : SIZE;
        Small s;
        read_by_column(s, p, at, count);
        C over_rows[COLUMN_SUMS + 1][SIZE] = {};
        for (int e = 0; e < ROWS_EACH; e++) {
            const int64_t row = at.row + e * at.groups;
            C over_columns[ROW_SUMS + 1] = {};
            if (row < p.rows && count > 0) {
                read_by_row(s, p, at, row);
                pack(p, a, s, (at.sample * p.rows + row) * p.columns + at.column, count, over_columns, over_rows);
            }
            KDGAN_UNROLL for (int sum = 0; sum < ROW_SUMS; sum++)
                shared[row_place(at, p.lanes, sum, at.lane, e * at.groups + at.group)] = over_columns[sum];
        }
        KDGAN_UNROLL for (int sum = 0; sum < COLUMN_SUMS; sum++)
            KDGAN_UNROLL for (int k = 0; k < SIZE; k++) shared[column_place(at, p.lanes, sum, k, thread)] = over_rows[sum][k];
    }

    static KDGAN_INLINE void pack(const Params& p, const Scalars<C>& a, const Small& s, int64_t i, int count, C (&over_columns)[ROW_SUMS + 1],
                                  C (&over_rows)[COLUMN_SUMS + 1][SIZE]) {
        Few<T> x, y, dy, ddx, out, out_x;
        x.read(p.x, i, count, p.packed);
        if constexpr (PASS != Pass::forward) {
            y.read(p.y, i, count, p.packed);
            dy.read(p.dy, i, count, p.packed);
        }
        if constexpr (PASS == Pass::grad2) ddx.read(p.ddx, i, count, p.packed);
        KDGAN_UNROLL for (int k = 0; k < SIZE; k++) {
            if constexpr (PASS == Pass::forward) {
                out.at[k] = forward<Lrelu>(x.at[k] * s.scale.at[k] + s.noise.at[k], s.bias.at[k], a);
            } else {
                const C du = slope<Lrelu>(dy.at[k], y.at[k], C(0), a);
                if constexpr (PASS == Pass::grad) {
                    out.at[k] = du * s.scale.at[k];
                    const C of_pixels[] = {du * x.at[k], du}, of_channels[] = {du};
                    add<LAST>(of_pixels, of_channels, over_columns, over_rows, k);
                } else {
                    const C ddu = ddx.at[k] * s.scale.at[k] + s.ddscale.at[k] * x.at[k] + s.noise.at[k] + s.bias.at[k];
                    out.at[k] = slope<Lrelu>(ddu, y.at[k], C(0), a);
                    out_x.at[k] = du * s.ddscale.at[k];
                    const C of_pixels[] = {ddx.at[k] * du}, of_channels[] = {C(0)};
                    add<LAST>(of_pixels, of_channels, over_columns, over_rows, k);
                }
            }
        }
        out.write(p.out, i, count, p.packed);
        if constexpr (PASS == Pass::grad2) out_x.write(p.out_x, i, count, p.packed);
    }

    template <bool PIXELS_ARE_ROWS, class A, class B> static KDGAN_INLINE void add(
            const A& of_pixels, const B& of_channels, C (&over_columns)[ROW_SUMS + 1], C (&over_rows)[COLUMN_SUMS + 1][SIZE], int k) {
        KDGAN_UNROLL for (int sum = 0; sum < ROW_SUMS; sum++) over_columns[sum] += PIXELS_ARE_ROWS ? of_channels[sum] : of_pixels[sum];
        KDGAN_UNROLL for (int sum = 0; sum < COLUMN_SUMS; sum++) over_rows[sum][k] += PIXELS_ARE_ROWS ? of_pixels[sum] : of_channels[sum];
    }

    // The sums of each thread -> those of the tile.
    static KDGAN_INLINE void add_up(const Params& p, const Spot& at, int thread, const C* shared) {
        const int rows = at.tile_rows(), columns = p.lanes * SIZE;
        for (int i = thread; i < ROW_SUMS * rows; i += THREADS) {
            const int sum = i / rows, row = i % rows;
            const int64_t to = at.row_tile * rows + row;
            C total = 0;
            for (int lane = 0; lane < p.lanes; lane++) total += shared[row_place(at, p.lanes, sum, lane, row)];
            if (to < p.rows)
                static_cast<C*>(p.row_sums)[((sum * p.samples + at.sample) * p.rows + to) * p.column_tiles + at.column_tile] = total;
        }
        for (int i = thread; i < COLUMN_SUMS * columns; i += THREADS) {
            const int sum = i / columns, k = i % columns / p.lanes, lane = i % p.lanes;
            const int64_t to = (at.column_tile * p.lanes + lane) * SIZE + k;
            C total = 0;
            for (int group = 0; group < at.groups; group++) total += shared[column_place(at, p.lanes, sum, k, group * p.lanes + lane)];
            if (to < p.columns)
                static_cast<C*>(p.column_sums)[((sum * p.samples + at.sample) * p.row_tiles + at.row_tile) * p.columns + to] = total;
        }
    }
};

}  // namespace kdgan
