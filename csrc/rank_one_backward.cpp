#include "rank_one_chunk.h"
#include "sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Where tasks write: the gradients themselves, or partial sums of slices of columns and of the batch.
struct RankOneSinks {
    Output dq, dk, dread, dwrite, dlog_decay, dlog_input, dbonus;
};

// One task: some columns of one head, backwards through time, a chunk at a time. A chunk is an interval or the part of it
// that lies in one document. Only the state before it is needed, not those within: README.md of ops/delta derives it.
template <Kind KIND>
class RankOneBack {
    static constexpr int WRITERS = KIND == Kind::general ? 2 : 1;  // key with its value; write with what was read

  public:
    RankOneBack(const RankOneBackward& in, const ColumnCut& cut, const RankOneSinks& out, int64_t task, Pieces& pieces)
        : in_(in), cut_(cut), sinks_(out), at_(cut, task), K_(cut.padded), V_(cut.width) {
        const int64_t rows = CHUNK + 1;
        for (float** at : {&q_, &k_, &key_, &read_, &write_, &decay_, &upto_, &after_, &into_q_, &into_read_, &out_k_[0],
                           &out_k_[1], &dq_, &dread_, &dkey_[0], &dkey_[1], &ddecay_})
            *at = pieces.take(rows * K_);
        for (float** at : {&v_, &reads_, &dy_, &shrink_, &upto_v_, &after_v_, &into_dy_, &out_v_, &y_, &dvalue_[0],
                           &dvalue_[1], &dreads_, &dshrink_})
            *at = pieces.take(rows * V_);
        for (float** at : {&state_, &state_t_, &grad_, &grad_t_}) *at = pieces.take(K_ * V_);
        for (float** at : {&by_k_[0][0], &by_k_[0][1], &by_k_[1][0], &by_k_[1][1], &by_v_[0][0], &by_v_[0][1],
                           &by_v_[1][0], &by_v_[1][1]})
            *at = pieces.take(CHUNK * PAIRS);
        dbonus_ = pieces.take(K_);
    }

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = at_.b * s.H + at_.n;
        std::memset(grad_, 0, K_ * V_ * sizeof(float));
        read_columns(in_.dlast + head * s.K * s.V, cut_, at_, grad_);
        fill(dbonus_, K_, 0);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t first = interval * CHUNK;
            int64_t end = first + CHUNK < s.rows() ? first + CHUNK : s.rows();
            wish(first - CHUNK);
            while (end > first) {
                int64_t begin = end - 1;
                while (begin > first && !starts_document(in_, at_, begin)) --begin;
                const bool fresh = starts_document(in_, at_, begin);
                const float* kept = in_.kept + (head * s.intervals() + interval) * s.K * s.V;
                go_back(begin, end - begin, fresh ? nullptr : kept);
                if (fresh) fill(grad_, K_ * V_, 0);
                end = begin;
            }
        }
        write_columns(grad_, cut_, at_, in_.dstate + head * s.K * s.V);
        if (in_.bonus != nullptr)
            write(sinks_.dbonus, ((at_.n * s.B + at_.b) * cut_.slices + at_.s) * s.K, s.K, dbonus_);
    }

  private:
    bool decays() const { return in_.log_decay != nullptr; }
    bool shrinks() const { return KIND == Kind::outer && in_.log_decay_v != nullptr; }
    int64_t shift() const { return in_.read_before ? 1 : 0; }
    const float* keys(int w) const { return w == 1 ? write_ : in_.log_input != nullptr ? key_ : k_; }
    const float* values(int w) const { return w == 1 ? reads_ : v_; }
    Side k_side() { return {count_, K_, decays() ? decay_ : nullptr, wishes_}; }
    Side v_side() { return {count_, V_, shrinks() ? shrink_ : nullptr, wishes_}; }

    // Asks for the inputs of the chunk from row `first` on.
    void wish(int64_t first) {
        const RankOneSizes& s = in_.sizes;
        wishes_.clear();
        for (int64_t j = first; first >= 0 && j < first + CHUNK; ++j) {
            const Place place(s, at_, j);
            wishes_.add_row(in_, at_, j);
            if (place.last) wishes_.add(in_.dy, place.step * s.V + at_.first, at_.count);
            if (KIND != Kind::outer) wishes_.add(in_.kept_reads, place.row * s.V + at_.first, at_.count);
        }
    }

    void go_back(int64_t begin, int64_t count, const float* kept) {
        begin_ = begin, count_ = count;
        read_rows();
        const int64_t known = kept == nullptr ? 0 : cut_.block();
        std::memset(state_ + known, 0, (K_ * V_ - known) * sizeof(float));
        if (kept != nullptr) read_columns(kept, cut_, at_, state_);
        transpose(state_, K_, V_, state_t_);
        transpose(grad_, K_, V_, grad_t_);
        accumulate_decays();
        find_value_gradients();
        find_key_gradients();
        for (int64_t i = 0; i < count_; ++i) write_row(i);
        carry_gradient();
    }

    void read_rows() {
        const RankOneSizes& s = in_.sizes;
        for (int64_t i = 0; i < count_; ++i) {
            const int64_t k = i * K_, v = i * V_;
            const Place place(s, at_, begin_ + i);
            read_row(in_, cut_, at_, begin_ + i, {q_ + k, k_ + k, key_ + k, read_ + k, write_ + k, decay_ + k, v_ + v, shrink_ + v});
            fill(dy_ + v, V_, 0), fill(reads_ + v, V_, 0);
            if (place.last) read(in_.dy, place.step * s.V + at_.first, at_.count, dy_ + v);
            if (KIND == Kind::outer) continue;
            read({in_.kept_reads, Dtype::float32}, place.row * s.V + at_.first, at_.count, reads_ + v);
            if (KIND == Kind::delta)  // what the row writes
                for (int64_t c = v; c < v + V_; c += LANES) store(v_ + c, load(v_ + c) - load(reads_ + c));
        }
        const int64_t rest = CHUNK + 1 - count_;
        for (float* at : {q_, k_, key_, read_, write_}) fill(at + count_ * K_, rest * K_, 0);
        for (float* at : {v_, reads_, dy_, dreads_}) fill(at + count_ * V_, rest * V_, 0);
    }

    // upto[i]: the product of the decays of rows before i; after[i]: of rows after i.
    static void cumulate(const float* decay, int64_t count, int64_t size, float* upto, float* after) {
        for (int64_t i = 0; i < size; i += LANES) {
            Vec product = splat(1);
            store(upto + i, product);
            for (int64_t t = 0; t < count; ++t) store(upto + (t + 1) * size + i, product *= load(decay + t * size + i));
            product = splat(1);
            for (int64_t t = count - 1; t >= 0; --t) {
                store(after + t * size + i, product);
                product *= load(decay + t * size + i);
            }
        }
    }
    // to[t] = x[t] * by[t + offset]; x itself where there is no decay. Rows from `count` on become zero.
    static const float* scaled(bool any, const float* x, const float* by, int64_t offset, int64_t count, int64_t size,
                               float* to) {
        if (!any) return x;
        for (int64_t i = 0; i < count * size; i += LANES) store(to + i, load(x + i) * load(by + offset * size + i));
        fill(to + count * size, (CHUNK + 1 - count) * size, 0);
        return to;
    }
    void accumulate_decays() {
        const bool any = decays(), any_v = shrinks();
        if (any) cumulate(decay_, count_, K_, upto_, after_);
        if (any_v) cumulate(shrink_, count_, V_, upto_v_, after_v_);
        from_q_ = scaled(any, q_, upto_, 1 - shift(), count_, K_, into_q_);
        from_dy_ = scaled(any_v, dy_, upto_v_, 1 - shift(), count_, V_, into_dy_);
        if (KIND != Kind::outer) from_read_ = scaled(any, read_, upto_, 0, count_, K_, into_read_);
        for (int w = 0; w < WRITERS; ++w) to_end_[w] = scaled(any, keys(w), after_, 0, count_, K_, out_k_[w]);
        to_end_v_ = scaled(any_v, v_, after_v_, 0, count_, V_, out_v_);
    }

    // dvalue_, the gradients of what is written, and with them dreads_, those of what is read.
    void find_value_gradients() {
        for (int w = 0; w < WRITERS; ++w) product(dvalue_[w], CHUNK, {to_end_[w], K_, 1}, grad_, K_, V_);
        if constexpr (KIND == Kind::outer) {
            multiply_pairs<1>(k_side(), keys(0), {{q_, shift(), by_k_[0][0], nullptr}});
            if (shrinks()) find_shrink_gradients();
            spread_pairs<1>(v_side(), v_, {{dy_, shift(), by_k_[0][0], nullptr}}, dvalue_[0], dshrink_);
            return;
        }
        for (int w = 0; w < WRITERS; ++w)
            multiply_pairs<2>(k_side(), keys(w), {{q_, 0, by_k_[w][0], nullptr}, {read_, 1, by_k_[w][1], nullptr}});
        for (int64_t t = count_ - 1; t >= 0; --t)
            for (int64_t c = 0; c < V_; c += LANES) {
                Vec sum[2] = {};
                for (int w = 0; w < WRITERS; ++w) {
                    const float *of_q = by_k_[w][0] + t * PAIRS, *of_read = by_k_[w][1] + t * PAIRS;
                    sum[w] = load(dvalue_[w] + t * V_ + c) + of_q[t] * load(dy_ + t * V_ + c);
                    for (int64_t s = t + 1; s < count_; ++s)
                        sum[w] += of_q[s] * load(dy_ + s * V_ + c) + of_read[s] * load(dreads_ + s * V_ + c);
                }
                store(dvalue_[0] + t * V_ + c, sum[0]);
                store(dreads_ + t * V_ + c, KIND == Kind::general ? sum[1] : -sum[0]);
            }
    }

    // The parts of the gradient of log_decay_v that the states before and after the chunk have in it.
    void find_shrink_gradients() {
        for (int64_t t = 0; t < count_; ++t)
            for (int64_t c = t * V_; c < (t + 1) * V_; c += LANES)
                store(dvalue_[0] + c, load(dvalue_[0] + c) * load(after_v_ + c));
        product(y_, CHUNK, {from_q_, K_, 1}, state_, K_, V_);
        const float* all = decays() ? upto_ + count_ * K_ : nullptr;
        for (int64_t c = 0; c < V_; c += LANES) {
            Vec both{};
            for (int64_t k = 0; k < K_; ++k)
                both += (all == nullptr ? 1 : all[k]) * load(state_ + k * V_ + c) * load(grad_ + k * V_ + c);
            both *= load(upto_v_ + count_ * V_ + c);
            for (int64_t t = 0; t < count_; ++t) {
                store(dshrink_ + t * V_ + c, both);
                both += load(v_ + t * V_ + c) * load(dvalue_[0] + t * V_ + c);
            }
            both = Vec{};
            for (int64_t t = count_ - 1; t >= 0; --t) {
                const int64_t s = t + shift();  // the first reader that reads row t
                if (s < count_) both += load(into_dy_ + s * V_ + c) * load(y_ + s * V_ + c);
                store(dshrink_ + t * V_ + c, load(dshrink_ + t * V_ + c) + both);
            }
        }
    }

    // The gradients of keys, queries and decays.
    void find_key_gradients() {
        for (int w = 0; w < WRITERS; ++w)
            if constexpr (KIND == Kind::outer)
                multiply_pairs<1>(v_side(), values(w), {{dy_, shift(), by_v_[w][0], nullptr}});
            else
                multiply_pairs<2>(v_side(), values(w), {{dy_, 0, by_v_[w][0], nullptr}, {dreads_, 1, by_v_[w][1], nullptr}});
        const float* ends[2] = {to_end_v_, reads_};
        for (int w = 0; w < WRITERS; ++w) product(dkey_[w], CHUNK, {ends[w], V_, 1}, grad_t_, V_, K_);
        product(dq_, CHUNK, {from_dy_, V_, 1}, state_t_, V_, K_);
        if (KIND != Kind::outer) product(dread_, CHUNK, {dreads_, V_, 1}, state_t_, V_, K_);
        for (float* at : {dq_, dread_}) fill(at + CHUNK * K_, K_, 0);
        if (decays()) find_decay_gradients();
        for (int w = 0; w < WRITERS; ++w)
            if constexpr (KIND == Kind::outer)
                spread_pairs<1>(k_side(), keys(w), {{q_, shift(), by_v_[w][0], dq_}}, dkey_[w], ddecay_);
            else
                spread_pairs<2>(k_side(), keys(w), {{q_, 0, by_v_[w][0], dq_}, {read_, 1, by_v_[w][1], dread_}},
                                dkey_[w], ddecay_);
    }

    // Puts the decays between the chunk's ends and its rows into dkey_, dq_ and dread_, and starts ddecay_ with what the
    // states before and after the chunk have in it: all that is written before a row and read behind it.
    void find_decay_gradients() {
        for (int64_t i = 0; i < K_; i += LANES) {
            Vec both{};
            for (int64_t c = 0; c < V_; ++c) {
                const Vec product = load(state_t_ + c * K_ + i) * load(grad_t_ + c * K_ + i);
                both += shrinks() ? product * upto_v_[count_ * V_ + c] : product;
            }
            both *= load(upto_ + count_ * K_ + i);
            for (int64_t t = 0; t < count_; ++t) {
                const int64_t at = t * K_ + i;
                store(ddecay_ + at, both);
                for (int w = 0; w < WRITERS; ++w) {
                    const Vec d = load(dkey_[w] + at) * load(after_ + at);
                    store(dkey_[w] + at, d);
                    both += load(keys(w) + at) * d;
                }
                store(dq_ + at, load(dq_ + at) * load(upto_ + at + (1 - shift()) * K_));
                if (KIND != Kind::outer) store(dread_ + at, load(dread_ + at) * load(upto_ + at));
            }
            both = Vec{};
            for (int64_t t = count_ - 1; t >= 0; --t) {
                const int64_t of_q = (t + shift()) * K_ + i, of_read = (t + 1) * K_ + i;  // the first that read row t
                if (t + shift() < count_) both += load(q_ + of_q) * load(dq_ + of_q);
                if (KIND != Kind::outer && t + 1 < count_) both += load(read_ + of_read) * load(dread_ + of_read);
                store(ddecay_ + t * K_ + i, load(ddecay_ + t * K_ + i) + both);
            }
        }
    }

    // From the state after the chunk to the one before it.
    void carry_gradient() {
        for (int64_t k = 0; k < K_; ++k)
            for (int64_t c = 0; c < V_; c += LANES) {
                Vec g = load(grad_ + k * V_ + c);
                if (decays()) g *= upto_[count_ * K_ + k];
                if (shrinks()) g *= load(upto_v_ + count_ * V_ + c);
                store(grad_ + k * V_ + c, g);
            }
        for_tiles(K_, V_, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
            float* to = grad_ + row * width + column;
            add_product<r(), n()>(to, {from_q_ + row, 1, K_}, from_dy_ + column, count_, width);
            if (KIND != Kind::outer) add_product<r(), n()>(to, {from_read_ + row, 1, K_}, dreads_ + column, count_, width);
        });
    }

    int64_t part(int64_t at) const { return at * cut_.slices + at_.s; }  // of a gradient that slices share
    static float dot(const float* a, const float* b, int64_t size) {
        Vec sum{};
        for (int64_t i = 0; i < size; i += LANES) sum += load(a + i) * load(b + i);
        return lane_sum(sum);
    }

    void write_row(int64_t i) {
        const RankOneSizes& s = in_.sizes;
        const Place place(s, at_, begin_ + i);
        const int64_t k = i * K_, v = i * V_;
        const float* ddecay = ddecay_ + k;
        if (in_.log_input != nullptr) {
            const float whole = dot(dkey_[0] + k, key_ + k, K_), weight = exponential(in_.log_input[place.step]);
            write(sinks_.dlog_input, part(place.step), 1, &whole);
            for (int64_t c = k; c < k + K_; c += LANES) store(dkey_[0] + c, weight * load(dkey_[0] + c));
        }
        if (in_.bonus != nullptr) add_own(k, v);
        write(sinks_.dk, part(place.row) * s.K, s.K, dkey_[0] + k);
        write(in_.dv, place.row * s.V + at_.first, at_.count, dvalue_[0] + v);
        if (KIND != Kind::outer) write(sinks_.dread, part(place.row) * s.K, s.K, dread_ + k);
        if (KIND == Kind::general) write(sinks_.dwrite, part(place.row) * s.K, s.K, dkey_[1] + k);
        if (place.last) write(sinks_.dq, part(place.step) * s.K, s.K, dq_ + k);
        if (shrinks()) write({in_.dlog_decay_v, Dtype::float32}, place.step * s.V + at_.first, at_.count, dshrink_ + v);
        if (!decays() || !place.first) return;
        if (in_.per_channel) return write(sinks_.dlog_decay, part(place.step) * s.K, s.K, ddecay);
        Vec sum{};  // padding is zero
        for (int64_t c = 0; c < K_; c += LANES) sum += load(ddecay + c);
        const float whole = sums_of<1>(&sum)[0];
        write(sinks_.dlog_decay, part(place.step), 1, &whole);
    }

    // What a row reads of itself: y = (sum of q bonus k) v.
    void add_own(int64_t k, int64_t v) {
        const Input bonuses{in_.bonus, Dtype::float32};
        const float d_own = dot(dy_ + v, v_ + v, V_);
        Vec own{};
        for (int64_t c = 0; c < K_; c += LANES) {
            const Vec q = load(q_ + k + c), key = load(k_ + k + c);
            const Vec bonus = read_lanes(bonuses, at_.n * in_.sizes.K + c, in_.sizes.K - c);
            own += q * bonus * key;
            store(dq_ + k + c, load(dq_ + k + c) + d_own * bonus * key);
            store(dkey_[0] + k + c, load(dkey_[0] + k + c) + d_own * bonus * q);
            store(dbonus_ + c, load(dbonus_ + c) + d_own * q * key);
        }
        const float weight = lane_sum(own);
        for (int64_t c = v; c < v + V_; c += LANES) store(dvalue_[0] + c, load(dvalue_[0] + c) + weight * load(dy_ + c));
    }

    const RankOneBackward& in_;
    const ColumnCut& cut_;
    const RankOneSinks& sinks_;
    const Columns at_;
    const int64_t K_, V_;  // whole vectors
    int64_t begin_ = 0, count_ = 0;
    // [CHUNK + 1][K_], zeros from row `count_` on in what is read; v_ is v - u where the kind is delta
    float *q_, *k_, *key_, *read_, *write_, *decay_, *upto_, *after_, *into_q_, *into_read_, *out_k_[2];
    float *dq_, *dread_, *dkey_[2], *ddecay_;
    // [CHUNK + 1][V_]
    float *v_, *reads_, *dy_, *shrink_, *upto_v_, *after_v_, *into_dy_, *out_v_, *y_, *dvalue_[2], *dreads_, *dshrink_;
    float *state_, *grad_, *state_t_, *grad_t_;  // [K_][V_], the one before and the gradient of the one after; [V_][K_]
    float *by_k_[2][2], *by_v_[2][2];            // [CHUNK][PAIRS] of each writer and reader, of either side
    float* dbonus_;                              // [K_]
    // Queries and keys with the decays between them and the chunk's ends.
    const float *from_q_, *from_read_, *from_dy_, *to_end_[2], *to_end_v_;
    Wishes wishes_;
};

template <Kind KIND>
void run_back(const RankOneBackward& in) {
    const RankOneSizes& s = in.sizes;
    const ColumnCut cut(s);
    const int64_t steps = s.B * s.T * s.H, rows = steps * s.M;
    const auto shared = [&](Output to, int64_t outer, int64_t group, int64_t inner) {
        return Shared(to, to.data == nullptr ? 0 : outer, group, inner);
    };
    const auto floats = [](float* data) { return Output{data, Dtype::float32}; };
    const Shared dq = shared(in.dq, steps, cut.slices, s.K), dk = shared(in.dk, rows, cut.slices, s.K);
    const Shared dread = shared(in.dread, rows, cut.slices, s.K), dwrite = shared(in.dwrite, rows, cut.slices, s.K);
    const Shared decay = shared(floats(in.dlog_decay), steps, cut.slices, in.per_channel ? s.K : 1);
    const Shared input = shared(floats(in.dlog_input), steps, cut.slices, 1);
    const Shared bonus = shared(floats(in.dbonus), s.H, s.B * cut.slices, s.K);
    const RankOneSinks sinks{dq.sink(), dk.sink(), dread.sink(), dwrite.sink(), decay.sink(), input.sink(), bonus.sink()};
    run_tasks(cut.tasks(), in.threads,
              [&](int64_t task, Pieces& pieces) { return RankOneBack<KIND>(in, cut, sinks, task, pieces); });
    for (const Shared* one : {&dq, &dk, &dread, &dwrite, &decay, &input, &bonus}) one->finish(in.threads);
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
