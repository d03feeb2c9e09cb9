// Products of small matrices in register tiles: a vector holds LANES columns, entries of the left matrix are broadcast.
// A tile of ROWS x 2 vectors (or 2 ROWS x 1) takes half of the registers for its sums: enough independent multiply-adds
// to hide their latency, and each vector that is loaded serves all rows of the tile.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int ROWS = REGISTERS / 4;  // rows of a register tile; twice as many if it is one vector wide

// The left matrix of a product: the entry of row i and term j is from[i * row + j * term].
struct Scalars {
    const float* from;
    int64_t row, term;  // strides
};

// acc[i][n] += sum over j < terms of x(i, j) * m[j], where m [terms][width] starts at the tile's first column.
template <int R, int N>
INLINE void multiply(Vec (&acc)[R][N], Scalars x, const float* m, int64_t width, int64_t terms) {
#pragma GCC unroll 2
    for (int64_t j = 0; j < terms; ++j) {
        Vec right[N];
        UNROLL for (int n = 0; n < N; ++n) right[n] = load(m + j * width + n * LANES);
        UNROLL for (int i = 0; i < R; ++i) {
            const float left = x.from[i * x.row + j * x.term];
            UNROLL for (int n = 0; n < N; ++n) acc[i][n] += left * right[n];
        }
    }
}

template <int VALUE>
using Constant = std::integral_constant<int, VALUE>;

// Calls work(row, column, width, tile height, tile vectors) for all tiles of [rows][width], rows outermost. The last
// two are compile-time constants; so is the width where a row is one tile wide, which makes all addresses constants.
template <class Work>
INLINE void for_tiles(int64_t rows, int64_t width, const Work& work) {
    int64_t row = 0;
    if (width == LANES) {
        for (; row + ROWS < rows; row += 2 * ROWS) work(row, 0, Constant<LANES>(), Constant<2 * ROWS>(), Constant<1>());
        if (row < rows) work(row, 0, Constant<LANES>(), Constant<ROWS>(), Constant<1>());
    } else if (width == 2 * LANES) {
        for (; row < rows; row += ROWS) work(row, 0, Constant<2 * LANES>(), Constant<ROWS>(), Constant<2>());
    } else {
        for (; row < rows; row += ROWS) {
            int64_t column = 0;
            for (; column + LANES < width; column += 2 * LANES)
                work(row, column, width, Constant<ROWS>(), Constant<2>());
            if (column < width) work(row, column, width, Constant<ROWS>(), Constant<1>());
        }
    }
}

// A tile of `to` [rows][width] += the product of x and the columns of m [terms][width].
template <int R, int N>
INLINE void add_product(float* to, Scalars x, const float* m, int64_t terms, int64_t width) {
    Vec acc[R][N];
    UNROLL for (int i = 0; i < R; ++i)
        UNROLL for (int n = 0; n < N; ++n) acc[i][n] = load(to + i * width + n * LANES);
    multiply<R, N>(acc, x, m, width, terms);
    UNROLL for (int i = 0; i < R; ++i)
        UNROLL for (int n = 0; n < N; ++n) store(to + i * width + n * LANES, acc[i][n]);
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
