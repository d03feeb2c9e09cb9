// Square matrices from their free elements, and the gradients of the elements (src/matrixstate/ops/mru/builders.py has
// the definitions). Blocks are [P][P]; padding stays zero.
#pragma once

#include "common/exp.h"
#include "common/products.h"
#include "common/rescale.h"
#include "mru/mru.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// How a task builds its matrices: their kind and order, and scratch memory.
struct Builder {
    MruBuilder kind;
    int64_t D, P;
    static constexpr int64_t AT_ONCE = 4;   // matrices that are eliminated side by side
    float *lower, *upper, *diagonal, *row;  // a block, a block, P and D² floats (or more), overwritten by every call
    double *wide, *column;                  // AT_ONCE blocks and P numbers, likewise

    Builder(MruBuilder kind, int64_t D, int64_t P, Arena& arena)
        : kind(kind),
          D(D),
          P(P),
          lower(arena.take(P * P)),
          upper(arena.take(P * P)),
          diagonal(arena.take(round_up(P, LANES))),
          row(arena.take(D * D + LANES)),
          wide(reinterpret_cast<double*>(arena.take(kind == MruBuilder::cayley ? 2 * AT_ONCE * P * P : 0))),
          column(reinterpret_cast<double*>(arena.take(2 * P))) {}
    int64_t elements() const { return mru_elements(kind, D); }
    int64_t floats() const { return P * P; }
};

template <int W>
using RowInts = typename std::conditional_t<W == 4, int32_t __attribute__((vector_size(16))),
                                            std::conditional_t<W == 8, int32_t __attribute__((vector_size(32))),
                                                               int32_t __attribute__((vector_size(64)))>>;

template <int W, size_t... LANE>
INLINE RowInts<W> count_up(std::index_sequence<LANE...>) {
    return RowInts<W>{int32_t(LANE)...};
}

// Fills a block: to(i, j) = make(i, j - i for each lane, offset of (i, j)).
template <int P, class Make>
INLINE void fill_rows(const Builder& b, float* to, const Make& make) {
    constexpr int W = width<P>();
    const RowInts<W> lanes = count_up<W>(std::make_index_sequence<W>());
    const int64_t stride = P > 0 ? P : b.P;
    for (int64_t i = 0; i < b.D; ++i)
        for (int64_t j = 0; j < stride; j += W)
            store_row<W>(to + i * stride + j, make(i, lanes + static_cast<int32_t>(j - i), i * stride + j));
}

template <int P>
INLINE void add_identity(const Builder& b, float* block) {
    using Row = RowVec<width<P>()>;
    fill_rows<P>(b, block, [&](int64_t, auto right, int64_t at) INLINE_LAMBDA {
        return load_row<width<P>()>(block + at) + (right == 0 ? Row{} + 1.0f : Row{});
    });
}

// The strictly lower (or UPPER) triangle of `from` with `diagonal` on the diagonal.
template <int P, bool UPPER>
INLINE void triangle(const Builder& b, const float* from, const float* diagonal, float* to) {
    using Row = RowVec<width<P>()>;
    fill_rows<P>(b, to, [&](int64_t i, auto right, int64_t at) INLINE_LAMBDA {
        const Row x = load_row<width<P>()>(from + at), inside = (UPPER ? right > 0 : right < 0) ? x : Row{};
        return right == 0 ? Row{} + diagonal[i] : inside;
    });
}

// The factors L + S and S + U of the LDU builder, with s_i = exp((x_ii - mean x_ii)/2): without the mean, det X = 1.
template <int P>
INLINE void ldu_factors(const Builder& b, const float* elements) {
    float mean = 0;
    for (int64_t i = 0; i < b.D; ++i) mean += elements[i * b.P + i];
    mean /= static_cast<float>(b.D);
    for (int64_t i = 0; i < b.D; ++i) b.diagonal[i] = (elements[i * b.P + i] - mean) / 2;
    for (int64_t i = 0; i < b.D; i += LANES)
        store(b.diagonal + i, exp(clamp(load(b.diagonal + i), splat(87.0f))));
    triangle<P, false>(b, elements, b.diagonal, b.lower);
    triangle<P, true>(b, elements, b.diagonal, b.upper);
}

// Vectors of float64, for the elimination only.
template <int P>
constexpr int wide_width() { return P > 0 && P < LANES / 2 ? P : LANES / 2; }
template <int W>
struct Wide {
    typedef double Vec __attribute__((vector_size(8 * W)));
    typedef double Unaligned __attribute__((vector_size(8 * W), aligned(8), may_alias));
    typedef float Narrow __attribute__((vector_size(4 * W), aligned(4), may_alias));
    typedef int64_t Ints __attribute__((vector_size(8 * W)));
    static INLINE Vec load(const double* from) { return *reinterpret_cast<const Unaligned*>(from); }
    static INLINE void store(double* to, Vec x) { *reinterpret_cast<Unaligned*>(to) = x; }
    template <size_t... LANE>
    static INLINE Ints count_up(std::index_sequence<LANE...>) { return Ints{int64_t(LANE)...}; }
    static INLINE Ints lanes() { return count_up(std::make_index_sequence<W>()); }
};

// I - A, where A is skew-symmetric with the elements below its diagonal, row by row.
INLINE void one_minus_skew(const Builder& b, const float* elements, double* to) {
    std::memset(to, 0, b.floats() * sizeof(double));
    for (int64_t i = 0; i < b.D; ++i) {
        to[i * b.P + i] = 1;
        for (int64_t j = 0; j < i; ++j, ++elements) {
            to[i * b.P + j] = -*elements;
            to[j * b.P + i] = *elements;
        }
    }
}

// Step k of an in-place Gauss-Jordan inversion. No pivoting is needed: the symmetric part of I - A is I, and that of
// every Schur complement at least I, so every pivot is at least 1. In float64, as in float32 its error would be up to
// three times that of a solve by LU.
template <int P>
INLINE void eliminate(const Builder& b, double* block, int64_t k) {
    constexpr int W = wide_width<P>(), VECS = P > 0 ? P / W : 1;
    using V = Wide<W>;
    const int64_t stride = P > 0 ? P : b.P;
    const double pivot = 1.0 / block[k * stride + k];
    for (int64_t i = 0; stride > VECS * W && i < b.D; ++i) b.column[i] = block[i * stride + k];
    for (int64_t first = 0; first < stride; first += VECS * W) {
        typename V::Vec row[VECS];
        typename V::Ints other[VECS];
        UNROLL for (int v = 0; v < VECS; ++v) {
            other[v] = V::lanes() + (first + v * W) != typename V::Ints{} + k;
            const typename V::Vec old = V::load(block + k * stride + first + v * W);
            row[v] = (other[v] ? old : typename V::Vec{} + 1.0) * pivot;  // column k becomes that of the inverse
        }
#pragma GCC unroll 4
        for (int64_t i = 0; i < b.D; ++i) {
            const double factor = stride > VECS * W ? b.column[i] : block[i * stride + k];
            UNROLL for (int v = 0; v < VECS; ++v) {
                double* at = block + i * stride + first + v * W;
                const typename V::Vec x = V::load(at);
                V::store(at, (other[v] ? x : typename V::Vec{}) - factor * row[v]);
            }
        }
        UNROLL for (int v = 0; v < VECS; ++v) V::store(block + k * stride + first + v * W, row[v]);
    }
}

// Cayley matrices: X = (I - A)^-1 (I + A) = 2 (I - A)^-1 - I. A step of elimination waits for its division, so `count`
// matrices are eliminated side by side to hide the latency.
template <int P>
INLINE void cayley(const Builder& b, Input elements, int64_t at, float* blocks, int64_t count) {
    constexpr int W = wide_width<P>();
    using V = Wide<W>;
    for (int64_t n = 0; n < count; ++n) {
        read(elements, at + n * b.elements(), b.elements(), b.row);
        one_minus_skew(b, b.row, b.wide + n * b.floats());
    }
    for (int64_t k = 0; k < b.D; ++k)
        for (int64_t n = 0; n < count; ++n) eliminate<P>(b, b.wide + n * b.floats(), k);
    for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < b.D; ++i)
            for (int64_t j = 0; j < b.P; j += W) {
                const auto on = V::lanes() + j == typename V::Ints{} + i;
                const typename V::Vec x = 2.0 * V::load(b.wide + n * b.floats() + i * b.P + j);
                const auto matrix =
                    __builtin_convertvector(x - (on ? typename V::Vec{} + 1.0 : typename V::Vec{}), typename V::Narrow);
                *reinterpret_cast<typename V::Narrow*>(blocks + n * b.floats() + i * b.P + j) = matrix;
            }
}

// `count` <= AT_ONCE matrices from their elements, which begin at index `at` of an array.
template <int P>
INLINE void build_matrices(const Builder& b, Input elements, int64_t at, float* blocks, int64_t count) {
    if (b.kind == MruBuilder::cayley) return cayley<P>(b, elements, at, blocks, count);
    for (int64_t n = 0; n < count; ++n, at += b.elements(), blocks += b.floats()) {
        read_block(elements, at, b.D, b.D, blocks, b.P);
        if (b.kind == MruBuilder::reshape_identity) {
            add_identity<P>(b, blocks);
            continue;
        }
        ldu_factors<P>(b, blocks);
        multiply({b.lower, b.P, b.upper, nullptr, blocks, round_up(b.D, 4), b.D, b.P});
    }
}

// Cayley: the gradient of the elements from g, that of the matrix X, which is overwritten, and Xᵀ.
template <int P>
INLINE void skew_gradient(const Builder& b, float* g, const float* transposed, Output gradient, int64_t at) {
    const int64_t rows = round_up(b.D, 4);  // with N = (X + I)/2 = (I - A)^-1: dA = 2 Nᵀ g Nᵀ
    scale_block<P>(transposed, 0.5f, b.upper, b.floats());
    for (int64_t i = 0; i < b.D; ++i) b.upper[i * b.P + i] += 0.5f;
    multiply({b.upper, b.P, g, nullptr, b.lower, rows, b.D, b.P});
    multiply({b.lower, b.P, b.upper, nullptr, g, rows, b.D, b.P});
    float* to = b.row;
    for (int64_t i = 0; i < b.D; ++i)
        for (int64_t j = 0; j < i; ++j) *to++ = 2 * (g[i * b.P + j] - g[j * b.P + i]);
    write(gradient, at, b.elements(), b.row);
}

// LDU: the gradient of the elements from g, that of X = (L + S)(S + U), which is overwritten. Recomputes the factors.
template <int P>
INLINE void ldu_gradient(const Builder& b, const float* elements, float* g, float* spare, Output gradient, int64_t at) {
    using Row = RowVec<width<P>()>;
    const int64_t rows = round_up(b.D, 4);
    ldu_factors<P>(b, elements);
    transpose_block(b.upper, spare, b.P);
    multiply({g, b.P, spare, nullptr, b.upper, rows, b.D, b.P});             // of L + S: g (S + U)ᵀ
    multiply_transposed({b.lower, b.P, g, nullptr, spare, rows, b.D, b.P});  // of S + U: (L + S)ᵀ g
    float mean = 0;  // the mean is subtracted from the diagonal elements, so also from their gradients
    for (int64_t i = 0; i < b.D; ++i) {
        const int64_t ii = i * b.P + i;
        b.diagonal[i] *= (b.upper[ii] + spare[ii]) / 2;
        mean += b.diagonal[i];
    }
    mean /= static_cast<float>(b.D);
    fill_rows<P>(b, g, [&](int64_t i, auto right, int64_t place) INLINE_LAMBDA {
        const Row low = load_row<width<P>()>(b.upper + place), high = load_row<width<P>()>(spare + place);
        const Row outside = right < 0 ? low : high;
        return right == 0 ? Row{} + (b.diagonal[i] - mean) : outside;
    });
    write_block(gradient, at, b.D, b.D, g, b.P);
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
