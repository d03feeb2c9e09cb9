// The product of matrices corrected by retrieval from a codebook (derived in src/matrixstate/ops/snap/README.md):
//     a[t] = unit(h[t-1] x[t]),  h[t] = a[t], but every c steps h[t] = unit(softmax(<a[t], keys>) values).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

struct SnapSizes {
    int64_t B, T, H, D, G, M;  // heads in G groups that retrieve together, each among M codes
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct SnapInputs {
    SnapSizes sizes;
    Input x;                      // [B, T, H, D, D]
    const float *keys, *values;   // [G, M, H/G, D, D]
    const float* state;           // [B, H, D, D]
    const int32_t* phase;         // [B], real steps since the last correction
    int64_t every;                // c
    const uint8_t *mask, *reset;  // [B, T] or null; mask 0: padding; reset 1: identity before the step
    int threads;                  // changes no result
};

struct SnapForward : SnapInputs {
    float* h;        // [B, T, H, D, D]
    float* last;     // [B, H, D, D]
    int32_t* after;  // [B], the phase after the last step
};

struct SnapBackward : SnapInputs {
    const float* h;           // as written by the forward pass
    const float *dh, *dlast;  // [B, T, H, D, D], [B, H, D, D]
    Output dx;                // [B, T, H, D, D]
    float *dkeys, *dvalues;   // [B, G, M, H/G, D, D]: the part of each batch row, summed by the caller
    float* dstate;            // [B, H, D, D]
};

}  // namespace matrixstate
