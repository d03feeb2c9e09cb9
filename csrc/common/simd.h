// Vectors (SIMD) of the instruction set being compiled. Included by kernels only: all of it is in the namespace of the
// instruction set, so that no function compiled for a newer processor can be linked in place of an older one's.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/memory.h"

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

INLINE Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
INLINE void store(float* to, Vec x) { *reinterpret_cast<Unaligned*>(to) = x; }
// A non-temporal store: writes past the caches, for outputs that are too large for them. `to` must be aligned, and
// fence_nontemporal() must come before another thread reads. In assembly, here and below, because including
// <immintrin.h> takes as long as compiling a small kernel.
INLINE void store_nontemporal(float* to, Vec x) {
#if defined(__AVX__)
    asm("vmovntps %1, %0" : "=m"(*reinterpret_cast<Unaligned*>(to)) : "v"(x));
#elif defined(__SSE__)
    asm("movntps %1, %0" : "=m"(*reinterpret_cast<Unaligned*>(to)) : "x"(x));
#else
    store(to, x);
#endif
}
INLINE void fence_nontemporal() {
#ifdef __SSE__
    asm volatile("sfence" ::: "memory");
#endif
}
INLINE Vec splat(float x) { return x - Vec{}; }  // x - 0 is x for every x, so only the broadcast is compiled

// The smaller of bound and x; NaN where x is. GCC compiles the portable form to two instructions instead of one.
INLINE Vec at_most(Vec bound, Vec x) {
#if defined(__AVX__)
    asm("vminps %2, %1, %0" : "=v"(x) : "v"(bound), "v"(x));
    return x;
#elif defined(__SSE__)
    asm("minps %1, %0" : "+x"(bound) : "x"(x));
    return bound;
#else
    return bound < x ? bound : x;
#endif
}

// The larger of bound and x; NaN where x is.
INLINE Vec at_least(Vec bound, Vec x) {
#if defined(__AVX__)
    asm("vmaxps %2, %1, %0" : "=v"(x) : "v"(bound), "v"(x));
    return x;
#elif defined(__SSE__)
    asm("maxps %1, %0" : "+x"(bound) : "x"(x));
    return bound;
#else
    return bound > x ? bound : x;
#endif
}

INLINE Vec clamp(Vec x, Vec bound) { return at_least(-bound, at_most(bound, x)); }

// One step of the horizontal sums of LANES vectors at once. Lanes whose index has bit HALF clear get a[lane] +
// a[lane ^ HALF], the others the same of b. Applied to vectors i and i + LANES / 2 with HALF = LANES / 2, and so on
// down to HALF = 1, it leaves one vector whose lane i is the sum of vector i: LANES - 1 steps for LANES sums.
template <int HALF, size_t... LANE>
INLINE Vec add_pair(Vec a, Vec b, std::index_sequence<LANE...>) {
    Vec own = __builtin_shufflevector(a, b, int((LANE & HALF) ? LANES + LANE : LANE)...);
    Vec other = __builtin_shufflevector(a, b, int((LANE & HALF) ? LANES + (LANE ^ HALF) : (LANE ^ HALF))...);
    return own + other;
}

// The horizontal sum, from the first lane on.
INLINE float lane_sum(Vec x) {
    float sum = x[0];
    UNROLL for (int i = 1; i < LANES; ++i) sum += x[i];
    return sum;
}

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// bfloat16 is the upper half of a float32. Rounds to nearest, ties to even; a NaN stays one (0x7fc0).
INLINE Vec widen(Halves x) { return (Vec)(__builtin_convertvector(x, Bits) << 16); }
INLINE Halves narrow(Vec x) {
    const Bits bits = (Bits)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : Bits{} + 0x7fc0, Halves);
}

// The `count` <= LANES elements of an array from index `at`, as float32; further lanes are zero.
INLINE Vec read_lanes(Input array, int64_t at, int64_t count) {
    if (array.dtype == Dtype::float32) {
        const float* from = static_cast<const float*>(array.data) + at;
        if (count >= LANES) return load(from);
        Vec x{};
        std::memcpy(&x, from, count * sizeof(float));
        return x;
    }
    Halves x{};
    const uint16_t* from = static_cast<const uint16_t*>(array.data) + at;
    if (count >= LANES) std::memcpy(&x, from, sizeof x);
    else std::memcpy(&x, from, count * sizeof(uint16_t));
    return widen(x);
}

// Writes the first `count` <= LANES lanes to an array from index `at`, rounded to its dtype.
INLINE void write_lanes(Output array, int64_t at, int64_t count, Vec x) {
    if (array.dtype == Dtype::float32) {
        float* to = static_cast<float*>(array.data) + at;
        if (count >= LANES) store(to, x);
        else std::memcpy(to, &x, count * sizeof(float));
        return;
    }
    const Halves halves = narrow(x);
    uint16_t* to = static_cast<uint16_t*>(array.data) + at;
    if (count >= LANES) std::memcpy(to, &halves, sizeof halves);
    else std::memcpy(to, &halves, count * sizeof(uint16_t));
}

// The same for any `count`. Dtypes are template arguments to keep the branch on them out of the loop.
template <Dtype FROM, Dtype TO>
INLINE void convert(const void* from, int64_t begin, void* to, int64_t at, int64_t count) {
    const Input source{from, FROM};
    const Output target{to, TO};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) write_lanes(target, at + i, LANES, read_lanes(source, begin + i, LANES));
    if (i < count) write_lanes(target, at + i, count - i, read_lanes(source, begin + i, count - i));
}
INLINE void read(Input array, int64_t at, int64_t count, float* to) {
    if (array.dtype == Dtype::float32) convert<Dtype::float32, Dtype::float32>(array.data, at, to, 0, count);
    else convert<Dtype::bfloat16, Dtype::float32>(array.data, at, to, 0, count);
}
INLINE void write(Output array, int64_t at, int64_t count, const float* from) {
    if (array.dtype == Dtype::float32) convert<Dtype::float32, Dtype::float32>(from, 0, array.data, at, count);
    else convert<Dtype::float32, Dtype::bfloat16>(from, 0, array.data, at, count);
}

// The same with non-temporal stores where the target is whole cache lines, for outputs that this kernel does not read
// again. `from` must be aligned.
INLINE void write_nontemporal(Output array, int64_t at, int64_t count, const float* from) {
    float* to = static_cast<float*>(array.data) + at;
    if (array.dtype != Dtype::float32 || reinterpret_cast<uintptr_t>(to) % 64 != 0 || count * sizeof(float) % 64 != 0)
        return write(array, at, count, from);
    for (int64_t i = 0; i < count; i += LANES) store_nontemporal(to + i, load(from + i));
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
