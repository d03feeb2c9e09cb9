// What the equations of a cell's step read and write, for LANES units of one row.
#pragma once

#include "cells/cells.h"
#include "common/exp.h"
#include "common/tanh.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Derivatives in terms of the function's value.
INLINE Vec sigmoid_slope(Vec s) { return s * (1.0f - s); }
INLINE Vec tanh_slope(Vec t) { return 1.0f - t * t; }

struct Step {
    Vec x[MOST_GATES], product[MOST_GATES];  // inputs of the gates; h, or the operand, times the weights of each
    Vec vector[MOST_VECTORS];
    Vec h, rest[MOST_REST];  // before the step; forward() overwrites them with those after it
    Vec operand;             // of a second phase: what the first leaves for its products
    Vec saved[MOST_SAVED];
};

struct StepBack {
    Vec h, rest[MOST_REST], saved[MOST_SAVED], vector[MOST_VECTORS];  // h and rest before the step
    Vec dh, drest[MOST_REST];  // gradients after the step; backward() leaves those before it, without the products'
    Vec product;               // second phase: the gradient of its operand
    Vec dx[MOST_GATES];
    Vec dvector[MOST_VECTORS];
    Vec operand;  // as in Step; the second phase sets it
    Vec inner;    // the gradient of the product of the inner gate
};

// A cell: the equations of each phase of its step. A second phase is one whose products need something of all units
// that the first phase computes. What it saves begins at SECOND_SAVED.
template <CellKind KIND, int SECOND_SAVED = shape_of(KIND).second>
struct CellOf {
    static constexpr CellShape SHAPE = shape_of(KIND);
    static constexpr int GATES = SHAPE.gates, SAVED = SHAPE.saved, REST = SHAPE.rest, VECTORS = SHAPE.vectors;
    static constexpr int PRODUCTS = SHAPE.is_diagonal ? 0 : GATES, PHASES = SHAPE.second < GATES ? 2 : 1;
    // Where the gates and what is saved of a phase begin.
    static constexpr int first_gate(int phase) { return phase == 0 ? 0 : phase == 1 ? SHAPE.second : GATES; }
    static constexpr int first_saved(int phase) { return phase == 0 ? 0 : phase < PHASES ? SECOND_SAVED : SAVED; }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
