#include "conv.h"

#include "parallel.h"
#include "sigmoid.h"
#include "sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t TASK_STEPS = 128;  // of one row of the batch; a task has all channels, so memory is read in order
constexpr int64_t BLOCK_STEPS = 16;  // done for one vector of channels before the next: what the prefetcher can follow

// What both directions prepare once. Lags reach back from a step; those that cross a reset do not count.
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

    Vec tap(int64_t lag, int64_t c, int64_t count) const {
        return read_lanes({taps_.data(), Dtype::float32}, lag * in_.C + c, count);
    }

    // The input of step t, which is in the state where t is negative.
    INLINE Vec input(int64_t b, int64_t t, int64_t c, int64_t count) const {
        if (t >= 0) return read_lanes(in_.x, (b * in_.T + t) * in_.C + c, count);
        return read_lanes({in_.state, Dtype::float32}, (b * (in_.K - 1) + in_.K - 1 + t) * in_.C + c, count);
    }

    // u of step t, before the activation.
    INLINE Vec sum(int64_t b, int64_t t, int64_t c, int64_t count) const {
        Vec u = in_.bias == nullptr ? Vec{} : read_lanes({in_.bias, Dtype::float32}, c, count);
        const int64_t lags_here = lags(b, t);
        for (int64_t lag = 0; lag < lags_here; ++lag) u += tap(lag, c, count) * input(b, t - lag, c, count);
        return u;
    }

  private:
    const ConvInputs& in_;
    Buffer taps_;  // [K][C], by lag
    Buffer lags_;  // [B, T] int32
};

// Calls work(first channel, how many) for every vector of channels.
template <class Work>
INLINE void for_channels(int64_t C, const Work& work) {
    for (int64_t c = 0; c < C; c += LANES) work(c, C - c < LANES ? C - c : LANES);
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

void forward_block(const ConvForward& in, const Filter& filter, int64_t b, int64_t begin, int64_t end) {
    for_channels(in.C, [&](int64_t c, int64_t count) {
        for (int64_t t = begin; t < end; ++t) {
            const Vec u = filter.sum(b, t, c, count);
            write_lanes(in.y, (b * in.T + t) * in.C + c, count, in.silu ? u * sigmoid(u) : u);
        }
    });
}

void write_last(const ConvForward& in, const Filter& filter, int64_t b) {
    for (int64_t i = 0; i < in.K - 1; ++i) {
        const int64_t t = in.T - in.K + 1 + i;
        const bool remembered = filter.remembered(b, t);
        for_channels(in.C, [&](int64_t c, int64_t count) {
            const Vec x = remembered ? filter.input(b, t, c, count) : Vec{};
            write_lanes({in.last, Dtype::float32}, (b * (in.K - 1) + i) * in.C + c, count, x);
        });
    }
}

// The gradient of u at step t.
INLINE Vec gradient_of_sum(const ConvBackward& in, const Filter& filter, int64_t b, int64_t t, int64_t c,
                           int64_t count) {
    const Vec dy = read_lanes(in.dy, (b * in.T + t) * in.C + c, count);
    if (!in.silu) return dy;
    const Vec u = filter.sum(b, t, c, count), s = sigmoid(u);
    return dy * s * (1.0f + u * (1.0f - s));
}

// The gradient of the input of step t, given du of the steps from `begin` on.
INLINE Vec gradient_of_input(const ConvBackward& in, const Filter& filter, int64_t b, int64_t t, int64_t begin,
                             const float* du, int64_t c, int64_t count) {
    Vec dx{};
    for (int64_t lag = t < 0 ? -t : 0; lag < in.K && t + lag < in.T; ++lag)
        if (lag < filter.lags(b, t + lag)) dx += filter.tap(lag, c, count) * load(du + (t + lag - begin) * LANES);
    const int64_t kept = t - (in.T - in.K + 1);
    if (kept >= 0 && filter.remembered(b, t))
        dx += read_lanes({in.dlast, Dtype::float32}, (b * (in.K - 1) + kept) * in.C + c, count);
    return dx;
}

// sums [K+1][C] += the gradients of the taps, by lag, and of the bias; du [BLOCK_STEPS + K-1] vectors is scratch.
void backward_block(const ConvBackward& in, const Filter& filter, int64_t b, int64_t begin, int64_t end, float* sums,
                    float* du) {
    const Output all_sums{sums, Dtype::float32}, dstate{in.dstate, Dtype::float32};
    const int64_t seen_until = end + in.K - 1 < in.T ? end + in.K - 1 : in.T;
    for_channels(in.C, [&](int64_t c, int64_t count) {
        for (int64_t t = begin; t < seen_until; ++t)
            store(du + (t - begin) * LANES, gradient_of_sum(in, filter, b, t, c, count));
        for (int64_t lag = 0; lag <= in.K; ++lag) {
            Vec sum = read_lanes({sums, Dtype::float32}, lag * in.C + c, count);
            for (int64_t t = begin; t < end; ++t) {
                const Vec here = load(du + (t - begin) * LANES);
                if (lag == in.K) sum += here;
                else if (lag < filter.lags(b, t)) sum += here * filter.input(b, t - lag, c, count);
            }
            write_lanes(all_sums, lag * in.C + c, count, sum);
        }
        for (int64_t t = begin; t < end; ++t)
            write_lanes(in.dx, (b * in.T + t) * in.C + c, count,
                        gradient_of_input(in, filter, b, t, begin, du, c, count));
        for (int64_t t = begin == 0 ? 1 - in.K : 0; t < 0; ++t)
            write_lanes(dstate, (b * (in.K - 1) + in.K - 1 + t) * in.C + c, count,
                        gradient_of_input(in, filter, b, t, begin, du, c, count));
    });
}

}  // namespace

void conv_forward(const ConvForward& in) {
    const Filter filter(in);
    parallel_for(in.B * divide_up(in.T, TASK_STEPS), in.threads, [&](int64_t task, int) {
        for_blocks(in, task, [&](int64_t b, int64_t begin, int64_t end) {
            forward_block(in, filter, b, begin, end);
            if (end == in.T) write_last(in, filter, b);
        });
    });
}

void conv_backward(const ConvBackward& in) {
    const Filter filter(in);
    const int64_t tasks = in.B * divide_up(in.T, TASK_STEPS), size = (in.K + 1) * in.C;
    Pieces counted{nullptr};
    counted.take((BLOCK_STEPS + in.K - 1) * LANES);
    Buffer scratch(counted.used * in.threads), parts(tasks * size), total(size);
    parallel_for(tasks, in.threads, [&](int64_t task, int thread) {
        float* sums = parts.data() + task * size;
        std::memset(sums, 0, size * sizeof(float));
        for_blocks(in, task, [&](int64_t b, int64_t begin, int64_t end) {
            backward_block(in, filter, b, begin, end, sums, scratch.data() + thread * counted.used);
        });
    });
    sum_groups(parts.data(), {total.data(), Dtype::float32}, 1, tasks, size, in.threads);
    for (int64_t c = 0; c < in.C; ++c) {
        for (int64_t lag = 0; lag < in.K; ++lag) in.dweight[c * in.K + in.K - 1 - lag] = total.data()[lag * in.C + c];
        if (in.dbias != nullptr) in.dbias[c] = total.data()[in.K * in.C + c];
    }
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
