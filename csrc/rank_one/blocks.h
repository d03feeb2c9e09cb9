// Products of matrices in blocks of LANES x LANES numbers, for the backward pass over chunks of rows.
#pragma once

#include "rank_one/rows.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// A matrix in panels of LANES columns, [columns / LANES][rows][LANES]. A block of LANES rows of a panel is contiguous,
// so all addresses in a product of two blocks are constants, whatever the sizes and whether one is transposed or not.
struct Matrix {
    float* data;
    int64_t rows, columns;
    int64_t height;  // stride between panels, in rows

    float* at(int64_t row, int64_t column) const { return data + column * height + row * LANES; }
    Matrix part(int64_t row, int64_t count) const { return {at(row, 0), count, columns, height}; }
    Matrix part(int64_t row, int64_t count, int64_t column, int64_t wide) const {
        return {at(row, column), count, wide, height};
    }
    void fill_rows(int64_t row, int64_t count, float value) const {
        for (int64_t c = 0; c < columns; c += LANES) fill(at(row, c), count * LANES, value);
    }
};

inline Matrix take_matrix(Arena& arena, int64_t rows, int64_t columns) {
    return {arena.take(rows * columns), rows, columns, rows};
}

// acc += x m, or xᵀ m, of single blocks: all LANES sums in registers, entries of x broadcast.
template <bool TRANSPOSED>
INLINE void multiply_blocks(Vec (&acc)[LANES], const float* x, const float* m) {
#pragma GCC unroll 4
    for (int j = 0; j < LANES; ++j) {
        const Vec right = load(m + j * LANES);
        UNROLL for (int i = 0; i < LANES; ++i) acc[i] += x[TRANSPOSED ? j * LANES + i : i * LANES + j] * right;
    }
}

// to = x m, or xᵀ m, or with `add` to += it. `x` may have more columns (rows) than m has rows; they are not used.
template <bool TRANSPOSED>
void multiply(Matrix to, Matrix x, Matrix m, bool add, PrefetchQueue& prefetches) {
    for (int64_t column = 0; column < to.columns; column += LANES)
        for (int64_t row = 0; row < to.rows; row += LANES) {
            float* tile = to.at(row, column);
            Vec acc[LANES] = {};
            if (add) UNROLL for (int i = 0; i < LANES; ++i) acc[i] = load(tile + i * LANES);
            for (int64_t term = 0; term < m.rows; term += LANES) {
                prefetches.issue(LANES / 4);
                multiply_blocks<TRANSPOSED>(acc, TRANSPOSED ? x.at(term, row) : x.at(row, term), m.at(term, column));
            }
            UNROLL for (int i = 0; i < LANES; ++i) store(tile + i * LANES, acc[i]);
        }
}

// A step of the transposition of a block in registers: exchanges the off-diagonal quadrants of 2 HALF x 2 HALF numbers.
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

inline void transpose(Matrix from, Matrix to) {
    for (int64_t column = 0; column < from.columns; column += LANES)
        for (int64_t row = 0; row < from.rows; row += LANES) {
            const float* block = from.at(row, column);
            float* transposed = to.at(column, row);
            Vec x[LANES];
            UNROLL for (int i = 0; i < LANES; ++i) x[i] = load(block + i * LANES);
            transpose_halves<LANES / 2>(x);
            UNROLL for (int i = 0; i < LANES; ++i) store(transposed + i * LANES, x[i]);
        }
}

// to = x ∘ by; either may be `to`.
inline void scale(Matrix to, Matrix x, Matrix by) {
    for (int64_t c = 0; c < to.columns; c += LANES)
        for (int64_t r = 0; r < to.rows; ++r) store(to.at(r, c), load(x.at(r, c)) * load(by.at(r, c)));
}

// The dot product of a row of a and the same row of b.
inline float dot(Matrix a, Matrix b, int64_t row) {
    Vec sum{};
    for (int64_t c = 0; c < a.columns; c += LANES) sum += load(a.at(row, c)) * load(b.at(row, c));
    return lane_sums<1>(&sum)[0];
}

// Reads `count` <= columns numbers of an array into a row; further columns become zero.
inline void read_row(Input from, int64_t index, int64_t count, Matrix to, int64_t row) {
    for (int64_t c = 0; c < to.columns; c += LANES)
        store(to.at(row, c), c < count ? read_lanes(from, index + c, count - c) : Vec{});
}
// Writes a row to an array, with non-temporal stores where it is whole cache lines: it is read again much later.
inline void write_row(Output to, int64_t index, int64_t count, Matrix from, int64_t row) {
    float* floats = static_cast<float*>(to.data) + index;
    if (to.dtype == Dtype::float32 && reinterpret_cast<uintptr_t>(floats) % 64 == 0 && count * sizeof(float) % 64 == 0)
        for (int64_t c = 0; c < count; c += LANES) store_nontemporal(floats + c, load(from.at(row, c)));
    else
        for (int64_t c = 0; c < count; c += LANES) write_lanes(to, index + c, count - c, load(from.at(row, c)));
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
