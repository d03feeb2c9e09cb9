#include "mru/step.h"

#include "common/step_parts.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void mru_forward(const MruForward&);

namespace {

// sqrt(1 - f²), at least 1e-6, as in the layer; from log f by expm1, which keeps its digits where f is near 1
float write_share(float log_f) {
    const float squared = -expm1f(2 * log_f);
    return __builtin_sqrtf(squared > 1e-12f ? squared : 1e-12f);
}

}  // namespace

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

    // The recurrence itself is the forward kernel with T = 1.
    MruForward call{};
    call.sizes = s;
    call.builder = in.builder, call.readout = in.readout, call.bound = in.bound;
    call.rescale = in.exponent != nullptr;
    call.elements = in.elements;
    if (writes) call.v = {written, Dtype::float32};
    call.decay = decays ? decay : nullptr;
    call.down = in.down;
    call.threads = in.threads;
    call.state = in.state, call.exponent = in.exponent;
    call.y = {y, Dtype::float32};
    call.last = in.after, call.last_exponent = in.after_exponent;
    mru_forward(call);

    for (int64_t b = 0; b < s.B; ++b) {
        if (in.skip != nullptr) add_residual(y + b * C, in.skip, value + b * S, C);
        gate_and_norm(y + b * C, gated ? gate + b * C : nullptr, C, C, 1, in.norm, in.y, b);
    }
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
