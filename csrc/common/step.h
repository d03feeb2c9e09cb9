// What the one-token steps of several mixers take: a short convolution and a norm.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// The short convolution of `taps` steps with silu after it. Inputs are never written, outputs are written in full.
struct StepConv {
    int64_t channels, taps;
    const float* weight;  // [channels, taps], or null where taps = 0: no convolution and no silu
    const float* past;    // [B, taps-1, channels]
    float* last;          // [B, taps-1, channels]
};

// RMSNorm of the gated output.
struct StepNorm {
    const float* weight;  // [channels], or null: no norm
    float eps;
};

}  // namespace matrixstate
