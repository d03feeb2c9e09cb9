#include "rank_one/gradients.h"
#include "rank_one/sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task: some columns of one head, backwards through time, a chunk at a time. A chunk is CHUNK rows, or the part of
// them between two resets. Only the state before it is needed, not those within (ops/outer/README.md derives it). The
// states before the chunks of an interval are found again from the one that the forward pass saved.
template <Kind KIND>
class RankOneBack {
    static constexpr int64_t CHUNKS = RANK_ONE_INTERVAL / CHUNK;

  public:
    RankOneBack(const RankOneBackward& in, const ColumnSplit& split, const RankOneSinks& out, int64_t task,
                Arena& arena)
        : in_(in), split_(split), sinks_(out), gradients_(in, split, task, arena), chunk_(gradients_.chunk),
          columns_(chunk_.at) {
        for (Matrix& state : states_) state = take_matrix(arena, gradients_.K, gradients_.V);
        zero_state_ = take_matrix(arena, gradients_.K, gradients_.V), dbonus_ = take_matrix(arena, 1, gradients_.K);
    }

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = columns_.b * s.H + columns_.n;
        const int64_t share = s.K * s.V / CHUNKS;  // of the next interval's state, prefetched during a chunk
        chunk_.fill_causal_mask();
        read_state(in_.dlast + head * s.K * s.V, gradients_.grad);
        dbonus_.fill_rows(0, 1, 0);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t first = interval * RANK_ONE_INTERVAL, left = s.rows() - first;
            const int64_t saved = (head * s.intervals() + interval) * s.K * s.V;
            const int64_t end = first + (left < RANK_ONE_INTERVAL ? left : RANK_ONE_INTERVAL);
            read_state(in_.saved + saved, states_[0]);
            find_states(first, end);
            for (int64_t c = (end - first - 1) / CHUNK; c >= 0; --c) {
                const int64_t begin = first + c * CHUNK;
                chunk_.queue_prefetches(begin - RANK_ONE_INTERVAL, gradients_.prefetches);
                if (interval > 0) gradients_.prefetches.add(in_.saved, saved - s.K * s.V + c * share, share);
                backward_rows(begin, begin + CHUNK < end ? begin + CHUNK : end, states_[c]);
            }
        }
        for (int64_t k = 0; k < s.K; ++k)
            write_row({in_.dstate, Dtype::float32}, (head * s.K + k) * s.V + columns_.first, columns_.count,
                      gradients_.grad, k);
        if (in_.bonus != nullptr)
            write_row(sinks_.dbonus, ((columns_.n * s.B + columns_.b) * split_.slices + columns_.s) * s.K, s.K, dbonus_,
                      0);
        fence_nontemporal();
    }

  private:
    void read_state(const float* from, Matrix to) const {
        for (int64_t k = 0; k < in_.sizes.K; ++k)
            read_row({from, Dtype::float32}, k * in_.sizes.V + columns_.first, columns_.count, to, k);
    }

    // The first row of the last document within rows [first, end).
    int64_t document(int64_t first, int64_t end) const {
        int64_t begin = end - 1;
        while (begin > first && !starts_document(in_, columns_, begin)) --begin;
        return begin;
    }
    Matrix state_before(int64_t row, Matrix state) const {
        return starts_document(in_, columns_, row) ? zero_state_ : state;
    }

    // The states before all chunks of an interval, from the one before its first.
    void find_states(int64_t first, int64_t end) {
        for (int64_t c = 0, next = first + CHUNK; next < end; ++c, next += CHUNK) {
            const int64_t begin = document(next - CHUNK, next);
            chunk_.read_writers(begin, next - begin);
            gradients_.step(state_before(begin, states_[c]), states_[c + 1]);
        }
    }

    // Rows [first, end), document by document from the last.
    void backward_rows(int64_t first, int64_t end, Matrix state) {
        while (end > first) {
            const int64_t begin = document(first, end);
            chunk_.read_writers(begin, end - begin);
            chunk_.read_readers();
            gradients_.state = state_before(begin, state);
            gradients_.find();
            for (int64_t i = 0; i < end - begin; ++i) write_gradients(i);
            if (starts_document(in_, columns_, begin)) gradients_.grad.fill_rows(0, gradients_.K, 0);
            end = begin;
        }
    }

    int64_t shared(int64_t at) const { return at * split_.slices + columns_.s; }  // index of this slice's partial sum

    // Writes the gradients of row i of the chunk.
    void write_gradients(int64_t i) {
        const int64_t K = in_.sizes.K, row = chunk_.rows[i], step = chunk_.steps[i], start = chunk_.starts[i];
        const int64_t columns = row * in_.sizes.V + columns_.first;
        if (in_.log_input != nullptr) {
            const float whole = dot(gradients_.dwriters, chunk_.writers, i), weight = chunk_.weight_of(i);
            write(sinks_.dlog_input, shared(row), 1, &whole);
            for (int64_t c = 0; c < gradients_.K; c += LANES)
                store(gradients_.dwriters.at(i, c), weight * load(gradients_.dwriters.at(i, c)));
        }
        if (in_.bonus != nullptr) add_bonus_gradients(i);
        if (in_.beta != nullptr) delta_rule_gradients(i);
        write_row(sinks_.dk, shared(row) * K, K, gradients_.dwriters, i);
        write_row(in_.dv, columns, columns_.count, gradients_.dvalues, i);
        if (in_.read.data != nullptr) write_row(sinks_.dread, shared(row) * K, K, gradients_.dreaders, CHUNK + i);
        if (KIND == Kind::general) write_row(sinks_.dwrite, shared(row) * K, K, gradients_.dwriters, CHUNK + i);
        if (step >= 0) write_row(sinks_.dq, shared(step) * K, K, gradients_.dreaders, i);
        if (chunk_.decays_v)
            write_row({in_.dlog_decay_v, Dtype::float32}, columns, columns_.count, gradients_.ddecay_v, i);
        if (!chunk_.decays || start < 0) return;
        if (in_.per_channel) return write_row(sinks_.dlog_decay, shared(start) * K, K, gradients_.ddecay, i);
        Vec sum{};  // padding is zero
        for (int64_t c = 0; c < gradients_.K; c += LANES) sum += load(gradients_.ddecay.at(i, c));
        const float whole = lane_sums<1>(&sum)[0];
        write(sinks_.dlog_decay, shared(start), 1, &whole);
    }

    // The delta rule: from the gradients of read = d ∘ k and of beta k to those of k, beta and the decay.
    void delta_rule_gradients(int64_t i) {
        const float whole = dot(gradients_.dwriters, chunk_.keys, i);
        const Vec beta = splat(chunk_.weight_of(i));
        write(sinks_.dbeta, shared(chunk_.rows[i]), 1, &whole);
        for (int64_t c = 0; c < gradients_.K; c += LANES) {
            const Vec dread = load(gradients_.dreaders.at(CHUNK + i, c)), read = load(chunk_.readers.at(CHUNK + i, c));
            const Vec decay = chunk_.decays ? load(chunk_.decay.at(i, c)) : splat(1);
            store(gradients_.dwriters.at(i, c), beta * load(gradients_.dwriters.at(i, c)) + decay * dread);
            if (chunk_.decays) store(gradients_.ddecay.at(i, c), load(gradients_.ddecay.at(i, c)) + read * dread);
        }
    }

    // The bonus: y += (Σ q ∘ bonus ∘ k) v, of the row's own key and value.
    void add_bonus_gradients(int64_t i) {
        const int64_t K = in_.sizes.K;
        const float d_own = dot(chunk_.incoming, chunk_.values, i);
        Vec own{};
        for (int64_t c = 0; c < gradients_.K; c += LANES) {
            const Vec q = load(chunk_.readers.at(i, c)), key = load(chunk_.keys.at(i, c));
            const Vec bonus = read_lanes({in_.bonus, Dtype::float32}, columns_.n * K + c, K - c);
            own += q * bonus * key;
            store(gradients_.dreaders.at(i, c), load(gradients_.dreaders.at(i, c)) + d_own * bonus * key);
            store(gradients_.dwriters.at(i, c), load(gradients_.dwriters.at(i, c)) + d_own * bonus * q);
            store(dbonus_.at(0, c), load(dbonus_.at(0, c)) + d_own * q * key);
        }
        const Vec weight = splat(lane_sums<1>(&own)[0]);
        for (int64_t c = 0; c < gradients_.V; c += LANES)
            store(gradients_.dvalues.at(i, c),
                  load(gradients_.dvalues.at(i, c)) + weight * load(chunk_.incoming.at(i, c)));
    }

    const RankOneBackward& in_;
    const ColumnSplit& split_;
    const RankOneSinks& sinks_;
    Gradients<KIND> gradients_;  // of the current chunk
    Chunk<KIND>& chunk_;
    const Columns& columns_;
    Matrix states_[CHUNKS], zero_state_;  // before each chunk of an interval; after a reset
    Matrix dbonus_;                       // [1][K]
};

template <Kind KIND>
void run_back(const RankOneBackward& in) {
    const ColumnSplit split(in.sizes);
    const RankOneSums sums(in, split);
    const RankOneSinks sinks = sums.sinks();
    run_tasks(split.tasks(), in.threads,
              [&](int64_t task, Arena& arena) { return RankOneBack<KIND>(in, split, sinks, task, arena); });
    sums.reduce(in.threads);
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
