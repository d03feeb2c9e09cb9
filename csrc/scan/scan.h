// The elementwise linear recurrence (src/matrixstate/ops/scan/README.md):  h[t] = a[t] h[t-1] + x[t]
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

constexpr int64_t SCAN_INTERVAL = 16;

// G groups of R elements that share a decay. An element is Z numbers: one, or the two parts of a complex one (float32).
struct ScanSizes {
    int64_t B, T, G, R, Z;
    int64_t row() const { return G * R * Z; }  // the numbers of a step
    int64_t numbers() const { return B * T * row(); }
    int64_t intervals() const { return (T + SCAN_INTERVAL - 1) / SCAN_INTERVAL; }
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full. T >= 1.
struct ScanInputs {
    ScanSizes sizes;
    Input x;               // [B, T, G, R, Z]; backward, where h is known, that
    const float* decay;    // [B, T, G, Z], or [G, Z] where it is constant
    bool is_constant;
    bool is_log;           // a = exp(decay); Z = 1
    const float* state;    // [B, G, R, Z]
    const uint8_t* reset;  // [B, T], or null: no resets. The state is reset to zeros before the step
    int threads;           // changes no result
    int64_t decays() const { return (is_constant ? 1 : sizes.B * sizes.T) * sizes.G * sizes.Z; }
};

struct ScanForward : ScanInputs {
    Output h;      // [B, T, G, R, Z]
    float* last;   // [B, G, R, Z]
    float* saved;  // [B, intervals, G, R, Z]: h before every SCAN_INTERVAL-th step, or null
};

struct ScanBackward : ScanInputs {
    const float* h;      // the forward pass's h where that is float32, else null:
    const float* saved;  // then what it saved
    Input dh;            // [B, T, G, R, Z]
    const float* dlast;  // [B, G, R, Z]
    Output dx;           // [B, T, G, R, Z]
    float* ddecay;       // like decay
    float* dstate;       // [B, G, R, Z]
};

}  // namespace matrixstate
