// The cells whose recurrence is diagonal: a unit sees itself alone, through a vector of weights.
#pragma once

#include "cells/step.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct IndRnn : CellOf<CellKind::indrnn> {
    template <int PHASE>
    INLINE static void forward(Step& s) { s.h = s.saved[0] = at_least(Vec{}, s.vector[0] * s.h + s.x[0]); }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        s.dx[0] = s.saved[0] <= 0 ? Vec{} : s.dh;
        s.dvector[0] = s.dx[0] * s.h;
        s.dh = s.dx[0] * s.vector[0];
    }
};

struct ELstm : CellOf<CellKind::elstm> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        const Vec f = s.saved[0] = sigmoid(s.vector[0] * s.h + s.x[0]);
        const Vec z = s.saved[1] = tanh(s.vector[1] * s.h + s.x[1]);
        s.h = z + f * (s.h - z);
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], z = s.saved[1];
        s.dx[0] = s.dh * (s.h - z) * sigmoid_slope(f);
        s.dx[1] = s.dh * (1.0f - f) * tanh_slope(z);
        for (int g = 0; g < 2; ++g) s.dvector[g] = s.dx[g] * s.h;
        s.dh = s.dh * f + s.dx[0] * s.vector[0] + s.dx[1] * s.vector[1];
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
