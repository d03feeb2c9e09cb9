// What both directions of the scan share: how a row is cut into tasks, the decays of a task's elements, and products.
#pragma once

#include <cstring>

#include "common/exp.h"
#include "common/parallel.h"
#include "common/rows.h"
#include "scan/scan.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Most and least numbers of a task's part of a row: it takes that part through all steps. The wider, the longer memory
// is read in order; a few rows of it must stay in the first-level cache. Narrower where there would be too few tasks.
constexpr int64_t WIDTH = 1024, LEAST_WIDTH = 256, ENOUGH_TASKS = 8;

// How rows are cut: into whole groups, `groups` of them, where these fit into the width; else each group into `parts`
// of `run` elements.
struct Split {
    int64_t groups, run, parts, tasks_of_a_row;

    explicit Split(const ScanSizes& s) {
        int64_t width = WIDTH;
        while (width > LEAST_WIDTH && s.B * divide_up(s.row(), width) < ENOUGH_TASKS) width /= 2;
        width /= s.Z;
        const int64_t R = s.R > 0 ? s.R : 1;
        groups = R <= width ? width / R : 1;
        run = R <= width ? R : round_up(divide_up(R, divide_up(R, width)), 16);
        parts = divide_up(s.R, run);
        tasks_of_a_row = divide_up(s.G, groups) * parts;  // none where R = 0
    }
};

// The sizes of one task, and its place in the arrays.
struct Place {
    int64_t b, part, group, groups, run;  // `groups` groups from `group` on, `run` elements of each
    int64_t begin, count;                 // its numbers in a row

    Place(const ScanSizes& s, const Split& split, int64_t task) {
        b = task / split.tasks_of_a_row, part = task % split.parts;
        group = task % split.tasks_of_a_row / split.parts * split.groups;
        groups = s.G - group < split.groups ? s.G - group : split.groups;
        const int64_t first = part * split.run;
        run = s.R - first < split.run ? s.R - first : split.run;
        begin = (group * s.R + first) * s.Z, count = groups * run * s.Z;
    }
};

// Of complex numbers in pairs of lanes: the real or imaginary part in both lanes; the parts swapped.
template <size_t... LANE>
INLINE Vec real_parts(Vec x, std::index_sequence<LANE...>) {
    return __builtin_shufflevector(x, x, int(LANE & ~1)...);
}
template <size_t... LANE>
INLINE Vec imaginary_parts(Vec x, std::index_sequence<LANE...>) {
    return __builtin_shufflevector(x, x, int(LANE | 1)...);
}
template <size_t... LANE>
INLINE Vec swapped(Vec x, std::index_sequence<LANE...>) {
    return __builtin_shufflevector(x, x, int(LANE ^ 1)...);
}
// The sign bit in every even lane, or in every odd one.
template <size_t... LANE>
INLINE Bits signs(bool even, std::index_sequence<LANE...>) {
    return Bits{(LANE % 2 == (even ? 0 : 1) ? 0x80000000u : 0u)...};
}

// Each of the first Z lanes becomes the sum of the lanes that are it modulo Z.
template <int Z, int HALF, size_t... LANE>
INLINE Vec folded(Vec x, std::index_sequence<LANE...> lanes) {
    if constexpr (HALF < Z) return x;
    else return folded<Z, HALF / 2>(x + __builtin_shufflevector(x, x, int(LANE ^ HALF)...), lanes);
}

// a b, or conj(a) b, of LANES real numbers (Z = 1), or of complex ones in pairs of lanes (Z = 2).
template <int Z, bool CONJUGATE>
INLINE Vec times(Vec a, Vec b) {
    if constexpr (Z == 1) return a * b;
    const std::make_index_sequence<LANES> lanes;
    const Vec imaginary = (Vec)((Bits)imaginary_parts(a, lanes) ^ signs(!CONJUGATE, lanes));
    return real_parts(a, lanes) * b + imaginary * swapped(b, lanes);
}

// The decays of a task, one for each of its numbers, in rows of `count`. Rows are those of the input where they can be;
// their exponential is then left to the loop that reads them, and so is asking for them in advance.
template <int Z>
class Decays {
  public:
    const bool in_place, leaves_exp;

    Decays(const ScanInputs& in, const Place& place, Arena& arena)
        : in_place(!in.is_constant && place.run == 1), leaves_exp(in_place && in.is_log), in_(in), place_(place),
          few_(arena.take(WIDTH + LANES)), row_(arena.take(WIDTH + LANES)) {}

    // Before the first step of a task.
    void start() {
        if (in_.is_constant) prepare(in_.decay + place_.group * Z);
    }

    INLINE const float* at(int64_t t) {
        if (in_.is_constant) return row_;
        const float* decay = in_.decay + ((place_.b * in_.sizes.T + t) * in_.sizes.G + place_.group) * Z;
        if (in_place) return decay;
        prepare(decay);
        return row_;
    }

  private:
    // The row of the given decays, one per group: exponentiated, and repeated for the elements of the group.
    void prepare(const float* decay) {
        const int64_t count = place_.groups * Z;
        float* to = place_.run == 1 ? row_ : few_;
        for (int64_t i = 0; i < count; ++i) to[i] = decay[i];
        if (in_.is_log)
            for (int64_t i = 0; i < count; i += LANES) store(to + i, exp_of_decay(load(to + i)));
        if (place_.run > 1) repeat();
    }

    // Whole vectors: what goes beyond a run is overwritten by the next one.
    void repeat() {
        float* to = row_;
        for (int64_t g = 0; g < place_.groups; ++g, to += place_.run * Z) {
            Vec a = splat(few_[g * Z]);
            if (Z == 2) UNROLL for (int i = 1; i < LANES; i += 2) a[i] = few_[g * Z + 1];
            for (int64_t i = 0; i < place_.run * Z; i += LANES) store(to + i, a);
        }
    }

    const ScanInputs& in_;
    const Place& place_;
    float *few_, *row_;
};

// One task: its part of a row, through all steps.
template <Dtype D, int Z>
struct Task {
    const ScanSizes s;
    const Place place;
    const uint8_t* reset;
    Decays<Z> decays;
    Input x;

    Task(const ScanInputs& in, const Split& split, int64_t task, Arena& arena)
        : s(in.sizes), place(in.sizes, split, task), reset(in.reset), decays(in, place, arena), x{in.x.data, D} {}

    bool resets(int64_t t) const { return reset != nullptr && reset[place.b * s.T + t]; }
    // Where the task's numbers begin in arrays with all steps, with every interval's first state, and with one state.
    int64_t step_at(int64_t t) const { return (place.b * s.T + t) * s.row() + place.begin; }
    int64_t interval_at(int64_t i) const { return (place.b * s.intervals() + i) * s.row() + place.begin; }
    int64_t state_at() const { return place.b * s.row() + place.begin; }
    // Whether write_or_stream() streams to an array of the axes of x: a large one of aligned float32 vectors.
    bool streams(const void* to, Dtype dtype) const {
        const bool aligned = reinterpret_cast<uintptr_t>(to) % 64 == 0 && s.row() % 16 == 0 && place.begin % 16 == 0;
        return dtype == Dtype::float32 && aligned && s.numbers() >= LARGE;
    }
    void copy(float* to, const float* from) const { std::memcpy(to, from, place.count * sizeof(float)); }
    void clear(float* row) const { std::memset(row, 0, place.count * sizeof(float)); }
};

template <class T>
struct Named {
    using type = T;
};

// Runs the tasks of a direction for the dtype and the size of elements of the call.
template <template <Dtype, int> class Direction, class In, class... More>
void run(const In& in, const More&... more) {
    const Split split(in.sizes);
    const int64_t tasks = in.sizes.row() == 0 ? 0 : in.sizes.B * split.tasks_of_a_row;
    const auto run_as = [&](auto named) {
        using Direct = typename decltype(named)::type;
        run_tasks(tasks, in.threads,
                  [&](int64_t task, Arena& arena) { return Direct(in, split, task, arena, more...); });
    };
    if (in.sizes.Z == 2) run_as(Named<Direction<Dtype::float32, 2>>());
    else if (in.x.dtype == Dtype::float32) run_as(Named<Direction<Dtype::float32, 1>>());
    else run_as(Named<Direction<Dtype::bfloat16, 1>>());
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
