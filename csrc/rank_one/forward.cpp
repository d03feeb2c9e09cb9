#include "common/parallel.h"
#include "rank_one/sweep.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task: some columns of one head, forwards through time.
template <Kind KIND>
class RankOneScan {
    using Sizes = SweepSizes<KIND>;
    static constexpr int64_t AHEAD = 8;  // rows between the prefetch of inputs and their use

  public:
    RankOneScan(const RankOneForward& in, const ColumnSplit& split, int64_t task, Arena& arena)
        : in_(in), split_(split), columns_(split, task), pairs_{{arena, split}, {arena, split}},
          state_(arena.take(split.block())) {}

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = columns_.b * s.H + columns_.n;
        read_columns(in_.state + head * s.K * s.V, split_, columns_, state_);
        for (const Pair<KIND>& pair : pairs_)
            for (const RowInputs& row : pair.rows)
                fill(row.decay, split_.padded, 1);  // never written where there is no decay
        Pair<KIND>*current = &pairs_[0], *next = &pairs_[1];
        set_identity(*current);
        for (int64_t row = 0; row < s.rows(); row += current->count) {
            prepare(*next, row);
            sweep(*current, *next);  // the state is now the one before `row`, and next->sums its products
            save_state(head, row);
            if (starts_document(in_, columns_, row)) {  // read from zeros, not from the state just left
                fill(state_, split_.block(), 0);
                fill(next->sums, Sizes::READ * split_.width, 0);
            }
            finish(*next);
            Pair<KIND>* before = current;
            current = next, next = before;
        }
        fill(next->reading, Sizes::READ * split_.padded, 0);
        sweep(*current, *next);  // the update of the last pair
        write_columns(state_, split_, columns_, in_.last + head * s.K * s.V);
        fence_nontemporal();
    }

  private:
    void sweep(const Pair<KIND>& current, Pair<KIND>& next) {
        const Sweep<KIND> all{current.update, current.added,  current.decay_v, next.reading, state_,
                              next.sums,      split_.sizes.K, split_.width,    prefetches_};
        if (KIND == Kind::outer && in_.log_decay_v != nullptr) all.template run<true, true>();
        else if (KIND != Kind::general && in_.log_decay == nullptr) all.template run<false, false>();
        else all.template run<true, false>();
    }

    // Queues what rows [row, row + count) read and write.
    void queue_prefetches(int64_t row, int64_t count) {
        const RankOneSizes& s = in_.sizes;
        if (s.M == 1 && count == queued_rows_ && row + count <= s.rows()) return prefetches_.advance(count);
        queued_rows_ = count;
        prefetches_.clear();
        for (int64_t j = row; j < row + count && j < s.rows(); ++j) {
            const Place place(s, columns_, j);
            const int64_t next = s.H * s.V;
            prefetches_.add_row(in_, columns_, j);
            if (place.last) prefetches_.add(in_.y, place.step * s.V + columns_.first, columns_.count, next);
            prefetches_.add(in_.saved_reads, place.row * s.V + columns_.first, columns_.count, next);
        }
    }

    // Before the first pair: an update that leaves the state as it is.
    void set_identity(Pair<KIND>& pair) {
        fill(pair.update, (1 + Sizes::ADDED) * split_.padded, 0);
        fill(pair.added, Sizes::ADDED * split_.width, 0);
        fill(pair.decay_v, split_.width, 1);
        for (int64_t i = 0; i < split_.padded; i += LANES) store(pair.update + i * (1 + Sizes::ADDED), splat(1));
    }

    void save_state(int64_t head, int64_t row) {
        if (in_.saved == nullptr || row % RANK_ONE_INTERVAL != 0) return;
        const int64_t interval = head * in_.sizes.intervals() + row / RANK_ONE_INTERVAL;
        float* to = in_.saved + interval * in_.sizes.K * in_.sizes.V;
        const bool aligned =
            reinterpret_cast<uintptr_t>(to + columns_.first) % sizeof(Vec) == 0 && in_.sizes.V % LANES == 0;
        if (!aligned) return write_columns(state_, split_, columns_, to);
        for (int64_t i = 0; i < in_.sizes.K; ++i)  // non-temporal: it is read much later
            for (int64_t c = 0; c < columns_.count; c += LANES)
                store_nontemporal(to + i * in_.sizes.V + columns_.first + c, load(state_ + i * split_.width + c));
    }

    // Reads the next one or two rows. A pair ends before a reset and where a state is saved.
    void prepare(Pair<KIND>& pair, int64_t row) {
        const int64_t second = row + 1;
        const bool two =
            second < in_.sizes.rows() && second % RANK_ONE_INTERVAL != 0 && !starts_document(in_, columns_, second);
        pair.begin = row, pair.count = two ? 2 : 1;
        queue_prefetches(row + AHEAD, pair.count);
        read_row(in_, split_, columns_, row, pair.rows[0]);
        if (two) {
            read_row(in_, split_, columns_, second, pair.rows[1]);
        } else {
            const RowInputs& empty = pair.rows[1];
            for (float* at : {empty.q, empty.k, empty.key, empty.read, empty.write}) fill(at, split_.padded, 0);
            fill(empty.decay, split_.padded, 1);
            fill(empty.v, split_.width, 0);
            fill(empty.decay_v, split_.width, 1);
        }
        set_coefficients(pair);
    }

    const float* key(const RowInputs& row) const { return in_.log_input != nullptr ? row.key : row.k; }

    // The coefficients of the sweep, and the dot products of the pair's rows: 0-2 of q with k (a a, b a, b b), 3 of
    // read b with k a; for the general kind also 5-7 of q and 8 of read b with write.
    void set_coefficients(Pair<KIND>& pair) {
        const RowInputs &a = pair.rows[0], &b = pair.rows[1];
        const int64_t head = columns_.n * in_.sizes.K;
        Vec dots[16] = {};
        for (int64_t i = 0; i < split_.padded; i += LANES) {
            const Vec da = load(a.decay + i), db = load(b.decay + i), ka = load(key(a) + i), kb = load(key(b) + i);
            const Vec qa = load(a.q + i), qb = load(b.q + i), dqb = db * qb;
            float *u = pair.update + i * (1 + Sizes::ADDED), *r = pair.reading + i * Sizes::READ;
            store(u, db * da), store(u + LANES, db * ka), store(u + 2 * LANES, kb);
            if (KIND == Kind::outer && in_.read_before) {
                store(r, qa), store(r + LANES, da * qb);
                Vec bonus{};
                if (in_.bonus != nullptr) bonus = read_lanes({in_.bonus, Dtype::float32}, head + i, in_.sizes.K - i);
                dots[0] += bonus * qa * load(a.k + i), dots[1] += qb * ka, dots[2] += bonus * qb * load(b.k + i);
                continue;
            }
            constexpr int Q = Sizes::READ - 2;  // q comes after `read`
            store(r + Q * LANES, da * qa), store(r + (Q + 1) * LANES, da * dqb);
            dots[0] += qa * ka, dots[1] += dqb * ka, dots[2] += qb * kb;
            if (KIND == Kind::outer) continue;
            const Vec rb = load(b.read + i);
            store(r, load(a.read + i)), store(r + LANES, da * rb);
            dots[3] += rb * ka;
            if (KIND == Kind::delta) continue;
            const Vec wa = load(a.write + i), wb = load(b.write + i);
            store(u + 3 * LANES, db * wa), store(u + 4 * LANES, wb);
            dots[5] += qa * wa, dots[6] += dqb * wa, dots[7] += qb * wb, dots[8] += rb * wa;
        }
        constexpr int COUNT = KIND == Kind::general ? 12 : 4, PART = COUNT < LANES ? COUNT : LANES;
        UNROLL for (int first = 0; first < COUNT; first += PART)
            store(pair.dots + first, lane_sums<PART>(dots + first));
    }

    // From the products with the state before the pair: what each row reads, y, and the right vectors of its update.
    void finish(Pair<KIND>& pair) {
        const RowInputs &a = pair.rows[0], &b = pair.rows[1];
        const bool decays_v = KIND == Kind::outer && in_.log_decay_v != nullptr;
        const int64_t width = split_.width;
        const float* dot = pair.dots;
        float* sums = pair.sums;
        for (int64_t i = 0; i < width; i += LANES) {
            Vec va = load(a.v + i), vb = load(b.v + i);
            if constexpr (KIND == Kind::outer) {
                Vec ya = load(sums + i), yb = load(sums + width + i);
                if (decays_v) {
                    const Vec ca = load(a.decay_v + i), cb = load(b.decay_v + i);
                    ya = in_.read_before ? ya : ya * ca;
                    yb = in_.read_before ? yb * ca : yb * ca * cb;
                    store(pair.decay_v + i, ca * cb);
                    store(sums + i, ya + dot[0] * va);
                    store(sums + width + i, yb + dot[1] * (in_.read_before ? va : va * cb) + dot[2] * vb);
                    store(pair.added + i, va * cb);
                } else {
                    store(sums + i, ya + dot[0] * va);
                    store(sums + width + i, yb + dot[1] * va + dot[2] * vb);
                    store(pair.added + i, va);
                }
                store(pair.added + width + i, vb);
                continue;
            }
            const Vec ua = load(sums + i);
            if constexpr (KIND == Kind::delta) va -= ua;
            Vec ub = load(sums + width + i) + dot[3] * va;
            Vec ya = load(sums + 2 * width + i) + dot[0] * va, yb = load(sums + 3 * width + i) + dot[1] * va;
            if constexpr (KIND == Kind::general) {
                ub += dot[8] * ua, ya += dot[5] * ua, yb += dot[6] * ua + dot[7] * ub;
                store(pair.added + 2 * width + i, ua), store(pair.added + 3 * width + i, ub);
            } else {
                vb -= ub;
            }
            store(sums + i, ua), store(sums + width + i, ub);
            store(sums + 2 * width + i, ya), store(sums + 3 * width + i, yb + dot[2] * vb);
            store(pair.added + i, va), store(pair.added + width + i, vb);
        }
        for (int64_t row = 0; row < pair.count; ++row) write_row(pair.begin + row, sums + row * width);
    }

    // `sums` starts at the row's own: what it read, unless the kind is outer, and two widths further y.
    void write_row(int64_t row, const float* sums) {
        const RankOneSizes& s = in_.sizes;
        const Place place(s, columns_, row);
        if (place.last)
            write(in_.y, place.step * s.V + columns_.first, columns_.count, sums + (Sizes::READ - 2) * split_.width);
        if (KIND != Kind::outer && in_.saved_reads != nullptr)
            write({in_.saved_reads, Dtype::float32}, place.row * s.V + columns_.first, columns_.count, sums);
    }

    const RankOneForward& in_;
    const ColumnSplit& split_;
    const Columns columns_;
    Pair<KIND> pairs_[2];
    float* state_;
    PrefetchQueue prefetches_;
    int64_t queued_rows_ = 0;  // the size of the pair that was queued last; 0: nothing was
};

template <Kind KIND>
void run_all(const RankOneForward& in) {
    const ColumnSplit split(in.sizes);
    run_tasks(split.tasks(), in.threads,
              [&](int64_t task, Arena& arena) { return RankOneScan<KIND>(in, split, task, arena); });
}

}  // namespace

void rank_one_forward(const RankOneForward& in) {
    switch (kind_of(in)) {
        case Kind::outer: return run_all<Kind::outer>(in);
        case Kind::delta: return run_all<Kind::delta>(in);
        case Kind::general: return run_all<Kind::general>(in);
    }
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
