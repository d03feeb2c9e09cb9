#include "rank_one/gradients.h"
#include "rank_one/sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task: some columns of one head, backwards through time, a chunk at a time. A chunk is CHUNK rows or the part of
// them that lies in one document. Only the state before it is needed, not those within: README.md of ops/delta derives it.
template <Kind KIND>
class RankOneBack {
    static constexpr int64_t CHUNKS = RANK_ONE_INTERVAL / CHUNK;

  public:
    RankOneBack(const RankOneBackward& in, const ColumnCut& cut, const RankOneSinks& out, int64_t task, Pieces& pieces)
        : in_(in), cut_(cut), sinks_(out), of_(in, cut, task, pieces), rows_(of_.chunk), at_(rows_.at) {
        for (Matrix& state : states_) state = take_matrix(pieces, of_.K, of_.V);
        nothing_ = take_matrix(pieces, of_.K, of_.V), dbonus_ = take_matrix(pieces, 1, of_.K);
    }

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = at_.b * s.H + at_.n;
        const int64_t share = s.K * s.V / CHUNKS;  // of the next interval's state, to be asked for during a chunk
        rows_.find_who_sees();
        read_state(in_.dlast + head * s.K * s.V, of_.grad);
        dbonus_.fill_rows(0, 1, 0);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t first = interval * RANK_ONE_INTERVAL, left = s.rows() - first;
            const int64_t kept = (head * s.intervals() + interval) * s.K * s.V;
            const int64_t end = first + (left < RANK_ONE_INTERVAL ? left : RANK_ONE_INTERVAL);
            read_state(in_.kept + kept, states_[0]);
            find_states(first, end);
            for (int64_t c = (end - first - 1) / CHUNK; c >= 0; --c) {
                const int64_t begin = first + c * CHUNK;
                rows_.wish(begin - RANK_ONE_INTERVAL, of_.wishes);
                if (interval > 0) of_.wishes.add(in_.kept, kept - s.K * s.V + c * share, share);
                go_back(begin, begin + CHUNK < end ? begin + CHUNK : end, states_[c]);
            }
        }
        for (int64_t k = 0; k < s.K; ++k)
            write_row({in_.dstate, Dtype::float32}, (head * s.K + k) * s.V + at_.first, at_.count, of_.grad, k);
        if (in_.bonus != nullptr)
            write_row(sinks_.dbonus, ((at_.n * s.B + at_.b) * cut_.slices + at_.s) * s.K, s.K, dbonus_, 0);
        finish_streaming();
    }

  private:
    void read_state(const float* from, Matrix to) const {
        for (int64_t k = 0; k < in_.sizes.K; ++k)
            read_row({from, Dtype::float32}, k * in_.sizes.V + at_.first, at_.count, to, k);
    }

    // Where the last document that rows [first, end) have a part in begins, at `first` if before.
    int64_t document(int64_t first, int64_t end) const {
        int64_t begin = end - 1;
        while (begin > first && !starts_document(in_, at_, begin)) --begin;
        return begin;
    }
    Matrix state_before(int64_t row, Matrix state) const { return starts_document(in_, at_, row) ? nothing_ : state; }

    // The states before all chunks of an interval, from that before the first.
    void find_states(int64_t first, int64_t end) {
        for (int64_t c = 0, next = first + CHUNK; next < end; ++c, next += CHUNK) {
            const int64_t begin = document(next - CHUNK, next);
            rows_.read_writers(begin, next - begin);
            of_.step(state_before(begin, states_[c]), states_[c + 1]);
        }
    }

    // Rows [first, end), the last document first.
    void go_back(int64_t first, int64_t end, Matrix state) {
        while (end > first) {
            const int64_t begin = document(first, end);
            rows_.read_writers(begin, end - begin);
            rows_.read_readers();
            of_.state = state_before(begin, state);
            of_.find();
            for (int64_t i = 0; i < end - begin; ++i) write_gradients(i);
            if (starts_document(in_, at_, begin)) of_.grad.fill_rows(0, of_.K, 0);
            end = begin;
        }
    }

    int64_t shared(int64_t at) const { return at * cut_.slices + at_.s; }  // of a gradient that slices share

    void write_gradients(int64_t i) {
        const int64_t K = in_.sizes.K, row = rows_.rows[i], step = rows_.steps[i], start = rows_.starts[i];
        const int64_t columns = row * in_.sizes.V + at_.first;
        if (in_.log_input != nullptr) {
            const float whole = dot(of_.dwriters, rows_.writers, i), weight = rows_.weight_of(i);
            write(sinks_.dlog_input, shared(row), 1, &whole);
            for (int64_t c = 0; c < of_.K; c += LANES) store(of_.dwriters.at(i, c), weight * load(of_.dwriters.at(i, c)));
        }
        if (in_.bonus != nullptr) add_own(i);
        if (in_.beta != nullptr) leave_rule(i);
        write_row(sinks_.dk, shared(row) * K, K, of_.dwriters, i);
        write_row(in_.dv, columns, at_.count, of_.dvalues, i);
        if (in_.read.data != nullptr) write_row(sinks_.dread, shared(row) * K, K, of_.dreaders, CHUNK + i);
        if (KIND == Kind::general) write_row(sinks_.dwrite, shared(row) * K, K, of_.dwriters, CHUNK + i);
        if (step >= 0) write_row(sinks_.dq, shared(step) * K, K, of_.dreaders, i);
        if (rows_.shrinks) write_row({in_.dlog_decay_v, Dtype::float32}, columns, at_.count, of_.dshrink, i);
        if (!rows_.decays || start < 0) return;
        if (in_.per_channel) return write_row(sinks_.dlog_decay, shared(start) * K, K, of_.ddecay, i);
        Vec sum{};  // padding is zero
        for (int64_t c = 0; c < of_.K; c += LANES) sum += load(of_.ddecay.at(i, c));
        const float whole = sums_of<1>(&sum)[0];
        write(sinks_.dlog_decay, shared(start), 1, &whole);
    }

    // From the gradients of the delta rule's read = d k and of what it writes, beta k, to those of k, beta and the decay.
    void leave_rule(int64_t i) {
        const float whole = dot(of_.dwriters, rows_.keys, i);
        const Vec beta = splat(rows_.weight_of(i));
        write(sinks_.dbeta, shared(rows_.rows[i]), 1, &whole);
        for (int64_t c = 0; c < of_.K; c += LANES) {
            const Vec dread = load(of_.dreaders.at(CHUNK + i, c)), read = load(rows_.readers.at(CHUNK + i, c));
            const Vec decay = rows_.decays ? load(rows_.decay.at(i, c)) : splat(1);
            store(of_.dwriters.at(i, c), beta * load(of_.dwriters.at(i, c)) + decay * dread);
            if (rows_.decays) store(of_.ddecay.at(i, c), load(of_.ddecay.at(i, c)) + read * dread);
        }
    }

    // What a row reads of itself: y = (sum of q bonus k) v.
    void add_own(int64_t i) {
        const int64_t K = in_.sizes.K;
        const float d_own = dot(rows_.incoming, rows_.values, i);
        Vec own{};
        for (int64_t c = 0; c < of_.K; c += LANES) {
            const Vec q = load(rows_.readers.at(i, c)), key = load(rows_.keys.at(i, c));
            const Vec bonus = read_lanes({in_.bonus, Dtype::float32}, at_.n * K + c, K - c);
            own += q * bonus * key;
            store(of_.dreaders.at(i, c), load(of_.dreaders.at(i, c)) + d_own * bonus * key);
            store(of_.dwriters.at(i, c), load(of_.dwriters.at(i, c)) + d_own * bonus * q);
            store(dbonus_.at(0, c), load(dbonus_.at(0, c)) + d_own * q * key);
        }
        const Vec weight = splat(sums_of<1>(&own)[0]);
        for (int64_t c = 0; c < of_.V; c += LANES)
            store(of_.dvalues.at(i, c), load(of_.dvalues.at(i, c)) + weight * load(rows_.incoming.at(i, c)));
    }

    const RankOneBackward& in_;
    const ColumnCut& cut_;
    const RankOneSinks& sinks_;
    Gradients<KIND> of_;  // the chunk's
    Chunk<KIND>& rows_;
    const Columns& at_;
    Matrix states_[CHUNKS], nothing_;  // before the chunks of an interval; the one that a document begins with
    Matrix dbonus_;                    // [1][K]
};

template <Kind KIND>
void run_back(const RankOneBackward& in) {
    const ColumnCut cut(in.sizes);
    const RankOneSums sums(in, cut);
    const RankOneSinks sinks = sums.sinks();
    run_tasks(cut.tasks(), in.threads,
              [&](int64_t task, Pieces& pieces) { return RankOneBack<KIND>(in, cut, sinks, task, pieces); });
    sums.finish(in.threads);
}

}  // namespace

void rank_one_backward(const RankOneBackward& in) {
    switch (kind_of(in)) {
        case Kind::outer: return run_back<Kind::outer>(in);
        case Kind::delta: return run_back<Kind::delta>(in);
        case Kind::general: return run_back<Kind::general>(in);
    }
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
