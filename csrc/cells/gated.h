// The cells whose state is h alone: the RNN, the GRU in both forms, the MGU. And LEM, which has two such states.
#pragma once

#include "cells/step.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct Rnn : CellOf<CellKind::rnn> {
    template <int PHASE>
    INLINE static void forward(Step& s) { s.h = s.saved[0] = tanh(s.x[0] + s.product[0]); }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        s.dx[0] = s.dh * tanh_slope(s.saved[0]);
        s.dh = Vec{};  // h reaches the next step through the product only
    }
};

struct Gru : CellOf<CellKind::gru> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 0) {
            s.saved[0] = sigmoid(s.x[0] + s.product[0]);
            s.saved[1] = sigmoid(s.x[1] + s.product[1]);
            s.operand = s.h * s.saved[1];
        } else {
            const Vec f = s.saved[0], z = s.saved[2] = tanh(s.x[2] + s.product[2]);
            s.h = z + f * (s.h - z);  // f h + (1 - f) z with one multiplication less
        }
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], r = s.saved[1], z = s.saved[2];
        if (PHASE == 0) {
            s.dx[0] = s.dh * (s.h - z) * sigmoid_slope(f);
            s.dx[2] = s.dh * (1.0f - f) * tanh_slope(z);
            s.dh *= f;
        } else {
            s.operand = s.h * r;
            s.dx[1] = s.product * s.h * sigmoid_slope(r);
            s.dh += s.product * r;
        }
    }
};

struct GruAfter : CellOf<CellKind::gru_after> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        const Vec f = s.saved[0] = sigmoid(s.x[0] + s.product[0]);
        const Vec r = s.saved[1] = sigmoid(s.x[1] + s.product[1]);
        const Vec a = s.saved[3] = s.product[2] + s.vector[0];
        const Vec z = s.saved[2] = tanh(s.x[2] + r * a);
        s.h = z + f * (s.h - z);
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], r = s.saved[1], z = s.saved[2], a = s.saved[3];
        s.dx[0] = s.dh * (s.h - z) * sigmoid_slope(f);
        s.dx[2] = s.dh * (1.0f - f) * tanh_slope(z);
        s.dx[1] = s.dx[2] * a * sigmoid_slope(r);
        s.inner = s.dvector[0] = s.dx[2] * r;
        s.dh *= f;
    }
};

struct Mgu : CellOf<CellKind::mgu> {
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 0) {
            s.saved[0] = sigmoid(s.x[0] + s.product[0]);
            s.operand = s.h * s.saved[0];
        } else {
            const Vec f = s.saved[0], z = s.saved[1] = tanh(s.x[1] + s.product[1]);
            s.h += f * (z - s.h);
        }
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec f = s.saved[0], z = s.saved[1];
        if (PHASE == 0) {
            s.dx[0] = s.dh * (z - s.h);  // the part of f's gradient that is known; the second phase completes it
            s.dx[1] = s.dh * f * tanh_slope(z);
            s.dh *= 1.0f - f;
        } else {
            s.operand = s.h * f;
            s.dx[0] = (s.dx[0] + s.product * s.h) * sigmoid_slope(f);
            s.dh += s.product * f;
        }
    }
};

// The operand is the new z, which is no more than the old one, its gate and its candidate.
struct Lem : CellOf<CellKind::lem> {
    INLINE static Vec new_z(Vec z, const Vec* saved) { return z + saved[0] * (saved[2] - z); }
    template <int PHASE>
    INLINE static void forward(Step& s) {
        if (PHASE == 0) {
            s.saved[0] = sigmoid(s.x[0] + s.product[0]);
            s.saved[1] = sigmoid(s.x[1] + s.product[1]);
            s.saved[2] = tanh(s.x[2] + s.product[2]);
            s.operand = new_z(s.rest[0], s.saved);
        } else {
            s.rest[0] = new_z(s.rest[0], s.saved);
            s.saved[3] = tanh(s.x[3] + s.product[3]);
            s.h += s.saved[1] * (s.saved[3] - s.h);
        }
    }
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        const Vec d1 = s.saved[0], d2 = s.saved[1], u = s.saved[2], v = s.saved[3], z = s.rest[0];
        if (PHASE == 0) {
            s.dx[1] = s.dh * (v - s.h) * sigmoid_slope(d2);
            s.dx[3] = s.dh * d2 * tanh_slope(v);
            s.dh *= 1.0f - d2;
        } else {
            s.operand = new_z(z, s.saved);
            const Vec dz = s.drest[0] + s.product;
            s.dx[0] = dz * (u - z) * sigmoid_slope(d1);
            s.dx[2] = dz * d1 * tanh_slope(u);
            s.drest[0] = dz * (1.0f - d1);
        }
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
