// Rescaling a block by a power of two. Only the exponent fields of its numbers change, so nothing is rounded.
#pragma once

#include "common/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// 2^k for -126 <= k <= 127, made from its bits.
INLINE float power_of_two(int k) {
    const uint32_t bits = static_cast<uint32_t>(k + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

template <int W>
using RowBits = std::conditional_t<W == 4, uint32_t __attribute__((vector_size(16))),
                                   std::conditional_t<W == 8, uint32_t __attribute__((vector_size(32))),
                                                      uint32_t __attribute__((vector_size(64)))>>;

template <class Half, class Whole, size_t... LANE>
INLINE Half half_of(Whole x, int which, std::index_sequence<LANE...>) {
    return which == 0 ? __builtin_shufflevector(x, x, int(LANE)...)
                      : __builtin_shufflevector(x, x, int(LANE + sizeof...(LANE))...);
}

template <int W>
INLINE uint32_t largest_lane(RowBits<W> x) {
    if constexpr (W == 4) {
        const uint32_t a = x[0] < x[1] ? x[1] : x[0], b = x[2] < x[3] ? x[3] : x[2];
        return a < b ? b : a;
    } else {
        constexpr auto lanes = std::make_index_sequence<W / 2>();
        const auto low = half_of<RowBits<W / 2>>(x, 0, lanes), high = half_of<RowBits<W / 2>>(x, 1, lanes);
        return largest_lane<W / 2>(low < high ? high : low);
    }
}

// The exponent k with the largest |entry| of a block in [2^(k-1), 2^k), within [-126, 126]; 0 if all entries are zero
// or one is not finite. The bits of non-negative floats, as integers, have the order of the floats; NaN comes last.
template <int P>
INLINE int largest_exponent(const float* block, int64_t floats) {
    constexpr int W = width<P>();
    RowBits<W> most{};
    for (int64_t i = 0; i < floats; i += W) {
        const RowBits<W> size = (RowBits<W>)load_row<W>(block + i) & 0x7fffffff;
        most = most < size ? size : most;
    }
    const uint32_t bits = largest_lane<W>(most);
    if (bits == 0 || bits >= 0x7f800000) return 0;
    const int exponent = static_cast<int>(bits >> 23) - 126;
    return exponent > 126 ? 126 : exponent;
}

// to = from * factor; they may be the same.
template <int P>
INLINE void scale_block(const float* from, float factor, float* to, int64_t floats) {
    constexpr int W = width<P>();
    for (int64_t i = 0; i < floats; i += W) store_row<W>(to + i, load_row<W>(from + i) * factor);
}

// Scales a block by a power of two so that its largest |entry| is in [1/2, 1); returns the exponent that was taken out.
template <int P>
INLINE int rescale(float* block, int64_t floats) {
    const int exponent = largest_exponent<P>(block, floats);
    if (exponent != 0) scale_block<P>(block, power_of_two(-exponent), block, floats);
    return exponent;
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
