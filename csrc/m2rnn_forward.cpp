#include "m2rnn_block.h"
#include "sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct ForwardScratch {
    Steps steps;
    float *w, *h, *other, *sums, *y;
    ForwardScratch(Pieces& pieces, const Cut& c)
        : steps(pieces, c),
          w(pieces.take(c.sizes.V * c.columns)),
          h(pieces.take(c.columns * c.rows)),
          other(pieces.take(c.columns * c.rows)),
          sums(pieces.take(c.width * LANES)),
          y(pieces.take(c.width)) {}
};

// h [columns][rows] to the kept state number `interval` [V][K] of the slice's head.
void keep(const M2rnnForward& in, const Cut& cut, const Slice& slice, int64_t interval, const float* h) {
    const M2rnnSizes& s = in.sizes;
    float* to = in.kept + ((slice.b * s.H + slice.n) * s.intervals() + interval) * s.V * s.K + slice.first;
    for (int64_t i = 0; i < s.V; ++i)
        for (int64_t r = 0; r < slice.count; ++r) to[i * s.K + r] = h[i * cut.rows + r];
}

// One task. y is [B, T, H, slices, V].
void scan(const M2rnnForward& in, const Cut& cut, Output y, int64_t task, Pieces pieces) {
    const M2rnnSizes& s = in.sizes;
    const Slice slice(cut, task);
    const int64_t state_begin = (slice.b * s.H + slice.n) * s.K * s.V;
    ForwardScratch my(pieces, cut);
    my.steps.clear(cut);
    std::memset(my.sums, 0, cut.width * LANES * sizeof(float));
    pad_weights(in.w + slice.n / (s.H / s.Hw) * s.V * s.V, cut, my.w);
    state_to_block(in.state + state_begin, cut, slice, my.h);

    for (int64_t begin = 0; begin < s.T; begin += M2RNN_INTERVAL) {
        const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
        my.steps.read_from(in, cut, slice, begin, end);
        if (in.kept != nullptr) keep(in, cut, slice, begin / M2RNN_INTERVAL, my.h);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin, step = slice.b * s.T + t;
            if (in.reset != nullptr && in.reset[step]) std::memset(my.h, 0, cut.columns * cut.rows * sizeof(float));
            take_step<true>({my.w, my.steps.q + i * cut.rows, my.steps.k + i * cut.rows,
                             my.steps.v + i * cut.columns, my.h, my.steps.f[i], my.other, nullptr, my.sums},
                            cut);
            for (int64_t j = 0; j < cut.width; j += LANES) store(my.y + j, lane_sums(my.sums + j * LANES));
            write(y, ((step * s.H + slice.n) * cut.slices + slice.s) * s.V, s.V, my.y);
            float* after = my.other;
            my.other = my.h;
            my.h = after;
        }
    }
    block_to_state(my.h, cut, slice, in.last + state_begin);
}

}  // namespace

void m2rnn_forward(const M2rnnForward& in) {
    const M2rnnSizes& s = in.sizes;
    const Cut cut(s);
    const bool parts = cut.slices > 1;
    Buffer partial(parts ? s.B * s.T * s.H * cut.slices * s.V : 0);
    const Output y = parts ? Output{partial.data(), Dtype::float32} : in.y;
    Pieces counted{nullptr};
    ForwardScratch{counted, cut};
    Buffer scratch(counted.used * in.threads);
    parallel_for(cut.tasks(), in.threads, [&](int64_t task, int thread) {
        scan(in, cut, y, task, Pieces{scratch.data() + thread * counted.used});
    });
    if (parts) sum_groups(partial.data(), in.y, s.B * s.T * s.H, cut.slices, s.V, in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
