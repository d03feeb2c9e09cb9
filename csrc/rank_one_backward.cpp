#include "rank_one_rows.h"
#include "sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Sums over the columns of a state, one number per row of it.
enum Sum { D_READ, D_DECAY, D_Q, D_KEY, D_WRITE, SUMS };

// One sweep over the state S between two rows of the sequence, `next` and `previous`, and over its gradient G, which
// comes in as the gradient of what `next` makes of it. `reader` is the row whose q reads S.
template <Kind KIND>
struct BackSweep {
    static constexpr bool READS = KIND != Kind::outer;
    const float *decay, *read, *q, *key, *write;  // [padded]: of next, next, the reader, previous, previous
    const float *shrink, *d_read, *dy, *v, *reads;  // [width]: of next, next, the reader, previous, previous
    const float* state;
    float *gradient, *partial;                // [K][width], [SUMS][LANES rows][LANES]
    float *by_key, *by_write, *d_shrink;      // [width]: keyᵀ G, writeᵀ G, the gradient of log_decay_v
    float* sums;                              // [SUMS][padded]
    int64_t K, width, padded;

    // N vectors of columns, rows [block, block + count).
    template <int N, bool DECAYS, bool SHRINK>
    INLINE void columns(int64_t block, int64_t count, int64_t column) const {
        Vec du[N], y[N], add[N], u[N], keyed[N], written[N], c[N], dc[N];
        UNROLL for (int n = 0; n < N; ++n) {
            const int64_t at = column + n * LANES;
            y[n] = load(dy + at), add[n] = load(v + at);
            keyed[n] = block > 0 ? load(by_key + at) : Vec{};
            if (READS) du[n] = load(d_read + at);
            if (KIND == Kind::general) u[n] = load(reads + at), written[n] = block > 0 ? load(by_write + at) : Vec{};
            if (SHRINK) c[n] = load(shrink + at), dc[n] = block > 0 ? load(d_shrink + at) : Vec{};
        }
        for (int64_t i = 0; i < count; ++i) {
            const int64_t row = block + i;
            float* g_row = gradient + row * width + column;
            const float* s_row = state + row * width + column;
            float* part = partial + i * LANES;
            Vec d_r{}, d_d{}, d_q{}, d_k{}, d_w{};
            if (column > 0) {
                d_r = load(part + D_READ * LANES * LANES), d_d = load(part + D_DECAY * LANES * LANES);
                d_q = load(part + D_Q * LANES * LANES), d_k = load(part + D_KEY * LANES * LANES);
                d_w = load(part + D_WRITE * LANES * LANES);
            }
            UNROLL for (int n = 0; n < N; ++n) {
                const Vec s = load(s_row + n * LANES);
                Vec g = load(g_row + n * LANES);
                if (DECAYS) g *= decay[row];
                if (SHRINK) g *= c[n];
                if (SHRINK) dc[n] += g * s;
                if (DECAYS) d_d += g * s;
                if (READS) g += read[row] * du[n], d_r += s * du[n];
                g += q[row] * y[n];
                d_q += s * y[n];
                d_k += g * add[n];
                keyed[n] += key[row] * g;
                if (KIND == Kind::general) d_w += g * u[n], written[n] += write[row] * g;
                store(g_row + n * LANES, g);
            }
            if (READS) store(part + D_READ * LANES * LANES, d_r);
            if (DECAYS) store(part + D_DECAY * LANES * LANES, d_d);
            store(part + D_Q * LANES * LANES, d_q), store(part + D_KEY * LANES * LANES, d_k);
            if (KIND == Kind::general) store(part + D_WRITE * LANES * LANES, d_w);
        }
        UNROLL for (int n = 0; n < N; ++n) {
            const int64_t at = column + n * LANES;
            store(by_key + at, keyed[n]);
            if (KIND == Kind::general) store(by_write + at, written[n]);
            if (SHRINK) store(d_shrink + at, dc[n]);
        }
    }

    template <bool DECAYS, bool SHRINK>
    void run() const {
        constexpr int WIDE = KIND == Kind::general ? REGISTERS / 16 : REGISTERS / 8;
        for (int64_t block = 0; block < K; block += LANES) {
            const int64_t count = K - block < LANES ? K - block : LANES;
            int64_t column = 0;
            for (; column + WIDE * LANES <= width; column += WIDE * LANES)
                columns<WIDE, DECAYS, SHRINK>(block, count, column);
            for (; column < width; column += LANES) columns<1, DECAYS, SHRINK>(block, count, column);
            for (int sum : {D_READ, D_DECAY, D_Q, D_KEY, D_WRITE}) {
                if ((sum == D_READ && !READS) || (sum == D_DECAY && !DECAYS) || (sum == D_WRITE && KIND != Kind::general))
                    continue;
                Vec rows[LANES];
                UNROLL for (int i = 0; i < LANES; ++i) rows[i] = load(partial + (sum * LANES + i) * LANES);
                store(sums + sum * padded + block, sums_of<LANES>(rows));
            }
        }
    }
};

// Where tasks write: the gradients themselves, or partial sums of slices of columns and of the batch.
struct RankOneSinks {
    Output dq, dk, dread, dwrite, dlog_decay, dlog_input, dbonus;
};

// One task: some columns of one head, backwards through time.
template <Kind KIND>
class RankOneBack {
    static constexpr int64_t ROWS = RANK_ONE_INTERVAL;

  public:
    RankOneBack(const RankOneBackward& in, const ColumnCut& cut, const RankOneSinks& out, int64_t task, Pieces& pieces)
        : in_(in), cut_(cut), out_(out), at_(cut, task) {
        for (RowInputs& row : rows_) {
            for (float** at : {&row.q, &row.k, &row.key, &row.read, &row.write, &row.decay}) *at = pieces.take(cut.padded);
            for (float** at : {&row.v, &row.decay_v}) *at = pieces.take(cut.width);
        }
        for (float*& state : states_) state = pieces.take(cut.block());
        for (int64_t i = 0; i <= ROWS; ++i)
            dy_[i] = pieces.take(cut.width), reads_[i] = pieces.take(cut.width), d_reads_[i] = pieces.take(cut.width);
        gradient_ = pieces.take(cut.block());
        zeros_ = pieces.take(cut.block() > cut.padded ? cut.block() : cut.padded);
        no_columns_ = pieces.take(cut.width);
        partial_ = pieces.take(SUMS * LANES * LANES);
        sums_ = pieces.take(SUMS * cut.padded);
        by_key_ = pieces.take(cut.width), d_shrink_ = pieces.take(cut.width);
        d_bonus_ = pieces.take(cut.padded);
    }

    void run() {
        const RankOneSizes& s = in_.sizes;
        const int64_t head = at_.b * s.H + at_.n;
        read_columns(in_.dlast + head * s.K * s.V, cut_, at_, gradient_);
        fill(d_bonus_, cut_.padded, 0);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            begin_ = interval * ROWS;
            const int64_t left = s.rows() - begin_;
            count_ = left < ROWS ? left : ROWS;
            const bool last = interval == s.intervals() - 1;
            if (!last) swap_in_first();
            recompute(head, interval);
            for (int64_t i = count_; i > 0; --i) go_back(i, last && i == count_, false);
        }
        if (s.rows() > 0) go_back(0, false, true);
        write_columns(gradient_, cut_, at_, in_.dstate + head * s.K * s.V);
        if (in_.bonus != nullptr)
            write(out_.dbonus, ((at_.n * s.B + at_.b) * cut_.slices + at_.s) * s.K, s.K, d_bonus_);
    }

  private:
    // Row `begin_` of the interval just done becomes the one after the interval now to be done.
    void swap_in_first() {
        const RowInputs first = rows_[0];
        rows_[0] = rows_[ROWS], rows_[ROWS] = first;
        for (float** columns : {dy_, reads_, d_reads_}) {
            float* of_first = columns[0];
            columns[0] = columns[ROWS], columns[ROWS] = of_first;
        }
    }

    // The inputs and states of an interval, from the state that the forward pass kept.
    void recompute(int64_t head, int64_t interval) {
        const RankOneSizes& s = in_.sizes;
        read_columns(in_.kept + (head * s.intervals() + interval) * s.K * s.V, cut_, at_, states_[0]);
        for (int64_t i = 0; i < count_; ++i) {
            const int64_t j = begin_ + i;
            const Place place(s, at_, j);
            read_row(in_, cut_, at_, j, rows_[i]);
            fill(dy_[i], cut_.width, 0), fill(reads_[i], cut_.width, 0);
            if (place.last) read(in_.dy, place.step * s.V + at_.first, at_.count, dy_[i]);
            if constexpr (KIND != Kind::outer)
                read({in_.kept_reads, Dtype::float32}, place.row * s.V + at_.first, at_.count, reads_[i]);
            if constexpr (KIND == Kind::delta)
                for (int64_t c = 0; c < cut_.width; c += LANES) store(rows_[i].v + c, load(rows_[i].v + c) - load(reads_[i] + c));
            take_row(i, starts_document(in_, at_, j) ? zeros_ : states_[i]);
        }
    }

    void take_row(int64_t i, const float* before) {
        const RowInputs& row = rows_[i];
        const float *keys = key(row), *u = reads_[i];
        const bool shrinks = in_.log_decay_v != nullptr;
        for (int64_t k = 0; k < cut_.sizes.K; ++k) {
            const float* from = before + k * cut_.width;
            float* to = states_[i + 1] + k * cut_.width;
            for (int64_t c = 0; c < cut_.width; c += LANES) {
                Vec s = load(from + c) * row.decay[k];
                if (KIND == Kind::outer && shrinks) s *= load(row.decay_v + c);
                s += keys[k] * load(row.v + c);
                if (KIND == Kind::general) s += row.write[k] * load(u + c);
                store(to + c, s);
            }
        }
    }

    const float* key(const RowInputs& row) const { return in_.log_input != nullptr ? row.key : row.k; }

    // Between rows i - 1 and i of the interval; `end`: there is no row i, `start`: no row i - 1.
    void go_back(int64_t i, bool end, bool start) {
        const int64_t j = begin_ + i;
        const bool cut_off = !end && starts_document(in_, at_, j);
        if (cut_off) fill(gradient_, cut_.block(), 0);
        const bool next = !end && !cut_off;  // whether row i depends on the state
        BackSweep<KIND> sweep{};
        sweep.K = cut_.sizes.K, sweep.width = cut_.width, sweep.padded = cut_.padded;
        sweep.state = states_[i], sweep.gradient = gradient_, sweep.partial = partial_, sweep.sums = sums_;
        sweep.decay = rows_[i].decay, sweep.shrink = rows_[i].decay_v;
        sweep.read = next ? rows_[i].read : zeros_, sweep.d_read = next ? d_reads_[i] : no_columns_;
        const int64_t reader = in_.read_before ? i : i - 1;
        const bool is_read = in_.read_before ? next : !start;
        sweep.q = is_read ? rows_[reader].q : zeros_, sweep.dy = is_read ? dy_[reader] : no_columns_;
        sweep.key = start ? zeros_ : key(rows_[i - 1]), sweep.write = start ? zeros_ : rows_[i - 1].write;
        sweep.v = start ? no_columns_ : rows_[i - 1].v, sweep.reads = start ? no_columns_ : reads_[i - 1];
        sweep.by_key = by_key_, sweep.d_shrink = d_shrink_;
        sweep.by_write = start || i == 0 ? by_key_ : d_reads_[i - 1];
        const bool decays = in_.log_decay != nullptr && !end;
        if (KIND == Kind::outer && in_.log_decay_v != nullptr && !end) sweep.template run<true, true>();
        else if (decays) sweep.template run<true, false>();
        else sweep.template run<false, false>();
        if (!end) write_decay(j);
        if (in_.read_before ? !end : !start) write_q(reader, Place(in_.sizes, at_, begin_ + reader));
        if (!start) write_previous(i - 1, Place(in_.sizes, at_, j - 1));
    }

    float* sum(Sum which) const { return sums_ + which * cut_.padded; }
    int64_t part(int64_t at) const { return at * cut_.slices + at_.s; }  // of a gradient that slices share
    float dot(const float* a, const float* b, int64_t padded) const {
        Vec sum{};
        for (int64_t i = 0; i < padded; i += LANES) sum += load(a + i) * load(b + i);
        return lane_sum(sum);
    }
    Vec bonus(int64_t i) const {
        return read_lanes({in_.bonus, Dtype::float32}, at_.n * in_.sizes.K + i, in_.sizes.K - i);
    }

    // What row j has from the state before it.
    void write_decay(int64_t j) {
        const RankOneSizes& s = in_.sizes;
        const Place place(s, at_, j);
        if (KIND != Kind::outer) write(out_.dread, part(place.row) * s.K, s.K, sum(D_READ));
        if (in_.log_decay_v != nullptr)
            write({in_.dlog_decay_v, Dtype::float32}, place.step * s.V + at_.first, at_.count, d_shrink_);
        if (in_.log_decay == nullptr || !place.first) return;
        if (in_.per_channel) return write(out_.dlog_decay, part(place.step) * s.K, s.K, sum(D_DECAY));
        float whole = 0;
        for (int64_t k = 0; k < s.K; ++k) whole += sum(D_DECAY)[k];
        write(out_.dlog_decay, part(place.step), 1, &whole);
    }

    void write_q(int64_t i, const Place& place) {
        if (!place.last) return;
        float* dq = sum(D_Q);
        if (in_.bonus != nullptr)
            for (int64_t c = 0; c < cut_.padded; c += LANES)
                store(dq + c, load(dq + c) + d_own_ * bonus(c) * load(rows_[i].k + c));
        write(out_.dq, part(place.step) * in_.sizes.K, in_.sizes.K, dq);
    }

    // What row i has from the state after it.
    void write_previous(int64_t i, const Place& place) {
        const RankOneSizes& s = in_.sizes;
        const RowInputs& row = rows_[i];
        float* dk = sum(D_KEY);
        if (in_.log_input != nullptr) {
            const float whole = dot(dk, row.key, cut_.padded);
            write(out_.dlog_input, part(place.step), 1, &whole);
            const Vec weight = splat(exponential(in_.log_input[place.step]));
            for (int64_t c = 0; c < cut_.padded; c += LANES) store(dk + c, weight * load(dk + c));
        }
        if (in_.bonus != nullptr) add_own(row, dy_[i], dk);
        if (KIND == Kind::delta)
            for (int64_t c = 0; c < cut_.width; c += LANES) store(d_reads_[i] + c, -load(by_key_ + c));
        write(out_.dk, part(place.row) * s.K, s.K, dk);
        if (KIND == Kind::general) write(out_.dwrite, part(place.row) * s.K, s.K, sum(D_WRITE));
        write(in_.dv, place.row * s.V + at_.first, at_.count, by_key_);
    }

    // What a row reads of itself: y = (sum of q bonus k) v.
    void add_own(const RowInputs& row, const float* dy, float* dk) {
        Vec own{};
        d_own_ = dot(dy, row.v, cut_.width);
        for (int64_t c = 0; c < cut_.padded; c += LANES) {
            const Vec q = load(row.q + c), k = load(row.k + c);
            own += q * bonus(c) * k;
            store(dk + c, load(dk + c) + d_own_ * bonus(c) * q);
            store(d_bonus_ + c, load(d_bonus_ + c) + d_own_ * q * k);
        }
        const float weight = lane_sum(own);
        for (int64_t c = 0; c < cut_.width; c += LANES) store(by_key_ + c, load(by_key_ + c) + weight * load(dy + c));
    }

    const RankOneBackward& in_;
    const ColumnCut& cut_;
    const RankOneSinks& out_;
    const Columns at_;
    RowInputs rows_[ROWS + 1];                                        // those of the interval, and the one after it
    float *states_[ROWS + 1];                                         // [K][width], before each row and after the last
    float *dy_[ROWS + 1], *reads_[ROWS + 1], *d_reads_[ROWS + 1];     // [width]
    float *gradient_, *zeros_, *no_columns_;                          // of the state; zeros of the size of either
    float *partial_, *sums_, *by_key_, *d_shrink_, *d_bonus_;
    float d_own_ = 0;  // the gradient of the sum of q bonus k at the row whose dk was written last
    int64_t begin_ = 0, count_ = 0;
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
