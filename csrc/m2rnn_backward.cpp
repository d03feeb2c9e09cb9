#include "m2rnn_block.h"
#include "sums.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int DW_TILE = REGISTERS / 8;  // dw is summed in register tiles of 4 rows and this many columns

// Where one task writes what it has for one step or at its end: the gradients themselves, or partial sums of them.
struct Sinks {
    Output dq, dk;  // [B, T, H, K]
    Output dv;      // [B, T, H, slices, V]
    float* df;      // [B, T, H, slices]
    float* dw;      // [H, B, slices, V, V]
};

struct BackwardScratch {
    Steps steps;
    float *dy;                           // [interval][columns]
    float *w, *w_t;                      // [V][columns]
    float *h, *candidates, *z;           // [interval (+ 1 for h)][columns][rows]
    float *zeros, *dh;                   // [columns][rows]
    float *dv_sums, *dw_sums;            // [width][LANES], [columns][width][LANES]
    float *dq, *dk, *row;                // [rows], [rows], [width]
    BackwardScratch(Pieces& pieces, const Cut& c)
        : steps(pieces, c),
          dy(pieces.take(M2RNN_INTERVAL * c.columns)),
          w(pieces.take(c.sizes.V * c.columns)),
          w_t(pieces.take(c.sizes.V * c.columns)),
          h(pieces.take((M2RNN_INTERVAL + 1) * c.columns * c.rows)),
          candidates(pieces.take(M2RNN_INTERVAL * c.columns * c.rows)),
          z(pieces.take(M2RNN_INTERVAL * c.columns * c.rows)),
          zeros(pieces.take(c.columns * c.rows)),
          dh(pieces.take(c.columns * c.rows)),
          dv_sums(pieces.take(c.width * LANES)),
          dw_sums(pieces.take(c.columns * c.width * LANES)),
          dq(pieces.take(c.rows)),
          dk(pieces.take(c.rows)),
          row(pieces.take(c.width)) {}
};

// The elementwise part of one step, all pointers at that step: [columns][rows], [rows] or [columns].
struct BackStep {
    const float *before, *after, *candidate, *q, *k, *v, *dy;
    float f, clip;
    float *z, *dh, *dq, *dk, *dv_sums;
};

// dh, the gradient of `after` but for the read-out, becomes f times its whole; z is the gradient inside the tanh.
// Returns the gradient of f, one partial sum per lane.
template <bool CLIP, int R>
INLINE Vec back_rows(const BackStep& step, const Cut& cut, int64_t row) {
    Vec q[R], k[R], dq[R], dk[R], df = Vec{};
    UNROLL for (int r = 0; r < R; ++r) {
        q[r] = load(step.q + row + r * LANES);
        k[r] = load(step.k + row + r * LANES);
        dq[r] = dk[r] = Vec{};
    }
    const Vec f = splat(step.f), g = splat(1.0f - step.f), bound = splat(step.clip);
    for (int64_t i = 0; i < cut.columns; ++i) {
        Vec dv = row > 0 ? load(step.dv_sums + i * LANES) : Vec{};
        UNROLL for (int r = 0; r < R; ++r) {
            const int64_t at = i * cut.rows + row + r * LANES;
            const Vec a = load(step.candidate + at);
            Vec d = load(step.dh + at) + q[r] * step.dy[i];
            if (CLIP) d = clamp(d, bound);
            dq[r] += step.dy[i] * load(step.after + at);
            df += d * (load(step.before + at) - a);
            const Vec z = (g * d) * (1.0f - a * a);
            dk[r] += step.v[i] * z;
            dv += k[r] * z;
            store(step.z + at, z);
            store(step.dh + at, f * d);
        }
        store(step.dv_sums + i * LANES, dv);
    }
    UNROLL for (int r = 0; r < R; ++r) {
        store(step.dq + row + r * LANES, dq[r]);
        store(step.dk + row + r * LANES, dk[r]);
    }
    return df;
}

template <bool CLIP>
float back_step(const BackStep& step, const Cut& cut) {
    Vec df = Vec{};
    for (int64_t row = 0; row < cut.rows; row += 2 * LANES) {
        if (row + LANES < cut.rows) df += back_rows<CLIP, 2>(step, cut, row);
        else df += back_rows<CLIP, 1>(step, cut, row);
    }
    return lane_sum(df);
}

template <int R>
INLINE void add_product_tile(float* dh, const float* z, const float* w_t, const Cut& cut) {
    Vec acc[TILE][R];
    UNROLL for (int i = 0; i < TILE; ++i)
        UNROLL for (int r = 0; r < R; ++r) acc[i][r] = load(dh + i * cut.rows + r * LANES);
    multiply<R>(acc, z, cut.rows, w_t, cut.columns, cut.sizes.V);
    UNROLL for (int i = 0; i < TILE; ++i)
        UNROLL for (int r = 0; r < R; ++r) store(dh + i * cut.rows + r * LANES, acc[i][r]);
}

// dh += z wᵀ
void add_product(float* dh, const float* z, const float* w_t, const Cut& cut) {
    for (int64_t row = 0; row < cut.rows; row += 2 * LANES)
        for (int64_t i = 0; i < cut.columns; i += TILE) {
            float* tile = dh + i * cut.rows + row;
            if (row + LANES < cut.rows) add_product_tile<2>(tile, z + row, w_t + i, cut);
            else add_product_tile<1>(tile, z + row, w_t + i, cut);
        }
}

// sums [columns][width] vectors += the products, lane by lane, of the columns of before[s] and z[s], s < steps.
void add_dw(float* sums, const float* const* before, const float* const* z, int64_t steps, const Cut& cut) {
    for (int64_t i = 0; i < cut.columns; i += 4)
        for (int64_t j = 0; j < cut.columns; j += DW_TILE) {
            Vec acc[4][DW_TILE];
            float* at = sums + (i * cut.width + j) * LANES;
            UNROLL for (int m = 0; m < 4; ++m)
                UNROLL for (int n = 0; n < DW_TILE; ++n) acc[m][n] = load(at + (m * cut.width + n) * LANES);
            for (int64_t s = 0; s < steps; ++s) {
                const float *x = before[s] + i * cut.rows, *y = z[s] + j * cut.rows;
                for (int64_t r = 0; r < cut.rows; r += LANES) {
                    Vec right[DW_TILE];
                    UNROLL for (int n = 0; n < DW_TILE; ++n) right[n] = load(y + n * cut.rows + r);
                    UNROLL for (int m = 0; m < 4; ++m) {
                        const Vec left = load(x + m * cut.rows + r);
                        UNROLL for (int n = 0; n < DW_TILE; ++n) acc[m][n] += left * right[n];
                    }
                }
            }
            UNROLL for (int m = 0; m < 4; ++m)
                UNROLL for (int n = 0; n < DW_TILE; ++n) store(at + (m * cut.width + n) * LANES, acc[m][n]);
        }
}

// One task: a slice of rows of one head, backwards through time.
class Scan {
  public:
    Scan(const M2rnnBackward& in, const Cut& cut, const Sinks& out, int64_t task, Pieces pieces)
        : in_(in), cut_(cut), out_(out), slice_(cut, task), my_(pieces, cut), block_(cut.columns * cut.rows) {}

    void run() {
        const M2rnnSizes& s = in_.sizes;
        const int64_t state_begin = (slice_.b * s.H + slice_.n) * s.K * s.V;
        prepare();
        state_to_block(in_.dlast + state_begin, cut_, slice_, my_.dh);
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t begin = interval * M2RNN_INTERVAL;
            const int64_t end = begin + M2RNN_INTERVAL < s.T ? begin + M2RNN_INTERVAL : s.T;
            recompute(interval, begin, end);
            go_back(begin, end);
        }
        block_to_state(my_.dh, cut_, slice_, in_.dstate + state_begin);
        write_dw();
    }

  private:
    bool is_reset(int64_t t) const { return in_.reset != nullptr && in_.reset[slice_.b * in_.sizes.T + t]; }
    const float* before(int64_t i, int64_t t) const { return is_reset(t) ? my_.zeros : my_.h + i * block_; }

    void prepare() {
        const M2rnnSizes& s = in_.sizes;
        my_.steps.clear(cut_);
        std::memset(my_.dy, 0, M2RNN_INTERVAL * cut_.columns * sizeof(float));
        std::memset(my_.h, 0, block_ * sizeof(float));
        std::memset(my_.zeros, 0, block_ * sizeof(float));
        std::memset(my_.dv_sums, 0, cut_.width * LANES * sizeof(float));
        std::memset(my_.dw_sums, 0, cut_.columns * cut_.width * LANES * sizeof(float));
        std::memset(my_.w_t, 0, s.V * cut_.columns * sizeof(float));
        pad_weights(in_.w + slice_.n / (s.H / s.Hw) * s.V * s.V, cut_, my_.w);
        for (int64_t j = 0; j < s.V; ++j)
            for (int64_t i = 0; i < s.V; ++i) my_.w_t[i * cut_.columns + j] = my_.w[j * cut_.columns + i];
    }

    // The states and candidates of steps [begin, end), from the state that the forward pass kept.
    void recompute(int64_t interval, int64_t begin, int64_t end) {
        const M2rnnSizes& s = in_.sizes;
        const float* kept = in_.kept + ((slice_.b * s.H + slice_.n) * s.intervals() + interval) * s.V * s.K;
        for (int64_t i = 0; i < s.V; ++i)
            for (int64_t r = 0; r < slice_.count; ++r) my_.h[i * cut_.rows + r] = kept[i * s.K + slice_.first + r];
        my_.steps.read_from(in_, cut_, slice_, begin, end);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t i = t - begin;
            read(in_.dy, ((slice_.b * s.T + t) * s.H + slice_.n) * s.V, s.V, my_.dy + i * cut_.columns);
            take_step<false>({my_.w, my_.steps.q + i * cut_.rows, my_.steps.k + i * cut_.rows,
                              my_.steps.v + i * cut_.columns, before(i, t), my_.steps.f[i],
                              my_.h + (i + 1) * block_, my_.candidates + i * block_, nullptr},
                             cut_);
        }
    }

    void go_back(int64_t begin, int64_t end) {
        const int64_t in_cache = 4096 / block_ > 0 ? 4096 / block_ : 1;  // steps whose states and z fit the first level
        const float *left[M2RNN_INTERVAL], *right[M2RNN_INTERVAL];
        int64_t waiting = 0;
        for (int64_t t = end - 1; t >= begin; --t) {
            const int64_t i = t - begin;
            back_one(i, t);
            left[waiting] = before(i, t);
            right[waiting++] = my_.z + i * block_;
            if (waiting == in_cache || t == begin) {
                add_dw(my_.dw_sums, left, right, waiting, cut_);
                waiting = 0;
            }
        }
    }

    void back_one(int64_t i, int64_t t) {
        const M2rnnSizes& s = in_.sizes;
        const float f = my_.steps.f[i];
        float* z = my_.z + i * block_;
        const BackStep step{before(i, t), my_.h + (i + 1) * block_, my_.candidates + i * block_,
                            my_.steps.q + i * cut_.rows, my_.steps.k + i * cut_.rows, my_.steps.v + i * cut_.columns,
                            my_.dy + i * cut_.columns, f, in_.clip, z, my_.dh, my_.dq, my_.dk, my_.dv_sums};
        const bool clip = in_.clip > 0 && f < 1;
        const float df = clip ? back_step<true>(step, cut_) : back_step<false>(step, cut_);
        if (is_reset(t)) std::memset(my_.dh, 0, block_ * sizeof(float));
        else add_product(my_.dh, z, my_.w_t, cut_);

        const int64_t head = (slice_.b * s.T + t) * s.H + slice_.n, part = head * cut_.slices + slice_.s;
        write(out_.dq, head * s.K + slice_.first, slice_.count, my_.dq);
        write(out_.dk, head * s.K + slice_.first, slice_.count, my_.dk);
        for (int64_t j = 0; j < cut_.width; j += LANES) store(my_.row + j, lane_sums(my_.dv_sums + j * LANES));
        write(out_.dv, part * s.V, s.V, my_.row);
        out_.df[part] = df;
    }

    void write_dw() {
        const M2rnnSizes& s = in_.sizes;
        float* dw = out_.dw + ((slice_.n * s.B + slice_.b) * cut_.slices + slice_.s) * s.V * s.V;
        for (int64_t i = 0; i < s.V; ++i) {
            const float* sums = my_.dw_sums + i * cut_.width * LANES;
            for (int64_t j = 0; j < cut_.width; j += LANES) store(my_.row + j, lane_sums(sums + j * LANES));
            for (int64_t j = 0; j < s.V; ++j) dw[i * s.V + j] = my_.row[j];
        }
    }

    const M2rnnBackward& in_;
    const Cut& cut_;
    const Sinks& out_;
    const Slice slice_;
    BackwardScratch my_;
    const int64_t block_;
};

// A gradient that tasks may share: they write partial sums [outer, group, inner], which are added up at the end.
class Shared {
  public:
    Shared(Output to, int64_t outer, int64_t group, int64_t inner)
        : to_(to), outer_(outer), group_(group), inner_(inner), parts_(group != 1 ? outer * group * inner : 0) {}
    Output sink() const { return group_ != 1 ? Output{parts_.data(), Dtype::float32} : to_; }
    void finish(int threads) const {
        if (group_ != 1) sum_groups(parts_.data(), to_, outer_, group_, inner_, threads);
    }

  private:
    Output to_;
    int64_t outer_, group_, inner_;
    Buffer parts_;
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
