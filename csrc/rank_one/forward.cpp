#include "common/parallel.h"
#include "rank_one/sweep.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task: some columns of one head, forwards through time.
template <Kind KIND>
class RankOneScan {
    using Is = Shape<KIND>;
    static constexpr int64_t AHEAD = 8;  // rows between asking for inputs and using them

  public:
    RankOneScan(const RankOneForward& in, const ColumnCut& cut, int64_t task, Pieces& pieces)
        : in_(in), cut_(cut), at_(cut, task), pairs_{{pieces, cut}, {pieces, cut}}, state_(pieces.take(cut.block())) {}

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = at_.b * s.H + at_.n;
        read_columns(in_.state + head * s.K * s.V, cut_, at_, state_);
        for (const Pair<KIND>& pair : pairs_)
            for (const RowInputs& row : pair.rows) fill(row.decay, cut_.padded, 1);  // for good, where nothing decays
        Pair<KIND>*now = &pairs_[0], *next = &pairs_[1];
        do_nothing(*now);
        for (int64_t row = 0; row < s.rows(); row += now->count) {
            prepare(*next, row);
            sweep(*now, *next);
            keep(head, row);
            if (starts_document(in_, at_, row)) {
                fill(state_, cut_.block(), 0);
                fill(next->sums, Is::READ * cut_.width, 0);
            }
            finish(*next);
            Pair<KIND>* before = now;
            now = next, next = before;
        }
        fill(next->reading, Is::READ * cut_.padded, 0);
        sweep(*now, *next);
        write_columns(state_, cut_, at_, in_.last + head * s.K * s.V);
        finish_streaming();
    }

  private:
    void sweep(const Pair<KIND>& now, Pair<KIND>& next) {
        const Sweep<KIND> all{now.update, now.added, now.shrink, next.reading, state_, next.sums, cut_.sizes.K, cut_.width, wishes_};
        if (KIND == Kind::outer && in_.log_decay_v != nullptr) all.template run<true, true>();
        else if (KIND != Kind::general && in_.log_decay == nullptr) all.template run<false, false>();
        else all.template run<true, false>();
    }

    // Asks for what rows [row, row + count) read and write.
    void wish(int64_t row, int64_t count) {
        const RankOneSizes& s = in_.sizes;
        if (s.M == 1 && count == wished_ && row + count <= s.rows()) return wishes_.move_on(count);
        wished_ = count;
        wishes_.clear();
        for (int64_t j = row; j < row + count && j < s.rows(); ++j) {
            const Place place(s, at_, j);
            const int64_t next = s.H * s.V;
            wishes_.add_row(in_, at_, j);
            if (place.last) wishes_.add(in_.y, place.step * s.V + at_.first, at_.count, next);
            wishes_.add(in_.kept_reads, place.row * s.V + at_.first, at_.count, next);
        }
    }

    // A pair before the first: leaves the state as it is.
    void do_nothing(Pair<KIND>& pair) {
        fill(pair.update, (1 + Is::ADDED) * cut_.padded, 0);
        fill(pair.added, Is::ADDED * cut_.width, 0);
        fill(pair.shrink, cut_.width, 1);
        for (int64_t i = 0; i < cut_.padded; i += LANES) store(pair.update + i * (1 + Is::ADDED), splat(1));
    }

    void keep(int64_t head, int64_t row) {
        if (in_.kept == nullptr || row % RANK_ONE_INTERVAL != 0) return;
        const int64_t interval = head * in_.sizes.intervals() + row / RANK_ONE_INTERVAL;
        float* to = in_.kept + interval * in_.sizes.K * in_.sizes.V;
        const bool aligned = reinterpret_cast<uintptr_t>(to + at_.first) % sizeof(Vec) == 0 && in_.sizes.V % LANES == 0;
        if (!aligned) return write_columns(state_, cut_, at_, to);
        for (int64_t i = 0; i < in_.sizes.K; ++i)  // past the caches: it is read much later
            for (int64_t c = 0; c < at_.count; c += LANES)
                stream(to + i * in_.sizes.V + at_.first + c, load(state_ + i * cut_.width + c));
    }

    // A pair ends before a new document and where a state is kept.
    void prepare(Pair<KIND>& pair, int64_t row) {
        const int64_t second = row + 1;
        const bool two = second < in_.sizes.rows() && second % RANK_ONE_INTERVAL != 0 && !starts_document(in_, at_, second);
        pair.begin = row, pair.count = two ? 2 : 1;
        wish(row + AHEAD, pair.count);
        read_row(in_, cut_, at_, row, pair.rows[0]);
        if (two) {
            read_row(in_, cut_, at_, second, pair.rows[1]);
        } else {
            const RowInputs& empty = pair.rows[1];
            for (float* at : {empty.q, empty.k, empty.key, empty.read, empty.write}) fill(at, cut_.padded, 0);
            fill(empty.decay, cut_.padded, 1);
            fill(empty.v, cut_.width, 0);
            fill(empty.decay_v, cut_.width, 1);
        }
        set_coefficients(pair);
    }

    const float* key(const RowInputs& row) const { return in_.log_input != nullptr ? row.key : row.k; }

    void set_coefficients(Pair<KIND>& pair) {
        const RowInputs &a = pair.rows[0], &b = pair.rows[1];
        const int64_t head = at_.n * in_.sizes.K;
        Vec dots[16] = {};
        for (int64_t i = 0; i < cut_.padded; i += LANES) {
            const Vec da = load(a.decay + i), db = load(b.decay + i), ka = load(key(a) + i), kb = load(key(b) + i);
            const Vec qa = load(a.q + i), qb = load(b.q + i), dqb = db * qb;
            float *u = pair.update + i * (1 + Is::ADDED), *r = pair.reading + i * Is::READ;
            store(u, db * da), store(u + LANES, db * ka), store(u + 2 * LANES, kb);
            if (KIND == Kind::outer && in_.read_before) {
                store(r, qa), store(r + LANES, da * qb);
                Vec bonus{};
                if (in_.bonus != nullptr) bonus = read_lanes({in_.bonus, Dtype::float32}, head + i, in_.sizes.K - i);
                dots[0] += bonus * qa * load(a.k + i), dots[1] += qb * ka, dots[2] += bonus * qb * load(b.k + i);
                continue;
            }
            constexpr int Q = Is::READ - 2;  // where the columns of q begin
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
            store(pair.dots + first, sums_of<PART>(dots + first));
    }

    // What the pair reads and adds, from the products with the state; writes y.
    void finish(Pair<KIND>& pair) {
        const RowInputs &a = pair.rows[0], &b = pair.rows[1];
        const bool shrinks = KIND == Kind::outer && in_.log_decay_v != nullptr;
        const int64_t width = cut_.width;
        const float* dot = pair.dots;
        float* sums = pair.sums;
        for (int64_t i = 0; i < width; i += LANES) {
            Vec va = load(a.v + i), vb = load(b.v + i);
            if constexpr (KIND == Kind::outer) {
                Vec ya = load(sums + i), yb = load(sums + width + i);
                if (shrinks) {
                    const Vec ca = load(a.decay_v + i), cb = load(b.decay_v + i);
                    ya = in_.read_before ? ya : ya * ca;
                    yb = in_.read_before ? yb * ca : yb * ca * cb;
                    store(pair.shrink + i, ca * cb);
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

    // `sums` are those of the row: what it read where the kind reads, and two further on y.
    void write_row(int64_t row, const float* sums) {
        const RankOneSizes& s = in_.sizes;
        const Place place(s, at_, row);
        if (place.last) write(in_.y, place.step * s.V + at_.first, at_.count, sums + (Is::READ - 2) * cut_.width);
        if (KIND != Kind::outer && in_.kept_reads != nullptr)
            write({in_.kept_reads, Dtype::float32}, place.row * s.V + at_.first, at_.count, sums);
    }

    const RankOneForward& in_;
    const ColumnCut& cut_;
    const Columns at_;
    Pair<KIND> pairs_[2];
    float* state_;
    Wishes wishes_;
    int64_t wished_ = 0;  // rows that were asked for last, before those that follow
};

template <Kind KIND>
void run_all(const RankOneForward& in) {
    const ColumnCut cut(in.sizes);
    run_tasks(cut.tasks(), in.threads,
              [&](int64_t task, Pieces& pieces) { return RankOneScan<KIND>(in, cut, task, pieces); });
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
