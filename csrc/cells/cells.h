// Recurrent cells with a vector per head, over whole sequences: a step multiplies h by the weights of all gates, adds
// the inputs and goes through sigmoid and tanh (src/matrixstate/ops/cells/README.md has the formulas of both passes).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// Gates in the order of their arrays: rnn z; gru f, r, z; lstm i, f, o, z, where z is the candidate. gru multiplies
// r h by the weights of z, gru_after adds a bias to that gate's product with h and multiplies the sum by r.
enum class CellKind { rnn, gru, gru_after, lstm };
constexpr int CELL_KINDS = 4, MOST_GATES = 4;

constexpr int cell_gates(CellKind kind) { return kind == CellKind::rnn ? 1 : kind == CellKind::lstm ? 4 : 3; }

// What a step keeps for the backward pass: its gates, and after them h W + bias of gru_after and tanh(c) of lstm.
constexpr int cell_kept(CellKind kind) {
    return cell_gates(kind) + (kind == CellKind::gru_after || kind == CellKind::lstm);
}

struct CellSizes {
    int64_t B, T, H, d;
};

// Arrays are dense and row-major, but for x. Inputs are never written, outputs are written in full.
struct CellInputs {
    CellKind kind;
    CellSizes sizes;       // T > 0
    const float* w;        // [H, d, gates, d]
    const uint8_t* mask;   // [B, T]; where 0, h and c stay as they are. Null: every step is real
    const uint8_t* reset;  // [B, T]; where 1, h and c are zero before the step. Null: nothing is reset
    int threads;           // changes no result
};

struct CellForward : CellInputs {
    Sequence x[MOST_GATES];  // the gates' inputs
    const float* bias;       // [H, d], of gru_after
    const float *h, *c;      // [B, H, d]; c of lstm, here and below
    float* y;                // [B, T, H, d], every h
    float *last_h, *last_c;  // [B, H, d]
    int64_t steps;           // T, or 1, where every step overwrites the one before
    float* gates;            // [steps, kept, B, H, d]; zero at padded steps
    float* cells;            // [steps, B, H, d], c before the step
};

struct CellBackward : CellInputs {
    const float *h, *y, *gates, *cells;         // as given to and written by the forward pass that kept all steps
    const float *dy, *dlast_h, *dlast_c;        // gradients of the outputs
    float clip;                                 // bound on the gradients of each h and c, or 0
    float* dx[MOST_GATES];                      // [B, T, H, d]
    float *dh, *dc;                             // [B, H, d], gradients of the first state
};

}  // namespace matrixstate
