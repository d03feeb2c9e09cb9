// The logarithm of 1 + x for 0 <= x <= 1, to a relative error of 3e-7.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// log(1 + x) = 2 artanh(s) with s = x / (2 + x) <= 1/3: the first seven terms of its series.
INLINE Vec log1p(Vec x) {
    const Vec s = x / (2.0f + x), square = s * s;
    Vec sum = splat(1.0f / 13);
    UNROLL for (int n = 11; n >= 1; n -= 2) sum = sum * square + 1.0f / n;
    return 2.0f * s * sum;
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
