#include "common/sums.h"
#include "quotient/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Where tasks add up the gradients that are constant over time: a row [G] for every row of the batch, or null.
struct Constants {
    float *ddecay, *dbonus;
};

// One task backwards in time: A is the gradient of num after step t, C that of den.
template <Dtype D>
struct BackwardTask : Task<D> {
    const QuotientBackward& f;
    const Constants to;
    Arena& arena;
    const int64_t most, values;  // groups and values of the largest task
    float *const A, *const C, *const reads, *const inputs, *const states, *const writes;  // per-group sums, see step()
    float *const ddecay, *const dbonus;                                                   // summed over time
    float *const memory;

    BackwardTask(const QuotientBackward& in, const Split& split, int64_t task, Arena& arena, const Constants& to)
        : Task<D>(in, split, task), f(in), to(to), arena(arena), most(split.groups), values(most * in.sizes.R),
          A(arena.take(values + LANES)), C(row()), reads(row()), inputs(row()), states(row()), writes(row()),
          ddecay(row()), dbonus(row()), memory(arena.take(QUOTIENT_INTERVAL * of_a_step())) {}

    void run() {
        this->copy(A, f.dlast_num + this->num_at(), this->count);
        this->copy(C, f.dlast_den + this->sum_at(), this->groups);
        this->clear(ddecay, this->groups);
        this->clear(dbonus, this->groups);
        for (int64_t i = this->s.intervals() - 1; i >= 0; --i) {
            const int64_t begin = i * QUOTIENT_INTERVAL;
            const int64_t end = begin + QUOTIENT_INTERVAL < this->s.T ? begin + QUOTIENT_INTERVAL : this->s.T;
            recompute(i, begin, end);
            for (int64_t t = end - 1; t >= begin; --t) step(t);
        }
        if (to.ddecay != nullptr) this->copy(to.ddecay + this->sum_at(), ddecay, this->groups);
        if (to.dbonus != nullptr) this->copy(to.dbonus + this->sum_at(), dbonus, this->groups);
        this->copy(f.dden + this->sum_at(), C, this->groups);
        this->copy(f.dnum + this->num_at(), A, this->count);
        fence_nontemporal();
    }

  private:
    float* row() const { return arena.take(most + LANES); }
    int64_t of_a_step() const {
        Arena sizing{nullptr};
        Sums(most, values, sizing), Factors(most, sizing);
        return sizing.used;
    }
    // The sums before step t, empty where it is a reset, and its factors.
    std::pair<Sums, Factors> kept_of(int64_t t) const {
        Arena of_step{memory + t % QUOTIENT_INTERVAL * of_a_step()};
        const Sums sums(most, values, of_step);
        return {sums, Factors(most, of_step)};
    }

    void recompute(int64_t interval, int64_t begin, int64_t end) const {
        this->restore(kept_of(begin).first, f.saved, interval);
        for (int64_t t = begin; t < end; ++t) {
            const auto [before, by] = kept_of(t);
            if (this->resets(t)) this->empty(before);
            if (t + 1 == end) return this->weigh(t, before, reads, inputs, by);  // what comes after is not needed
            const Sums after = kept_of(t + 1).first;
            this->weigh(t, before, after.max, after.den, by);
            advance(before.num, after.num, by, this->value_at(t));
        }
    }

    void advance(const float* num, float* next, Factors by, int64_t at) const {
        const Input v{f.v.data, D};
        for_values(this->groups, this->s.R, [&](int64_t, int64_t i, auto n, auto factor) INLINE_LAMBDA {
            put(next, i, n, factor(by.kept) * floats(num, i, n) + factor(by.written) * read_lanes(v, at + i, n));
        });
    }

    void step(int64_t t) const {
        const auto [before, by] = kept_of(t);
        if (this->s.R != 1)
            for (float* sum : {reads, inputs, states, writes}) this->clear(sum, this->groups);
        differentiate_values(before.num, by, this->value_at(t));
        differentiate_scores(t, before, by);
        if (this->resets(t)) this->clear(A, this->count), this->clear(C, this->groups);
    }

    // dv and A before the step; of every group the sums over its values of num dy, v dy, num A and v A.
    INLINE void differentiate_values(const float* num, Factors by, int64_t at) const {
        float *const a = A, *const of_reads = reads, *const of_inputs = inputs, *const of_states = states;
        float* const of_writes = writes;
        const Input v{f.v.data, D}, dy{f.dy.data, D};
        void* const dv = f.dv.data;
        const int64_t ahead = -AHEAD * this->s.row(), R = this->s.R;
        const bool streams = this->streams(dv);
        const auto one = [&](int64_t i, auto n, auto factor, const auto& add) INLINE_LAMBDA {
            const Vec x = read_lanes(v, at + i, n), gradient = read_lanes(dy, at + i, n);
            const Vec state = floats(num, i, n), now = floats(a, i, n);
            const Vec of_x = factor(by.own) * gradient + factor(by.written) * now;
            write_or_stream<D>(dv, at + i, n, of_x, streams, ahead);
            put(a, i, n, factor(by.old) * gradient + factor(by.kept) * now);
            add(state * gradient, x * gradient, state * now, x * now);
            prefetch(dy.data, D, at + ahead + i);
        };
        if (R == 1) {
            for_values(this->groups, 1, [&](int64_t g, int64_t i, auto n, auto factor) INLINE_LAMBDA {
                one(i, n, factor, [&](Vec p, Vec q, Vec u, Vec w) INLINE_LAMBDA {
                    store(of_reads + g, p), store(of_inputs + g, q), store(of_states + g, u), store(of_writes + g, w);
                });
            });
            return;
        }
        for (int64_t g = 0; g < this->groups; ++g) {
            Vec reads{}, inputs{}, states{}, writes{};
            const auto factor = [g](const float* of) INLINE_LAMBDA { return splat(of[g]); };
            for_vectors(R, [&](int64_t i, auto n) INLINE_LAMBDA {
                one(g * R + i, n, factor, [&](Vec p, Vec q, Vec u, Vec w) INLINE_LAMBDA {
                    reads += p, inputs += q, states += u, writes += w;
                });
            });
            of_reads[g] = lane_sum(reads), of_inputs[g] = lane_sum(inputs);
            of_states[g] = lane_sum(states), of_writes[g] = lane_sum(writes);
        }
    }

    // The gradients of scores, decays and bonus, and C before the step.
    INLINE void differentiate_scores(int64_t t, const Sums& before, Factors by) const {
        const int64_t at = this->score_at(t);
        const bool reads_after = f.bonus == nullptr;
        float* const of_decay = f.ddecay == nullptr || f.is_constant ? nullptr : f.ddecay + at;
        float *const c = C, *const all_decay = ddecay, *const all_bonus = dbonus;
        for_vectors(this->groups, [&](int64_t g, auto n) INLINE_LAMBDA {
            const Vec kept = load(by.kept + g), written = load(by.written + g), old = load(by.old + g);
            const Vec own = load(by.own + g), den = load(before.den + g), gradient = load(c + g);
            const Vec read = load(reads + g), input = load(inputs + g);
            const Vec whole = old * read + own * input;  // the sum over the group of y dy
            const Vec of_own = own * old * (den * input - read);  // own + old den = 1: no difference of near numbers
            write_lanes({f.dscore.data, D}, at + g, n, of_own + written * (load(writes + g) + gradient));
            Vec decay = kept * (load(states + g) + den * gradient);
            if (reads_after) decay -= of_own;
            if (of_decay != nullptr) put(of_decay, g, n, decay);
            store(all_decay + g, load(all_decay + g) + decay);
            store(all_bonus + g, load(all_bonus + g) + of_own);
            store(c + g, kept * gradient - old * whole);
        });
    }
};

}  // namespace

void quotient_backward(const QuotientBackward& in) {
    const QuotientSizes& s = in.sizes;
    const bool sums_decay = in.ddecay != nullptr && in.is_constant;
    const PartialSums decay({in.ddecay, Dtype::float32}, 1, s.B, sums_decay ? s.G : 0);
    const PartialSums bonus({in.dbonus, Dtype::float32}, 1, s.B, in.dbonus != nullptr ? s.G : 0);
    const auto row = [](const PartialSums& sums, bool is_given) {
        return is_given ? static_cast<float*>(sums.sink().data) : nullptr;
    };
    run<BackwardTask>(in, Constants{row(decay, sums_decay), row(bonus, in.dbonus != nullptr)});
    if (sums_decay) decay.reduce(in.threads);
    if (in.dbonus != nullptr) bonus.reduce(in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
