// One token through a whole mixer, but for its projections: what generation calls once per layer and token
// (src/matrixstate/ops/m2rnn/README.md, ops/conv/README.md, ops/mru/README.md). Everything is float32 inside.
#pragma once

#include <cstdint>

#include "memory.h"
#include "mru.h"

namespace matrixstate {

// The short convolution of `taps` steps with silu after it. Inputs are never written, outputs are written in full.
struct StepConv {
    int64_t channels, taps;
    const float* weight;  // [channels, taps], or null where taps = 0: no convolution and no silu
    const float* past;    // [B, taps-1, channels]
    float* last;          // [B, taps-1, channels]
};

// RMSNorm of the gated read-out.
struct StepNorm {
    const float* weight;  // [channels], or null: no norm
    float eps;
};

// y = RMSNorm(silu(conv(x)) ∘ silu(gate))
struct GatedConvStep {
    int64_t B;
    StepConv conv;
    Input x, gate;  // [B, channels]
    StepNorm norm;
    Output y;  // [B, channels]
    int threads;  // changes no result
};

// q, k, v = silu(conv(x)), q and k scaled to length 1 where `unit_keys`; f = exp(-e^log_rate softplus(x + bias));
// h = f state + (1 - f) tanh(state w + k vᵀ);  y = RMSNorm((qᵀ h + residual ∘ v) ∘ silu(gate)).
// H is a multiple of each other head count; head n of H uses head n / (H / G) of G.
struct M2rnnStep {
    int64_t B, H, K, V, Hq, Hk, Hv, Hw, Hf, Hg;
    bool unit_keys;
    Input x;                        // [B, Hq K + Hk K + Hv V + Hf + Hg V]: q, k, v, forget, gate
    StepConv conv;                  // of q, k and v
    const float *log_rate, *bias;   // [Hf]
    const float* w;                 // [Hw, V, V]
    const float* residual;          // [H, V], or null: none
    StepNorm norm;                  // of H V channels
    const float* state;             // [B, H, K, V]
    Output y;                       // [B, H V]
    float* after;                   // [B, H, K, V]
    int threads;                    // changes no result
    int64_t channels() const { return (Hq + Hk) * K + Hv * V; }
    int64_t width() const { return channels() + Hf + Hg * V; }
};

// v = silu(conv(value)); f = exp(-e^log_rate softplus(forget + bias)); h = f state X(elements) + v (times sqrt(1 - f²) if balanced);
// y = RMSNorm((read(h) W + skip ∘ v) ∘ silu(gate)). Each part but X and W may be absent: null.
struct MruStep {
    MruSizes sizes;  // T = 1
    MruBuilder builder;
    MruReadout readout;
    float bound;
    bool balanced;                 // writes sqrt(1 - f²) v, not v
    Input elements;                // [B, H, mru_elements]
    Input value, forget, gate;     // [B, H D D], [B, H], [B, H D C]
    StepConv conv;                 // of value
    const float *log_rate, *bias;  // [H]
    const float* down;             // [H, D, C], W
    const float* skip;             // [H D D], where D = C
    StepNorm norm;                 // of H D C channels
    const float* state;            // [B, H, D, D]
    const int32_t* exponent;       // [B, H] of the state where it is rescaled, which a value excludes
    Output y;                      // [B, H D C]
    float* after;                  // like state
    int32_t* after_exponent;       // like exponent
    int threads;                   // changes no result
    int64_t values() const { return sizes.H * sizes.D * sizes.D; }
    int64_t channels() const { return sizes.H * sizes.D * sizes.C; }
};

}  // namespace matrixstate
