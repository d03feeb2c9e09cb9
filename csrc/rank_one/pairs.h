// The products of the pairs of rows of a chunk where every channel has its own decay: pair by pair, along which decays
// are multiplied up, so that nothing is divided by a decay. With one decay per row, see Gradients.
//
// Row t writes (its key, its value), row s reads (its query, its incoming gradient) at position p = s - shift: 0 for a
// query after the row's update, 1 before. It sees row t if t <= p, through the product of the decays t + 1 ... p. Both
// sides are treated alike: K numbers per row with the decays of rows, V numbers with the decays of columns.
#pragma once

#include "rank_one/blocks.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t CHUNK = 16;  // rows; the state is needed only at its ends. At most one vector of pairs (AVX-512)

// Calls work(column, panels) for all groups of panels, wide ones first; `panels` is a compile-time constant.
template <class Work>
INLINE void for_panels(int64_t columns, const Work& work) {
    constexpr int WIDE = REGISTERS / 8;
    int64_t c = 0;
    for (; c + WIDE * LANES <= columns; c += WIDE * LANES) work(c, std::integral_constant<int, WIDE>());
    for (; c < columns; c += LANES) work(c, std::integral_constant<int, 1>());
}

// One side (keys or values) of a chunk: READERS kinds of readers, CHUNK rows of each, and the decays.
template <int READERS>
struct Side {
    Matrix readers, decay;
    const int64_t* shift;  // [READERS]
    PrefetchQueue& prefetches;

    // pairs[t][s] = Σ reader s ∘ decays ∘ writer t if s sees t, else zero.
    void multiply(Matrix writers, Matrix pairs) const {
        for (int64_t t = 0; t < CHUNK; ++t) {
            Vec parts[READERS][CHUNK] = {};
            prefetches.issue(LANES);
            for_panels(decay.columns, [&](int64_t c, auto panels) INLINE_LAMBDA {
                constexpr int N = panels();
                Vec x[N];
                UNROLL for (int n = 0; n < N; ++n) x[n] = load(writers.at(t, c + n * LANES));
                for (int64_t p = t; p < CHUNK; ++p) {
                    if (p > t) UNROLL for (int n = 0; n < N; ++n) x[n] *= load(decay.at(p, c + n * LANES));
                    UNROLL for (int r = 0; r < READERS; ++r) {
                        const int64_t s = p + shift[r];
                        if (s >= CHUNK) continue;
                        Vec sum = parts[r][s];
                        UNROLL for (int n = 0; n < N; ++n) sum += x[n] * load(readers.at(r * CHUNK + s, c + n * LANES));
                        parts[r][s] = sum;
                    }
                }
            });
            for (int r = 0; r < READERS; ++r)
                for (int64_t s = 0; s < CHUNK; s += LANES)
                    store(pairs.at(t, r * CHUNK + s), lane_sums<LANES>(parts[r] + s));
        }
    }

    // The backward pass of multiply(): adds the gradients of writers, readers (unless null) and decays, given that of
    // each pair's product, weights[t][s], which is the product of the other side. For a writer t, x_p is its copy
    // decayed to position p, and h_p the gradient of x_p: what all readers from p on send back.
    void spread(Matrix writers, Matrix weights, Matrix d_writers, const Matrix* d_readers, Matrix d_decay) const {
        for (int64_t t = 0; t < CHUNK; ++t) {
            prefetches.issue(LANES);
            for_panels(decay.columns, [&](int64_t c, auto panels) INLINE_LAMBDA {
                constexpr int N = panels();
                Vec copies[CHUNK][N], x[N], h[N] = {};
                UNROLL for (int n = 0; n < N; ++n) x[n] = load(writers.at(t, c + n * LANES));
                for (int64_t p = t; p < CHUNK; ++p) {
                    if (p > t) UNROLL for (int n = 0; n < N; ++n) x[n] *= load(decay.at(p, c + n * LANES));
                    UNROLL for (int n = 0; n < N; ++n) copies[p][n] = x[n];
                    if (d_readers == nullptr) continue;
                    UNROLL for (int r = 0; r < READERS; ++r) {
                        const int64_t s = p + shift[r];
                        if (s < CHUNK) add<N>(*d_readers, r * CHUNK + s, c, *weight(weights, t, r, s), x);
                    }
                }
                for (int64_t p = CHUNK - 1; p >= t; --p) {
                    if (p + 1 < CHUNK) UNROLL for (int n = 0; n < N; ++n) h[n] *= load(decay.at(p + 1, c + n * LANES));
                    UNROLL for (int r = 0; r < READERS; ++r) {
                        const int64_t s = p + shift[r];
                        if (s >= CHUNK) continue;
                        const Vec by = splat(*weight(weights, t, r, s));
                        UNROLL for (int n = 0; n < N; ++n) h[n] += by * load(readers.at(r * CHUNK + s, c + n * LANES));
                    }
                    if (p > t) UNROLL for (int n = 0; n < N; ++n) copies[p][n] *= h[n];
                    if (p > t) add<N>(d_decay, p, c, 1, copies[p]);
                }
                add<N>(d_writers, t, c, 1, h);
            });
        }
    }

  private:
    static const float* weight(Matrix weights, int64_t t, int r, int64_t s) {
        return weights.at(t, r * CHUNK + s / LANES * LANES) + s % LANES;
    }
    template <int N>
    static INLINE void add(Matrix to, int64_t row, int64_t c, float by, const Vec (&x)[N]) {
        UNROLL for (int n = 0; n < N; ++n) {
            float* at = to.at(row, c + n * LANES);
            store(at, load(at) + by * x[n]);
        }
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
