// The matrix scans (src/matrixstate/ops/matrix/README.md derives both directions):
//     h[t] = h[t-1] x[t] + v[t]
// and the same with h = m 2^e, e an integer: after every step a power of two is moved from m to e, which rounds nothing
// and keeps m from overflowing.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

struct MatrixSizes {
    int64_t B, T, H, R, D;
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct MatrixInputs {
    MatrixSizes sizes;
    Input x;                  // [B, T, H, D, D]
    const float* state;       // [B, H, R, D]
    const int32_t* exponent;  // [B, H], e of the state; null: the plain scan
    const uint8_t* reset;     // [B, T]; where 1, the state is reset before the step. Null: no resets
    int threads;              // changes no result
};

struct MatrixForward : MatrixInputs {
    Input v;             // [B, T, H, R, D]; data null: nothing is added, and a reset is to the identity, not zeros
    Output h;            // [B, T, H, R, D]
    float* last;         // [B, H, R, D]
    int32_t* exponents;  // [B, T, H], null where `exponent` is
};

struct MatrixBackward : MatrixInputs {
    Input h;                   // as written by the forward pass
    const int32_t* exponents;  // the same
    Input dh;                  // [B, T, H, R, D]
    const float* dlast;        // [B, H, R, D]
    Output dx;                 // [B, T, H, D, D]
    Output dv;                 // [B, T, H, R, D]; data null: there was no v
    float* dstate;             // [B, H, R, D]
};

}  // namespace matrixstate
