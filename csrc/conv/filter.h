// What the two directions of the convolution share: its filter, and the loops over channels and blocks of steps.
#pragma once

#include "common/parallel.h"
#include "common/simd.h"
#include "conv/conv.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t TASK_STEPS = 128;  // of one row of the batch; a task has all channels, so memory is read in order
constexpr int64_t USUAL = 4;         // taps; a loop of its own for them
constexpr int64_t BLOCK_STEPS = 16;  // done for one vector of channels before the next: what the prefetcher can follow

// What both directions prepare once. Lags reach back from a step; those that cross a reset do not count. D is the dtype
// of x, a constant, so that the loops do not ask for it.
template <Dtype D>
class Filter {
  public:
    explicit Filter(const ConvInputs& in)
        : in_(in), taps_(in.K * in.C), lags_(in.B * in.T) {
        for (int64_t c = 0; c < in.C; ++c)
            for (int64_t lag = 0; lag < in.K; ++lag) taps_.data()[lag * in.C + c] = in.weight[c * in.K + in.K - 1 - lag];
        int32_t* lags = reinterpret_cast<int32_t*>(lags_.data());
        for (int64_t b = 0; b < in.B; ++b) {
            int32_t seen = static_cast<int32_t>(in.K);
            for (int64_t step = b * in.T; step < (b + 1) * in.T; ++step) {
                if (in.reset != nullptr && in.reset[step]) seen = 1;
                lags[step] = seen;
                if (seen < in.K) ++seen;
            }
        }
    }

    // How many lags, the present one included, step t of row b has.
    int64_t lags(int64_t b, int64_t t) const { return reinterpret_cast<const int32_t*>(lags_.data())[b * in_.T + t]; }

    // Whether the state after the last step still holds the input of step t >= T - K + 1, which may be negative.
    bool remembered(int64_t b, int64_t t) const { return in_.T - 1 - t < lags(b, in_.T - 1); }

    INLINE Vec tap(int64_t lag, int64_t c, int64_t count) const {
        return read_lanes({taps_.data(), Dtype::float32}, lag * in_.C + c, count);
    }

    // The input of step t, which is in the state where t is negative.
    INLINE Vec input(int64_t b, int64_t t, int64_t c, int64_t count) const {
        if (t >= 0) return read_lanes({in_.x.data, D}, (b * in_.T + t) * in_.C + c, count);
        return read_lanes({in_.state, Dtype::float32}, (b * (in_.K - 1) + in_.K - 1 + t) * in_.C + c, count);
    }

    // u of step t, before the activation.
    INLINE Vec sum(int64_t b, int64_t t, int64_t c, int64_t count) const {
        Vec u = in_.bias == nullptr ? Vec{} : read_lanes({in_.bias, Dtype::float32}, c, count);
        const int64_t lags_here = lags(b, t);
        if (lags_here == USUAL && t >= USUAL) {
            UNROLL for (int64_t lag = 0; lag < USUAL; ++lag) u += tap(lag, c, count) * input(b, t - lag, c, count);
        } else {
            for (int64_t lag = 0; lag < lags_here; ++lag) u += tap(lag, c, count) * input(b, t - lag, c, count);
        }
        return u;
    }

  private:
    const ConvInputs& in_;
    Buffer taps_;  // [K][C], by lag
    Buffer lags_;  // [B, T] int32
};

// Calls work(first channel, how many) for every vector of channels; the number is a constant but for the last.
template <class Work>
INLINE void for_channels(int64_t C, const Work& work) {
    int64_t c = 0;
    for (; c + LANES <= C; c += LANES) work(c, std::integral_constant<int64_t, LANES>());
    if (c < C) work(c, C - c);
}

// Steps [begin, end) of one task, block by block.
template <class Work>
INLINE void for_blocks(const ConvInputs& in, int64_t task, const Work& work) {
    const int64_t tasks_of_a_row = divide_up(in.T, TASK_STEPS), b = task / tasks_of_a_row;
    const int64_t first = task % tasks_of_a_row * TASK_STEPS;
    const int64_t last = first + TASK_STEPS < in.T ? first + TASK_STEPS : in.T;
    for (int64_t begin = first; begin < last; begin += BLOCK_STEPS)
        work(b, begin, begin + BLOCK_STEPS < last ? begin + BLOCK_STEPS : last);
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
