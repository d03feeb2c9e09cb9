// Small dense matrices in scratch memory or in place: products, transposes, conversions.
//
// A block is a matrix of `rows` x P floats, row-major. P, its padded order, is the number of columns rounded up to 4,
// 8, 16 or a multiple of 32, so that every row is whole vectors; padding is zero. Functions are templates of P, as
// loops of constant length are unrolled and need no addresses; P = 0 stands for all multiples of 32.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// c = a b (+ add). All are blocks except a: its element (r, k) is a[r * a_stride + k], transposed a[k * a_stride + r].
struct Product {
    const float* a;
    int64_t a_stride;
    const float* b;    // [count][P]
    const float* add;  // [rows][P] or null
    float* c;          // [rows][P]; may be `add`
    int64_t rows;      // a multiple of 4
    int64_t count;
    int64_t columns;  // P
};

namespace {

constexpr int64_t padded_order(int64_t columns) {
    return columns <= 4 ? 4 : columns <= 8 ? 8 : columns <= 16 ? 16 : round_up(columns, 32);
}

template <int P>
struct Order {
    static constexpr int value = P;
};

// Calls work(Order<P>()) with the padded order as a constant.
template <class Work>
void dispatch_order(int64_t padded, const Work& work) {
    switch (padded) {
        case 4: return work(Order<4>());
#ifndef MATRIXSTATE_FALLBACK  // there, vectors are short and processors old: a quick build is worth more
        case 8: return work(Order<8>());
        case 16: return work(Order<16>());
        case 32: return work(Order<32>());
#endif
        default: return work(Order<0>());
    }
}

// Vectors of W <= LANES floats, for rows that are shorter than a vector of the instruction set.
template <int W>
struct Short {
    typedef float Vec __attribute__((vector_size(4 * W)));
    typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
};
template <int W>
using RowVec = typename Short<W>::Vec;
template <int W>
INLINE RowVec<W> load_row(const float* from) { return *reinterpret_cast<const typename Short<W>::Unaligned*>(from); }
template <int W>
INLINE void store_row(float* to, RowVec<W> x) { *reinterpret_cast<typename Short<W>::Unaligned*>(to) = x; }

template <int P>
constexpr int width() { return P > 0 && P < LANES ? P : LANES; }

// One tile of c, ROWS rows by VECS vectors of columns, in registers: entries of a are broadcast against rows of b.
template <bool TRANSPOSED, int P, int ROWS, int VECS>
INLINE void product_tile(const Product& p, int64_t row, int64_t column) {
    constexpr int W = width<P>(), STEPS = 4;
    const int64_t begin = row * p.columns + column;
    RowVec<W> acc[ROWS][VECS];
    UNROLL for (int r = 0; r < ROWS; ++r)
        UNROLL for (int v = 0; v < VECS; ++v)
            acc[r][v] = p.add == nullptr ? RowVec<W>{} : load_row<W>(p.add + begin + r * p.columns + v * W);
    const float *a = p.a + (TRANSPOSED ? row : row * p.a_stride), *b = p.b + column;
    const auto accumulate = [&]() INLINE_LAMBDA {
        RowVec<W> x[VECS];
        UNROLL for (int v = 0; v < VECS; ++v) x[v] = load_row<W>(b + v * W);
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int v = 0; v < VECS; ++v) acc[r][v] += a[TRANSPOSED ? r : r * p.a_stride] * x[v];
        a += TRANSPOSED ? p.a_stride : 1;
        b += p.columns;
    };
    int64_t k = 0;  // unrolled by hand: counting and comparing once in four terms
    for (; k + STEPS <= p.count; k += STEPS) UNROLL for (int step = 0; step < STEPS; ++step) accumulate();
    for (; k < p.count; ++k) accumulate();
    UNROLL for (int r = 0; r < ROWS; ++r)
        UNROLL for (int v = 0; v < VECS; ++v) store_row<W>(p.c + begin + r * p.columns + v * W, acc[r][v]);
}

template <bool TRANSPOSED, int P>
INLINE void product_tiles(const Product& p) {
    // Sums take half of the registers, which hides the latency of multiply-adds and leaves the rest for operands.
    constexpr int W = width<P>(), VECS = P == W ? 1 : 2, MOST = REGISTERS / (2 * VECS);
    constexpr int ROWS = P > 0 && P < MOST ? P : MOST;
    for (int64_t column = 0; column < p.columns; column += VECS * W) {
        int64_t row = 0;
        for (; row + ROWS <= p.rows; row += ROWS) product_tile<TRANSPOSED, P, ROWS, VECS>(p, row, column);
        for (; ROWS > 4 && row < p.rows; row += 4) product_tile<TRANSPOSED, P, 4, VECS>(p, row, column);
    }
}

// WHOLE: rows, count and a_stride are P as well, so that all addresses are constants.
template <int P, bool TRANSPOSED, bool WHOLE>
INLINE void product(const Product& p) {
    if constexpr (WHOLE) product_tiles<TRANSPOSED, P>({p.a, P, p.b, p.add, p.c, P, P, P});
    else product_tiles<TRANSPOSED, P>(p);
}

// Exchanges the upper half of each group of 2 HALF lanes of a with the lower half of that of b.
template <int W, int HALF, size_t... LANE>
INLINE void swap_halves(RowVec<W>& a, RowVec<W>& b, std::index_sequence<LANE...>) {
    const RowVec<W> low = __builtin_shufflevector(a, b, int((LANE & HALF) ? W + (LANE ^ HALF) : LANE)...);
    b = __builtin_shufflevector(a, b, int((LANE & HALF) ? W + LANE : (LANE | HALF))...);
    a = low;
}

// Transposes W x W numbers in registers: quadrants are exchanged, then the quadrants of each, log2 W times.
template <int W, int HALF>
INLINE void transpose_square(RowVec<W>* x) {
    UNROLL for (int i = 0; i < W; ++i)
        if (!(i & HALF)) swap_halves<W, HALF>(x[i], x[i + HALF], std::make_index_sequence<W>());
    if constexpr (HALF > 1) transpose_square<W, HALF / 2>(x);
}

// to = the transpose of from, both [P][P].
template <int P>
INLINE void transpose(const float* from, float* to, int64_t columns) {
    constexpr int W = width<P>();
    const int64_t stride = P > 0 ? P : columns;
    for (int64_t i = 0; i < stride; i += W)
        for (int64_t j = 0; j < stride; j += W) {
            RowVec<W> x[W];
            UNROLL for (int k = 0; k < W; ++k) x[k] = load_row<W>(from + (i + k) * stride + j);
            transpose_square<W, W / 2>(x);
            UNROLL for (int k = 0; k < W; ++k) store_row<W>(to + (j + k) * stride + i, x[k]);
        }
}

// Between the matrix [rows][columns] that begins at element `at` of an array and a block.
inline void read_block(Input from, int64_t at, int64_t rows, int64_t columns, float* to, int64_t padded) {
    if (columns == padded) return read(from, at, rows * columns, to);
    for (int64_t r = 0; r < rows; ++r) read(from, at + r * columns, columns, to + r * padded);
}
inline void write_block(Output to, int64_t at, int64_t rows, int64_t columns, const float* from, int64_t padded) {
    if (columns == padded) return write(to, at, rows * columns, from);
    for (int64_t r = 0; r < rows; ++r) write(to, at + r * columns, columns, from + r * padded);
}

// A copy with non-temporal stores; both aligned to vectors.
inline void store_block_nontemporal(const float* from, int64_t floats, float* to) {
    for (int64_t i = 0; i < floats; i += LANES) store_nontemporal(to + i, load(from + i));
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
