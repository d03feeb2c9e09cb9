// One sweep over the state, which does the forward pass of two rows of a diagonal-plus-rank-one recurrence.
#pragma once

#include "rank_one/rows.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The forward pass takes two rows a and b at a time: one sweep loads and stores the state once, updates it by a pair,
// and multiplies it by what the next pair reads with. With S the state before a pair, its reads are products with S,
//     readᵃᵀ S,   (dᵃ readᵇ)ᵀ S,   (dᵃ qᵃ)ᵀ S,   (dᵇ dᵃ qᵇ)ᵀ S,
// corrected by dot products of vectors (readᵇᵀ kᵃ, qᵃᵀ kᵃ, ...) for what b reads of a's update, and q of both.
template <Kind KIND>
struct SweepSizes {
    static constexpr int ADDED = KIND == Kind::general ? 4 : 2;  // outer products added to the state
    static constexpr int READ = KIND == Kind::outer ? 2 : 4;     // vectors the state is multiplied by
    static constexpr int VECTORS = KIND == Kind::general
                                       ? REGISTERS / 16
                                       : REGISTERS / 8;  // of columns in a register tile; fewer where more is added
};

// Two rows, or one and an empty one. Coefficients are [K / LANES][number][LANES], as a sweep reads them.
template <Kind KIND>
struct Pair {
    using Sizes = SweepSizes<KIND>;
    RowInputs rows[2];
    float* update;   // 1 + ADDED: the decay of the rows, and the left vectors of the outer products
    float* reading;  // READ: the vectors the state is multiplied by
    float* added;    // [ADDED][width]: the right vectors of the outer products
    float* sums;     // [READ][width]: the products with the state
    float* decay_v;  // [width]: the decay of the columns
    float dots[32];  // the dot products, see set_coefficients() in forward.cpp
    int64_t begin, count;

    Pair(Arena& arena, const ColumnSplit& c) {
        for (RowInputs& row : rows) {
            for (float** at : {&row.q, &row.k, &row.key, &row.read, &row.write, &row.decay}) *at = arena.take(c.padded);
            for (float** at : {&row.v, &row.decay_v}) *at = arena.take(c.width);
        }
        update = arena.take((1 + Sizes::ADDED) * c.padded);
        reading = arena.take(Sizes::READ * c.padded);
        added = arena.take(Sizes::ADDED * c.width);
        sums = arena.take(Sizes::READ * c.width);
        decay_v = arena.take(c.width);
    }
};

template <Kind KIND>
struct Sweep {
    using Sizes = SweepSizes<KIND>;
    const float *update, *added, *decay_v, *reading;
    float *state, *sums;
    int64_t K, width;
    const PrefetchQueue& prefetches;

    // N vectors of columns from `column` on, all rows.
    template <int N, bool DECAY, bool DECAY_V>
    INLINE void columns(int64_t column) const {
        Vec plus[Sizes::ADDED][N], sum[Sizes::READ][N] = {}, decays[N];
        UNROLL for (int n = 0; n < N; ++n) {
            UNROLL for (int a = 0; a < Sizes::ADDED; ++a) plus[a][n] = load(added + a * width + column + n * LANES);
            if (DECAY_V) decays[n] = load(decay_v + column + n * LANES);
        }
        const float *u = update, *r = reading;  // locals: vectors may alias members, which would be loaded again
        float* row = state + column;
        const int64_t rows = K, next = width;
        for (int64_t block = 0; block < rows;
             block += LANES, u += (1 + Sizes::ADDED) * LANES, r += Sizes::READ * LANES) {
            const int64_t count = rows - block < LANES ? rows - block : LANES;
            for (int64_t i = 0; i < count; ++i, row += next) {
                Vec s[N];
                prefetches.issue_at(block + i);
                UNROLL for (int n = 0; n < N; ++n) s[n] = load(row + n * LANES);
                if (DECAY) UNROLL for (int n = 0; n < N; ++n) s[n] *= u[i];
                if (DECAY_V) UNROLL for (int n = 0; n < N; ++n) s[n] *= decays[n];
                UNROLL for (int a = 0; a < Sizes::ADDED; ++a) {
                    const Vec by = splat(u[(1 + a) * LANES + i]);
                    UNROLL for (int n = 0; n < N; ++n) s[n] += by * plus[a][n];
                }
                UNROLL for (int n = 0; n < N; ++n) store(row + n * LANES, s[n]);
                UNROLL for (int k = 0; k < Sizes::READ; ++k) {
                    const Vec by = splat(r[k * LANES + i]);
                    UNROLL for (int n = 0; n < N; ++n) sum[k][n] += by * s[n];
                }
            }
        }
        UNROLL for (int k = 0; k < Sizes::READ; ++k)
            UNROLL for (int n = 0; n < N; ++n) store(sums + k * width + column + n * LANES, sum[k][n]);
    }

    template <bool DECAY, bool DECAY_V>
    void run() const {
        constexpr int WIDE = Sizes::VECTORS;
        int64_t column = 0;
        for (; column + WIDE * LANES <= width; column += WIDE * LANES) columns<WIDE, DECAY, DECAY_V>(column);
        for (; column < width; column += LANES) columns<1, DECAY, DECAY_V>(column);
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
