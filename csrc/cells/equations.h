// The arithmetic of one step of each cell, on LANES units of one row. Included by the kernels of the cells only.
#pragma once

#include "cells/cells.h"
#include "common/exp.h"
#include "common/tanh.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

INLINE Vec sigmoid_slope(Vec s) { return s * (1.0f - s); }
INLINE Vec tanh_slope(Vec t) { return 1.0f - t * t; }

struct Step {
    Vec x[MOST_GATES], product[MOST_GATES], bias;  // inputs of the gates; their products with h
    Vec h, c;                                      // before the step; then after it
    Vec kept[MOST_GATES + 1];
};

struct StepBack {
    Vec h, c, kept[MOST_GATES + 1];  // h and c before the step
    Vec dh, dc;                      // gradients after the step; then before it, without what comes through products
    Vec dx[MOST_GATES];
    Vec inner;  // gru_after: the gradient of h W + bias
};

// What a cell is: how a phase of its step goes, and which gates' products a phase adds up before. Only gru has a second
// phase, as the product for its candidate needs all of r h, which its first phase leaves in place of h.
template <CellKind KIND_>
struct OnePhase {
    static constexpr CellKind KIND = KIND_;
    static constexpr int GATES = cell_gates(KIND), KEPT = cell_kept(KIND), PHASES = 1;
    static constexpr int first_gate(int) { return 0; }
    static constexpr int end_gate(int) { return GATES; }
};

struct Rnn : OnePhase<CellKind::rnn> {
    template <int PHASE>
    INLINE static void forward(Step& s) { s.h = s.kept[0] = tanh(s.x[0] + s.product[0]); }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        s.dx[0] = s.dh * tanh_slope(s.kept[0]);
        s.dh = Vec{};
    }
};

struct Gru : OnePhase<CellKind::gru> {
    static constexpr int PHASES = 2;
    static constexpr int first_gate(int phase) { return phase == 0 ? 0 : 2; }
    static constexpr int end_gate(int phase) { return phase == 0 ? 2 : 3; }
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 0) {
            s.kept[0] = sigmoid(s.x[0] + s.product[0]);
            s.kept[1] = sigmoid(s.x[1] + s.product[1]);
            s.h *= s.kept[1];
        } else {
            const Vec f = s.kept[0], z = s.kept[2] = tanh(s.x[2] + s.product[2]);
            s.h = z + f * (s.h - z);
        }
    }
    // The second phase gets what r h had as a gradient as dh, and leaves what adds to the first phase's.
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.kept[0], r = s.kept[1], z = s.kept[2];
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
        const Vec f = s.kept[0] = sigmoid(s.x[0] + s.product[0]);
        const Vec r = s.kept[1] = sigmoid(s.x[1] + s.product[1]);
        const Vec a = s.kept[3] = s.product[2] + s.bias;
        const Vec z = s.kept[2] = tanh(s.x[2] + r * a);
        s.h = z + f * (s.h - z);
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.kept[0], r = s.kept[1], z = s.kept[2], a = s.kept[3];
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
        const Vec i = s.kept[0] = sigmoid(s.x[0] + s.product[0]);
        const Vec f = s.kept[1] = sigmoid(s.x[1] + s.product[1]);
        const Vec o = s.kept[2] = sigmoid(s.x[2] + s.product[2]);
        const Vec z = s.kept[3] = tanh(s.x[3] + s.product[3]);
        s.c = f * s.c + i * z;
        s.kept[4] = tanh(s.c);
        s.h = o * s.kept[4];
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec i = s.kept[0], f = s.kept[1], o = s.kept[2], z = s.kept[3], tanh_c = s.kept[4];
        s.dc += s.dh * o * tanh_slope(tanh_c);
        s.dx[0] = s.dc * z * sigmoid_slope(i);
        s.dx[1] = s.dc * s.c * sigmoid_slope(f);
        s.dx[2] = s.dh * tanh_c * sigmoid_slope(o);
        s.dx[3] = s.dc * i * tanh_slope(z);
        s.dh = Vec{};
        s.dc *= f;
    }
};

// Runs Kernel<Cell>(in) for the cell that `in` names.
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
