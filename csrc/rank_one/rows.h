// What the two directions of these recurrences share: the split into tasks, the inputs of a row, and prefetching.
//
// The V columns of a state never mix, so a task may have any of them. Its state is [K][width] in scratch memory, which
// stays in the first-level cache; a vector holds LANES columns of a row.
#pragma once

#include "common/exp.h"
#include "common/simd.h"
#include "rank_one/rank_one.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// What the transition of a row does besides the decay.
enum class Kind {
    outer,   // nothing
    delta,   // write = -k: adds k (v - u)ᵀ with u = readᵀ S
    general  // adds write uᵀ
};

INLINE Kind kind_of(const RankOneInputs& in) {
    if (!in.reads()) return Kind::outer;
    return in.write.data == nullptr ? Kind::delta : Kind::general;
}

// The split of the work into tasks (b, head, slice of columns). It depends on the sizes alone, never on the threads, so
// that sums over columns have the same order for any number of threads.
struct ColumnSplit {
    static constexpr int64_t ENOUGH_TASKS = 8,
                             UNIT = 2 * LANES;  // heads are sliced by units until there are enough tasks
    RankOneSizes sizes;
    int64_t slices;  // of the columns of one head
    int64_t width;   // of a slice, whole vectors
    int64_t padded;  // K rounded up to whole vectors

    explicit ColumnSplit(const RankOneSizes& s) : sizes(s) {
        const int64_t heads = s.B * s.H > 0 ? s.B * s.H : 1, units = divide_up(s.V > 0 ? s.V : 1, UNIT);
        const int64_t wanted = divide_up(ENOUGH_TASKS, heads);
        const int64_t per_slice = divide_up(units, wanted < units ? wanted : units);
        slices = divide_up(units, per_slice);
        width = slices > 1 ? per_slice * UNIT : round_up(s.V > 0 ? s.V : 1, LANES);
        padded = round_up(s.K, LANES);
    }
    int64_t tasks() const { return sizes.B * sizes.H * slices; }
    int64_t block() const { return sizes.K * width; }
};

// One task: head n of batch row b, columns [first, first + count).
struct Columns {
    int64_t b, n, s, first, count;
    Columns(const ColumnSplit& split, int64_t task) {
        s = task % split.slices;
        n = task / split.slices % split.sizes.H;
        b = task / split.slices / split.sizes.H;
        first = s * split.width;
        const int64_t left = split.sizes.V - first;
        count = left < split.width ? left : split.width;
    }
};

// The indices of row j of a task in the arrays.
struct Place {
    int64_t row, step;  // in [B, T M, H] and [B, T, H]
    int64_t time;       // in [B, T]
    bool first, last;   // of the rows of its step
    Place(const RankOneSizes& s, const Columns& at, int64_t j) {
        const int64_t t = j / s.M;
        row = (at.b * s.rows() + j) * s.H + at.n;
        time = at.b * s.T + t;
        step = time * s.H + at.n;
        first = j % s.M == 0;
        last = j % s.M == s.M - 1;
    }
};

// The inputs of one row in float32, padded with zeros: `decay` is d, not its logarithm (unwritten without a decay),
// `key` is e^input k. With beta, `k` is beta k and `read` is d ∘ k.
struct RowInputs {
    float *q, *k, *key, *read, *write, *decay;  // [padded]
    float *v, *decay_v;                         // [width]
};

inline void fill(float* to, int64_t count, float value) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, splat(value));
    for (; i < count; ++i) to[i] = value;
}

// to = e^from; `to` is padded to whole vectors.
inline void exponentials(const float* from, int64_t count, float* to) {
    const Input input{from, Dtype::float32};
    for (int64_t i = 0; i < count; i += LANES)
        store(to + i, exp_full_range(read_lanes(input, i, count - i < LANES ? count - i : LANES)));
}

inline float exponential(float x) { return exp_full_range(splat(x))[0]; }

inline void read_row(const RankOneInputs& in, const ColumnSplit& split, const Columns& at, int64_t j,
                     const RowInputs& row) {
    const RankOneSizes& s = in.sizes;
    const Place place(s, at, j);
    if (place.last) read(in.q, place.step * s.K, s.K, row.q);
    else fill(row.q, split.padded, 0);
    read(in.k, place.row * s.K, s.K, row.k);
    read(in.v, place.row * s.V + at.first, at.count, row.v);
    fill(row.v + at.count, split.width - at.count, 0);  // the task before may have been wider
    if (in.read.data != nullptr) read(in.read, place.row * s.K, s.K, row.read);
    if (in.write.data != nullptr) read(in.write, place.row * s.K, s.K, row.write);
    if (in.log_decay != nullptr) {
        if (!place.first) fill(row.decay, split.padded, 1);
        else if (in.per_channel) exponentials(in.log_decay + place.step * s.K, s.K, row.decay);
        else fill(row.decay, split.padded, exponential(in.log_decay[place.step]));
    }
    if (in.log_decay_v != nullptr) exponentials(in.log_decay_v + place.step * s.V + at.first, at.count, row.decay_v);
    if (in.beta != nullptr) {
        const Vec beta = splat(in.beta[place.row]);
        for (int64_t i = 0; i < split.padded; i += LANES) {
            const Vec key = load(row.k + i);
            store(row.read + i, load(row.decay + i) * key);
            store(row.k + i, beta * key);
        }
    }
    if (in.log_input != nullptr) {
        const Vec weight = splat(exponential(in.log_input[place.step]));
        for (int64_t i = 0; i < split.padded; i += LANES) store(row.key + i, weight * load(row.k + i));
    }
}

// Cache lines to prefetch. The rows of a head are H K numbers apart, too far for the hardware's prefetcher, and only
// few lines can be in flight at a time; so they are issued one by one, amid a sweep or a product.
class PrefetchQueue {
  public:
    void clear() { count_ = issued_ = 0; }
    // Queues `count` numbers of an array from index `at`; `next` is the distance to those of the next row.
    void add(const void* data, Dtype dtype, int64_t at, int64_t count, int64_t next = 0) {
        if (data == nullptr) return;
        const int64_t size = dtype == Dtype::float32 ? 4 : 2;
        const intptr_t begin = reinterpret_cast<intptr_t>(data) + at * size;
        for (int64_t byte = 0; byte < count * size && count_ < MOST; byte += 64, ++count_)
            lines_[count_] = begin + byte, next_[count_] = next * size;
    }
    void add(Input array, int64_t at, int64_t count, int64_t next = 0) {
        add(array.data, array.dtype, at, count, next);
    }
    void add(Output array, int64_t at, int64_t count, int64_t next = 0) {
        add(array.data, array.dtype, at, count, next);
    }
    void add(const float* array, int64_t at, int64_t count, int64_t next = 0) {
        add(array, Dtype::float32, at, count, next);
    }
    void add_row(const RankOneInputs& in, const Columns& at, int64_t j) {
        const RankOneSizes& s = in.sizes;
        const Place place(s, at, j);
        const int64_t next = s.H * s.K;
        if (place.last) add(in.q, place.step * s.K, s.K, next);
        for (Input input : {in.k, in.read, in.write}) add(input, place.row * s.K, s.K, next);
        add(in.v, place.row * s.V + at.first, at.count, s.H * s.V);
        if (in.per_channel && place.first) add(in.log_decay, place.step * s.K, s.K, next);
    }
    // Moves all lines `rows` rows further, for one micro-step per step: cheaper than to queue them anew.
    void advance(int64_t rows) {
        for (int64_t i = 0; i < count_; ++i) lines_[i] += rows * next_[i];
    }
    // Beyond the end, the first line again: a prefetch costs less than a branch.
    INLINE void issue_at(int64_t i) const {
        __builtin_prefetch(reinterpret_cast<const void*>(lines_[i < count_ ? i : 0]), 0, 2);
    }
    void issue(int64_t count) {
        for (; count > 0 && issued_ < count_; --count) issue_at(issued_++);
    }

  private:
    static constexpr int64_t MOST = 1024;
    intptr_t lines_[MOST] = {};
    int64_t next_[MOST], count_ = 0, issued_ = 0;
};

INLINE bool starts_document(const RankOneInputs& in, const Columns& at, int64_t j) {
    const int64_t M = in.sizes.M;
    return in.reset != nullptr && j % M == 0 && in.reset[at.b * in.sizes.T + j / M];
}

// Copies the columns of a task from a matrix [K][V] to its state [K][width], and back.
inline void read_columns(const float* from, const ColumnSplit& split, const Columns& at, float* state) {
    for (int64_t i = 0; i < split.sizes.K; ++i) {
        read({from, Dtype::float32}, i * split.sizes.V + at.first, at.count, state + i * split.width);
        fill(state + i * split.width + at.count, split.width - at.count, 0);
    }
}
inline void write_columns(const float* state, const ColumnSplit& split, const Columns& at, float* to) {
    for (int64_t i = 0; i < split.sizes.K; ++i)
        write({to, Dtype::float32}, i * split.sizes.V + at.first, at.count, state + i * split.width);
}

// Lane i of the result is the horizontal sum of a[i], for i < COUNT <= LANES; further lanes are zero.
template <int COUNT, int HALF = 1>
INLINE Vec lane_sums(const Vec* a, int first = 0) {
    if constexpr (HALF == LANES) {
        return first < COUNT ? a[first] : Vec{};
    } else {
        const Vec even = lane_sums<COUNT, 2 * HALF>(a, first), odd = lane_sums<COUNT, 2 * HALF>(a, first + HALF);
        return add_pair<HALF>(even, odd, std::make_index_sequence<LANES>());
    }
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
