#include "common/exp.h"
#include "conv/filter.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <Dtype D>
void forward_block(const ConvForward& in, const Filter<D>& filter, int64_t b, int64_t begin, int64_t end) {
    const bool silu = in.silu;
    for_channels(in.C, [&](int64_t c, auto count) INLINE_LAMBDA {
        for (int64_t t = begin; t < end; ++t) {
            const Vec u = filter.sum(b, t, c, count);
            write_lanes({in.y.data, D}, (b * in.T + t) * in.C + c, count, silu ? u * sigmoid(u) : u);
        }
    });
}

// The final state: the last K - 1 inputs, zero where a reset hides them.
template <Dtype D>
void write_last(const ConvForward& in, const Filter<D>& filter, int64_t b) {
    for (int64_t i = 0; i < in.K - 1; ++i) {
        const int64_t t = in.T - in.K + 1 + i;
        const bool in_last_state = filter.in_last_state(b, t);
        for_channels(in.C, [&](int64_t c, auto count) INLINE_LAMBDA {
            const Vec x = in_last_state ? filter.input(b, t, c, count) : Vec{};
            write_lanes({in.last, Dtype::float32}, (b * (in.K - 1) + i) * in.C + c, count, x);
        });
    }
}

template <Dtype D>
void forward(const ConvForward& in) {
    const Filter<D> filter(in);
    parallel_for(in.B * divide_up(in.T, TASK_STEPS), in.threads, [&](int64_t task, int) {
        for_blocks(in, task, [&](int64_t b, int64_t begin, int64_t end) {
            forward_block(in, filter, b, begin, end);
            if (end == in.T) write_last(in, filter, b);
        });
    });
}

}  // namespace

void conv_forward(const ConvForward& in) {
    in.x.dtype == Dtype::float32 ? forward<Dtype::float32>(in) : forward<Dtype::bfloat16>(in);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
