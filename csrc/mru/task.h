// What the two directions of the MRU share: a task is a group of heads of one batch row. MRU_INTERVAL steps at a time,
// its matrices are built and multiplied up in scratch memory that stays in the second-level cache.
#pragma once

#include <float.h>
#include <math.h>

#include "matrix/chunk.h"
#include "mru/builders.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The horizontal sum, by halves.
template <int W>
INLINE float sum_of_lanes(RowVec<W> x) {
    if constexpr (W == 4) {
        return (x[0] + x[1]) + (x[2] + x[3]);
    } else {
        constexpr auto lanes = std::make_index_sequence<W / 2>();
        return sum_of_lanes<W / 2>(half_of<RowVec<W / 2>>(x, 0, lanes) + half_of<RowVec<W / 2>>(x, 1, lanes));
    }
}

// <a, b> over whole rows, whose number is a multiple of 4: four sums hide the latency of multiply-adds, and round less.
template <int P>
INLINE float dot(const float* a, const float* b, int64_t floats) {
    constexpr int W = width<P>();
    RowVec<W> sum[4] = {};
    for (int64_t i = 0; i < floats; i += 4 * W)
        UNROLL for (int k = 0; k < 4; ++k) sum[k] += load_row<W>(a + i + k * W) * load_row<W>(b + i + k * W);
    return sum_of_lanes<W>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// The read-out of a state, y = scale m W, and κ of its gradient: as scale depends on m, dm gets κ <P, m>/|m|² m.
struct ReadOut {
    float scale, kappa, squared_norm;  // |m|²
};

INLINE ReadOut make_read_out(const MruInputs& in, float squared_norm, int exponent) {
    if (in.readout == MruReadout::state) return {in.rescale ? ldexpf(1.0f, exponent) : 1.0f, 0.0f, squared_norm};
    const float floor = in.rescale ? FLT_MIN : 1e-6f, size = __builtin_sqrtf(squared_norm);
    const bool clamped = size < floor;
    const float relative = (clamped ? floor : size) / __builtin_sqrtf(static_cast<float>(in.sizes.D));
    const float inverse = relative <= 1 / FLT_MAX ? FLT_MAX : 1.0f / relative;  // finite, so that zeros stay zeros
    ReadOut r{inverse, clamped ? 0.0f : -1.0f, squared_norm};
    if (in.readout == MruReadout::bounded) {
        const float log_scale = static_cast<float>(exponent) * 0.69314718056f + logf(relative);
        const float level = tanhf(log_scale / in.bound);
        r.scale *= expf(in.bound * level);
        r.kappa *= level * level;
    }
    return r;
}

struct MruTask {
    const MruInputs& in;
    const MruSizes& s;
    const int64_t P, PC;  // padded D, and padded C
    const int64_t rows;   // D rounded up to 4
    const int64_t b, head, heads;
    const int64_t block, read_block_size, staged;  // floats of a matrix, and of one times W; steps in scratch memory
    const Builder builder;
    float *x, *m;                    // [staged][heads], [staged + 1][heads] blocks: X, and the state before and after
    float *down;                     // [heads] W, of D rows of PC
    float *start, *decayed, *added;  // one block each: the state after a reset; f X; V
    float* power;                    // [staged][heads]: the power of two by which each step scaled its product
    ReadOut* read_outs;              // [staged][heads]
    int32_t* exponent;               // [heads]

    MruTask(const MruInputs& in, const MatrixSplit& split, int64_t task, Arena& arena)
        : in(in),
          s(in.sizes),
          P(split.order),
          PC(padded_order(s.C)),
          rows(round_up(s.D, 4)),
          b(task / split.groups),
          head(task % split.groups * split.heads),
          heads(s.H - head < split.heads ? s.H - head : split.heads),
          block(P * P),
          read_block_size(P * PC),
          staged(s.T < MRU_INTERVAL ? s.T : MRU_INTERVAL),
          builder(in.builder, s.D, P, arena),
          x(arena.take(staged * split.heads * block)),
          m(arena.take((staged + 1) * split.heads * block)),
          down(arena.take(split.heads * read_block_size)),
          start(arena.take(block)),
          decayed(arena.take(block)),
          added(arena.take(block)),
          power(arena.take(staged * split.heads)),
          read_outs(reinterpret_cast<ReadOut*>(arena.take(3 * staged * split.heads))),
          exponent(reinterpret_cast<int32_t*>(arena.take(split.heads))) {}

    float* x_at(int64_t i, int64_t n) const { return x + (i * heads + n) * block; }
    float* m_at(int64_t i, int64_t n) const { return m + (i * heads + n) * block; }
    int64_t at(int64_t t, int64_t n) const { return (b * s.T + t) * s.H + head + n; }  // in an array [B, T, H]
    int64_t at(int64_t n) const { return b * s.H + head + n; }                         // in an array [B, H]
    bool is_reset(int64_t t) const { return in.reset != nullptr && in.reset[b * s.T + t]; }
    bool is_masked(int64_t t) const { return in.mask != nullptr && !in.mask[b * s.T + t]; }
    float decay(int64_t t, int64_t n) const { return in.decay == nullptr || is_masked(t) ? 1.0f : in.decay[at(t, n)]; }
    int64_t steps_from(int64_t t) const { return s.T - t < MRU_INTERVAL ? s.T - t : MRU_INTERVAL; }
    // Whether matrices [D, C] are blocks as they are, so that y and dy need no copy.
    bool reads_in_place(Dtype dtype) const { return dtype == Dtype::float32 && s.C == PC && s.D % 4 == 0; }

    void prepare() const {
        std::memset(x, 0, staged * heads * block * sizeof(float));  // the task before may have left a NaN in padding
        std::memset(m, 0, (staged + 1) * heads * block * sizeof(float));
        std::memset(start, 0, block * sizeof(float));
        for (int64_t i = 0; in.v.data == nullptr && i < s.D; ++i) start[i * P + i] = 1;
        for (int64_t n = 0; n < heads; ++n) {
            const Input from{in.down, Dtype::float32};
            read_block(from, (head + n) * s.D * s.C, s.D, s.C, down + n * read_block_size, PC);
        }
    }

    // X of steps [t, t + steps); the identity at padded ones.
    template <int ORDER>
    void build(int64_t t, int64_t steps) const {
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < heads; n += Builder::AT_ONCE) {
                const int64_t count = heads - n < Builder::AT_ONCE ? heads - n : Builder::AT_ONCE;
                build_matrices<ORDER>(builder, in.elements, at(t + i, n) * builder.elements(), x_at(i, n), count);
            }
        for (int64_t i = 0; in.mask != nullptr && i < steps; ++i)
            for (int64_t n = 0; is_masked(t + i) && n < heads; ++n) {
                std::memset(x_at(i, n), 0, block * sizeof(float));
                add_identity<ORDER>(builder, x_at(i, n));
            }
    }

    // The states after these steps, and the read-out of each.
    template <int ORDER>
    void advance(int64_t t, int64_t steps) const {
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < heads; ++n) {
                const float f = decay(t + i, n), *matrix = x_at(i, n);
                if (f != 1) {
                    scale_block<ORDER>(matrix, f, decayed, block);
                    matrix = decayed;
                }
                const float* before = is_reset(t + i) ? start : m_at(i, n);
                multiply({before, P, matrix, added_at(t + i, n), m_at(i + 1, n), rows, s.D, P});
                finish_step<ORDER>(t + i, i * heads + n, n, m_at(i + 1, n));
            }
    }

    const float* added_at(int64_t t, int64_t n) const {
        if (in.v.data == nullptr || is_masked(t)) return nullptr;
        const int64_t place = at(t, n) * s.D * s.D;
        if (in.v.dtype == Dtype::float32 && s.D == P) return static_cast<const float*>(in.v.data) + place;
        read_block(in.v, place, s.D, s.D, added, P);
        return added;
    }

    // Rescales a state, which rounds nothing, only when its norm leaves [2^-20, 2^20], far from the ends of float32;
    // and at the last step, as the returned state has its largest |entry| in [1/2, 1).
    template <int ORDER>
    INLINE void finish_step(int64_t t, int64_t place, int64_t n, float* state) const {
        constexpr float LARGE = 0x1p40f, SMALL = 0x1p-40f;  // of the squared norm
        const bool sized = in.rescale || in.readout != MruReadout::state;
        float squared_norm = sized ? dot<ORDER>(state, state, rows * P) : 0;
        if (in.rescale) {
            if (is_reset(t)) exponent[n] = 0;
            int moved = 0;
            if (t == s.T - 1 || !(squared_norm > SMALL && squared_norm < LARGE)) {
                moved = matrixstate::MATRIXSTATE_ISA::rescale<ORDER>(state, rows * P);
                squared_norm = dot<ORDER>(state, state, rows * P);
            }
            power[place] = power_of_two(-moved);
            exponent[n] += moved;
        }
        read_outs[place] = make_read_out(in, squared_norm, exponent[n]);
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
