#include "common/exp.h"
#include "common/sums.h"
#include "conv/filter.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The gradient of u, the sum before the activation, at step t. With silu u is recomputed: K multiply-adds instead of
// another array as large as x.
template <Dtype D>
INLINE Vec gradient_of_sum(const ConvBackward& in, const Filter<D>& filter, int64_t b, int64_t t, int64_t c,
                           int64_t count) {
    const Vec dy = read_lanes({in.dy.data, D}, (b * in.T + t) * in.C + c, count);
    if (!in.silu) return dy;
    const Vec u = filter.sum(b, t, c, count), s = sigmoid(u);
    return dy * s * (1.0f + u * (1.0f - s));
}

// The gradient of the input of step t from du of the steps that see it; du starts at step `begin`.
template <Dtype D>
INLINE Vec gradient_of_input(const ConvBackward& in, const Filter<D>& filter, int64_t b, int64_t t, int64_t begin,
                             const float* du, int64_t c, int64_t count) {
    Vec dx{};
    for (int64_t lag = t < 0 ? -t : 0; lag < in.K && t + lag < in.T; ++lag)
        if (lag < filter.visible_lags(b, t + lag))
            dx += filter.tap(lag, c, count) * load(du + (t + lag - begin) * LANES);
    const int64_t place = t - (in.T - in.K + 1);  // in the final state
    if (place >= 0 && filter.in_last_state(b, t))
        dx += read_lanes({in.dlast, Dtype::float32}, (b * (in.K - 1) + place) * in.C + c, count);
    return dx;
}

// Steps [begin, end): writes dx, adds the gradients of the taps (by lag) and of the bias (last row) to sums [K+1][C].
// du, [BLOCK_STEPS + K-1] vectors of scratch memory, also has the K-1 steps after the block, which see its inputs.
template <Dtype D>
void backward_block(const ConvBackward& in, const Filter<D>& filter, int64_t b, int64_t begin, int64_t end,
                    float* sums, float* du) {
    const Output all_sums{sums, Dtype::float32}, dstate{in.dstate, Dtype::float32};
    const int64_t visible_end = end + in.K - 1 < in.T ? end + in.K - 1 : in.T;
    for_channels(in.C, [&](int64_t c, auto count) INLINE_LAMBDA {
        for (int64_t t = begin; t < visible_end; ++t)
            store(du + (t - begin) * LANES, gradient_of_sum(in, filter, b, t, c, count));
        for (int64_t lag = 0; lag <= in.K; ++lag) {
            Vec sum = read_lanes({sums, Dtype::float32}, lag * in.C + c, count);
            for (int64_t t = begin; t < end; ++t) {
                const Vec here = load(du + (t - begin) * LANES);
                if (lag == in.K) sum += here;
                else if (lag < filter.visible_lags(b, t)) sum += here * filter.input(b, t - lag, c, count);
            }
            write_lanes(all_sums, lag * in.C + c, count, sum);
        }
        for (int64_t t = begin; t < end; ++t)
            write_lanes({in.dx.data, D}, (b * in.T + t) * in.C + c, count,
                        gradient_of_input(in, filter, b, t, begin, du, c, count));
        // The first block of a row also gives the gradient of the initial state, the inputs of negative steps.
        for (int64_t t = begin == 0 ? 1 - in.K : 0; t < 0; ++t)
            write_lanes(dstate, (b * (in.K - 1) + in.K - 1 + t) * in.C + c, count,
                        gradient_of_input(in, filter, b, t, begin, du, c, count));
    });
}

template <Dtype D>
void backward(const ConvBackward& in) {
    const Filter<D> filter(in);
    const int64_t tasks = in.B * divide_up(in.T, TASK_STEPS), size = (in.K + 1) * in.C;
    Arena sizing{nullptr};
    sizing.take((BLOCK_STEPS + in.K - 1) * LANES);
    Buffer scratch(sizing.used * in.threads), parts(tasks * size), total(size);
    parallel_for(tasks, in.threads, [&](int64_t task, int thread) {
        float* sums = parts.data() + task * size;
        std::memset(sums, 0, size * sizeof(float));
        for_blocks(in, task, [&](int64_t b, int64_t begin, int64_t end) {
            backward_block(in, filter, b, begin, end, sums, scratch.data() + thread * sizing.used);
        });
    });
    sum_groups(parts.data(), {total.data(), Dtype::float32}, 1, tasks, size, in.threads);
    for (int64_t c = 0; c < in.C; ++c) {
        for (int64_t lag = 0; lag < in.K; ++lag) in.dweight[c * in.K + in.K - 1 - lag] = total.data()[lag * in.C + c];
        if (in.dbias != nullptr) in.dbias[c] = total.data()[in.K * in.C + c];
    }
}

}  // namespace

void conv_backward(const ConvBackward& in) {
    in.x.dtype == Dtype::float32 ? backward<Dtype::float32>(in) : backward<Dtype::bfloat16>(in);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
