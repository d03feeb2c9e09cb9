#include "common/sums.h"
#include "scan/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task backwards in time. g is the gradient of h, d what an element contributes to the gradient of its decay.
template <Dtype D, int Z>
struct BackwardTask : Task<D, Z> {
    static constexpr bool RECOMPUTES = D != Dtype::float32;  // h is rounded: it is computed again from the saved states

    const ScanBackward& f;
    const int64_t parts;
    float *const sums, *g, *d, *states;  // `states`: h before every step of an interval, zeros where it is reset

    BackwardTask(const ScanBackward& in, const Split& split, int64_t task, Arena& arena, float* sums)
        : Task<D, Z>(in, split, task, arena), f(in), parts(split.parts), sums(sums), g(arena.take(WIDTH + LANES)),
          d(arena.take(WIDTH + LANES)),
          states(RECOMPUTES ? arena.take(SCAN_INTERVAL * (WIDTH + LANES)) : arena.take(WIDTH + LANES)) {}

    void run() {
        this->decays.start();
        this->copy(g, f.dlast + this->state_at());
        this->clear(d);
        for (int64_t i = this->s.intervals() - 1; i >= 0; --i) {
            const int64_t begin = i * SCAN_INTERVAL;
            const int64_t end = begin + SCAN_INTERVAL < this->s.T ? begin + SCAN_INTERVAL : this->s.T;
            if (RECOMPUTES) recompute(i, begin, end);
            for (int64_t t = end - 1; t >= begin; --t) step(t);
        }
        if (f.is_constant) write_decay_gradient(d, this->place.b);
        this->copy(f.dstate + this->state_at(), g);
        fence_nontemporal();
    }

  private:
    float* state_of(int64_t t) const { return states + t % SCAN_INTERVAL * (WIDTH + LANES); }

    void recompute(int64_t interval, int64_t begin, int64_t end) {
        this->copy(state_of(begin), f.saved + this->interval_at(interval));
        for (int64_t t = begin; t < end; ++t) {
            float* h = state_of(t);
            if (this->resets(t)) this->clear(h);
            if (t + 1 == end) break;
            const float* a = this->decays.at(t);
            float* const next = state_of(t + 1);
            const Input x{f.x.data, D};
            const int64_t at = this->step_at(t);
            const bool leaves_exp = this->decays.leaves_exp;
            for_vectors(this->place.count, [&](int64_t i, auto n) INLINE_LAMBDA {
                const Vec decay = leaves_exp ? exp_of_decay(floats(a, i, n)) : floats(a, i, n);
                put(next, i, n, times<Z, false>(decay, load(h + i)) + read_lanes(x, at + i, n));
            });
        }
    }

    // h before step t; zeros where it is reset.
    const float* before(int64_t t) const {
        if (RECOMPUTES) return state_of(t);
        if (this->resets(t)) {
            this->clear(states);
            return states;
        }
        return t == 0 ? f.state + this->state_at() : f.h + this->step_at(t - 1);
    }

    void step(int64_t t) {
        const float *a = this->decays.at(t), *h = before(t);
        if (f.is_constant) accumulate<true>(a, h, this->step_at(t), d);
        else if (this->place.run > 1) {
            accumulate<false>(a, h, this->step_at(t), d);
            write_decay_gradient(d, this->place.b * this->s.T + t);
        } else accumulate<false>(a, h, this->step_at(t), decay_gradient(this->place.b * this->s.T + t));
        if (this->resets(t)) this->clear(g);
    }

    template <bool ADD>
    void accumulate(const float* a, const float* h, int64_t at, float* d) {
        if (this->decays.leaves_exp) propagate<ADD, true, true>(a, h, at, d);
        else if (f.is_log) propagate<ADD, true, false>(a, h, at, d);
        else propagate<ADD, false, false>(a, h, at, d);
    }

    // The gradient of h takes in dh, is that of x, and is passed to the step before. d is written or added to.
    template <bool ADD, bool LOG, bool EXP>
    INLINE void propagate(const float* a, const float* h, int64_t at, float* d) {
        float* const gradient = g;
        const Input dh{f.dh.data, D};
        void* const dx = f.dx.data;
        const int64_t ahead = -AHEAD * this->s.row();
        const bool in_place = this->decays.in_place, streams = this->streams(dx, D);
        const bool streams_decay = this->streams(f.ddecay, Dtype::float32);
        for_vectors(this->place.count, [&](int64_t i, auto n) INLINE_LAMBDA {
            const Vec whole = load(gradient + i) + read_lanes(dh, at + i, n);
            const Vec decay = EXP ? exp_of_decay(floats(a, i, n)) : floats(a, i, n);
            const Vec passed = times<Z, true>(decay, whole);
            write_or_stream<D>(dx, at + i, n, whole, streams, ahead);
            store(gradient + i, passed);
            const Vec of_decay = times<Z, true>(floats(h, i, n), LOG ? passed : whole);
            if (!in_place) put(d, i, n, ADD ? floats(d, i, n) + of_decay : of_decay);
            else write_or_stream<Dtype::float32>(d, i, n, of_decay, streams_decay, ahead);
            prefetch(dh.data, D, at + ahead + i);
            if (!RECOMPUTES) prefetch(h, Dtype::float32, ahead + i);
            if (in_place) prefetch(a, Dtype::float32, ahead + i);
        });
    }

    // Where the task's contribution to the gradients of the decays begins: those of step `row` of all B T, or, of
    // constant ones, that of row `row` of the batch.
    float* decay_gradient(int64_t row) const {
        return sums + ((row * parts + this->place.part) * this->s.G + this->place.group) * Z;
    }

    // Writes the sums of d over the elements of each group.
    void write_decay_gradient(const float* d, int64_t row) const {
        const int64_t size = this->place.run * Z;
        float* to = decay_gradient(row);
        for (int64_t n = 0; n < this->place.groups; ++n, d += size, to += Z) {
            Vec sum{};
            int64_t i = 0;
            for (; i + LANES <= size; i += LANES) sum += load(d + i);
            if (i > 0) sum = folded<Z, LANES / 2>(sum, std::make_index_sequence<LANES>());
            float total[Z];
            for (int z = 0; z < Z; ++z) total[z] = sum[z];
            for (; i < size; ++i) total[i % Z] += d[i];
            for (int z = 0; z < Z; ++z) to[z] = total[z];
        }
    }
};

}  // namespace

void scan_backward(const ScanBackward& in) {
    const ScanSizes& s = in.sizes;
    const Split split(s);
    // one contribution per part of a group, and to constant decays one per row of the batch
    const PartialSums sums({in.ddecay, Dtype::float32}, in.is_constant ? 1 : s.B * s.T,
                           split.parts * (in.is_constant ? s.B : 1), s.G * s.Z);
    run<BackwardTask>(in, static_cast<float*>(sums.sink().data));
    sums.reduce(in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
