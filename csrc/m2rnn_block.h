// What the two directions of the M²RNN recurrence share: how the work is cut, and one step of a block of rows.
//
// The K rows of a state never mix, so a vector holds one column of LANES rows: everything but the sums over rows is
// elementwise, and the row of w that a column needs is a scalar. A block of rows is [columns][rows] in scratch memory.
#pragma once

#include "m2rnn.h"
#include "tanh.h"
#include "vec.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int TILE = REGISTERS / 4;  // columns of a register tile, which is two vectors of rows wide

// How the work is cut into tasks (b, head, slice of rows). Depends on the sizes alone, never on the threads, so that
// sums over rows have the same order whatever the number of threads.
struct Cut {
    static constexpr int64_t ENOUGH_TASKS = 32;
    M2rnnSizes sizes;
    int64_t slices;   // of the rows of one head
    int64_t rows;     // of a slice, rounded up to whole vectors
    int64_t columns;  // V rounded up to whole tiles
    int64_t width;    // V rounded up to whole vectors (and tiles)

    explicit Cut(const M2rnnSizes& s) : sizes(s) {
        int64_t heads = s.B * s.H > 0 ? s.B * s.H : 1, vectors = divide_up(s.K > 0 ? s.K : 1, LANES);
        int64_t wanted = divide_up(ENOUGH_TASKS, heads);
        int64_t per_slice = divide_up(vectors, wanted < vectors ? wanted : vectors);
        slices = divide_up(vectors, per_slice);
        rows = per_slice * LANES;
        columns = round_up(s.V, TILE);
        width = round_up(columns, LANES);
    }
    int64_t tasks() const { return sizes.B * sizes.H * slices; }
};

// One task: head n of row b, rows [first, first + count) of its state.
struct Slice {
    int64_t b, n, s, first, count;
    Slice(const Cut& cut, int64_t task) {
        s = task % cut.slices;
        n = task / cut.slices % cut.sizes.H;
        b = task / cut.slices / cut.sizes.H;
        first = s * cut.rows;
        int64_t left = cut.sizes.K - first;
        count = left < cut.rows ? left : cut.rows;
    }
};

// The inputs of up to M2RNN_INTERVAL steps in float32, padded with zeros to whole vectors and tiles. A padded row or
// column of a state is then zero at every step.
struct Steps {
    float *q, *k, *v, *f;
    Steps(Pieces& pieces, const Cut& c)
        : q(pieces.take(M2RNN_INTERVAL * c.rows)),
          k(pieces.take(M2RNN_INTERVAL * c.rows)),
          v(pieces.take(M2RNN_INTERVAL * c.columns)),
          f(pieces.take(M2RNN_INTERVAL)) {}
    void clear(const Cut& c) {
        std::memset(q, 0, M2RNN_INTERVAL * c.rows * sizeof(float));
        std::memset(k, 0, M2RNN_INTERVAL * c.rows * sizeof(float));
        std::memset(v, 0, M2RNN_INTERVAL * c.columns * sizeof(float));
    }
    void read_from(const M2rnnInputs& in, const Cut& c, const Slice& slice, int64_t begin, int64_t end) {
        const M2rnnSizes& s = c.sizes;
        int64_t nq = slice.n / (s.H / s.Hq), nk = slice.n / (s.H / s.Hk), nv = slice.n / (s.H / s.Hv);
        for (int64_t t = begin; t < end; ++t) {
            int64_t step = slice.b * s.T + t, i = t - begin;
            read(in.q, (step * s.Hq + nq) * s.K + slice.first, slice.count, q + i * c.rows);
            read(in.k, (step * s.Hk + nk) * s.K + slice.first, slice.count, k + i * c.rows);
            read(in.v, (step * s.Hv + nv) * s.V, s.V, v + i * c.columns);
            f[i] = in.f[step * s.Hf + slice.n / (s.H / s.Hf)];
        }
    }
};

// acc[i][r] += sum over j < count of x[j][r] * m[j][i] for a tile of TILE columns and R vectors of rows.
template <int R>
INLINE void multiply(Vec (&acc)[TILE][R], const float* x, int64_t rows, const float* m, int64_t columns, int64_t count) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < count; ++j) {
        Vec column[R];
        UNROLL for (int r = 0; r < R; ++r) column[r] = load(x + j * rows + r * LANES);
        UNROLL for (int i = 0; i < TILE; ++i)
            UNROLL for (int r = 0; r < R; ++r) acc[i][r] += column[r] * m[j * columns + i];
    }
}

// One step of a block of rows: `before` -> `after`, both [columns][rows].
struct Step {
    const float *w, *q, *k, *v, *before;  // w [V][columns]; q, k [rows]; v [columns]
    float f;
    float* after;
    float* candidate;  // [columns][rows], tanh(...), where the pass wants it
    float* y;          // [columns] vectors of partial sums over the rows, where the pass wants it
};

template <bool READ_OUT, int R>
INLINE void step_tile(const Step& step, const Cut& cut, int64_t column, int64_t row) {
    Vec q[R], k[R], acc[TILE][R];
    UNROLL for (int r = 0; r < R; ++r) {
        q[r] = load(step.q + row + r * LANES);
        k[r] = load(step.k + row + r * LANES);
    }
    UNROLL for (int i = 0; i < TILE; ++i)
        UNROLL for (int r = 0; r < R; ++r) acc[i][r] = k[r] * step.v[column + i];
    multiply<R>(acc, step.before + row, cut.rows, step.w + column, cut.columns, cut.sizes.V);
    Vec f = splat(step.f), g = splat(1.0f - step.f);
    UNROLL for (int i = 0; i < TILE; ++i) {
        Vec sum = READ_OUT && row > 0 ? load(step.y + (column + i) * LANES) : Vec{};
        UNROLL for (int r = 0; r < R; ++r) {
            int64_t at = (column + i) * cut.rows + row + r * LANES;
            Vec candidate = tanh(acc[i][r]);
            Vec after = f * load(step.before + at) + g * candidate;  // this form keeps the state exactly where f = 1
            store(step.after + at, after);
            if (READ_OUT) sum += q[r] * after;
            else store(step.candidate + at, candidate);
        }
        if (READ_OUT) store(step.y + (column + i) * LANES, sum);
    }
}

// The forward pass reads out and the backward pass, which recomputes states, keeps the candidates.
template <bool READ_OUT>
void take_step(const Step& step, const Cut& cut) {
    for (int64_t row = 0; row < cut.rows; row += 2 * LANES)
        for (int64_t column = 0; column < cut.columns; column += TILE) {
            if (row + LANES < cut.rows) step_tile<READ_OUT, 2>(step, cut, column, row);
            else step_tile<READ_OUT, 1>(step, cut, column, row);
        }
}

// to [V][columns] = w [V][V], padded with zeros.
inline void pad_weights(const float* w, const Cut& cut, float* to) {
    int64_t V = cut.sizes.V;
    std::memset(to, 0, V * cut.columns * sizeof(float));
    for (int64_t j = 0; j < V; ++j)
        for (int64_t i = 0; i < V; ++i) to[j * cut.columns + i] = w[j * V + i];
}

// A block [columns][rows] from and to the rows [first, first + count) of a state [K][V].
inline void state_to_block(const float* state, const Cut& cut, const Slice& slice, float* block) {
    std::memset(block, 0, cut.columns * cut.rows * sizeof(float));
    for (int64_t r = 0; r < slice.count; ++r)
        for (int64_t i = 0; i < cut.sizes.V; ++i) block[i * cut.rows + r] = state[(slice.first + r) * cut.sizes.V + i];
}
inline void block_to_state(const float* block, const Cut& cut, const Slice& slice, float* state) {
    for (int64_t r = 0; r < slice.count; ++r)
        for (int64_t i = 0; i < cut.sizes.V; ++i) state[(slice.first + r) * cut.sizes.V + i] = block[i * cut.rows + r];
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
