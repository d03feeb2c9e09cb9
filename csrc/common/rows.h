// The rows of arrays that a task walks through step by step: in vectors, prefetched, and written past the caches.
#pragma once

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Calls work(first number, count) for all vectors of `count` numbers; `count` is a compile-time constant except in the
// last.
template <class Work>
INLINE void for_vectors(int64_t count, const Work& work) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) work(i, std::integral_constant<int64_t, LANES>());
    if (i < count) work(i, count - i);
}

INLINE Vec floats(const float* from, int64_t i, int64_t count) { return read_lanes({from, Dtype::float32}, i, count); }
INLINE void put(float* to, int64_t i, int64_t count, Vec x) { write_lanes({to, Dtype::float32}, i, count, x); }

// Asks for what is needed AHEAD steps later: a row of the array is longer than what the processor prefetches by itself.
constexpr int64_t AHEAD = 2;
template <int WRITE = 0>
INLINE void prefetch(const void* data, Dtype dtype, int64_t at) {
    __builtin_prefetch(static_cast<const char*>(data) + at * (dtype == Dtype::float32 ? 4 : 2), WRITE);
}

// An output array from this many numbers on is written past the caches: it would displace what is read, and would be
// gone before it is read again.
constexpr int64_t LARGE = 2 << 20;

// Writes a vector of an output, past the caches where `streams`, or asks for its line in advance for a later step.
template <Dtype D, class Count>
INLINE void write_or_stream(void* to, int64_t at, Count count, Vec x, bool streams, int64_t ahead) {
    if (streams && count == LANES) return store_nontemporal(static_cast<float*>(to) + at, x);
    write_lanes({to, D}, at, count, x);
    prefetch<1>(to, D, at + ahead);
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
