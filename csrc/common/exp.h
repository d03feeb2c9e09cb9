// Exponentials of a vector and the logistic function, to a relative error of 3e-7.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits

// e^x = 2^n e^r with n the integer nearest to x / ln 2, in the low bits of `integer`, and |r| <= ln 2 / 2. Returns e^r
// by the first eight terms of its series. ln 2 is subtracted in two parts (Cody and Waite): n LN2_HIGH is exact, so
// that r does not lose the digits that cancel.
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

// For |x| <= 87, where 2^n is a normal float32: n is added to the exponent field of e^r.
INLINE Vec exp(Vec x) {
    Bits n;
    const Vec sum = reduced_exp(x, n);
    return (Vec)((Bits)sum + (n << 23));
}

// For every x: infinity above and zero below the range of float32, NaN where x is.
INLINE Vec exp_full_range(Vec x) {
    Bits n;
    const Vec sum = reduced_exp(at_least(splat(-105.0f), at_most(splat(89.0f), x)), n);
    n -= (Bits)splat(TO_INTEGER);
    // 2^n as two factors, as it may itself be out of range; + 1024 as the unsigned n must be positive to be halved
    const Bits half = (n + 1024) / 2 - 512, one = (Bits)splat(1.0f);
    return sum * (Vec)(one + (half << 23)) * (Vec)(one + ((n - half) << 23));
}

// For x <= 88: that of a decay given by its logarithm. Zero below the range of float32, NaN where x is.
INLINE Vec exp_of_decay(Vec x) {
#if defined(__AVX512F__)
    const Vec bounded = at_least(splat(-105.0f), x);
    Bits integer;
    Vec sum = reduced_exp(bounded, integer);
    const Vec n = (Vec)integer - TO_INTEGER;
    asm("vscalefps %1, %0, %0" : "+v"(sum) : "v"(n));  // sum 2^n, also where 2^n is out of range
    return sum;
#else
    return exp_full_range(x);
#endif
}

// The argument is clamped to the range of exp(): sigmoid(x) is constant, 1.6e-38, below -87.
INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(clamp(-x, splat(87.0f)))); }

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
