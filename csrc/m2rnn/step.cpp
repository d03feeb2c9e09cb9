#include "m2rnn/step.h"

#include "common/step_parts.h"
#include "m2rnn/m2rnn.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void m2rnn_forward(const M2rnnForward&);

namespace {

// Divides each of the `heads` vectors [K] at x by its length, or by 1e-12 if that is larger.
void to_unit_length(float* x, int64_t heads, int64_t K) {
    for (int64_t n = 0; n < heads; ++n, x += K) {
        float squares = 0;
        for (int64_t i = 0; i < K; ++i) squares += x[i] * x[i];
        const float length = sqrtf(squares), scale = 1.0f / (length > 1e-12f ? length : 1e-12f);
        for (int64_t i = 0; i < K; ++i) x[i] *= scale;
    }
}

float forget_gate(float x, float log_rate, float bias) { return expf(log_forget_gate(x, log_rate, bias)); }

struct StepScratch {
    float *row, *q, *k, *v, *f, *y;
    StepScratch(Arena& arena, const M2rnnStep& s)
        : row(arena.take(s.B * s.width())),
          q(arena.take(s.B * s.Hq * s.K)),
          k(arena.take(s.B * s.Hk * s.K)),
          v(arena.take(s.B * s.Hv * s.V)),
          f(arena.take(s.B * s.Hf)),
          y(arena.take(s.B * s.H * s.V)) {}
};

// Row b of the recurrence's inputs.
void prepare(const M2rnnStep& s, const StepScratch& scratch, int64_t b) {
    float* row = scratch.row + b * s.width();
    const int64_t q = s.Hq * s.K, k = s.Hk * s.K, v = s.Hv * s.V;
    read(s.x, b * s.width(), s.width(), row);
    convolve(s.conv, b, row);
    if (s.unit_keys) to_unit_length(row, s.Hq + s.Hk, s.K);
    std::memcpy(scratch.q + b * q, row, q * sizeof(float));
    std::memcpy(scratch.k + b * k, row + q, k * sizeof(float));
    std::memcpy(scratch.v + b * v, row + q + k, v * sizeof(float));
    for (int64_t n = 0; n < s.Hf; ++n)
        scratch.f[b * s.Hf + n] = forget_gate(row[q + k + v + n], s.log_rate[n], s.bias[n]);
}

// The recurrence itself is the forward kernel with T = 1.
void scan(const M2rnnStep& s, const StepScratch& scratch) {
    M2rnnForward call{};
    call.sizes = {s.B, 1, s.H, s.K, s.V, s.Hq, s.Hk, s.Hv, s.Hw, s.Hf};
    call.q = {scratch.q, Dtype::float32};
    call.k = {scratch.k, Dtype::float32};
    call.v = {scratch.v, Dtype::float32};
    call.w = s.w;
    call.f = scratch.f;
    call.threads = s.threads;
    call.state = s.state;
    call.y = {scratch.y, Dtype::float32};
    call.last = s.after;
    m2rnn_forward(call);
}

// Row b of the output projection's input.
void finish(const M2rnnStep& s, const StepScratch& scratch, int64_t b) {
    float* y = scratch.y + b * s.H * s.V;
    if (s.residual != nullptr)
        for (int64_t n = 0; n < s.H; ++n)
            add_residual(y + n * s.V, s.residual + n * s.V, scratch.v + (b * s.Hv + n / (s.H / s.Hv)) * s.V, s.V);
    const float* gate = scratch.row + b * s.width() + s.channels() + s.Hf;
    gate_and_norm(y, gate, s.H * s.V, s.V, s.H / s.Hg, s.norm, s.y, b);
}

}  // namespace

void m2rnn_step(const M2rnnStep& in) {
    Arena sizing{nullptr};
    StepScratch{sizing, in};
    Buffer buffer(sizing.used);
    Arena arena{buffer.data()};
    const StepScratch scratch(arena, in);
    for (int64_t b = 0; b < in.B; ++b) prepare(in, scratch, b);
    scan(in, scratch);
    for (int64_t b = 0; b < in.B; ++b) finish(in, scratch, b);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
