// What both directions of the quotient share: how a row is cut into tasks, and the factors of a step.
#pragma once

#include <cstring>

#include "common/exp.h"
#include "common/parallel.h"
#include "common/rows.h"
#include "quotient/quotient.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// A task takes whole groups of a row, of about this many values, through all steps: what the backward pass keeps of an
// interval must stay in the second-level cache.
constexpr int64_t WIDTH = 512, LEAST_WIDTH = 128, ENOUGH_TASKS = 8;

// Stands for a maximum of -inf: finite, for the difference of two infinities is not a number.
constexpr float NOTHING = -1e30f;
INLINE Vec finite_max(Vec x) { return at_least(splat(NOTHING), x); }
INLINE Vec infinite_max(Vec x) { return x == NOTHING ? splat(-__builtin_inff()) : x; }

// The larger of a and b; e^a and e^b relative to it.
INLINE Vec larger(Vec a, Vec b, Vec& of_a, Vec& of_b) {
    const Vec gap = a - b, less = exp_of_decay((Vec)((Bits)gap | 0x80000000u)), one = splat(1.0f);
    of_a = gap > 0 ? one : less;
    of_b = gap > 0 ? less : one;
    return gap > 0 ? a : b;
}

// Of every group what a step multiplies:  num <- kept num + written v,  y = old num + own v  of the num before.
struct Factors {
    float *kept, *written, *old, *own;

    Factors(int64_t groups, Arena& arena)
        : kept(arena.take(groups + LANES)), written(arena.take(groups + LANES)), old(arena.take(groups + LANES)),
          own(arena.take(groups + LANES)) {}
};

// The sums of a task's groups.
struct Sums {
    float *max, *den, *num;

    Sums(int64_t groups, int64_t count, Arena& arena)
        : max(arena.take(groups + LANES)), den(arena.take(groups + LANES)), num(arena.take(count + LANES)) {}
};

// How many groups a task takes, and how many tasks there are.
struct Split {
    int64_t groups, tasks_of_a_row;

    explicit Split(const QuotientSizes& s) {
        int64_t width = WIDTH;
        while (width > LEAST_WIDTH && s.B * divide_up(s.row(), width) < ENOUGH_TASKS) width /= 2;
        groups = s.R >= width ? 1 : width / (s.R > 0 ? s.R : 1);
        tasks_of_a_row = divide_up(s.G, groups);
    }
};

// One task: its groups, through all steps.
template <Dtype D>
struct Task {
    const QuotientSizes s;
    const QuotientInputs& in;
    const int64_t b, group, groups, count;  // `groups` groups from `group` on, with `count` values

    Task(const QuotientInputs& in, const Split& split, int64_t task)
        : s(in.sizes), in(in), b(task / split.tasks_of_a_row), group(task % split.tasks_of_a_row * split.groups),
          groups(s.G - group < split.groups ? s.G - group : split.groups), count(groups * s.R) {}

    bool resets(int64_t t) const { return in.reset != nullptr && in.reset[b * s.T + t]; }
    // Where the task begins in arrays with a number per score or per value, with all steps or with one state.
    int64_t score_at(int64_t t) const { return (b * s.T + t) * s.G + group; }
    int64_t value_at(int64_t t) const { return score_at(t) * s.R; }
    int64_t sum_at() const { return b * s.G + group; }
    int64_t num_at() const { return sum_at() * s.R; }
    // Whether write_or_stream() streams to an array of the axes of v: a large one of aligned float32 vectors.
    bool streams(const void* to) const {
        const bool aligned = reinterpret_cast<uintptr_t>(to) % 64 == 0 && s.R % 16 == 0;
        return D == Dtype::float32 && aligned && s.B * s.T * s.row() >= LARGE;
    }
    void copy(float* to, const float* from, int64_t numbers) const {
        if (numbers > 0) std::memcpy(to, from, numbers * sizeof(float));  // an array of no numbers may be a null pointer
    }
    void clear(float* to, int64_t numbers) const { std::memset(to, 0, numbers * sizeof(float)); }

    void start(const Sums& sums) const {
        for (int64_t g = 0; g < groups; g += LANES)
            store(sums.max + g, finite_max(floats(in.max + sum_at(), g, groups - g)));
        copy(sums.den, in.den + sum_at(), groups);
        copy(sums.num, in.num + num_at(), count);
    }
    void empty(const Sums& sums) const {
        for (int64_t g = 0; g < groups; g += LANES) store(sums.max + g, splat(NOTHING));
        clear(sums.den, groups);
        clear(sums.num, count);
    }
    // What is saved before an interval: max [G], den [G] and num [G, R].
    void save(const Sums& sums, float* to, int64_t interval) const {
        to += (b * s.intervals() + interval) * s.state() + group;
        copy(to, sums.max, groups), copy(to + s.G, sums.den, groups);
        copy(to + 2 * s.G + group * (s.R - 1), sums.num, count);
    }
    void restore(const Sums& sums, const float* from, int64_t interval) const {
        from += (b * s.intervals() + interval) * s.state() + group;
        copy(sums.max, from, groups), copy(sums.den, from + s.G, groups);
        copy(sums.num, from + 2 * s.G + group * (s.R - 1), count);
    }

    // The factors of step t, and the max and den after it, from those before it.
    void weigh(int64_t t, const Sums& before, float* max, float* den, const Factors& f) const {
        const Input score{in.score.data, D};
        const int64_t at = score_at(t), ahead = AHEAD * s.G;
        const float* decay = in.decay == nullptr ? nullptr : in.decay + (in.is_constant ? group : at);
        const float* bonus = in.bonus == nullptr ? nullptr : in.bonus + group;
        for_vectors(groups, [&](int64_t g, auto n) INLINE_LAMBDA {
            const Vec x = read_lanes(score, at + g, n), m = load(before.max + g), sum = load(before.den + g);
            const Vec decayed = decay == nullptr ? m : finite_max(m + floats(decay, g, n));
            Vec kept, written;
            store(max + g, larger(decayed, x, kept, written));
            Vec whole = kept * sum + written;
            store(den + g, whole), store(f.kept + g, kept), store(f.written + g, written);
            if (bonus != nullptr) {
                larger(m, x + floats(bonus, g, n), kept, written);
                whole = kept * sum + written;
            }
            const Vec inverse = 1.0f / (whole == 0 ? splat(1.0f) : whole);
            store(f.old + g, kept * inverse), store(f.own + g, written * inverse);
            prefetch(score.data, D, at + ahead + g);
            if (decay != nullptr && !in.is_constant) prefetch(decay, Dtype::float32, ahead + g);
        });
    }
};

// Calls work(group, first value, count, number -> vector of it) for all vectors of values, with numbers of the groups: a
// vector of groups where each has one value, else one group.
template <class Work>
INLINE void for_values(int64_t groups, int64_t R, const Work& work) {
    if (R == 1)
        for_vectors(groups, [&](int64_t g, auto n) INLINE_LAMBDA {
            work(g, g, n, [g](const float* of) INLINE_LAMBDA { return load(of + g); });
        });
    else
        for (int64_t g = 0; g < groups; ++g)
            for_vectors(R, [&](int64_t i, auto n) INLINE_LAMBDA {
                work(g, g * R + i, n, [g](const float* of) INLINE_LAMBDA { return splat(of[g]); });
            });
}

// Runs the tasks of a direction for the dtype of the call.
template <template <Dtype> class Direction, class In, class... More>
void run(const In& in, const More&... more) {
    const Split split(in.sizes);
    const int64_t tasks = in.sizes.B * split.tasks_of_a_row;
    const auto make_of = [&](auto half) {
        constexpr Dtype D = decltype(half)::value ? Dtype::bfloat16 : Dtype::float32;
        run_tasks(tasks, in.threads,
                  [&](int64_t task, Arena& arena) { return Direction<D>(in, split, task, arena, more...); });
    };
    if (in.score.dtype == Dtype::float32) make_of(std::false_type());
    else make_of(std::true_type());
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
