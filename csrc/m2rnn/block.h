// What the two directions of the M²RNN recurrence share: the split into tasks, and one step of a block of rows.
//
// The K rows of a state never mix, so a task may have any of them. A block of rows is [rows][width] in scratch memory,
// padded with zeros; a vector holds LANES columns of a row, and the product with w broadcasts the row's entries.
#pragma once

#include "common/tanh.h"
#include "common/tiles.h"
#include "m2rnn/m2rnn.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The split of the work into tasks (b, head, slice of rows). It depends on the sizes alone, never on the threads, so
// that sums over rows have the same order for any number of threads.
struct RowSplit {
    static constexpr int64_t ENOUGH_TASKS = 32;  // heads are sliced until there are this many
    M2rnnSizes sizes;
    int64_t slices;  // of the rows of one head
    int64_t rows;    // of a slice, rounded up to whole tiles
    int64_t width;   // V rounded up to whole vectors

    explicit RowSplit(const M2rnnSizes& s) : sizes(s) {
        const int64_t heads = s.B * s.H > 0 ? s.B * s.H : 1, tiles = divide_up(s.K > 0 ? s.K : 1, ROWS);
        const int64_t wanted = divide_up(ENOUGH_TASKS, heads);
        const int64_t per_slice = divide_up(tiles, wanted < tiles ? wanted : tiles);
        slices = divide_up(tiles, per_slice);
        rows = per_slice * ROWS;
        width = round_up(s.V, LANES);
    }
    int64_t tasks() const { return sizes.B * sizes.H * slices; }
    int64_t block() const { return rows * width; }
};

// One task: head n of batch row b, rows [first, first + count) of its state.
struct Slice {
    int64_t b, n, s, first, count;
    Slice(const RowSplit& split, int64_t task) {
        s = task % split.slices;
        n = task / split.slices % split.sizes.H;
        b = task / split.slices / split.sizes.H;
        first = s * split.rows;
        int64_t left = split.sizes.K - first;
        count = left < split.rows ? left : split.rows;
    }
};

// The inputs of up to M2RNN_INTERVAL steps, staged in float32 and padded with zeros to whole tiles and vectors: dtypes,
// odd sizes and shared heads then cost one pass over the inputs, and the loops of a step know nothing of them. Padded
// rows and columns of a state are zero at every step, as tanh(0) = 0.
struct Steps {
    float *q, *k, *v, *f;
    Steps(Arena& arena, const RowSplit& c)
        : q(arena.take(M2RNN_INTERVAL * c.rows)),
          k(arena.take(M2RNN_INTERVAL * c.rows)),
          v(arena.take(M2RNN_INTERVAL * c.width)),
          f(arena.take(M2RNN_INTERVAL)) {}
    void clear(const RowSplit& c) {
        std::memset(q, 0, M2RNN_INTERVAL * c.rows * sizeof(float));
        std::memset(k, 0, M2RNN_INTERVAL * c.rows * sizeof(float));
        std::memset(v, 0, M2RNN_INTERVAL * c.width * sizeof(float));
    }
    void read_from(const M2rnnInputs& in, const RowSplit& c, const Slice& slice, int64_t begin, int64_t end) {
        const M2rnnSizes& s = c.sizes;
        const int64_t nq = slice.n / (s.H / s.Hq), nk = slice.n / (s.H / s.Hk), nv = slice.n / (s.H / s.Hv);
        const int64_t nf = slice.n / (s.H / s.Hf);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t step = slice.b * s.T + t, i = t - begin;
            read(in.q, (step * s.Hq + nq) * s.K + slice.first, slice.count, q + i * c.rows);
            read(in.k, (step * s.Hk + nk) * s.K + slice.first, slice.count, k + i * c.rows);
            read(in.v, (step * s.Hv + nv) * s.V, s.V, v + i * c.width);
            f[i] = in.f[step * s.Hf + nf];
        }
    }
};

// One step of a block of rows, from `before` to `after`, both [rows][width].
struct Step {
    const float *w, *q, *k, *v, *before;  // w [V][width]; q, k [rows]; v [width]
    float f;
    float* after;
    float* candidate;  // [rows][width], A of ops/m2rnn/README.md; written by the backward pass only
    float* y;          // [width]; written by the forward pass only
};

// R rows by N vectors of columns, all in registers: sums start at k vᵀ, `before` w is added, tanh and the mix follow.
template <bool READ_OUT, int R, int N>
INLINE void step_tile(const Step& step, int64_t V, int64_t row, int64_t column, int64_t width) {
    const int64_t begin = row * width + column;
    Vec acc[R][N], y[N];
    UNROLL for (int n = 0; n < N; ++n) {
        const Vec v = load(step.v + column + n * LANES);
        UNROLL for (int i = 0; i < R; ++i) acc[i][n] = step.k[row + i] * v;
        // y sums over all rows; tiles come with rows outermost, so each adds to what those above left.
        y[n] = READ_OUT && row > 0 ? load(step.y + column + n * LANES) : Vec{};
    }
    multiply<R, N>(acc, {step.before + row * width, width, 1}, step.w + column, width, V);
    const Vec f = splat(step.f), g = splat(1.0f - step.f);
    UNROLL for (int i = 0; i < R; ++i)
        UNROLL for (int n = 0; n < N; ++n) {
            const int64_t at = begin + i * width + n * LANES;
            const Vec candidate = tanh(acc[i][n]);
            const Vec after = f * load(step.before + at) + g * candidate;  // exactly `before` where f = 1
            store(step.after + at, after);
            if (READ_OUT) y[n] += step.q[row + i] * after;
            else store(step.candidate + at, candidate);
        }
    if (READ_OUT)
        UNROLL for (int n = 0; n < N; ++n) store(step.y + column + n * LANES, y[n]);
}

// All tiles of a step. The forward pass reads out y; the backward pass, which recomputes states, saves the candidates.
template <bool READ_OUT>
void take_step(const Step& step, const RowSplit& split) {
    for_tiles(split.rows, split.width, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
        step_tile<READ_OUT, r(), n()>(step, split.sizes.V, row, column, width);
    });
}

// to [count][width] = from [count][V], padded with zeros.
inline void pad(const float* from, int64_t count, const RowSplit& split, float* to) {
    for (int64_t r = 0; r < count; ++r) {
        std::memset(to + r * split.width, 0, split.width * sizeof(float));
        for (int64_t i = 0; i < split.sizes.V; ++i) to[r * split.width + i] = from[r * split.sizes.V + i];
    }
}
inline void unpad(const float* from, int64_t count, const RowSplit& split, float* to) {
    for (int64_t r = 0; r < count; ++r)
        for (int64_t i = 0; i < split.sizes.V; ++i) to[r * split.sizes.V + i] = from[r * split.width + i];
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
