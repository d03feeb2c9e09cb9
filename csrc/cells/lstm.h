// The LSTM, its variants with peepholes, and the multiplicative LSTM.
#pragma once

#include "cells/step.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// What a variant has: which of the gates i, f and o, peepholes, i = 1 - f in place of a gate, and each tanh.
struct LstmOptions {
    bool i = true, f = true, o = true, peepholes = true, coupled = false, linear_input = false, linear_output = false;
};

constexpr LstmOptions lstm_options(CellKind kind) {
    LstmOptions has;
    has.i = kind != CellKind::lstm_no_input_gate && kind != CellKind::lstm_coupled;
    has.f = kind != CellKind::lstm_no_forget_gate, has.o = kind != CellKind::lstm_no_output_gate;
    has.peepholes = kind != CellKind::lstm && kind != CellKind::multiplicative_lstm;
    has.coupled = kind == CellKind::lstm_coupled;
    has.linear_input = kind == CellKind::lstm_linear_input;
    has.linear_output = kind == CellKind::lstm_linear_output;
    return has;
}

// The equations, with the first gate GATE and the first number saved SAVED: the gates there are and z, then what the
// output gate multiplies.
template <CellKind KIND, int GATE, int SAVED>
struct LstmEquations {
    static constexpr LstmOptions HAS = lstm_options(KIND);
    static constexpr int I = 0, F = HAS.i, O = F + HAS.f, Z = O + HAS.o, OUT = Z + 1;

    template <int G>
    INLINE static Vec gate(Step& s, Vec c) {
        Vec sum = s.x[GATE + G] + s.product[GATE + G];
        if (HAS.peepholes) sum += s.vector[G] * c;
        return s.saved[SAVED + G] = sigmoid(sum);
    }

    INLINE static void forward(Step& s) {
        const Vec one = splat(1.0f), c = s.rest[0], sum = s.x[GATE + Z] + s.product[GATE + Z];
        const Vec f = HAS.f ? gate<F>(s, c) : one;
        const Vec i = HAS.i ? gate<I>(s, c) : HAS.coupled ? 1.0f - f : one;
        const Vec z = s.saved[SAVED + Z] = HAS.linear_input ? sum : tanh(sum);
        s.rest[0] = f * c + i * z;
        const Vec o = HAS.o ? gate<O>(s, s.rest[0]) : one;  // sees the new c
        s.saved[SAVED + OUT] = HAS.linear_output ? s.rest[0] : tanh(s.rest[0]);
        s.h = o * s.saved[SAVED + OUT];
    }

    INLINE static void backward(StepBack& s) {
        const Vec* const saved = s.saved + SAVED;
        Vec *const dx = s.dx + GATE, *const p = s.vector, &dc = s.drest[0];
        const Vec one = splat(1.0f), c = s.rest[0], z = saved[Z], out = saved[OUT];
        const Vec f = HAS.f ? saved[F] : one, i = HAS.i ? saved[I] : HAS.coupled ? 1.0f - f : one;
        const Vec o = HAS.o ? saved[O] : one;
        dc += s.dh * o * (HAS.linear_output ? one : tanh_slope(out));
        if (HAS.o) dx[O] = s.dh * out * sigmoid_slope(o);
        if (HAS.o && HAS.peepholes) s.dvector[O] = dx[O] * (f * c + i * z), dc += dx[O] * p[O];
        if (HAS.i) dx[I] = dc * z * sigmoid_slope(i);
        if (HAS.f) dx[F] = dc * (HAS.coupled ? c - z : c) * sigmoid_slope(f);
        dx[Z] = dc * i * (HAS.linear_input ? one : tanh_slope(z));
        s.dh = Vec{};
        dc *= f;
        if (!HAS.peepholes) return;
        if (HAS.i) s.dvector[I] = dx[I] * c, dc += dx[I] * p[I];
        if (HAS.f) s.dvector[F] = dx[F] * c, dc += dx[F] * p[F];
    }
};

template <CellKind KIND>
struct Lstm : CellOf<KIND> {
    template <int PHASE>
    INLINE static void forward(Step& s) { LstmEquations<KIND, 0, 0>::forward(s); }
    template <int PHASE>
    INLINE static void backward(StepBack& s) { LstmEquations<KIND, 0, 0>::backward(s); }
};

// The first phase forms the operand x_m ∘ (h W_m); x_m is saved beside the product, as the backward pass needs both.
struct MultiplicativeLstm : CellOf<CellKind::multiplicative_lstm, 2> {
    using Equations = LstmEquations<CellKind::multiplicative_lstm, 1, 2>;
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 1) return Equations::forward(s);
        s.saved[0] = s.product[0], s.saved[1] = s.x[0];
        s.operand = s.x[0] * s.product[0];
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        if (PHASE == 0) return Equations::backward(s);
        s.operand = s.saved[1] * s.saved[0];
        s.dx[0] = s.product * s.saved[0];
        s.inner = s.product * s.saved[1];
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
