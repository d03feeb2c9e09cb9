// The product of matrices that snaps to a codebook (src/matrixstate/ops/snap/README.md derives both directions):
//     a[t] = unit(h[t-1] x[t]),  h[t] = a[t], but every c steps h[t] = unit(softmax(<a[t], keys>) values).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

struct SnapSizes {
    int64_t B, T, H, D, G, M;  // G groups of heads snap together, each to M codes
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct SnapInputs {
    SnapSizes sizes;
    Input x;                     // [B, T, H, D, D]
    const float *keys, *values;  // [G, M, H/G, D, D]
    const float* state;          // [B, H, D, D]
    const int32_t* phase;        // [B], steps since the last correction
    int64_t every;               // c
    const uint8_t *mask, *reset;  // [B, T] or null; mask 0 is padding
    int threads;                 // changes no result
};

struct SnapForward : SnapInputs {
    float* h;        // [B, T, H, D, D]
    float* last;     // [B, H, D, D]
    int32_t* after;  // [B]
};

struct SnapBackward : SnapInputs {
    const float* h;            // as written by the forward pass
    const float *dh, *dlast;   // [B, T, H, D, D], [B, H, D, D]
    Output dx;                 // [B, T, H, D, D]
    float *dkeys, *dvalues;    // [B, G, M, H/G, D, D]: every row's share
    float* dstate;             // [B, H, D, D]
};

}  // namespace matrixstate
