// The M²RNN recurrence (src/matrixstate/ops/m2rnn/README.md derives both directions):
//     h[t] = f[t] h[t-1] + (1 - f[t]) tanh(h[t-1] w + k[t] v[t]ᵀ),   y[t] = q[t]ᵀ h[t]
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// Steps between two states that the forward pass saves; the backward pass recomputes those in between.
constexpr int64_t M2RNN_INTERVAL = 16;

// H is the largest head count and a multiple of the others: head n of H uses head n / (H / G) of an input with G heads.
struct M2rnnSizes {
    int64_t B, T, H, K, V, Hq, Hk, Hv, Hw, Hf;
    int64_t intervals() const { return (T + M2RNN_INTERVAL - 1) / M2RNN_INTERVAL; }
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct M2rnnInputs {
    M2rnnSizes sizes;
    Input q, k, v;         // [B, T, Hq, K], [B, T, Hk, K], [B, T, Hv, V]
    const float* w;        // [Hw, V, V]
    const float* f;        // [B, T, Hf]
    const uint8_t* reset;  // [B, T]; where 1, h is zero before the step. Null: no resets
    int threads;           // changes no result
};

struct M2rnnForward : M2rnnInputs {
    const float* state;  // [B, H, K, V]
    Output y;            // [B, T, H, V]
    float* last;         // [B, H, K, V]
    float* saved;        // [B, H, intervals, K, V]: h before every M2RNN_INTERVAL-th step, or null
};

struct M2rnnBackward : M2rnnInputs {
    const float* saved;       // as written by the forward pass
    Input dy;                 // [B, T, H, V]
    const float* dlast;       // [B, H, K, V]
    float clip;               // bound on the entries of each dh[t], applied where f[t] < 1; 0: none
    Output dq, dk, dv;        // like q, k, v
    float *dw, *df, *dstate;  // like w, f, last
};

}  // namespace matrixstate
