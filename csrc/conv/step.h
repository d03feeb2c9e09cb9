// One token through a gated convolution, except its projections (src/matrixstate/ops/conv/README.md).
#pragma once

#include <cstdint>

#include "common/step.h"

namespace matrixstate {

// y = RMSNorm(silu(conv(x)) ∘ silu(gate))
struct GatedConvStep {
    int64_t B;
    StepConv conv;
    Input x, gate;  // [B, channels]
    StepNorm norm;
    Output y;     // [B, channels]
    int threads;  // changes no result
};

}  // namespace matrixstate
