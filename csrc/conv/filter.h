// What the two directions of the convolution share: its filter, and the loops over channels and blocks of steps.
#pragma once

#include "common/parallel.h"
#include "common/simd.h"
#include "conv/conv.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// A task is TASK_STEPS steps of one row of the batch, with all channels, so that memory is read in order. BLOCK_STEPS
// of them are done for one vector of channels before the next vector: as many streams as the hardware prefetches.
constexpr int64_t TASK_STEPS = 128, BLOCK_STEPS = 16;
constexpr int64_t COMMON_TAPS = 4;  // has an unrolled loop

// What both directions prepare once: taps transposed to [lag, channel], so that vectors hold channels, and how many
// lags of each step are visible, that is, do not reach back beyond a reset. D is the dtype of x, a template argument to
// keep the branch on it out of the loops.
template <Dtype D>
class Filter {
  public:
    explicit Filter(const ConvInputs& in)
        : in_(in), taps_(in.K * in.C), lags_(in.B * in.T) {
        for (int64_t c = 0; c < in.C; ++c)
            for (int64_t lag = 0; lag < in.K; ++lag)
                taps_.data()[lag * in.C + c] = in.weight[c * in.K + in.K - 1 - lag];
        int32_t* lags = reinterpret_cast<int32_t*>(lags_.data());
        for (int64_t b = 0; b < in.B; ++b) {
            int32_t visible = static_cast<int32_t>(in.K);  // the state holds the inputs before the first step
            for (int64_t step = b * in.T; step < (b + 1) * in.T; ++step) {
                if (in.reset != nullptr && in.reset[step]) visible = 1;
                lags[step] = visible;
                if (visible < in.K) ++visible;
            }
        }
    }

    // The number of inputs that step t of row b sees, its own included.
    int64_t visible_lags(int64_t b, int64_t t) const {
        return reinterpret_cast<const int32_t*>(lags_.data())[b * in_.T + t];
    }

    // Whether the final state holds the input of step t, one of the last K - 1 (negative: of the initial state), or
    // zeros because a reset came after it.
    bool in_last_state(int64_t b, int64_t t) const { return in_.T - 1 - t < visible_lags(b, in_.T - 1); }

    INLINE Vec tap(int64_t lag, int64_t c, int64_t count) const {
        return read_lanes({taps_.data(), Dtype::float32}, lag * in_.C + c, count);
    }

    // The input of step t; negative steps are in the initial state.
    INLINE Vec input(int64_t b, int64_t t, int64_t c, int64_t count) const {
        if (t >= 0) return read_lanes({in_.x.data, D}, (b * in_.T + t) * in_.C + c, count);
        return read_lanes({in_.state, Dtype::float32}, (b * (in_.K - 1) + in_.K - 1 + t) * in_.C + c, count);
    }

    // u of step t, before the activation.
    INLINE Vec sum(int64_t b, int64_t t, int64_t c, int64_t count) const {
        Vec u = in_.bias == nullptr ? Vec{} : read_lanes({in_.bias, Dtype::float32}, c, count);
        const int64_t visible = visible_lags(b, t);
        if (visible == COMMON_TAPS && t >= COMMON_TAPS) {
            UNROLL for (int64_t lag = 0; lag < COMMON_TAPS; ++lag)
                u += tap(lag, c, count) * input(b, t - lag, c, count);
        } else {
            for (int64_t lag = 0; lag < visible; ++lag) u += tap(lag, c, count) * input(b, t - lag, c, count);
        }
        return u;
    }

  private:
    const ConvInputs& in_;
    Buffer taps_;  // [K][C], by lag
    Buffer lags_;  // [B, T] int32
};

// Calls work(first channel, count) for all vectors of channels; `count` is a compile-time constant except in the last.
template <class Work>
INLINE void for_channels(int64_t C, const Work& work) {
    int64_t c = 0;
    for (; c + LANES <= C; c += LANES) work(c, std::integral_constant<int64_t, LANES>());
    if (c < C) work(c, C - c);
}

// Calls work(row of the batch, begin, end) for all blocks of steps of a task.
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
