#include "common/parallel.h"
#include "mru/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task, forwards through time, an interval of steps after another.
struct Forward : MruTask {
    const MruForward& forward;
    float* out;  // one matrix times W

    Forward(const MruForward& in, const MatrixSplit& split, int64_t task, Arena& arena)
        : MruTask(in, split, task, arena), forward(in), out(arena.take(read_block_size)) {}

    void run() const {
        dispatch_order(P, [&](auto order) { run_of<decltype(order)::value>(); });
    }

    template <int ORDER>
    void run_of() const {
        prepare();
        for (int64_t n = 0; n < heads; ++n) {
            read_block({forward.state, Dtype::float32}, at(n) * s.D * s.D, s.D, s.D, m_at(0, n), P);
            exponent[n] = in.rescale ? forward.exponent[at(n)] : 0;
        }
        for (int64_t t = 0; t < s.T; t += MRU_INTERVAL) {
            const int64_t steps = steps_from(t);
            if (forward.saved != nullptr) save_state(t / MRU_INTERVAL);
            build<ORDER>(t, steps);
            advance<ORDER>(t, steps);
            read_out(t, steps);
            // the last state becomes the one before the next interval
            std::memcpy(m, m_at(steps, 0), heads * block * sizeof(float));
        }
        for (int64_t n = 0; n < heads; ++n) {
            write_block({forward.last, Dtype::float32}, at(n) * s.D * s.D, s.D, s.D, m_at(0, n), P);
            if (in.rescale) forward.last_exponent[at(n)] = exponent[n];
        }
    }

    // For the backward pass: the state before an interval.
    void save_state(int64_t interval) const {
        for (int64_t n = 0; n < heads; ++n) {
            const int64_t place = at(n) * s.intervals() + interval;
            write_block({forward.saved, Dtype::float32}, place * s.D * s.D, s.D, s.D, m_at(0, n), P);
            if (in.rescale) forward.saved_exponent[place] = exponent[n];
        }
    }

    void read_out(int64_t t, int64_t steps) const {
        const Output y = forward.y;
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < heads; ++n) {
                const float scale = read_outs[i * heads + n].scale;
                const int64_t place = at(t + i, n) * s.D * s.C;
                multiply({m_at(i + 1, n), P, down + n * read_block_size, nullptr, out, rows, s.D, PC});
                const bool direct = reads_in_place(y.dtype);
                scale_block<0>(out, scale, direct ? static_cast<float*>(y.data) + place : out, rows * PC);
                if (!direct) write_block(y, place, s.D, s.C, out, PC);
            }
    }
};

}  // namespace

void mru_forward(const MruForward& in) {
    const MruSizes& s = in.sizes;
    const MatrixSplit split({s.B, s.T, s.H, s.D, s.D}, in.threads, false);
    run_tasks(split.tasks(), in.threads, [&](int64_t task, Arena& arena) { return Forward(in, split, task, arena); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
