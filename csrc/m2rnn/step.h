// One token through an M²RNN layer, except its projections (src/matrixstate/ops/m2rnn/README.md).
#pragma once

#include <cstdint>

#include "common/step.h"

namespace matrixstate {

// q, k, v = silu(conv(x)), with q and k of length 1 where `unit_keys`; f = exp(-e^log_rate softplus(x + bias));
// h = f state + (1 - f) tanh(state w + k vᵀ);  y = RMSNorm((qᵀ h + residual ∘ v) ∘ silu(gate)).
// H is a multiple of each other head count; head n of H uses head n / (H / G) of G.
struct M2rnnStep {
    int64_t B, H, K, V, Hq, Hk, Hv, Hw, Hf, Hg;
    bool unit_keys;
    Input x;                       // [B, Hq K + Hk K + Hv V + Hf + Hg V]: q, k, v, forget, gate
    StepConv conv;                 // of q, k and v
    const float *log_rate, *bias;  // [Hf]
    const float* w;                // [Hw, V, V]
    const float* residual;         // [H, V], or null: none
    StepNorm norm;                 // of H V channels
    const float* state;            // [B, H, K, V]
    Output y;                      // [B, H V]
    float* after;                  // [B, H, K, V]
    int threads;                   // changes no result
    int64_t channels() const { return (Hq + Hk) * K + Hv * V; }
    int64_t width() const { return channels() + Hf + Hg * V; }
};

}  // namespace matrixstate
