#include "m2rnn/step.h"

#include "common/step_parts.h"
#include "m2rnn/m2rnn.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void m2rnn_forward(const M2rnnForward&);

namespace {

// Each of `heads` vectors [K] at x divided by its length, which counts as at least 1e-12.
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

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
