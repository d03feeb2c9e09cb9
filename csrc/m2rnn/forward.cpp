#include "common/sums.h"
#include "m2rnn/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Two blocks for the state: a step multiplies all of `h` by w, so it cannot overwrite it, and writes to `other`.
struct ForwardScratch {
    Steps steps;
    float *w, *h, *other, *y;  // [V][width], [rows][width] twice, [width]
    ForwardScratch(Arena& arena, const RowSplit& c)
        : steps(arena, c),
          w(arena.take(c.sizes.V * c.width)),
          h(arena.take(c.block())),
          other(arena.take(c.block())),
          y(arena.take(c.width)) {}
};

// One task, forwards through time. y is [B, T, H, slices, V]: each slice of rows writes its part of the sum qᵀ h.
void scan(const M2rnnForward& in, const RowSplit& split, Output y, int64_t task, Arena arena) {
    const M2rnnSizes& s = in.sizes;
    const Slice slice(split, task);
    const int64_t head = slice.b * s.H + slice.n, state_begin = (head * s.K + slice.first) * s.V;
    ForwardScratch scratch(arena, split);
    scratch.steps.clear(split);
    pad(in.w + slice.n / (s.H / s.Hw) * s.V * s.V, s.V, split, scratch.w);
    std::memset(scratch.h, 0, split.block() * sizeof(float));
    pad(in.state + state_begin, slice.count, split, scratch.h);

    for (int64_t begin = 0; begin < s.T; begin += M2RNN_INTERVAL) {
        const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
        scratch.steps.read_from(in, split, slice, begin, end);
        if (in.saved != nullptr) {
            const int64_t interval = head * s.intervals() + begin / M2RNN_INTERVAL;
            unpad(scratch.h, slice.count, split, in.saved + (interval * s.K + slice.first) * s.V);
        }
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin, step = slice.b * s.T + t;
            if (in.reset != nullptr && in.reset[step]) std::memset(scratch.h, 0, split.block() * sizeof(float));
            take_step<true>(
                {scratch.w, scratch.steps.q + i * split.rows, scratch.steps.k + i * split.rows,
                 scratch.steps.v + i * split.width, scratch.h, scratch.steps.f[i], scratch.other, nullptr, scratch.y},
                split);
            write(y, ((step * s.H + slice.n) * split.slices + slice.s) * s.V, s.V, scratch.y);
            float* after = scratch.other;
            scratch.other = scratch.h;
            scratch.h = after;
        }
    }
    unpad(scratch.h, slice.count, split, in.last + state_begin);
}

}  // namespace

void m2rnn_forward(const M2rnnForward& in) {
    const M2rnnSizes& s = in.sizes;
    const RowSplit split(s);
    const bool parts = split.slices > 1;  // y is then a sum over slices
    Buffer partial(parts ? s.B * s.T * s.H * split.slices * s.V : 0);
    const Output y = parts ? Output{partial.data(), Dtype::float32} : in.y;
    Arena sizing{nullptr};
    ForwardScratch{sizing, split};
    Buffer scratch(sizing.used * in.threads);
    parallel_for(split.tasks(), in.threads, [&](int64_t task, int thread) {
        scan(in, split, y, task, Arena{scratch.data() + thread * sizing.used});
    });
    if (parts) sum_groups(partial.data(), in.y, s.B * s.T * s.H, split.slices, s.V, in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
