// The causal convolution over time, one filter per channel, optionally followed by silu
// (src/matrixstate/ops/conv/README.md):  u[t] = bias + sum over lags j < K of weight[:, K-1-j] x[t-j],  y = act(u)
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// All arrays are dense and row-major. Inputs are never written, outputs are written in full. T >= 1, K >= 1.
struct ConvInputs {
    int64_t B, T, C, K;
    Input x;               // [B, T, C]
    const float* weight;   // [C, K]
    const float* bias;     // [C], or null: zeros
    const float* state;    // [B, K-1, C]
    const uint8_t* reset;  // [B, T], or null: no resets. A reset hides all earlier inputs
    bool silu;
    int threads;  // changes no result
};

struct ConvForward : ConvInputs {
    Output y;     // [B, T, C]
    float* last;  // [B, K-1, C]
};

struct ConvBackward : ConvInputs {
    Input dy;            // [B, T, C]
    const float* dlast;  // [B, K-1, C]
    Output dx;           // [B, T, C]
    float* dweight;      // [C, K]
    float* dbias;        // [C], or null
    float* dstate;       // [B, K-1, C]
};

}  // namespace matrixstate
