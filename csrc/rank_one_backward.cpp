#include "rank_one_chunk.h"
#include "rank_one_sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task: some columns of one head, backwards through time, a chunk at a time. A chunk is an interval or the part of it
// that lies in one document. Only the state before it is needed, not those within: README.md of ops/delta derives it.
template <Kind KIND>
class RankOneBack {
    using Rows = Chunk<KIND>;
    static constexpr int WRITERS = Rows::WRITERS, READERS = Rows::READERS;
    static constexpr int64_t W = Rows::W, R = Rows::R;

  public:
    RankOneBack(const RankOneBackward& in, const ColumnCut& cut, const RankOneSinks& out, int64_t task, Pieces& pieces)
        : in_(in), cut_(cut), sinks_(out), chunk_(in, cut, task, pieces), at_(chunk_.at), K_(cut.padded), V_(cut.width) {
        const auto take = [&](int64_t rows, int64_t columns) { return take_matrix(pieces, rows, columns); };
        state_ = take(K_, V_), grad_ = take(K_, V_);
        by_k_ = take(W, R), by_v_ = take(W, R);
        readers_t_ = take(K_, R), values_t_ = take(V_, W), incoming_t_ = take(V_, R);
        dwriters_t_ = take(K_, W), dreaders_t_ = take(K_, R), dwriters_ = take(W, K_), dreaders_ = take(R, K_);
        dvalues_ = take(W, V_), ddecay_ = take(CHUNK, K_), dbonus_ = take(1, K_);
        if (chunk_.shrinks) y_ = take(CHUNK, V_), dshrink_ = take(CHUNK, V_);
    }

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = at_.b * s.H + at_.n;
        chunk_.find_who_sees();
        read_state(in_.dlast + head * s.K * s.V, grad_);
        dbonus_.fill_rows(0, 1, 0);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t first = interval * CHUNK;
            int64_t end = first + CHUNK < s.rows() ? first + CHUNK : s.rows();
            chunk_.wish(first - CHUNK, wishes_);
            if (interval > 0) wishes_.add(in_.kept, (head * s.intervals() + interval - 1) * s.K * s.V, s.K * s.V);
            while (end > first) {
                int64_t begin = end - 1;
                while (begin > first && !starts_document(in_, at_, begin)) --begin;
                const bool fresh = starts_document(in_, at_, begin);
                const float* kept = in_.kept + (head * s.intervals() + interval) * s.K * s.V;
                go_back(begin, end - begin, fresh ? nullptr : kept);
                if (fresh) grad_.fill_rows(0, K_, 0);
                end = begin;
            }
        }
        for (int64_t k = 0; k < s.K; ++k)
            write_row({in_.dstate, Dtype::float32}, (head * s.K + k) * s.V + at_.first, at_.count, grad_, k);
        if (in_.bonus != nullptr)
            write_row(sinks_.dbonus, ((at_.n * s.B + at_.b) * cut_.slices + at_.s) * s.K, s.K, dbonus_, 0);
        finish_streaming();
    }

  private:
    bool decays() const { return chunk_.decays; }
    bool shrinks() const { return chunk_.shrinks; }
    static Matrix part(Matrix of, int kind) { return of.part(kind * CHUNK, CHUNK); }
    Side<READERS> k_side() { return {chunk_.readers, chunk_.decay, chunk_.shift, wishes_}; }
    Side<READERS> v_side() { return {chunk_.incoming, chunk_.shrink, chunk_.shift, wishes_}; }

    void read_state(const float* from, Matrix to) const {
        for (int64_t k = 0; k < in_.sizes.K; ++k)
            read_row({from, Dtype::float32}, k * in_.sizes.V + at_.first, at_.count, to, k);
    }

    void go_back(int64_t begin, int64_t count, const float* kept) {
        chunk_.read(begin, count);
        if (kept != nullptr) read_state(kept, state_);
        else state_.fill_rows(0, K_, 0);
        find_value_gradients();
        find_key_gradients();
        for (int64_t i = 0; i < count; ++i) write_gradients(i);
        carry_gradient();
    }

    // dvalues_, the gradients of what is written, and with them those of what is read.
    void find_value_gradients() {
        const Rows& x = chunk_;
        multiply<false>(dvalues_, x.to_end, grad_, false, wishes_);
        if (x.by_channel) {
            for (int w = 0; w < WRITERS; ++w) k_side().multiply(part(x.writers, w), part(by_k_, w));
        } else {
            transpose(x.readers, readers_t_);
            multiply<false>(by_k_, x.writers, readers_t_, false, wishes_);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_k_, w), part(by_k_, w), x.between);
        }
        if (shrinks()) find_shrink_gradients();
        if (shrinks()) v_side().spread(x.values, by_k_, dvalues_, nullptr, dshrink_);
        else multiply<false>(dvalues_, by_k_, part(x.incoming, 0), true, wishes_);
        if constexpr (KIND != Kind::outer) find_read_gradients();
        if constexpr (KIND == Kind::general)
            multiply<false>(part(dvalues_, 0), by_k_.part(0, CHUNK, CHUNK, CHUNK), part(x.incoming, 1), true, wishes_);
    }

    // Solves for the gradients of what is read: those of the values that it is written as (or taken from), to which all
    // later reads bring theirs. From the last row back, a block of rows at a time.
    void find_read_gradients() {
        constexpr float SIGN = KIND == Kind::general ? 1 : -1;
        const Matrix pairs = by_k_.part((WRITERS - 1) * CHUNK, CHUNK, CHUNK, CHUNK);
        const Matrix dvalues = part(dvalues_, WRITERS - 1), dreads = part(chunk_.incoming, 1);
        for (int64_t c = 0; c < V_; c += LANES)
            for (int64_t row = CHUNK - LANES; row >= 0; row -= LANES) {
                Vec acc[LANES];
                UNROLL for (int i = 0; i < LANES; ++i) acc[i] = load(dvalues.at(row + i, c));
                for (int64_t later = row + LANES; later < CHUNK; later += LANES)
                    multiply_blocks<false>(acc, pairs.at(row, later), dreads.at(later, c));
                const float* weights = pairs.at(row, row);
                UNROLL for (int s = LANES - 1; s >= 0; --s) {
                    store(dvalues.at(row + s, c), acc[s]);
                    store(dreads.at(row + s, c), SIGN * acc[s]);
                    UNROLL for (int t = 0; t < s; ++t) acc[t] += SIGN * weights[t * LANES + s] * acc[s];
                }
            }
    }

    // The parts of the gradient of log_decay_v that the states before and after the chunk have in it.
    void find_shrink_gradients() {
        const Rows& x = chunk_;
        scale(dvalues_, dvalues_, x.after_v);
        multiply<false>(y_, x.from_readers, state_, false, wishes_);
        for (int64_t c = 0; c < V_; c += LANES) {
            Vec both{};
            for (int64_t k = 0; k < K_; ++k) both += whole_decay(k) * load(state_.at(k, c)) * load(grad_.at(k, c));
            both *= load(x.upto_v.at(CHUNK, c));
            for (int64_t t = 0; t < CHUNK; ++t) {
                store(dshrink_.at(t, c), both);
                both += load(x.values.at(t, c)) * load(dvalues_.at(t, c));
            }
            both = Vec{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                const int64_t s = t + x.shift[0];  // the first reader that reads row t
                if (s < CHUNK) both += load(x.from_incoming.at(s, c)) * load(y_.at(s, c));
                store(dshrink_.at(t, c), load(dshrink_.at(t, c)) + both);
            }
        }
    }

    // The gradients of keys, queries and decays.
    void find_key_gradients() {
        const Rows& x = chunk_;
        transpose(x.to_end_v, values_t_);
        transpose(x.from_incoming, incoming_t_);
        multiply<false>(dwriters_t_, grad_, values_t_, false, wishes_);
        multiply<false>(dreaders_t_, state_, incoming_t_, false, wishes_);
        transpose(dwriters_t_, dwriters_);
        transpose(dreaders_t_, dreaders_);
        if (decays()) find_decay_gradients();
        if (shrinks()) {
            v_side().multiply(x.values, by_v_);
        } else {
            multiply<false>(by_v_, x.values, incoming_t_, false, wishes_);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v_, w), part(by_v_, w), x.sees);
        }
        if (x.by_channel) {
            for (int w = 0; w < WRITERS; ++w)
                k_side().spread(part(x.writers, w), part(by_v_, w), part(dwriters_, w), &dreaders_, ddecay_);
            return;
        }
        if (decays()) {
            add_decay_gradients_of_pairs();
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v_, w), part(by_v_, w), x.between);
        }
        multiply<false>(dwriters_, by_v_, x.readers, true, wishes_);
        multiply<true>(dreaders_, by_v_, x.writers, true, wishes_);
    }

    // Puts the decays between the chunk's ends and its rows into dwriters_ and dreaders_, and starts ddecay_ with what the
    // states before and after the chunk have in it: all that is written before a row and read behind it.
    void find_decay_gradients() {
        const Rows& x = chunk_;
        for (int w = 0; w < WRITERS; ++w) scale(part(dwriters_, w), part(dwriters_, w), x.after);
        for (int r = 0; r < READERS; ++r)
            scale(part(dreaders_, r), part(dreaders_, r), x.upto.part(1 - x.shift[r], CHUNK));
        for (int64_t c = 0; c < K_; c += LANES) {
            Vec both = read_by_both_ends(c) * load(x.upto.at(CHUNK, c));
            for (int64_t t = 0; t < CHUNK; ++t) {
                store(ddecay_.at(t, c), both);
                for (int64_t w = t; w < W; w += CHUNK) both += load(x.writers.at(w, c)) * load(dwriters_.at(w, c));
            }
            both = Vec{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                for (int r = 0; r < READERS; ++r) {
                    const int64_t s = t + x.shift[r], at = r * CHUNK + s;  // the first reader that reads row t
                    if (s < CHUNK) both += load(x.readers.at(at, c)) * load(dreaders_.at(at, c));
                }
                store(ddecay_.at(t, c), load(ddecay_.at(t, c)) + both);
            }
        }
    }

    // Sums over the rows k, k + 1, ... of the state before the chunk times the gradient of the one after it.
    Vec read_by_both_ends(int64_t k) const {
        Vec sums[LANES] = {};
        for (int64_t c = 0; c < V_; c += LANES) {
            const Vec whole = shrinks() ? load(chunk_.upto_v.at(CHUNK, c)) : splat(1);
            UNROLL for (int i = 0; i < LANES; ++i)
                sums[i] += load(state_.at(k + i, c)) * load(grad_.at(k + i, c)) * whole;
        }
        return sums_of<LANES>(sums);
    }

    // Where a row has one decay: what is written before it and read behind it within the chunk.
    void add_decay_gradients_of_pairs() {
        Vec sums[CHUNK] = {};
        for (int64_t c = 0; c < R; c += LANES) {
            Vec written{};  // by the rows before
            for (int64_t t = 0; t < CHUNK; ++t) {
                sums[t] += written * load(chunk_.sees.at(t, c));
                for (int64_t w = t; w < W; w += CHUNK) written += load(by_k_.at(w, c)) * load(by_v_.at(w, c));
            }
        }
        for (int64_t t = 0; t < CHUNK; ++t) ddecay_.at(t, 0)[0] += sums_of<1>(sums + t)[0];
    }

    // The decay of row k of the state over the whole chunk.
    float whole_decay(int64_t k) const { return decays() ? chunk_.upto.at(CHUNK, k / LANES * LANES)[k % LANES] : 1; }

    // From the state after the chunk to the one before it.
    void carry_gradient() {
        for (int64_t c = 0; (decays() || shrinks()) && c < V_; c += LANES) {
            const Vec whole = shrinks() ? load(chunk_.upto_v.at(CHUNK, c)) : splat(1);
            for (int64_t k = 0; k < K_; ++k) store(grad_.at(k, c), load(grad_.at(k, c)) * whole_decay(k) * whole);
        }
        multiply<true>(grad_, chunk_.from_readers, chunk_.from_incoming, true, wishes_);
    }

    int64_t shared(int64_t at) const { return at * cut_.slices + at_.s; }  // of a gradient that slices share

    void write_gradients(int64_t i) {
        const int64_t K = in_.sizes.K, row = chunk_.rows[i], step = chunk_.steps[i], start = chunk_.starts[i];
        const int64_t columns = row * in_.sizes.V + at_.first;
        if (in_.log_input != nullptr) {
            const float whole = dot(dwriters_, chunk_.writers, i), weight = exponential(in_.log_input[row]);
            write(sinks_.dlog_input, shared(row), 1, &whole);
            for (int64_t c = 0; c < K_; c += LANES) store(dwriters_.at(i, c), weight * load(dwriters_.at(i, c)));
        }
        if (in_.bonus != nullptr) add_own(i);
        write_row(sinks_.dk, shared(row) * K, K, dwriters_, i);
        write_row(in_.dv, columns, at_.count, dvalues_, i);
        if (KIND != Kind::outer) write_row(sinks_.dread, shared(row) * K, K, dreaders_, CHUNK + i);
        if (KIND == Kind::general) write_row(sinks_.dwrite, shared(row) * K, K, dwriters_, CHUNK + i);
        if (step >= 0) write_row(sinks_.dq, shared(step) * K, K, dreaders_, i);
        if (shrinks()) write_row({in_.dlog_decay_v, Dtype::float32}, columns, at_.count, dshrink_, i);
        if (!decays() || start < 0) return;
        if (in_.per_channel) return write_row(sinks_.dlog_decay, shared(start) * K, K, ddecay_, i);
        Vec sum{};  // padding is zero
        for (int64_t c = 0; c < K_; c += LANES) sum += load(ddecay_.at(i, c));
        const float whole = sums_of<1>(&sum)[0];
        write(sinks_.dlog_decay, shared(start), 1, &whole);
    }

    // What a row reads of itself: y = (sum of q bonus k) v.
    void add_own(int64_t i) {
        const Rows& x = chunk_;
        const int64_t K = in_.sizes.K;
        const float d_own = dot(x.incoming, x.values, i);
        Vec own{};
        for (int64_t c = 0; c < K_; c += LANES) {
            const Vec q = load(x.readers.at(i, c)), key = load(x.keys.at(i, c));
            const Vec bonus = read_lanes({in_.bonus, Dtype::float32}, at_.n * K + c, K - c);
            own += q * bonus * key;
            store(dreaders_.at(i, c), load(dreaders_.at(i, c)) + d_own * bonus * key);
            store(dwriters_.at(i, c), load(dwriters_.at(i, c)) + d_own * bonus * q);
            store(dbonus_.at(0, c), load(dbonus_.at(0, c)) + d_own * q * key);
        }
        const Vec weight = splat(sums_of<1>(&own)[0]);
        for (int64_t c = 0; c < V_; c += LANES)
            store(dvalues_.at(i, c), load(dvalues_.at(i, c)) + weight * load(x.incoming.at(i, c)));
    }

    const RankOneBackward& in_;
    const ColumnCut& cut_;
    const RankOneSinks& sinks_;
    Rows chunk_;
    const Columns at_;
    const int64_t K_, V_;  // whole vectors
    Matrix state_, grad_;  // [K_][V_], the one before and the gradient of the one after
    Matrix by_k_, by_v_;   // [W][R], products of writers and readers, of either side
    Matrix readers_t_, values_t_, incoming_t_, dwriters_t_, dreaders_t_;  // transposed
    Matrix dwriters_, dreaders_, ddecay_, dbonus_, dvalues_, y_, dshrink_;
    Wishes wishes_;
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
