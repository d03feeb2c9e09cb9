// Recurrent cells with a vector per head, over whole sequences: a step multiplies h by the weights of all gates, adds
// the inputs and applies sigmoid and tanh (src/matrixstate/ops/cells/README.md has the equations of both passes).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// Gates in the order of their arrays: rnn z; gru f, r, z; lstm i, f, o, z, where z is the candidate. gru resets before
// the product, (r ∘ h) W_z; gru_after resets after it, r ∘ (h W_z + bias), as cuDNN and PyTorch do.
enum class CellKind { rnn, gru, gru_after, lstm };
constexpr int CELL_KINDS = 4, MOST_GATES = 4;

constexpr int cell_gates(CellKind kind) { return kind == CellKind::rnn ? 1 : kind == CellKind::lstm ? 4 : 3; }

// The number of arrays a step saves for the backward pass: its gates, then gru_after's h W_z + bias or lstm's tanh(c).
constexpr int cell_saved(CellKind kind) {
    return cell_gates(kind) + (kind == CellKind::gru_after || kind == CellKind::lstm);
}

struct CellSizes {
    int64_t B, T, H, d;
};

// Arrays are dense and row-major, except x. Inputs are never written, outputs are written in full.
struct CellInputs {
    CellKind kind;
    CellSizes sizes;       // T > 0
    const float* w;        // [H, d, gates, d]
    const uint8_t* mask;   // [B, T]; where 0, the step is padding and h and c stay as they are. Null: no padding
    const uint8_t* reset;  // [B, T]; where 1, h and c are reset to zeros before the step. Null: no resets
    int threads;           // changes no result
};

struct CellForward : CellInputs {
    Sequence x[MOST_GATES];  // the inputs of the gates, one array each
    const float* bias;       // [H, d], gru_after only
    const float *h, *c;      // [B, H, d]; c, here and below, lstm only
    float* y;                // [B, T, H, d], h after every step
    float *last_h, *last_c;  // [B, H, d]
    int64_t steps;           // T, or 1 without a backward pass: every step then overwrites the last
    float* gates;            // [steps, saved, B, H, d]; zero at padded steps
    float* cells;            // [steps, B, H, d], c before the step
};

struct CellBackward : CellInputs {
    const float *h, *y, *gates, *cells;   // the forward pass's input h and outputs, with steps = T
    const float *dy, *dlast_h, *dlast_c;  // gradients of the outputs
    float clip;                           // bound on the gradients of each h and c, or 0
    float* dx[MOST_GATES];                // [B, T, H, d]
    float *dh, *dc;                       // [B, H, d], gradients of the first state
};

}  // namespace matrixstate
