// The parts of a layer around its recurrence, for one token: convolution, gates, residual and norm.
#pragma once

#include <math.h>

#include "common/exp.h"
#include "common/step.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Calls work(first, lanes) for every vector of `count` numbers; `lanes` is a compile-time constant except for the last.
template <class Work>
INLINE void for_vectors(int64_t count, const Work& work) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) work(i, std::integral_constant<int64_t, LANES>());
    if (i < count) work(i, count - i);
}

INLINE Vec get(const float* from, int64_t at, int64_t count) { return read_lanes({from, Dtype::float32}, at, count); }
INLINE void put(float* to, int64_t at, int64_t count, Vec x) { write_lanes({to, Dtype::float32}, at, count, x); }

// Applies the convolution and silu to row b of x [channels] in place; writes the state for the next step to `last`.
inline void convolve(const StepConv& conv, int64_t b, float* x) {
    if (conv.weight == nullptr) return;
    const int64_t C = conv.channels, K = conv.taps;
    const float* past = conv.past + b * (K - 1) * C;
    float* last = conv.last + b * (K - 1) * C;
    if (K > 1) {
        std::memcpy(last, past + C, (K - 2) * C * sizeof(float));
        std::memcpy(last + (K - 2) * C, x, C * sizeof(float));
    }
    for (int64_t c = 0; c < C; ++c) {
        float sum = x[c] * conv.weight[c * K + K - 1];
        for (int64_t i = 0; i < K - 1; ++i) sum += conv.weight[c * K + i] * past[i * C + c];
        x[c] = sum;
    }
    for_vectors(C, [&](int64_t c, auto count) INLINE_LAMBDA {
        const Vec u = get(x, c, count);
        put(x, c, count, u * sigmoid(u));
    });
}

// Row b of y = RMSNorm(x ∘ silu(gate)) over x [channels], which is overwritten. A gate [width] is shared by `repeats`
// consecutive heads of that width. Without gate or norm that part is omitted.
inline void gate_and_norm(float* x, const float* gate, int64_t channels, int64_t width, int64_t repeats, StepNorm norm,
                   Output y, int64_t b) {
    Vec squares{};
    for (int64_t begin = 0; begin < channels; begin += width)
        for_vectors(width, [&](int64_t i, auto count) INLINE_LAMBDA {
            Vec gated = get(x, begin + i, count);
            if (gate != nullptr) {
                const Vec g = get(gate, begin / width / repeats * width + i, count);
                gated *= g * sigmoid(g);
            }
            put(x, begin + i, count, gated);
            squares += gated * gated;
        });
    if (norm.weight == nullptr) return write(y, b * channels, channels, x);
    const Vec scale = splat(1.0f / sqrtf(lane_sum(squares) / static_cast<float>(channels) + norm.eps));
    for_vectors(channels, [&](int64_t i, auto count) INLINE_LAMBDA {
        write_lanes(y, b * channels + i, count, get(x, i, count) * scale * get(norm.weight, i, count));
    });
}

// log f = -e^log_rate softplus(x + bias)
inline float log_forget_gate(float x, float log_rate, float bias) {
    x += bias;
    const float softplus = x > 20 ? x : log1pf(expf(x));  // equal in float32 beyond 20, and e^x overflows beyond 88
    return -expf(log_rate) * softplus;
}

// x += weight ∘ v
inline void add_residual(float* x, const float* weight, const float* v, int64_t count) {
    for_vectors(count, [&](int64_t i, auto lanes) INLINE_LAMBDA {
        put(x, i, lanes, get(x, i, lanes) + get(weight, i, lanes) * get(v, i, lanes));
    });
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
