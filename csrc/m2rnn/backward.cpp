#include "common/sums.h"
#include "m2rnn/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Where tasks write gradients: the arrays themselves or, where several tasks contribute, partial sums of them.
struct Sinks {
    Output dq, dk;  // [B, T, H, K]
    Output dv;      // [B, T, H, slices, V]
    float* df;      // [B, T, H, slices]
    float* dw;      // [H, B, slices, V, V]
};

struct BackwardScratch {
    Steps steps;
    float *dy;              // [interval][width]
    float *w, *w_t, *dw;    // [V][width], [V][width], [V rounded up to tiles][width]
    float *h, *candidates;  // of all steps of an interval: [interval + 1][rows][width], [interval][rows][width]
    float *zeros, *z, *dh;  // [rows][width]
    float *dq, *dk, *dv;    // [rows rounded up to vectors], likewise, [width]
    BackwardScratch(Arena& arena, const RowSplit& c)
        : steps(arena, c),
          dy(arena.take(M2RNN_INTERVAL * c.width)),
          w(arena.take(c.sizes.V * c.width)),
          w_t(arena.take(c.sizes.V * c.width)),
          dw(arena.take(round_up(c.sizes.V, ROWS) * c.width)),
          h(arena.take((M2RNN_INTERVAL + 1) * c.block())),
          candidates(arena.take(M2RNN_INTERVAL * c.block())),
          zeros(arena.take(c.block())),
          z(arena.take(c.block())),
          dh(arena.take(c.block())),
          dq(arena.take(round_up(c.rows, LANES))),
          dk(arena.take(round_up(c.rows, LANES))),
          dv(arena.take(c.width)) {}
};

// The elementwise part of one step (D, Z, df, dk, dv, dq of ops/m2rnn/README.md); all pointers are at that step.
struct BackStep {
    const float *before, *after, *candidate, *q, *k, *v, *dy;
    float f, clip;
    float *z, *dh, *dq, *dk, *dv;
};

// N vectors of columns of one step, all rows. On entry dh is the gradient of `after` without that of the read-out; on
// exit it is f D, with D the whole gradient. z is the gradient of the argument of the tanh.
template <bool CLIP, int N>
struct BackColumns {
    const BackStep& step;
    int64_t rows, width, column;
    Vec f, g, bound, v[N], dy[N], dv[N], df;

    INLINE BackColumns(const BackStep& s, const RowSplit& split, int64_t first)
        : step(s), rows(split.rows), width(split.width), column(first) {
        f = splat(s.f), g = splat(1.0f - s.f), bound = splat(s.clip), df = Vec{};
        UNROLL for (int n = 0; n < N; ++n) {
            v[n] = load(s.v + column + n * LANES);
            dy[n] = load(s.dy + column + n * LANES);
            dv[n] = Vec{};
        }
    }

    // Terms of the gradients of q and k, before or after the sums over lanes.
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
            const Vec z = (g * d) * (1.0f - a * a);  // 1 - a² is the derivative of tanh
            sums.dk += v[n] * z;
            dv[n] += k * z;
            store(step.z + at, z);
            store(step.dh + at, f * d);
        }
        return sums;
    }

    // The sums of LANES rows at once: rows first, first + HALF, first + 2 HALF ... meet in add_pair, from single rows
    // up to one vector whose lane i belongs to row i. Recursion keeps only log2 LANES vectors alive.
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

// Returns df, the gradient of f.
template <bool CLIP>
float back_step(const BackStep& step, const RowSplit& split) {
    Vec df = Vec{};
    int64_t column = 0;
    for (; column + LANES < split.width; column += 2 * LANES) df += BackColumns<CLIP, 2>(step, split, column).run();
    if (column < split.width) df += BackColumns<CLIP, 1>(step, split, column).run();
    return lane_sum(df);
}

// dh += z wᵀ
void add_to_dh(float* dh, const float* z, const float* w_t, const RowSplit& split) {
    for_tiles(split.rows, split.width, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
        add_product<r(), n()>(dh + row * width + column, {z + row * width, width, 1}, w_t + column, split.sizes.V,
                              width);
    });
}

// dw += beforeᵀ z
void add_to_dw(float* dw, const float* before, const float* z, const RowSplit& split) {
    const int64_t rows = round_up(split.sizes.V, ROWS);
    for_tiles(rows, split.width, [&](int64_t row, int64_t column, auto width, auto r, auto n) INLINE_LAMBDA {
        add_product<r(), n()>(dw + row * width + column, {before + row, 1, width}, z + column, split.rows, width);
    });
}

// One task: a slice of rows of one head, backwards through time.
class Scan {
  public:
    Scan(const M2rnnBackward& in, const RowSplit& split, const Sinks& out, int64_t task, Arena arena)
        : in_(in), split_(split), out_(out), slice_(split, task), scratch_(arena, split), block_(split.block()) {}

    void run() {
        const M2rnnSizes& s = in_.sizes;
        const int64_t head = slice_.b * s.H + slice_.n, state_begin = (head * s.K + slice_.first) * s.V;
        prepare();
        pad(in_.dlast + state_begin, slice_.count, split_, scratch_.dh);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t begin = interval * M2RNN_INTERVAL;
            const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
            const int64_t saved = (head * s.intervals() + interval) * s.K + slice_.first;
            pad(in_.saved + saved * s.V, slice_.count, split_, scratch_.h);
            recompute(begin, end);
            for (int64_t t = end - 1; t >= begin; --t) backward_step(t - begin, t);
        }
        unpad(scratch_.dh, slice_.count, split_, in_.dstate + state_begin);
        const int64_t part = (slice_.n * s.B + slice_.b) * split_.slices + slice_.s;
        unpad(scratch_.dw, s.V, split_, out_.dw + part * s.V * s.V);
        fence_nontemporal();
    }

  private:
    bool is_reset(int64_t t) const { return in_.reset != nullptr && in_.reset[slice_.b * in_.sizes.T + t]; }
    const float* before(int64_t i, int64_t t) const { return is_reset(t) ? scratch_.zeros : scratch_.h + i * block_; }

    void prepare() {
        const M2rnnSizes& s = in_.sizes;
        scratch_.steps.clear(split_);
        clear(scratch_.dy, M2RNN_INTERVAL * split_.width);
        clear(scratch_.h, block_);
        clear(scratch_.zeros, block_);
        clear(scratch_.dh, block_);
        clear(scratch_.dq, split_.rows);  // written by no step where V = 0: there are no columns to sum over
        clear(scratch_.dk, split_.rows);
        clear(scratch_.dw, round_up(s.V, ROWS) * split_.width);
        clear(scratch_.w_t, s.V * split_.width);
        pad(in_.w + slice_.n / (s.H / s.Hw) * s.V * s.V, s.V, split_, scratch_.w);
        for (int64_t j = 0; j < s.V; ++j)
            for (int64_t i = 0; i < s.V; ++i) scratch_.w_t[i * split_.width + j] = scratch_.w[j * split_.width + i];
    }
    static void clear(float* from, int64_t count) { std::memset(from, 0, count * sizeof(float)); }

    // The states and candidates of steps [begin, end), from the state that the forward pass saved before `begin`.
    void recompute(int64_t begin, int64_t end) {
        const M2rnnSizes& s = in_.sizes;
        scratch_.steps.read_from(in_, split_, slice_, begin, end);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin;
            read(in_.dy, ((slice_.b * s.T + t) * s.H + slice_.n) * s.V, s.V, scratch_.dy + i * split_.width);
            take_step<false>({scratch_.w, scratch_.steps.q + i * split_.rows, scratch_.steps.k + i * split_.rows,
                              scratch_.steps.v + i * split_.width, before(i, t), scratch_.steps.f[i],
                              scratch_.h + (i + 1) * block_, scratch_.candidates + i * block_, nullptr},
                             split_);
        }
    }

    // Step t, the i-th of its interval: takes dh from after the step to before it.
    void backward_step(int64_t i, int64_t t) {
        const float f = scratch_.steps.f[i];
        const int64_t head = (slice_.b * in_.sizes.T + t) * in_.sizes.H + slice_.n;
        const BackStep step{before(i, t),
                            scratch_.h + (i + 1) * block_,
                            scratch_.candidates + i * block_,
                            scratch_.steps.q + i * split_.rows,
                            scratch_.steps.k + i * split_.rows,
                            scratch_.steps.v + i * split_.width,
                            scratch_.dy + i * split_.width,
                            f, in_.clip,
                            scratch_.z, scratch_.dh, scratch_.dq, scratch_.dk, scratch_.dv};
        const bool clip = in_.clip > 0 && f < 1;  // f = 1 leaves the state as it is, so also its gradient
        const float df = clip ? back_step<true>(step, split_) : back_step<false>(step, split_);
        if (is_reset(t)) {  // the state before is zero and depends on nothing
            clear(scratch_.dh, block_);
        } else {
            add_to_dh(scratch_.dh, scratch_.z, scratch_.w_t, split_);
            add_to_dw(scratch_.dw, step.before, scratch_.z, split_);
        }
        write_step(head, df);
    }

    // `head` is the index into [B, T, H].
    void write_step(int64_t head, float df) {
        const M2rnnSizes& s = in_.sizes;
        const int64_t part = head * split_.slices + slice_.s;
        write_nontemporal(out_.dq, head * s.K + slice_.first, slice_.count, scratch_.dq);
        write_nontemporal(out_.dk, head * s.K + slice_.first, slice_.count, scratch_.dk);
        write(out_.dv, part * s.V, s.V, scratch_.dv);
        out_.df[part] = df;
    }

    const M2rnnBackward& in_;
    const RowSplit& split_;
    const Sinks& out_;
    const Slice slice_;
    BackwardScratch scratch_;
    const int64_t block_;
};

}  // namespace

void m2rnn_backward(const M2rnnBackward& in) {
    const M2rnnSizes& s = in.sizes;
    const RowSplit split(s);
    const int64_t steps = s.B * s.T;
    const PartialSums dq(in.dq, steps * s.Hq, s.H / s.Hq, s.K), dk(in.dk, steps * s.Hk, s.H / s.Hk, s.K);
    const PartialSums dv(in.dv, steps * s.Hv, s.H / s.Hv * split.slices, s.V);
    const PartialSums df({in.df, Dtype::float32}, steps * s.Hf, s.H / s.Hf * split.slices, 1);
    const PartialSums dw({in.dw, Dtype::float32}, s.Hw, s.H / s.Hw * s.B * split.slices, s.V * s.V);
    const Sinks sinks{dq.sink(), dk.sink(), dv.sink(), static_cast<float*>(df.sink().data),
                      static_cast<float*>(dw.sink().data)};
    Arena sizing{nullptr};
    BackwardScratch{sizing, split};
    Buffer scratch(sizing.used * in.threads);
    parallel_for(split.tasks(), in.threads, [&](int64_t task, int thread) {
        Scan(in, split, sinks, task, Arena{scratch.data() + thread * sizing.used}).run();
    });
    for (const PartialSums* shared : {&dq, &dk, &dv, &df, &dw}) shared->reduce(in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
