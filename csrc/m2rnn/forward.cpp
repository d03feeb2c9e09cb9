#include "common/sums.h"
#include "m2rnn/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct ForwardScratch {
    Steps steps;
    float *w, *h, *other, *y;  // [V][width], [rows][width] twice, [width]
    ForwardScratch(Pieces& pieces, const Cut& c)
        : steps(pieces, c),
          w(pieces.take(c.sizes.V * c.width)),
          h(pieces.take(c.block())),
          other(pieces.take(c.block())),
          y(pieces.take(c.width)) {}
};

// One task. y is [B, T, H, slices, V].
void scan(const M2rnnForward& in, const Cut& cut, Output y, int64_t task, Pieces pieces) {
    const M2rnnSizes& s = in.sizes;
    const Slice slice(cut, task);
    const int64_t head = slice.b * s.H + slice.n, state_begin = (head * s.K + slice.first) * s.V;
    ForwardScratch my(pieces, cut);
    my.steps.clear(cut);
    pad(in.w + slice.n / (s.H / s.Hw) * s.V * s.V, s.V, cut, my.w);
    std::memset(my.h, 0, cut.block() * sizeof(float));
    pad(in.state + state_begin, slice.count, cut, my.h);

    for (int64_t begin = 0; begin < s.T; begin += M2RNN_INTERVAL) {
        const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
        my.steps.read_from(in, cut, slice, begin, end);
        if (in.kept != nullptr) {
            const int64_t interval = head * s.intervals() + begin / M2RNN_INTERVAL;
            unpad(my.h, slice.count, cut, in.kept + (interval * s.K + slice.first) * s.V);
        }
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin, step = slice.b * s.T + t;
            if (in.reset != nullptr && in.reset[step]) std::memset(my.h, 0, cut.block() * sizeof(float));
            take_step<true>({my.w, my.steps.q + i * cut.rows, my.steps.k + i * cut.rows, my.steps.v + i * cut.width,
                             my.h, my.steps.f[i], my.other, nullptr, my.y},
                            cut);
            write(y, ((step * s.H + slice.n) * cut.slices + slice.s) * s.V, s.V, my.y);
            float* after = my.other;
            my.other = my.h;
            my.h = after;
        }
    }
    unpad(my.h, slice.count, cut, in.last + state_begin);
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
