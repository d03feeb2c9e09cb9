// What the two directions of the MRU share: a group of heads of one batch row, whose matrices are built and multiplied
// up MRU_INTERVAL steps at a time, in scratch memory that stays in the second level of the cache.
#pragma once

#include <float.h>
#include <math.h>

#include "matrix/chunk.h"
#include "mru/builders.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <int W>
INLINE float sum_of_lanes(RowVec<W> x) {
    if constexpr (W == 4) {
        return (x[0] + x[1]) + (x[2] + x[3]);
    } else {
        constexpr auto lanes = std::make_index_sequence<W / 2>();
        return sum_of_lanes<W / 2>(half_of<RowVec<W / 2>>(x, 0, lanes) + half_of<RowVec<W / 2>>(x, 1, lanes));
    }
}

// Of whole rows, whose number is a multiple of 4.
template <int P>
INLINE float dot(const float* a, const float* b, int64_t floats) {
    constexpr int W = width<P>();
    RowVec<W> sum[4] = {};
    for (int64_t i = 0; i < floats; i += 4 * W)
        UNROLL for (int k = 0; k < 4; ++k) sum[k] += load_row<W>(a + i + k * W) * load_row<W>(b + i + k * W);
    return sum_of_lanes<W>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// How a state is read, y = scale·m·W, and how its gradient takes part in that: dm gets pull·<dm, m>/|m|²·m more.
struct Reading {
    float scale, pull, squares;
};

INLINE Reading reading(const MruInputs& in, float squares, int exponent) {
    if (in.readout == MruReadout::state) return {in.rescale ? ldexpf(1.0f, exponent) : 1.0f, 0.0f, squares};
    const float floor = in.rescale ? FLT_MIN : 1e-6f, size = __builtin_sqrtf(squares);
    const bool clamped = size < floor;
    const float relative = (clamped ? floor : size) / __builtin_sqrtf(static_cast<float>(in.sizes.D));
    Reading r{1.0f / relative, clamped ? 0.0f : -1.0f, squares};
    if (in.readout == MruReadout::bounded) {
        const float log_scale = static_cast<float>(exponent) * 0.69314718056f + logf(relative);
        const float level = tanhf(log_scale / in.bound);
        r.scale *= expf(in.bound * level);
        r.pull *= level * level;
    }
    return r;
}

struct MruTask {
    const MruInputs& in;
    const MruSizes& s;
    const int64_t P, PC;             // the padded order, and C padded
    const int64_t rows;              // D rounded up to 4
    const int64_t b, head, heads;
    const int64_t block, read_block_size, staged;  // floats of a matrix, of a matrix times W; steps in scratch memory
    const Builder builder;
    float *x, *m;                    // [staged][heads], [staged + 1][heads] blocks: X, and the state before and after
    float *down;                     // [heads] W, of D rows of PC
    float *start, *decayed, *added;  // one block each
    float* power;                    // [staged][heads]: what each step multiplied its product by
    Reading* readings;               // likewise
    int32_t* exponent;               // [heads]

    MruTask(const MruInputs& in, const MatrixCut& cut, int64_t task, Pieces& pieces)
        : in(in),
          s(in.sizes),
          P(cut.order),
          PC(padded_order(s.C)),
          rows(round_up(s.D, 4)),
          b(task / cut.groups),
          head(task % cut.groups * cut.heads),
          heads(s.H - head < cut.heads ? s.H - head : cut.heads),
          block(P * P),
          read_block_size(P * PC),
          staged(s.T < MRU_INTERVAL ? s.T : MRU_INTERVAL),
          builder(in.builder, s.D, P, pieces),
          x(pieces.take(staged * cut.heads * block)),
          m(pieces.take((staged + 1) * cut.heads * block)),
          down(pieces.take(cut.heads * read_block_size)),
          start(pieces.take(block)),
          decayed(pieces.take(block)),
          added(pieces.take(block)),
          power(pieces.take(staged * cut.heads)),
          readings(reinterpret_cast<Reading*>(pieces.take(3 * staged * cut.heads))),
          exponent(reinterpret_cast<int32_t*>(pieces.take(cut.heads))) {}

    float* x_at(int64_t i, int64_t n) const { return x + (i * heads + n) * block; }
    float* m_at(int64_t i, int64_t n) const { return m + (i * heads + n) * block; }
    int64_t at(int64_t t, int64_t n) const { return (b * s.T + t) * s.H + head + n; }  // in an array [B, T, H]
    int64_t at(int64_t n) const { return b * s.H + head + n; }                         // in an array [B, H]
    bool is_reset(int64_t t) const { return in.reset != nullptr && in.reset[b * s.T + t]; }
    bool is_masked(int64_t t) const { return in.mask != nullptr && !in.mask[b * s.T + t]; }
    float decay(int64_t t, int64_t n) const { return in.decay == nullptr || is_masked(t) ? 1.0f : in.decay[at(t, n)]; }
    int64_t steps_from(int64_t t) const { return s.T - t < MRU_INTERVAL ? s.T - t : MRU_INTERVAL; }
    // A matrix times W, or the gradient of one, is read and written in place.
    bool reads_in_place(Dtype dtype) const { return dtype == Dtype::float32 && s.C == PC && s.D % 4 == 0; }

    void prepare() const {
        std::memset(x, 0, staged * heads * block * sizeof(float));  // a NaN of the task before may be in the padding
        std::memset(m, 0, (staged + 1) * heads * block * sizeof(float));
        std::memset(start, 0, block * sizeof(float));
        for (int64_t i = 0; in.v.data == nullptr && i < s.D; ++i) start[i * P + i] = 1;
        for (int64_t n = 0; n < heads; ++n) {
            const Input from{in.down, Dtype::float32};
            read_block(from, (head + n) * s.D * s.C, s.D, s.C, down + n * read_block_size, PC);
        }
    }

    // X of `steps` steps from t on.
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

    // The states after these steps from the one before them, and how each is read.
    template <int ORDER>
    void advance(int64_t t, int64_t steps) const {
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < heads; ++n) {
                const float f = decay(t + i, n), *matrix = x_at(i, n);
                if (f != 1) {
                    times<ORDER>(matrix, f, decayed, block);
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

    // Powers of two are taken out of a state when its norm leaves the middle of float32, and at the end.
    template <int ORDER>
    INLINE void finish_step(int64_t t, int64_t place, int64_t n, float* state) const {
        constexpr float LARGE = 0x1p40f, SMALL = 0x1p-40f;
        const bool sized = in.rescale || in.readout != MruReadout::state;
        float squares = sized ? dot<ORDER>(state, state, rows * P) : 0;
        if (in.rescale) {
            if (is_reset(t)) exponent[n] = 0;
            int moved = 0;
            if (t == s.T - 1 || !(squares > SMALL && squares < LARGE)) {
                moved = matrixstate::MATRIXSTATE_ISA::rescale<ORDER>(state, rows * P);
                squares = dot<ORDER>(state, state, rows * P);
            }
            power[place] = power_of_two(-moved);
            exponent[n] += moved;
        }
        readings[place] = reading(in, squares, exponent[n]);
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
