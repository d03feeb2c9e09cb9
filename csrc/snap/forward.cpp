#include "snap/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task forwards: advance, correct every `every` real steps, write h.
struct ForwardTask : Task {
    const SnapForward& f;
    float* scales;

    ForwardTask(const SnapForward& in, int64_t task, const float* codes, Arena& arena)
        : Task(in, task, codes, arena), f(in), scales(arena.take(heads)) {}

    void run() const {
        const int64_t T = f.sizes.T;
        read_group(f.state + state_at(), h);
        int32_t phase = f.phase[b];
        for (int64_t t = 0; t < T; ++t) {
            if (resets(t)) identity(h), phase = 0;
            if (!padded(t)) {
                advance(t, h, scales);
                if (++phase >= f.every) {
                    phase = 0;
                    retrieve(h);
                    for (int64_t n = 0; n < heads; ++n) {
                        float* m = h + n * block;
                        const float scale = scale_of(m);
                        for (int64_t i = 0; i < block; i += LANES) store(m + i, load(m + i) * scale);
                    }
                } else std::memcpy(h, a, whole * sizeof(float));
            }
            write_group(h, f.h + step_at(t));
        }
        write_group(h, f.last + state_at());
        if (g == 0) f.after[b] = phase;
    }
};

}  // namespace

void snap_forward(const SnapForward& in) { run<ForwardTask>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
