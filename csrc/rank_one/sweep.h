// The forward pass over two rows of a diagonal-plus-rank-one recurrence: one sweep over the state.
#pragma once

#include "rank_one/rows.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The forward pass takes two rows a and b at a time: one sweep over the state does the whole update of one pair and reads
// for the next. With S the state before a pair, everything it reads follows from products with S alone,
//     readᵃᵀ S,   (dᵃ readᵇ)ᵀ S,   (dᵃ qᵃ)ᵀ S,   (dᵇ dᵃ qᵇ)ᵀ S,
// and from numbers that say how much b reads of what a writes, and q of what both write.
template <Kind KIND>
struct Shape {
    static constexpr int ADDED = KIND == Kind::general ? 4 : 2;  // products of a column and a row added to the state
    static constexpr int READ = KIND == Kind::outer ? 2 : 4;     // columns that the state is read with
    static constexpr int VECTORS = KIND == Kind::general ? REGISTERS / 16 : REGISTERS / 8;  // a tile is wide
};

// Two rows, or one and an empty one. Coefficients lie as [K / LANES][how many][LANES].
template <Kind KIND>
struct Pair {
    using Is = Shape<KIND>;
    RowInputs rows[2];
    float *update;   // how the state decays, and the columns added to it
    float *reading;  // the columns it is read with
    float *added;    // [ADDED][width]: the rows added to the state
    float *sums;     // [READ][width]: what was read
    float *shrink;   // [width], decay of the columns
    float dots[32];
    int64_t begin, count;

    Pair(Pieces& pieces, const ColumnCut& c) {
        for (RowInputs& row : rows) {
            for (float** at : {&row.q, &row.k, &row.key, &row.read, &row.write, &row.decay}) *at = pieces.take(c.padded);
            for (float** at : {&row.v, &row.decay_v}) *at = pieces.take(c.width);
        }
        update = pieces.take((1 + Is::ADDED) * c.padded);
        reading = pieces.take(Is::READ * c.padded);
        added = pieces.take(Is::ADDED * c.width);
        sums = pieces.take(Is::READ * c.width);
        shrink = pieces.take(c.width);
    }
};

template <Kind KIND>
struct Sweep {
    using Is = Shape<KIND>;
    const float *update, *added, *shrink, *reading;
    float *state, *sums;
    int64_t K, width;
    const Wishes& wishes;

    // N vectors of columns from `column` on, all rows.
    template <int N, bool DECAY, bool SHRINK>
    INLINE void columns(int64_t column) const {
        Vec plus[Is::ADDED][N], sum[Is::READ][N] = {}, less[N];
        UNROLL for (int n = 0; n < N; ++n) {
            UNROLL for (int a = 0; a < Is::ADDED; ++a) plus[a][n] = load(added + a * width + column + n * LANES);
            if (SHRINK) less[n] = load(shrink + column + n * LANES);
        }
        const float *u = update, *r = reading;  // not members, which a store of a vector might change
        float* row = state + column;
        const int64_t rows = K, next = width;
        for (int64_t block = 0; block < rows; block += LANES, u += (1 + Is::ADDED) * LANES, r += Is::READ * LANES) {
            const int64_t count = rows - block < LANES ? rows - block : LANES;
            for (int64_t i = 0; i < count; ++i, row += next) {
                Vec s[N];
                wishes.ask(block + i);
                UNROLL for (int n = 0; n < N; ++n) s[n] = load(row + n * LANES);
                if (DECAY) UNROLL for (int n = 0; n < N; ++n) s[n] *= u[i];
                if (SHRINK) UNROLL for (int n = 0; n < N; ++n) s[n] *= less[n];
                UNROLL for (int a = 0; a < Is::ADDED; ++a) {
                    const Vec by = splat(u[(1 + a) * LANES + i]);
                    UNROLL for (int n = 0; n < N; ++n) s[n] += by * plus[a][n];
                }
                UNROLL for (int n = 0; n < N; ++n) store(row + n * LANES, s[n]);
                UNROLL for (int k = 0; k < Is::READ; ++k) {
                    const Vec by = splat(r[k * LANES + i]);
                    UNROLL for (int n = 0; n < N; ++n) sum[k][n] += by * s[n];
                }
            }
        }
        UNROLL for (int k = 0; k < Is::READ; ++k)
            UNROLL for (int n = 0; n < N; ++n) store(sums + k * width + column + n * LANES, sum[k][n]);
    }

    template <bool DECAY, bool SHRINK>
    void run() const {
        constexpr int WIDE = Is::VECTORS;
        int64_t column = 0;
        for (; column + WIDE * LANES <= width; column += WIDE * LANES) columns<WIDE, DECAY, SHRINK>(column);
        for (; column < width; column += LANES) columns<1, DECAY, SHRINK>(column);
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
