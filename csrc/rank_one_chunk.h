// The parts of the backward pass over a chunk of rows: what rows of a chunk read of each other.
//
// Row t writes (its key, its value), row s reads (its query, its incoming gradient) at position p = s - shift: 0 for a
// query after the row's update, 1 before. It sees row t where t <= p, under the product of decays t + 1 ... p. Both sides
// are treated alike: K numbers per row with the decays of rows, V numbers with the decays of columns.
#pragma once

#include "rank_one_rows.h"
#include "tiles.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t CHUNK = RANK_ONE_INTERVAL;
constexpr int64_t PAIRS = 2 * CHUNK;  // row length of a matrix of pairs [writer t][reader s]; entries s >= count are zero

// One side of the readers: [CHUNK + 1][size], zeros from row `count` on.
struct Readers {
    const float* rows;
    int64_t shift;
    float* pairs;  // [CHUNK][PAIRS]
    float* grads;  // like rows, or null; added to
};

// One side of a chunk; `decay` may be null. Arrays of rows have the length `size`, whole vectors.
struct Side {
    int64_t count, size;
    const float* decay;
    Wishes& wishes;
};

// Calls work(i, vectors) for all groups of vectors of a side, wide ones first; the second is a constant.
template <class Work>
INLINE void for_vectors(int64_t size, const Work& work) {
    constexpr int WIDE = REGISTERS / 8;
    int64_t i = 0;
    for (; i + WIDE * LANES <= size; i += WIDE * LANES) work(i, Constant<WIDE>());
    for (; i < size; i += LANES) work(i, Constant<1>());
}

// pairs[t][s] = sum of x_s * decays * w_t for all pairs that see each other, else zero.
template <int READERS>
void multiply_pairs(const Side& side, const float* writers, const Readers (&readers)[READERS]) {
    const int64_t count = side.count, size = side.size;
    const float* decay = side.decay;
    for (int64_t t = 0; t < count; ++t) {
        Vec parts[READERS][CHUNK + 1] = {};
        side.wishes.ask_next(8);
        for_vectors(size, [&](int64_t i, auto vectors) INLINE_LAMBDA {
            constexpr int N = vectors();
            Vec x[N];
            UNROLL for (int n = 0; n < N; ++n) x[n] = load(writers + t * size + i + n * LANES);
            for (int64_t p = t; p < count; ++p) {
                if (decay != nullptr && p > t)
                    UNROLL for (int n = 0; n < N; ++n) x[n] *= load(decay + p * size + i + n * LANES);
                UNROLL for (int r = 0; r < READERS; ++r) {
                    const int64_t s = p + readers[r].shift;
                    const float* row = readers[r].rows + s * size + i;
                    Vec sum = parts[r][s];
                    UNROLL for (int n = 0; n < N; ++n) sum += x[n] * load(row + n * LANES);
                    parts[r][s] = sum;
                }
            }
        });
        for (int r = 0; r < READERS; ++r)
            for (int64_t s = 0; s < CHUNK; s += LANES)
                store(readers[r].pairs + t * PAIRS + s, sums_of<LANES>(parts[r] + s));
    }
}

// The gradients that the pairs' products `weight[t][s]` (of the other side) bring to writers, readers and decays, all
// added. Along a writer t, a position p has its decayed copy x_p, and h_p sums what all readers from p on bring back.
template <int READERS>
void spread_pairs(const Side& side, const float* writers, const Readers (&readers)[READERS], float* d_writers,
                  float* d_decay) {
    const int64_t count = side.count, size = side.size;
    const float* decay = side.decay;
    for (int64_t t = 0; t < count; ++t) {
        side.wishes.ask_next(8);
        for_vectors(size, [&](int64_t i, auto vectors) INLINE_LAMBDA {
            constexpr int N = vectors();
            Vec copies[CHUNK][N], x[N], h[N] = {};
            UNROLL for (int n = 0; n < N; ++n) x[n] = load(writers + t * size + i + n * LANES);
            for (int64_t p = t; p < count; ++p) {
                if (decay != nullptr && p > t)
                    UNROLL for (int n = 0; n < N; ++n) x[n] *= load(decay + p * size + i + n * LANES);
                if (decay != nullptr) UNROLL for (int n = 0; n < N; ++n) copies[p][n] = x[n];
                UNROLL for (int r = 0; r < READERS; ++r) {
                    if (readers[r].grads == nullptr) continue;
                    const int64_t s = p + readers[r].shift;
                    float* to = readers[r].grads + s * size + i;
                    const Vec weight = splat(readers[r].pairs[t * PAIRS + s]);
                    UNROLL for (int n = 0; n < N; ++n) store(to + n * LANES, load(to + n * LANES) + weight * x[n]);
                }
            }
            for (int64_t p = count - 1; p >= t; --p) {
                if (decay != nullptr && p + 1 < count)
                    UNROLL for (int n = 0; n < N; ++n) h[n] *= load(decay + (p + 1) * size + i + n * LANES);
                UNROLL for (int r = 0; r < READERS; ++r) {
                    const int64_t s = p + readers[r].shift;
                    const float* row = readers[r].rows + s * size + i;
                    const Vec weight = splat(readers[r].pairs[t * PAIRS + s]);
                    UNROLL for (int n = 0; n < N; ++n) h[n] += weight * load(row + n * LANES);
                }
                if (decay == nullptr || p == t) continue;
                float* to = d_decay + p * size + i;
                UNROLL for (int n = 0; n < N; ++n) store(to + n * LANES, load(to + n * LANES) + h[n] * copies[p][n]);
            }
            float* to = d_writers + t * size + i;
            UNROLL for (int n = 0; n < N; ++n) store(to + n * LANES, load(to + n * LANES) + h[n]);
        });
    }
}

// to [rows of a tile ...][width] = x m, with m [terms][width].
inline void product(float* to, int64_t rows, Scalars x, const float* m, int64_t terms, int64_t width) {
    std::memset(to, 0, rows * width * sizeof(float));
    for_tiles(rows, width, [&](int64_t row, int64_t column, auto wide, auto r, auto n) INLINE_LAMBDA {
        const Scalars from{x.from + row * x.row, x.row, x.term};
        add_product<r(), n()>(to + row * wide + column, from, m + column, terms, wide);
    });
}

// One of the LANES steps ... of a transposition: exchanges the halves of 2 HALF rows and columns.
template <int HALF, size_t... LANE>
INLINE void exchange(Vec& a, Vec& b, std::index_sequence<LANE...>) {
    const Vec low = __builtin_shufflevector(a, b, int((LANE & HALF) ? LANES + (LANE ^ HALF) : LANE)...);
    b = __builtin_shufflevector(a, b, int((LANE & HALF) ? LANES + LANE : (LANE | HALF))...);
    a = low;
}
template <int HALF>
INLINE void transpose_halves(Vec (&rows)[LANES]) {
    UNROLL for (int i = 0; i < LANES; ++i)
        if ((i & HALF) == 0) exchange<HALF>(rows[i], rows[i | HALF], std::make_index_sequence<LANES>());
    if constexpr (HALF > 1) transpose_halves<HALF / 2>(rows);
}

// to [columns][rows] = the transpose of from [rows][columns], both whole vectors.
inline void transpose(const float* from, int64_t rows, int64_t columns, float* to) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c += LANES) {
            Vec block[LANES];
            UNROLL for (int i = 0; i < LANES; ++i) block[i] = load(from + (r + i) * columns + c);
            transpose_halves<LANES / 2>(block);
            UNROLL for (int i = 0; i < LANES; ++i) store(to + (c + i) * rows + r, block[i]);
        }
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
