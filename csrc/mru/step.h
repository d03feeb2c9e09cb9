// One token through an MRU layer, except its projections (src/matrixstate/ops/mru/README.md).
#pragma once

#include <cstdint>

#include "common/step.h"
#include "mru/mru.h"

namespace matrixstate {

// v = silu(conv(value)); f = exp(-e^log_rate softplus(forget + bias)); h = f state X(elements) + v, or + sqrt(1 - f²) v
// where `balanced`; y = RMSNorm((read(h) W + skip ∘ v) ∘ silu(gate)). Every part except X and W may be absent: null.
struct MruStep {
    MruSizes sizes;  // T = 1
    MruBuilder builder;
    MruReadout readout;
    float bound;
    bool balanced;                 // adds sqrt(1 - f²) v, not v
    Input elements;                // [B, H, mru_elements]
    Input value, forget, gate;     // [B, H D D], [B, H], [B, H D C]
    StepConv conv;                 // of value
    const float *log_rate, *bias;  // [H]
    const float* down;             // [H, D, C], W
    const float* skip;             // [H D D], where D = C
    StepNorm norm;                 // of H D C channels
    const float* state;            // [B, H, D, D]
    const int32_t* exponent;       // [B, H], e of the state where it is rescaled; null with a value
    Output y;                      // [B, H D C]
    float* after;                  // like state
    int32_t* after_exponent;       // like exponent
    int threads;                   // changes no result
    int64_t values() const { return sizes.H * sizes.D * sizes.D; }
    int64_t channels() const { return sizes.H * sizes.D * sizes.C; }
};

}  // namespace matrixstate
