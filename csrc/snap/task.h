// What the two directions of the corrected product share: the products and retrievals of one task.
#pragma once

#include <cfloat>
#include <cmath>

#include "common/parallel.h"
#include "common/products.h"
#include "snap/snap.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

INLINE float inner(const float* a, const float* b, int64_t count) {
    constexpr int SUMS = 4;  // several hide the latency of multiply-adds, and round less
    Vec sum[SUMS] = {};
    int64_t i = 0;
    for (; i + SUMS * LANES <= count; i += SUMS * LANES)
        UNROLL for (int s = 0; s < SUMS; ++s) sum[s] += load(a + i + s * LANES) * load(b + i + s * LANES);
    for (; i < count; i += LANES) sum[0] += load(a + i) * load(b + i);
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// to += factor * from
INLINE void add(float* to, float factor, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) store(to + i, load(to + i) + factor * load(from + i));
}

INLINE void clear(float* to, int64_t count) { std::memset(to, 0, count * sizeof(float)); }

// A task is one row of the batch and one group of heads, through time. Blocks are [P][P]; a group is `heads` of them.
struct Task {
    const SnapInputs& in;
    int64_t b, g, heads, D, P, block, whole;  // floats of a padded matrix, and of a group's
    const float *keys, *values;               // [M][whole], padded
    float *x, *h, *a, *weights;

    Task(const SnapInputs& in, int64_t task, const float* codes, Arena& arena)
        : in(in), b(task / in.sizes.G), g(task % in.sizes.G), heads(in.sizes.H / in.sizes.G), D(in.sizes.D),
          P(padded_order(D)), block(round_up(P * P, LANES)), whole(heads * block),
          keys(codes + g * in.sizes.M * whole), values(keys + in.sizes.G * in.sizes.M * whole),
          x(arena.take(block)), h(arena.take(whole)), a(arena.take(whole)),
          weights(arena.take(round_up(in.sizes.M, LANES))) {}

    int64_t step_at(int64_t t) const { return ((b * in.sizes.T + t) * in.sizes.H + g * heads) * D * D; }
    int64_t state_at() const { return (b * in.sizes.H + g * heads) * D * D; }
    bool padded(int64_t t) const { return in.mask != nullptr && !in.mask[b * in.sizes.T + t]; }
    bool resets(int64_t t) const { return in.reset != nullptr && in.reset[b * in.sizes.T + t]; }

    void read_group(const float* from, float* to) const {
        if (D != P) clear(to, whole);  // padding may have become NaN
        for (int64_t n = 0; n < heads; ++n)
            read_block({from, Dtype::float32}, n * D * D, D, D, to + n * block, P);
    }
    void write_group(const float* from, float* to) const {
        for (int64_t n = 0; n < heads; ++n)
            write_block({to, Dtype::float32}, n * D * D, D, D, from + n * block, P);
    }
    void identity(float* to) const {
        clear(to, whole);
        for (int64_t n = 0; n < heads; ++n)
            for (int64_t i = 0; i < D; ++i) to[n * block + i * P + i] = 1.0f;
    }

    // The largest factor of unit(), for a norm clamped to the smallest normal number; finite, so that zeros stay zeros.
    float largest_scale() const { return std::fmin(FLT_MAX, std::sqrt(static_cast<float>(D)) / FLT_MIN); }
    // The factor of unit(): it brings a matrix to norm sqrt(D).
    float scale_of(const float* m) const {
        return std::fmin(largest_scale(), std::sqrt(static_cast<float>(D)) / std::sqrt(inner(m, m, block)));
    }
    // Replaces d, the gradient of u = unit(m), by that of m: scale (d - u <u, d>/D), or scale d where |m| was clamped.
    void unit_backward(const float* u, float scale, float* d) const {
        const bool clamped = scale >= largest_scale();
        const float projection = clamped ? 0.0f : inner(u, d, block) / static_cast<float>(D);
        for (int64_t i = 0; i < block; i += LANES) store(d + i, scale * (load(d + i) - projection * load(u + i)));
    }

    // a = unit(from x[t]) for every head; `scales` are the factors.
    void advance(int64_t t, const float* from, float* scales) const {
        const int64_t at = step_at(t);
        for (int64_t n = 0; n < heads; ++n) {
            float* m = a + n * block;
            read_block(in.x, at + n * D * D, D, D, x, P);
            multiply({from + n * block, P, x, nullptr, m, P, P, P});
            scales[n] = scale_of(m);
            for (int64_t i = 0; i < block; i += LANES) store(m + i, load(m + i) * scales[n]);
        }
    }

    // weights = softmax(<a, keys>) over the whole group, less its largest to avoid overflow; mixed = Σ weights values
    void retrieve(float* mixed) const {
        const int64_t M = in.sizes.M;
        float most = -INFINITY, sum = 0;
        for (int64_t m = 0; m < M; ++m) {
            weights[m] = inner(a, keys + m * whole, whole);
            most = weights[m] > most ? weights[m] : most;
        }
        for (int64_t m = 0; m < M; ++m) sum += weights[m] = std::exp(weights[m] - most);
        for (int64_t m = 0; m < M; ++m) weights[m] /= sum;
        mix(weights, values, mixed);
    }

    // to = Σ by[m] codes[m], four at a time: fewer passes over `to`, and less rounding.
    void mix(const float* by, const float* codes, float* to) const {
        constexpr int CODES = 4;
        const int64_t M = in.sizes.M;
        clear(to, whole);
        int64_t m = 0;
        for (; m + CODES <= M; m += CODES)
            for (int64_t i = 0; i < whole; i += LANES) {
                Vec part[CODES];
                UNROLL for (int c = 0; c < CODES; ++c) part[c] = by[m + c] * load(codes + (m + c) * whole + i);
                store(to + i, load(to + i) + ((part[0] + part[1]) + (part[2] + part[3])));
            }
        for (; m < M; ++m) add(to, by[m], codes + m * whole, whole);
    }
};

// Copies keys, then values, with every matrix padded: once per call, for all tasks.
inline void pad_codes(const SnapInputs& in, float* to) {
    const SnapSizes& s = in.sizes;
    const int64_t P = padded_order(s.D), block = round_up(P * P, LANES), matrices = s.M * s.H;
    clear(to, 2 * matrices * block);
    for (int64_t n = 0; n < matrices; ++n) {
        read_block({in.keys, Dtype::float32}, n * s.D * s.D, s.D, s.D, to + n * block, P);
        read_block({in.values, Dtype::float32}, n * s.D * s.D, s.D, s.D, to + (matrices + n) * block, P);
    }
}

template <class Direction, class In>
void run(const In& in) {
    const SnapSizes& s = in.sizes;
    const int64_t P = padded_order(s.D);
    Buffer codes(2 * s.M * s.H * round_up(P * P, LANES));
    pad_codes(in, codes.data());
    run_tasks(s.B * s.G, in.threads,
              [&](int64_t task, Arena& arena) { return Direction(in, task, codes.data(), arena); });
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
