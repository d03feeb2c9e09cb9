#include "common/sums.h"
#include "m2rnn/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Where one task writes what it has for one step or at its end: the gradients themselves, or partial sums of them.
struct Sinks {
    Output dq, dk;  // [B, T, H, K]
    Output dv;      // [B, T, H, slices, V]
    float* df;      // [B, T, H, slices]
    float* dw;      // [H, B, slices, V, V]
};

struct BackwardScratch {
    Steps steps;
    float *dy;                   // [interval][width]
    float *w, *w_t, *dw;         // [V][width], [V][width], [V rounded up to tiles][width]
    float *h, *candidates;       // [interval + 1][rows][width], [interval][rows][width]
    float *zeros, *z, *dh;       // [rows][width]
    float *dq, *dk, *dv;         // [rows rounded up to vectors], likewise, [width]
    BackwardScratch(Pieces& pieces, const Cut& c)
        : steps(pieces, c),
          dy(pieces.take(M2RNN_INTERVAL * c.width)),
          w(pieces.take(c.sizes.V * c.width)),
          w_t(pieces.take(c.sizes.V * c.width)),
          dw(pieces.take(round_up(c.sizes.V, ROWS) * c.width)),
          h(pieces.take((M2RNN_INTERVAL + 1) * c.block())),
          candidates(pieces.take(M2RNN_INTERVAL * c.block())),
          zeros(pieces.take(c.block())),
          z(pieces.take(c.block())),
          dh(pieces.take(c.block())),
          dq(pieces.take(round_up(c.rows, LANES))),
          dk(pieces.take(round_up(c.rows, LANES))),
          dv(pieces.take(c.width)) {}
};

// The elementwise part of one step; all pointers at that step.
struct BackStep {
    const float *before, *after, *candidate, *q, *k, *v, *dy;
    float f, clip;
    float *z, *dh, *dq, *dk, *dv;
};

// N vectors of columns of one step, all rows. dh, the gradient of `after` but for the read-out, becomes f times its
// whole; z is the gradient inside the tanh.
template <bool CLIP, int N>
struct BackColumns {
    const BackStep& step;
    int64_t rows, width, column;
    Vec f, g, bound, v[N], dy[N], dv[N], df;

    INLINE BackColumns(const BackStep& s, const Cut& cut, int64_t first)
        : step(s), rows(cut.rows), width(cut.width), column(first) {
        f = splat(s.f), g = splat(1.0f - s.f), bound = splat(s.clip), df = Vec{};
        UNROLL for (int n = 0; n < N; ++n) {
            v[n] = load(s.v + column + n * LANES);
            dy[n] = load(s.dy + column + n * LANES);
            dv[n] = Vec{};
        }
    }

    // The gradients of q and k for the rows of a vector, or partial sums of them.
    struct Sums {
        Vec dq, dk;
    };

    INLINE Sums one_row(int64_t row) {
        Sums sums{};
        if (row >= rows) return sums;
        const float q = step.q[row], k = step.k[row];
        UNROLL for (int n = 0; n < N; ++n) {
            const int64_t at = row * width + column + n * LANES;
            const Vec a = load(step.candidate + at);
            Vec d = load(step.dh + at) + q * dy[n];
            if (CLIP) d = clamp(d, bound);
            sums.dq += dy[n] * load(step.after + at);
            df += d * (load(step.before + at) - a);
            const Vec z = (g * d) * (1.0f - a * a);
            sums.dk += v[n] * z;
            dv[n] += k * z;
            store(step.z + at, z);
            store(step.dh + at, f * d);
        }
        return sums;
    }

    // Those of rows first, first + HALF, ..., added up over lanes as far as lanes are shared (see add_pair).
    template <int HALF>
    INLINE Sums sums_from(int64_t first) {
        if constexpr (HALF == LANES) {
            return one_row(first);
        } else {
            const Sums a = sums_from<2 * HALF>(first), b = sums_from<2 * HALF>(first + HALF);
            constexpr auto lanes = std::make_index_sequence<LANES>();
            return {add_pair<HALF>(a.dq, b.dq, lanes), add_pair<HALF>(a.dk, b.dk, lanes)};
        }
    }

    INLINE Vec run() {
        for (int64_t row = 0; row < rows; row += LANES) {
            const Sums sums = sums_from<1>(row);
            store(step.dq + row, column > 0 ? load(step.dq + row) + sums.dq : sums.dq);
            store(step.dk + row, column > 0 ? load(step.dk + row) + sums.dk : sums.dk);
        }
        UNROLL for (int n = 0; n < N; ++n) store(step.dv + column + n * LANES, dv[n]);
        return df;
    }
};

// Returns the gradient of f.
template <bool CLIP>
float back_step(const BackStep& step, const Cut& cut) {
    Vec df = Vec{};
    int64_t column = 0;
    for (; column + LANES < cut.width; column += 2 * LANES) df += BackColumns<CLIP, 2>(step, cut, column).run();
    if (column < cut.width) df += BackColumns<CLIP, 1>(step, cut, column).run();
    return lane_sum(df);
}

// dh += z wᵀ
void add_to_dh(float* dh, const float* z, const float* w_t, const Cut& cut) {
    for_tiles(cut.rows, cut.width, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
        add_product<r(), n()>(dh + row * width + column, {z + row * width, width, 1}, w_t + column, cut.sizes.V, width);
    });
}

// dw += beforeᵀ z
void add_to_dw(float* dw, const float* before, const float* z, const Cut& cut) {
    const int64_t rows = round_up(cut.sizes.V, ROWS);
    for_tiles(rows, cut.width, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
        add_product<r(), n()>(dw + row * width + column, {before + row, 1, width}, z + column, cut.rows, width);
    });
}

// One task: a slice of rows of one head, backwards through time.
class Scan {
  public:
    Scan(const M2rnnBackward& in, const Cut& cut, const Sinks& out, int64_t task, Pieces pieces)
        : in_(in), cut_(cut), out_(out), slice_(cut, task), my_(pieces, cut), block_(cut.block()) {}

    void run() {
        const M2rnnSizes& s = in_.sizes;
        const int64_t head = slice_.b * s.H + slice_.n, state_begin = (head * s.K + slice_.first) * s.V;
        prepare();
        pad(in_.dlast + state_begin, slice_.count, cut_, my_.dh);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t begin = interval * M2RNN_INTERVAL;
            const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
            const int64_t kept = (head * s.intervals() + interval) * s.K + slice_.first;
            pad(in_.kept + kept * s.V, slice_.count, cut_, my_.h);
            recompute(begin, end);
            for (int64_t t = end - 1; t >= begin; --t) go_back(t - begin, t);
        }
        unpad(my_.dh, slice_.count, cut_, in_.dstate + state_begin);
        const int64_t part = (slice_.n * s.B + slice_.b) * cut_.slices + slice_.s;
        unpad(my_.dw, s.V, cut_, out_.dw + part * s.V * s.V);
        finish_streaming();
    }

  private:
    bool is_reset(int64_t t) const { return in_.reset != nullptr && in_.reset[slice_.b * in_.sizes.T + t]; }
    const float* before(int64_t i, int64_t t) const { return is_reset(t) ? my_.zeros : my_.h + i * block_; }

    void prepare() {
        const M2rnnSizes& s = in_.sizes;
        my_.steps.clear(cut_);
        clear(my_.dy, M2RNN_INTERVAL * cut_.width);
        clear(my_.h, block_);
        clear(my_.zeros, block_);
        clear(my_.dh, block_);
        clear(my_.dq, cut_.rows);  // where V = 0 no step has columns to sum over
        clear(my_.dk, cut_.rows);
        clear(my_.dw, round_up(s.V, ROWS) * cut_.width);
        clear(my_.w_t, s.V * cut_.width);
        pad(in_.w + slice_.n / (s.H / s.Hw) * s.V * s.V, s.V, cut_, my_.w);
        for (int64_t j = 0; j < s.V; ++j)
            for (int64_t i = 0; i < s.V; ++i) my_.w_t[i * cut_.width + j] = my_.w[j * cut_.width + i];
    }
    static void clear(float* from, int64_t count) { std::memset(from, 0, count * sizeof(float)); }

    // The states and candidates of steps [begin, end), from the state that the forward pass kept.
    void recompute(int64_t begin, int64_t end) {
        const M2rnnSizes& s = in_.sizes;
        my_.steps.read_from(in_, cut_, slice_, begin, end);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin;
            read(in_.dy, ((slice_.b * s.T + t) * s.H + slice_.n) * s.V, s.V, my_.dy + i * cut_.width);
            take_step<false>({my_.w, my_.steps.q + i * cut_.rows, my_.steps.k + i * cut_.rows,
                              my_.steps.v + i * cut_.width, before(i, t), my_.steps.f[i], my_.h + (i + 1) * block_,
                              my_.candidates + i * block_, nullptr},
                             cut_);
        }
    }

    // Step t, the i-th of its interval.
    void go_back(int64_t i, int64_t t) {
        const float f = my_.steps.f[i];
        const int64_t head = (slice_.b * in_.sizes.T + t) * in_.sizes.H + slice_.n;
        const BackStep step{before(i, t), my_.h + (i + 1) * block_, my_.candidates + i * block_,
                            my_.steps.q + i * cut_.rows, my_.steps.k + i * cut_.rows, my_.steps.v + i * cut_.width,
                            my_.dy + i * cut_.width, f, in_.clip, my_.z, my_.dh, my_.dq, my_.dk, my_.dv};
        const bool clip = in_.clip > 0 && f < 1;
        const float df = clip ? back_step<true>(step, cut_) : back_step<false>(step, cut_);
        if (is_reset(t)) {
            clear(my_.dh, block_);
        } else {
            add_to_dh(my_.dh, my_.z, my_.w_t, cut_);
            add_to_dw(my_.dw, step.before, my_.z, cut_);
        }
        write_step(head, df);
    }

    // `head` counts the heads of all steps of the batch before this one.
    void write_step(int64_t head, float df) {
        const M2rnnSizes& s = in_.sizes;
        const int64_t part = head * cut_.slices + slice_.s;
        write_past(out_.dq, head * s.K + slice_.first, slice_.count, my_.dq);
        write_past(out_.dk, head * s.K + slice_.first, slice_.count, my_.dk);
        write(out_.dv, part * s.V, s.V, my_.dv);
        out_.df[part] = df;
    }

    const M2rnnBackward& in_;
    const Cut& cut_;
    const Sinks& out_;
    const Slice slice_;
    BackwardScratch my_;
    const int64_t block_;
};

}  // namespace

void m2rnn_backward(const M2rnnBackward& in) {
    const M2rnnSizes& s = in.sizes;
    const Cut cut(s);
    const int64_t steps = s.B * s.T;
    const Shared dq(in.dq, steps * s.Hq, s.H / s.Hq, s.K), dk(in.dk, steps * s.Hk, s.H / s.Hk, s.K);
    const Shared dv(in.dv, steps * s.Hv, s.H / s.Hv * cut.slices, s.V);
    const Shared df({in.df, Dtype::float32}, steps * s.Hf, s.H / s.Hf * cut.slices, 1);
    const Shared dw({in.dw, Dtype::float32}, s.Hw, s.H / s.Hw * s.B * cut.slices, s.V * s.V);
    const Sinks sinks{dq.sink(), dk.sink(), dv.sink(), static_cast<float*>(df.sink().data),
                      static_cast<float*>(dw.sink().data)};
    Pieces counted{nullptr};
    BackwardScratch{counted, cut};
    Buffer scratch(counted.used * in.threads);
    parallel_for(cut.tasks(), in.threads, [&](int64_t task, int thread) {
        Scan(in, cut, sinks, task, Pieces{scratch.data() + thread * counted.used}).run();
    });
    for (const Shared* shared : {&dq, &dk, &dv, &df, &dw}) shared->finish(in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
