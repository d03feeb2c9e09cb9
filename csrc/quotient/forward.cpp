#include "quotient/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <Dtype D>
struct ForwardTask : Task<D> {
    const QuotientForward& f;
    const Sums sums;
    const Factors factors;

    ForwardTask(const QuotientForward& in, const Split& split, int64_t task, Arena& arena)
        : Task<D>(in, split, task), f(in), sums(split.groups, split.groups * in.sizes.R, arena),
          factors(split.groups, arena) {}

    void run() {
        this->start(sums);
        for (int64_t t = 0; t < this->s.T; ++t) {
            if (f.saved != nullptr && t % QUOTIENT_INTERVAL == 0) this->save(sums, f.saved, t / QUOTIENT_INTERVAL);
            if (this->resets(t)) this->empty(sums);
            this->weigh(t, sums, sums.max, sums.den, factors);
            step(this->value_at(t));
        }
        for_vectors(this->groups, [&](int64_t g, auto n) INLINE_LAMBDA {
            put(f.last_max + this->sum_at(), g, n, infinite_max(load(sums.max + g)));
        });
        this->copy(f.last_den + this->sum_at(), sums.den, this->groups);
        this->copy(f.last_num + this->num_at(), sums.num, this->count);
        fence_nontemporal();
    }

    INLINE void step(int64_t at) const {
        float* const num = sums.num;
        const Factors by = factors;
        const Input v{f.v.data, D};
        void* const y = f.y.data;
        const int64_t ahead = AHEAD * this->s.row();
        const bool streams = this->streams(y);
        for_values(this->groups, this->s.R, [&](int64_t, int64_t i, auto n, auto factor) INLINE_LAMBDA {
            const Vec x = read_lanes(v, at + i, n), before = floats(num, i, n);
            put(num, i, n, factor(by.kept) * before + factor(by.written) * x);
            prefetch(v.data, D, at + ahead + i);
            write_or_stream<D>(y, at + i, n, factor(by.old) * before + factor(by.own) * x, streams, ahead);
        });
    }
};

}  // namespace

void quotient_forward(const QuotientForward& in) { run<ForwardTask>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
