// Exponentials of a vector, and the logistic function, to 3e-7 relative.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits

// e^x as (Vec)sum * 2^n, with n the integer nearest to x / ln 2 (its bits as `integer`): the first terms of the series.
INLINE Vec reduced_exp(Vec x, Bits& integer) {
    constexpr float LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.428606765330187e-6f;
    constexpr float SERIES[] = {1.0f, 1.0f, 1.0f / 2, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040};
    const Vec shifted = x * 1.44269504f + TO_INTEGER, n = shifted - TO_INTEGER;
    const Vec r = (x - n * LN2_HIGH) - n * LN2_LOW;
    Vec sum = splat(SERIES[7]);
    UNROLL for (int i = 6; i >= 0; --i) sum = sum * r + SERIES[i];
    integer = (Bits)shifted;
    return sum;
}

// For |x| <= 87.
INLINE Vec exp(Vec x) {
    Bits n;
    const Vec sum = reduced_exp(x, n);
    return (Vec)((Bits)sum + (n << 23));
}

// For every x: infinity and zero where float32 ends, NaN where x is.
INLINE Vec exp_everywhere(Vec x) {
    Bits n;
    const Vec sum = reduced_exp(at_least(splat(-105.0f), at_most(splat(89.0f), x)), n);
    n -= (Bits)splat(TO_INTEGER);
    const Bits half = (n + 1024) / 2 - 512, one = (Bits)splat(1.0f);  // 2^n in two factors: itself it may be no float32
    return sum * (Vec)(one + (half << 23)) * (Vec)(one + ((n - half) << 23));
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(clamp(-x, splat(87.0f)))); }

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
