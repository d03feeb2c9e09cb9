// The equations of one step of each cell and of its gradient (ops/cells/README.md), for LANES units of one row.
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
    Vec x[MOST_GATES], product[MOST_GATES], bias;  // inputs of the gates; h times the weights of each
    Vec h, c;                                      // before the step; forward() overwrites them with those after it
    Vec saved[MOST_GATES + 1];
};

struct StepBack {
    Vec h, c, saved[MOST_GATES + 1];  // h and c before the step
    Vec dh, dc;  // gradients after the step; backward() leaves those before it, without the products'
    Vec dx[MOST_GATES];
    Vec inner;  // gru_after: the gradient of h W_z + bias
};

// A cell: the equations of each phase of its step, and the gates whose products a phase needs. Only gru has a second
// phase: the product for its candidate needs r h of all units, which its first phase leaves in place of h.
template <CellKind KIND_>
struct OnePhase {
    static constexpr CellKind KIND = KIND_;
    static constexpr int GATES = cell_gates(KIND), SAVED = cell_saved(KIND), PHASES = 1;
    static constexpr int first_gate(int) { return 0; }
    static constexpr int end_gate(int) { return GATES; }
};

struct Rnn : OnePhase<CellKind::rnn> {
    template <int PHASE>
    INLINE static void forward(Step& s) { s.h = s.saved[0] = tanh(s.x[0] + s.product[0]); }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        s.dx[0] = s.dh * tanh_slope(s.saved[0]);
        s.dh = Vec{};  // h reaches the next step through the product only
    }
};

struct Gru : OnePhase<CellKind::gru> {
    static constexpr int PHASES = 2;
    static constexpr int first_gate(int phase) { return phase == 0 ? 0 : 2; }
    static constexpr int end_gate(int phase) { return phase == 0 ? 2 : 3; }
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 0) {
            s.saved[0] = sigmoid(s.x[0] + s.product[0]);
            s.saved[1] = sigmoid(s.x[1] + s.product[1]);
            s.h *= s.saved[1];
        } else {
            const Vec f = s.saved[0], z = s.saved[2] = tanh(s.x[2] + s.product[2]);
            s.h = z + f * (s.h - z);  // f h + (1 - f) z with one multiplication less
        }
    }
    // The second phase takes the gradient of r h as dh, and leaves there the part that is added to the first phase's.
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], r = s.saved[1], z = s.saved[2];
        if (PHASE == 0) {
            s.dx[0] = s.dh * (s.h - z) * sigmoid_slope(f);
            s.dx[2] = s.dh * (1.0f - f) * tanh_slope(z);
            s.dh *= f;
        } else {
            s.dx[1] = s.dh * s.h * sigmoid_slope(r);
            s.dh *= r;
        }
    }
};

struct GruAfter : OnePhase<CellKind::gru_after> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        const Vec f = s.saved[0] = sigmoid(s.x[0] + s.product[0]);
        const Vec r = s.saved[1] = sigmoid(s.x[1] + s.product[1]);
        const Vec a = s.saved[3] = s.product[2] + s.bias;
        const Vec z = s.saved[2] = tanh(s.x[2] + r * a);
        s.h = z + f * (s.h - z);
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], r = s.saved[1], z = s.saved[2], a = s.saved[3];
        s.dx[0] = s.dh * (s.h - z) * sigmoid_slope(f);
        s.dx[2] = s.dh * (1.0f - f) * tanh_slope(z);
        s.dx[1] = s.dx[2] * a * sigmoid_slope(r);
        s.inner = s.dx[2] * r;
        s.dh *= f;
    }
};

struct Lstm : OnePhase<CellKind::lstm> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        const Vec i = s.saved[0] = sigmoid(s.x[0] + s.product[0]);
        const Vec f = s.saved[1] = sigmoid(s.x[1] + s.product[1]);
        const Vec o = s.saved[2] = sigmoid(s.x[2] + s.product[2]);
        const Vec z = s.saved[3] = tanh(s.x[3] + s.product[3]);
        s.c = f * s.c + i * z;
        s.saved[4] = tanh(s.c);
        s.h = o * s.saved[4];
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec i = s.saved[0], f = s.saved[1], o = s.saved[2], z = s.saved[3], tanh_c = s.saved[4];
        s.dc += s.dh * o * tanh_slope(tanh_c);
        s.dx[0] = s.dc * z * sigmoid_slope(i);
        s.dx[1] = s.dc * s.c * sigmoid_slope(f);
        s.dx[2] = s.dh * tanh_c * sigmoid_slope(o);
        s.dx[3] = s.dc * i * tanh_slope(z);
        s.dh = Vec{};
        s.dc *= f;
    }
};

// Runs Kernel<Cell>(in) for the cell in.kind.
template <template <class> class Kernel, class Inputs>
void run_cell(const Inputs& in) {
    switch (in.kind) {
        case CellKind::rnn: return Kernel<Rnn>(in).run();
        case CellKind::gru: return Kernel<Gru>(in).run();
        case CellKind::gru_after: return Kernel<GruAfter>(in).run();
        case CellKind::lstm: return Kernel<Lstm>(in).run();
    }
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
