// The hyperbolic tangent of a vector, to a relative error of 4e-7: x P(x²) / Q(x²) with P and Q of degree 4, whose
// coefficients scripts/fit_tanh.py finds. One division, and no branches or exponentials.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int TANH_DEGREE = 4;
constexpr float TANH_LIMIT = 9.01f;  // 1 - tanh(9.01) is 3e-8, half of float32's spacing below 1
constexpr float TANH_P[] = {9.999999793e-01f, 1.338036066e-01f, 3.494798032e-03f, 2.059605848e-05f, 1.333654716e-08f};
constexpr float TANH_Q[] = {1.000000000e+00f, 4.671367608e-01f, 2.587397730e-02f, 3.284341886e-04f, 7.769160359e-07f};

INLINE Vec tanh(Vec x) {
    x = clamp(x, splat(TANH_LIMIT));
    Vec s = x * x, p = splat(TANH_P[TANH_DEGREE]), q = splat(TANH_Q[TANH_DEGREE]);
    UNROLL for (int i = TANH_DEGREE - 1; i >= 0; --i) {
        p = p * s + TANH_P[i];
        q = q * s + TANH_Q[i];
    }
    return x * p / q;
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
