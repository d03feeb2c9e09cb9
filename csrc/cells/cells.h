// Recurrent cells with vectors per head, over whole sequences: a step multiplies h by the weights of all gates, adds
// the inputs and applies the cell's equations (src/matrixstate/ops/cells/README.md has those of both passes).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// What differs between cells beside their equations. A gate is anything that has an input x and a product: with a
// matrix of weights, or unit by unit in a diagonal cell, whose weights are vectors.
struct CellShape {
    const char* name;
    int gates;
    int saved;    // numbers per unit and step that the backward pass needs
    int rest;     // vectors of the state beside h
    int vectors;  // parameters [H, d]: a bias, peepholes, the weights of a diagonal cell
    int second;   // the gates from here on are those of a second phase: their products have an operand other than h
    int inner;    // a gate with a gradient of its product that is not that of its input, or -1
    bool is_diagonal;
};

// In the order of CELL_SHAPES.
enum class CellKind {
    rnn, gru, gru_after, lstm, mgu, lem, slstm, multiplicative_lstm, peephole_lstm, lstm_no_input_gate,
    lstm_no_forget_gate, lstm_no_output_gate, lstm_linear_input, lstm_linear_output, lstm_coupled, indrnn, elstm
};

// Gates are in this order in all arrays: those of the first phase, then those of the second; of an LSTM i, f, o, z,
// where z is the candidate. gru resets before the product, (r ∘ h) W_z; gru_after resets after it, r ∘ (h W_z + bias),
// as cuDNN and PyTorch do.
constexpr CellShape CELL_SHAPES[] = {
    {"rnn", 1, 1, 0, 0, 1, -1, false},                 // z
    {"gru", 3, 3, 0, 0, 2, -1, false},                 // f, r; z
    {"gru_after", 3, 4, 0, 1, 3, 2, false},            // f, r, z
    {"lstm", 4, 5, 1, 0, 4, -1, false},                // rest c
    {"mgu", 2, 2, 0, 0, 1, -1, false},                 // f; z
    {"lem", 4, 4, 1, 0, 3, -1, false},                 // 1, 2, z; y. h is called y, rest z
    {"slstm", 4, 5, 3, 0, 4, -1, false},               // rest c, n, m
    {"multiplicative_lstm", 5, 7, 1, 0, 1, 0, false},  // m; i, f, o, z
    {"peephole_lstm", 4, 5, 1, 3, 4, -1, false},       // vectors p of i, f, o, as far as these gates exist
    {"lstm_no_input_gate", 3, 4, 1, 2, 3, -1, false},
    {"lstm_no_forget_gate", 3, 4, 1, 2, 3, -1, false},
    {"lstm_no_output_gate", 3, 4, 1, 2, 3, -1, false},
    {"lstm_linear_input", 4, 5, 1, 3, 4, -1, false},
    {"lstm_linear_output", 4, 5, 1, 3, 4, -1, false},
    {"lstm_coupled", 3, 4, 1, 2, 3, -1, false},
    {"indrnn", 1, 1, 0, 1, 1, -1, true},               // vectors u
    {"elstm", 2, 2, 0, 2, 2, -1, true},                // f, z; vectors v_f, v. h is called c
};
constexpr int CELL_KINDS = sizeof CELL_SHAPES / sizeof *CELL_SHAPES;
constexpr int MOST_GATES = 5, MOST_SAVED = 7, MOST_REST = 3, MOST_VECTORS = 3;

constexpr const CellShape& shape_of(CellKind kind) { return CELL_SHAPES[static_cast<int>(kind)]; }

struct CellSizes {
    int64_t B, T, H, d;
};

// Arrays are dense and row-major, except x. Inputs are never written, outputs are written in full. Arrays of a size
// that is zero for the kind (rest, vectors) are null, as are operand without a second phase and inner without an inner
// gate.
struct CellInputs {
    CellKind kind;
    CellSizes sizes;       // T > 0
    const float* w[MOST_GATES];  // [H, d, d] of every gate, null for diagonal cells
    const float* vectors;  // [vectors, H, d]
    const uint8_t* mask;   // [B, T]; where 0, the step is padding and the state stays as it is. Null: no padding
    const uint8_t* reset;  // [B, T]; where 1, the state is reset to zeros before the step. Null: no resets
    int threads;           // changes no result
};

struct CellForward : CellInputs {
    Sequence x[MOST_GATES];     // the inputs of the gates, one array each
    const float *h, *rest;      // [B, H, d], [rest, B, H, d]
    float* y;                   // [B, T, H, d], h after every step
    float *last_h, *last_rest;  // as h and rest
    int64_t steps;              // T, or 1 without a backward pass: every step then overwrites the last
    float* saved;               // [steps, saved, B, H, d]; zero at padded steps
    float* rests;               // [steps, rest, B, H, d], the rest of the state before the step
};

struct CellBackward : CellInputs {
    const float *h, *y, *saved, *rests;      // the forward pass's input h and outputs, with steps = T
    const float *dy, *dlast_h, *dlast_rest;  // gradients of the outputs
    float clip;                              // bound on the gradients of every vector of each state, or 0
    float* dx[MOST_GATES];                   // [B, T, H, d]
    float *dh, *drest, *dvectors;            // as h, rest and vectors
    float* operand;                          // [B, T, H, d], what the products of the second phase multiply
    float* inner;                            // [B, T, H, d], the gradient of the product of one gate
};

}  // namespace matrixstate
