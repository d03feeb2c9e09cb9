// The quotient of two linear recurrences (src/matrixstate/ops/quotient/README.md):  y[t] = sum e^.. v / sum e^..
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

constexpr int64_t QUOTIENT_INTERVAL = 16;

// G scores per step, each for R values.
struct QuotientSizes {
    int64_t B, T, G, R;
    int64_t row() const { return G * R; }  // the values of a step
    int64_t state() const { return G * (R + 2); }  // of a row of the batch: max, den and num
    int64_t intervals() const { return (T + QUOTIENT_INTERVAL - 1) / QUOTIENT_INTERVAL; }
};

// All arrays are dense and row-major. Inputs are never written, outputs are written in full. T >= 1.
struct QuotientInputs {
    QuotientSizes sizes;
    Input score;          // [B, T, G]
    Input v;              // [B, T, G, R], dtype of score
    const float* decay;   // logarithms [B, T, G], [G] where they are constant, or null: no decay
    bool is_constant;
    const float* bonus;   // [G], or null: a step reads after it writes
    const float* max;     // [B, G], -inf where nothing has been summed
    const float* den;     // [B, G]
    const float* num;     // [B, G, R]
    const uint8_t* reset; // [B, T], or null: no resets. The sums are empty before the step
    int threads;          // changes no result
    int64_t decays() const { return (is_constant ? 1 : sizes.B * sizes.T) * sizes.G; }
};

struct QuotientForward : QuotientInputs {
    Output y;         // [B, T, G, R]
    float* last_max;  // [B, G]
    float* last_den;  // [B, G]
    float* last_num;  // [B, G, R]
    float* saved;     // [B, intervals, state]: max, den and num before every QUOTIENT_INTERVAL-th step, or null
};

struct QuotientBackward : QuotientInputs {
    const float* saved;
    Input dy;               // [B, T, G, R]
    const float* dlast_den; // [B, G]
    const float* dlast_num; // [B, G, R]
    Output dscore;          // [B, T, G]
    Output dv;              // [B, T, G, R]
    float* ddecay;          // like decay, null with it
    float* dbonus;          // [G], null without a bonus
    float* dden;            // [B, G]
    float* dnum;            // [B, G, R]
};

}  // namespace matrixstate
