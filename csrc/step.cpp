#include "step.h"

#include <math.h>

#include "m2rnn.h"
#include "parallel.h"
#include "sigmoid.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void m2rnn_forward(const M2rnnForward&);
void mru_forward(const MruForward&);

namespace {

// Calls work(first, how many) for every vector of `count` numbers; the number is a constant but for the last.
template <class Work>
INLINE void for_vectors(int64_t count, const Work& work) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) work(i, std::integral_constant<int64_t, LANES>());
    if (i < count) work(i, count - i);
}

INLINE Vec get(const float* from, int64_t at, int64_t count) { return read_lanes({from, Dtype::float32}, at, count); }
INLINE void put(float* to, int64_t at, int64_t count, Vec x) { write_lanes({to, Dtype::float32}, at, count, x); }

// Row b of x [channels], in place, through the convolution and silu; what the next step needs goes to `last`.
void convolve(const StepConv& conv, int64_t b, float* x) {
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

// Row b of y = RMSNorm of x [channels], which is overwritten with x ∘ silu(gate); a gate [width] is shared by
// contiguous groups of `repeats` such widths. Without gate or norm that part is left out.
void gate_and_norm(float* x, const float* gate, int64_t channels, int64_t width, int64_t repeats, StepNorm norm,
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

// Each of `heads` vectors [K] at x divided by its length, which counts as at least 1e-12.
void to_unit_length(float* x, int64_t heads, int64_t K) {
    for (int64_t n = 0; n < heads; ++n, x += K) {
        float squares = 0;
        for (int64_t i = 0; i < K; ++i) squares += x[i] * x[i];
        const float length = sqrtf(squares), scale = 1.0f / (length > 1e-12f ? length : 1e-12f);
        for (int64_t i = 0; i < K; ++i) x[i] *= scale;
    }
}

float log_forget_gate(float x, float log_rate, float bias) {
    x += bias;
    const float softplus = x > 20 ? x : log1pf(expf(x));
    return -expf(log_rate) * softplus;
}

float forget_gate(float x, float log_rate, float bias) { return expf(log_forget_gate(x, log_rate, bias)); }

// sqrt(1 - f²), at least 1e-6, as the layer has it
float write_share(float log_f) {
    const float squared = -expm1f(2 * log_f);
    return __builtin_sqrtf(squared > 1e-12f ? squared : 1e-12f);
}

// x += weight ∘ v
void add_residual(float* x, const float* weight, const float* v, int64_t count) {
    for_vectors(count, [&](int64_t i, auto lanes) INLINE_LAMBDA {
        put(x, i, lanes, get(x, i, lanes) + get(weight, i, lanes) * get(v, i, lanes));
    });
}

struct StepScratch {
    float *row, *q, *k, *v, *f, *y;
    StepScratch(Pieces& pieces, const M2rnnStep& s)
        : row(pieces.take(s.B * s.width())),
          q(pieces.take(s.B * s.Hq * s.K)),
          k(pieces.take(s.B * s.Hk * s.K)),
          v(pieces.take(s.B * s.Hv * s.V)),
          f(pieces.take(s.B * s.Hf)),
          y(pieces.take(s.B * s.H * s.V)) {}
};

// What the recurrence takes, of row b.
void prepare(const M2rnnStep& s, const StepScratch& my, int64_t b) {
    float* row = my.row + b * s.width();
    const int64_t q = s.Hq * s.K, k = s.Hk * s.K, v = s.Hv * s.V;
    read(s.x, b * s.width(), s.width(), row);
    convolve(s.conv, b, row);
    if (s.unit_keys) to_unit_length(row, s.Hq + s.Hk, s.K);
    std::memcpy(my.q + b * q, row, q * sizeof(float));
    std::memcpy(my.k + b * k, row + q, k * sizeof(float));
    std::memcpy(my.v + b * v, row + q + k, v * sizeof(float));
    for (int64_t n = 0; n < s.Hf; ++n)
        my.f[b * s.Hf + n] = forget_gate(row[q + k + v + n], s.log_rate[n], s.bias[n]);
}

void scan(const M2rnnStep& s, const StepScratch& my) {
    M2rnnForward one{};
    one.sizes = {s.B, 1, s.H, s.K, s.V, s.Hq, s.Hk, s.Hv, s.Hw, s.Hf};
    one.q = {my.q, Dtype::float32};
    one.k = {my.k, Dtype::float32};
    one.v = {my.v, Dtype::float32};
    one.w = s.w;
    one.f = my.f;
    one.threads = s.threads;
    one.state = s.state;
    one.y = {my.y, Dtype::float32};
    one.last = s.after;
    m2rnn_forward(one);
}

// Row b of what the output projection takes.
void finish(const M2rnnStep& s, const StepScratch& my, int64_t b) {
    float* y = my.y + b * s.H * s.V;
    if (s.residual != nullptr)
        for (int64_t n = 0; n < s.H; ++n)
            add_residual(y + n * s.V, s.residual + n * s.V, my.v + (b * s.Hv + n / (s.H / s.Hv)) * s.V, s.V);
    const float* gate = my.row + b * s.width() + s.channels() + s.Hf;
    gate_and_norm(y, gate, s.H * s.V, s.V, s.H / s.Hg, s.norm, s.y, b);
}

}  // namespace

void m2rnn_step(const M2rnnStep& in) {
    Pieces counted{nullptr};
    StepScratch{counted, in};
    Buffer buffer(counted.used);
    Pieces pieces{buffer.data()};
    const StepScratch my(pieces, in);
    for (int64_t b = 0; b < in.B; ++b) prepare(in, my, b);
    scan(in, my);
    for (int64_t b = 0; b < in.B; ++b) finish(in, my, b);
}

void mru_step(const MruStep& in) {
    const MruSizes& s = in.sizes;
    const int64_t S = in.values(), C = in.channels();
    const bool writes = in.value.data != nullptr, decays = in.forget.data != nullptr, gated = in.gate.data != nullptr;
    Buffer buffer(s.B * (S + 2 * C + s.H + (in.balanced ? S : 0)));
    float *value = buffer.data(), *y = value + s.B * S, *gate = y + s.B * C, *decay = gate + s.B * C;
    float* written = in.balanced ? decay + s.B * s.H : value;
    if (writes) read(in.value, 0, s.B * S, value);
    if (gated) read(in.gate, 0, s.B * C, gate);
    if (decays) read(in.forget, 0, s.B * s.H, decay);
    for (int64_t b = 0; writes && b < s.B; ++b) convolve(in.conv, b, value + b * S);
    for (int64_t i = 0; decays && i < s.B * s.H; ++i)
        decay[i] = log_forget_gate(decay[i], in.log_rate[i % s.H], in.bias[i % s.H]);
    for (int64_t i = 0, each = s.D * s.D; in.balanced && i < s.B * S; ++i)
        written[i] = value[i] * write_share(decay[i / each]);
    for (int64_t i = 0; decays && i < s.B * s.H; ++i) decay[i] = expf(decay[i]);

    MruForward one{};
    one.sizes = s;
    one.builder = in.builder, one.readout = in.readout, one.bound = in.bound;
    one.rescale = in.exponent != nullptr;
    one.elements = in.elements;
    if (writes) one.v = {written, Dtype::float32};
    one.decay = decays ? decay : nullptr;
    one.down = in.down;
    one.threads = in.threads;
    one.state = in.state, one.exponent = in.exponent;
    one.y = {y, Dtype::float32};
    one.last = in.after, one.last_exponent = in.after_exponent;
    mru_forward(one);

    for (int64_t b = 0; b < s.B; ++b) {
        if (in.skip != nullptr) add_residual(y + b * C, in.skip, value + b * S, C);
        gate_and_norm(y + b * C, gated ? gate + b * C : nullptr, C, C, 1, in.norm, in.y, b);
    }
}

void gated_conv_step(const GatedConvStep& in) {
    const int64_t C = in.conv.channels;
    Buffer buffer(2 * C * in.threads);
    parallel_for(in.B, in.threads, [&](int64_t b, int thread) {
        float *x = buffer.data() + 2 * C * thread, *gate = x + C;
        read(in.x, b * C, C, x);
        read(in.gate, b * C, C, gate);
        convolve(in.conv, b, x);
        gate_and_norm(x, gate, C, C, 1, in.norm, in.y, b);
    });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
