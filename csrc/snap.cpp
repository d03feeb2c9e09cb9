#include "snap.h"

#include <cfloat>
#include <cmath>

#include "block.h"
#include "parallel.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

INLINE float inner(const float* a, const float* b, int64_t count) {
    constexpr int SUMS = 4;  // several, for the rounding's sake as well as for speed
    Vec sum[SUMS] = {};
    int64_t i = 0;
    for (; i + SUMS * LANES <= count; i += SUMS * LANES)
        UNROLL for (int s = 0; s < SUMS; ++s) sum[s] += load(a + i + s * LANES) * load(b + i + s * LANES);
    for (; i < count; i += LANES) sum[0] += load(a + i) * load(b + i);
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// to += factor * from
INLINE void add(float* to, float factor, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) store(to + i, load(to + i) + factor * load(from + i));
}

INLINE void clear(float* to, int64_t count) { std::memset(to, 0, count * sizeof(float)); }

// One row of the batch and one group of its heads. Blocks are [P][P], and a group has `heads` of them one after another.
template <int P_>
struct Task {
    const SnapInputs& in;
    int64_t b, g, heads, D, P, block, whole;  // floats of a padded matrix, and of a group's
    const float *keys, *values;               // [M][whole], padded
    float *x, *h, *a, *weights;

    Task(const SnapInputs& in, int64_t task, const float* codes, Pieces& pieces)
        : in(in), b(task / in.sizes.G), g(task % in.sizes.G), heads(in.sizes.H / in.sizes.G), D(in.sizes.D),
          P(padded_order(D)), block(round_up(P * P, LANES)), whole(heads * block),
          keys(codes + g * in.sizes.M * whole), values(keys + in.sizes.G * in.sizes.M * whole),
          x(pieces.take(block)), h(pieces.take(whole)), a(pieces.take(whole)),
          weights(pieces.take(round_up(in.sizes.M, LANES))) {}

    int64_t step_at(int64_t t) const { return ((b * in.sizes.T + t) * in.sizes.H + g * heads) * D * D; }
    int64_t state_at() const { return (b * in.sizes.H + g * heads) * D * D; }
    bool padded(int64_t t) const { return in.mask != nullptr && !in.mask[b * in.sizes.T + t]; }
    bool starts(int64_t t) const { return in.reset != nullptr && in.reset[b * in.sizes.T + t]; }

    void read_group(const float* from, float* to) const {
        if (D != P) clear(to, whole);  // what is padded may have become NaN
        for (int64_t n = 0; n < heads; ++n)
            read_block({from, Dtype::float32}, n * D * D, D, D, to + n * block, P);
    }
    void write_group(const float* from, float* to) const {
        for (int64_t n = 0; n < heads; ++n)
            write_block({to, Dtype::float32}, n * D * D, D, D, from + n * block, P);
    }
    void identity(float* to) const {
        clear(to, whole);
        for (int64_t n = 0; n < heads; ++n)
            for (int64_t i = 0; i < D; ++i) to[n * block + i * P + i] = 1.0f;
    }

    // The factor that brings a matrix to norm sqrt(D).
    float scale_of(const float* m) const {
        const float norm = std::sqrt(inner(m, m, block));
        return std::sqrt(static_cast<float>(D)) / (norm < FLT_MIN ? FLT_MIN : norm);
    }
    // Turns the gradient of unit(m) into that of m; `u` is unit(m), or where |m| was clamped whatever it became.
    void unit_backward(const float* u, float scale, float* d) const {
        const bool clamped = scale >= std::sqrt(static_cast<float>(D)) / FLT_MIN;
        const float along = clamped ? 0.0f : inner(u, d, block) / static_cast<float>(D);
        for (int64_t i = 0; i < block; i += LANES) store(d + i, scale * (load(d + i) - along * load(u + i)));
    }

    // a = unit(from x) for every head; `scales` has the factors.
    void advance(int64_t t, const float* from, float* scales) const {
        const int64_t at = step_at(t);
        for (int64_t n = 0; n < heads; ++n) {
            float* m = a + n * block;
            read_block(in.x, at + n * D * D, D, D, x, P);
            product<P_>({from + n * block, P, x, nullptr, m, P, P, P});
            scales[n] = scale_of(m);
            for (int64_t i = 0; i < block; i += LANES) store(m + i, load(m + i) * scales[n]);
        }
    }

    // weights = softmax(<a, keys>), mixed = weights values
    void retrieve(float* mixed) const {
        const int64_t M = in.sizes.M;
        float most = -INFINITY, sum = 0;
        for (int64_t m = 0; m < M; ++m) {
            weights[m] = inner(a, keys + m * whole, whole);
            most = weights[m] > most ? weights[m] : most;
        }
        for (int64_t m = 0; m < M; ++m) sum += weights[m] = std::exp(weights[m] - most);
        for (int64_t m = 0; m < M; ++m) weights[m] /= sum;
        mix(weights, values, mixed);
    }

    // to = the sum of the codes with these weights, four at a time, which rounds less than one by one
    void mix(const float* by, const float* codes, float* to) const {
        constexpr int CODES = 4;
        const int64_t M = in.sizes.M;
        clear(to, whole);
        int64_t m = 0;
        for (; m + CODES <= M; m += CODES)
            for (int64_t i = 0; i < whole; i += LANES) {
                Vec part[CODES];
                UNROLL for (int c = 0; c < CODES; ++c) part[c] = by[m + c] * load(codes + (m + c) * whole + i);
                store(to + i, load(to + i) + ((part[0] + part[1]) + (part[2] + part[3])));
            }
        for (; m < M; ++m) add(to, by[m], codes + m * whole, whole);
    }
};

template <int P_>
struct ForwardTask : Task<P_> {
    const SnapForward& f;
    float* scales;

    ForwardTask(const SnapForward& in, int64_t task, const float* codes, Pieces& pieces)
        : Task<P_>(in, task, codes, pieces), f(in), scales(pieces.take(this->heads)) {}

    void run() const {
        const int64_t T = f.sizes.T;
        float* h = this->h;
        this->read_group(f.state + this->state_at(), h);
        int32_t phase = f.phase[this->b];
        for (int64_t t = 0; t < T; ++t) {
            if (this->starts(t)) this->identity(h), phase = 0;
            if (!this->padded(t)) {
                this->advance(t, h, scales);
                if (++phase >= f.every) {
                    phase = 0;
                    this->retrieve(h);
                    for (int64_t n = 0; n < this->heads; ++n) {
                        float* m = h + n * this->block;
                        const float scale = this->scale_of(m);
                        for (int64_t i = 0; i < this->block; i += LANES) store(m + i, load(m + i) * scale);
                    }
                } else std::memcpy(h, this->a, this->whole * sizeof(float));
            }
            this->write_group(h, f.h + this->step_at(t));
        }
        this->write_group(h, f.last + this->state_at());
        if (this->g == 0) f.after[this->b] = phase;
    }
};

template <int P_>
struct BackwardTask : Task<P_> {
    const SnapBackward& f;
    float *scales, *d, *given, *mixed, *turned, *dkeys, *dvalues;
    int32_t* phases;  // before each step, in the place of floats

    BackwardTask(const SnapBackward& in, int64_t task, const float* codes, Pieces& pieces)
        : Task<P_>(in, task, codes, pieces), f(in), scales(pieces.take(this->heads)), d(pieces.take(this->whole)),
          given(pieces.take(this->whole)), mixed(pieces.take(this->whole)), turned(pieces.take(2 * this->block)),
          dkeys(pieces.take(in.sizes.M * this->whole)), dvalues(pieces.take(in.sizes.M * this->whole)),
          phases(reinterpret_cast<int32_t*>(pieces.take(in.sizes.T))) {}

    void run() const {
        const int64_t T = f.sizes.T, M = f.sizes.M;
        clear(dkeys, M * this->whole), clear(dvalues, M * this->whole);
        count_phases();
        this->read_group(f.dlast + this->state_at(), d);
        for (int64_t t = T - 1; t >= 0; --t) {
            this->read_group(f.dh + this->step_at(t), given);
            add(d, 1.0f, given, this->whole);
            if (this->padded(t)) clear_dx(t);
            else step_back(t);
            if (this->starts(t)) clear(d, this->whole);
        }
        this->write_group(d, f.dstate + this->state_at());
        const int64_t floats = this->heads * this->D * this->D, at = (this->b * f.sizes.G + this->g) * M * floats;
        for (int64_t m = 0; m < M; ++m) {
            this->write_group(dkeys + m * this->whole, f.dkeys + at + m * floats);
            this->write_group(dvalues + m * this->whole, f.dvalues + at + m * floats);
        }
    }

    void count_phases() const {
        int32_t phase = f.phase[this->b];
        for (int64_t t = 0; t < f.sizes.T; ++t) {
            if (this->starts(t)) phase = 0;
            phases[t] = phase;
            if (!this->padded(t)) phase = phase + 1 >= f.every ? 0 : phase + 1;
        }
    }

    void clear_dx(int64_t t) const {
        clear(this->x, this->block);
        for (int64_t n = 0; n < this->heads; ++n)
            write_block(f.dx, this->step_at(t) + n * this->D * this->D, this->D, this->D, this->x, this->P);
    }

    // d: the gradient of h[t], becomes that of h[t-1].
    void step_back(int64_t t) const {
        float* before = this->h;
        if (this->starts(t)) this->identity(before);
        else this->read_group(t > 0 ? f.h + this->step_at(t - 1) : f.state + this->state_at(), before);
        this->advance(t, before, scales);
        if (phases[t] + 1 >= f.every) retrieve_back();
        const int64_t at = this->step_at(t), P = this->P, D = this->D;
        for (int64_t n = 0; n < this->heads; ++n) {
            float *dm = d + n * this->block, *x_turned = turned, *dx = turned + this->block;
            this->unit_backward(this->a + n * this->block, scales[n], dm);
            product<P_, true>({before + n * this->block, P, dm, nullptr, dx, P, P, P});
            write_block(f.dx, at + n * D * D, D, D, dx, P);
            read_block(f.x, at + n * D * D, D, D, this->x, P);
            transpose<P_>(this->x, x_turned, P);
            product<P_>({dm, P, x_turned, nullptr, dx, P, P, P});
            std::memcpy(dm, dx, P * P * sizeof(float));
        }
    }

    // From the gradient of unit(weights values) to that of a; adds to those of keys and values.
    void retrieve_back() const {
        const int64_t M = f.sizes.M, whole = this->whole;
        this->retrieve(mixed);
        for (int64_t n = 0; n < this->heads; ++n) {
            float* m = mixed + n * this->block;
            const float scale = this->scale_of(m);
            for (int64_t i = 0; i < this->block; i += LANES) store(m + i, load(m + i) * scale);
            this->unit_backward(m, scale, d + n * this->block);
        }
        const float* weights = this->weights;
        float along = 0;  // what the weights' sum of 1 takes away
        for (int64_t m = 0; m < M; ++m) along += weights[m] * inner(this->values + m * whole, d, whole);
        clear(given, whole);
        for (int64_t m = 0; m < M; ++m) {
            const float dscore = weights[m] * (inner(this->values + m * whole, d, whole) - along);
            add(dvalues + m * whole, weights[m], d, whole);
            add(dkeys + m * whole, dscore, this->a, whole);
            add(given, dscore, this->keys + m * whole, whole);
        }
        std::memcpy(d, given, whole * sizeof(float));
    }
};

// Keys and then values with every matrix padded.
void pad_codes(const SnapInputs& in, float* to) {
    const SnapSizes& s = in.sizes;
    const int64_t P = padded_order(s.D), block = round_up(P * P, LANES), matrices = s.M * s.H;
    clear(to, 2 * matrices * block);
    for (int64_t n = 0; n < matrices; ++n) {
        read_block({in.keys, Dtype::float32}, n * s.D * s.D, s.D, s.D, to + n * block, P);
        read_block({in.values, Dtype::float32}, n * s.D * s.D, s.D, s.D, to + (matrices + n) * block, P);
    }
}

template <template <int> class Direction, class In>
void run(const In& in) {
    const SnapSizes& s = in.sizes;
    const int64_t P = padded_order(s.D);
    Buffer codes(2 * s.M * s.H * round_up(P * P, LANES));
    pad_codes(in, codes.data());
    with_order(P, [&](auto order) {
        run_tasks(s.B * s.G, in.threads, [&](int64_t task, Pieces& pieces) {
            return Direction<decltype(order)::value>(in, task, codes.data(), pieces);
        });
    });
}

}  // namespace

void snap_forward(const SnapForward& in) { run<ForwardTask>(in); }
void snap_backward(const SnapBackward& in) { run<BackwardTask>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
