// The sLSTM: exponential input gates, and a normaliser and a running maximum beside c.
#pragma once

#include "cells/step.h"
#include "common/log1p.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct Slstm : CellOf<CellKind::slstm> {
    // Saved: the factors of the new term and of the old sums, o, z, and σ(-f), the derivative of log σ(f).
    template <int PHASE>
    INLINE static void forward(Step& s) {
        Vec &c = s.rest[0], &n = s.rest[1], &m = s.rest[2];
        const Vec i = s.x[0] + s.product[0], f = s.x[1] + s.product[1], one = splat(1.0f);
        const Vec below = exp(at_least(splat(-87.0f), (Vec)((Bits)f | SIGN)));  // e^-|f|
        s.saved[4] = (f > 0 ? below : one) / (1.0f + below);
        const Vec kept = n == 0 ? i : (f < 0 ? f : Vec{}) - log1p(below) + m;  // m of an empty state is not its own
        const Vec gap = i - kept, less = exp_of_decay((Vec)((Bits)gap | SIGN));
        const Vec write = s.saved[0] = gap < 0 ? less : one, keep = s.saved[1] = gap < 0 ? one : less;
        const Vec o = s.saved[2] = sigmoid(s.x[2] + s.product[2]), z = s.saved[3] = tanh(s.x[3] + s.product[3]);
        m = at_least(i, kept);
        c = keep * c + write * z;
        n = keep * n + write;
        s.h = o * c / n;
    }
    // h does not depend on m. `of_m`, the gradient of m where c e^m and n e^m are held fixed, is therefore zero but for
    // what comes from the gradients of the last state. It goes to the larger of i and kept.
    template <int PHASE>
    INLINE static void backward(StepBack& s) {
        Vec &dc = s.drest[0], &dn = s.drest[1], &dm = s.drest[2];
        const Vec write = s.saved[0], keep = s.saved[1], o = s.saved[2], z = s.saved[3], c = s.rest[0], n = s.rest[1];
        const Vec new_c = keep * c + write * z, new_n = keep * n + write;
        const Vec of_m = dm - (dc * new_c + dn * new_n);
        const Vec ratio = new_c / new_n, of_c = s.dh * o / new_n;
        dc += of_c;
        dn -= of_c * ratio;
        s.dx[2] = s.dh * ratio * sigmoid_slope(o);
        s.dx[3] = dc * write * tanh_slope(z);
        const Vec keeps = write < 1.0f ? of_m : Vec{};
        const Vec of_i = write * (dc * z + dn) + (of_m - keeps), of_kept = keep * (dc * c + dn * n) + keeps;
        s.dx[0] = n == 0 ? of_i + of_kept : of_i;  // an empty state is kept at i
        dm = n == 0 ? Vec{} : of_kept;
        s.dx[1] = dm * s.saved[4];
        dc *= keep;
        dn *= keep;
        s.dh = Vec{};
    }

  private:
    static constexpr uint32_t SIGN = 0x80000000u;
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
