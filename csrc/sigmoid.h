// The logistic function of a vector, to 3e-7 relative.
#pragma once

#include "vec.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// e^x for |x| <= 87: 2^n e^r with n the integer nearest to x / ln 2 and e^r the first terms of its series.
INLINE Vec exp(Vec x) {
    constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    constexpr float LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.428606765330187e-6f;
    constexpr float SERIES[] = {1.0f, 1.0f, 1.0f / 2, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040};
    const Vec shifted = x * 1.44269504f + TO_INTEGER, n = shifted - TO_INTEGER;
    const Vec r = (x - n * LN2_HIGH) - n * LN2_LOW;
    Vec sum = splat(SERIES[7]);
    UNROLL for (int i = 6; i >= 0; --i) sum = sum * r + SERIES[i];
    return (Vec)((Bits)sum + ((Bits)shifted << 23));
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(clamp(-x, splat(87.0f)))); }

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
