#include "scan/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <Dtype D, int Z>
struct ForwardTask : Task<D, Z> {
    const ScanForward& f;
    float* h;

    ForwardTask(const ScanForward& in, const Split& split, int64_t task, Arena& arena)
        : Task<D, Z>(in, split, task, arena), f(in), h(arena.take(WIDTH + LANES)) {}

    void run() {
        this->decays.start();
        this->copy(h, f.state + this->state_at());
        for (int64_t t = 0; t < this->s.T; ++t) {
            if (f.saved != nullptr && t % SCAN_INTERVAL == 0)
                this->copy(f.saved + this->interval_at(t / SCAN_INTERVAL), h);
            if (this->resets(t)) this->clear(h);
            if (this->decays.leaves_exp) step<true>(this->decays.at(t), this->step_at(t));
            else step<false>(this->decays.at(t), this->step_at(t));
        }
        this->copy(f.last + this->state_at(), h);
        fence_nontemporal();
    }

    // Pointers are copied to locals: vectors may alias anything, so members would be loaded again after every store.
    template <bool EXP>
    INLINE void step(const float* a, int64_t at) {
        float* const state = h;
        const Input x{f.x.data, D};
        void* const out = f.h.data;
        const int64_t ahead = AHEAD * this->s.row();
        const bool in_place = this->decays.in_place, streams = this->streams(out, D);
        for_vectors(this->place.count, [&](int64_t i, auto n) INLINE_LAMBDA {
            const Vec decay = EXP ? exp_of_decay(floats(a, i, n)) : floats(a, i, n);
            const Vec next = times<Z, false>(decay, load(state + i)) + read_lanes(x, at + i, n);
            store(state + i, next);
            prefetch(x.data, D, at + ahead + i);
            if (in_place) prefetch(a, Dtype::float32, ahead + i);
            write_or_stream<D>(out, at + i, n, next, streams, ahead);
        });
    }
};

}  // namespace

void scan_forward(const ScanForward& in) { run<ForwardTask>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
