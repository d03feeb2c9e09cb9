#include "snap/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct BackwardTask : Task {
    const SnapBackward& f;
    float *scales, *d, *given, *mixed, *turned, *dkeys, *dvalues;
    int32_t* phases;  // before each step, in the place of floats

    BackwardTask(const SnapBackward& in, int64_t task, const float* codes, Pieces& pieces)
        : Task(in, task, codes, pieces), f(in), scales(pieces.take(heads)), d(pieces.take(whole)),
          given(pieces.take(whole)), mixed(pieces.take(whole)), turned(pieces.take(2 * block)),
          dkeys(pieces.take(in.sizes.M * whole)), dvalues(pieces.take(in.sizes.M * whole)),
          phases(reinterpret_cast<int32_t*>(pieces.take(in.sizes.T))) {}

    void run() const {
        const int64_t T = f.sizes.T, M = f.sizes.M;
        clear(dkeys, M * whole), clear(dvalues, M * whole);
        count_phases();
        read_group(f.dlast + state_at(), d);
        for (int64_t t = T - 1; t >= 0; --t) {
            read_group(f.dh + step_at(t), given);
            add(d, 1.0f, given, whole);
            if (padded(t)) clear_dx(t);
            else step_back(t);
            if (starts(t)) clear(d, whole);
        }
        write_group(d, f.dstate + state_at());
        const int64_t floats = heads * D * D, at = (b * f.sizes.G + g) * M * floats;
        for (int64_t m = 0; m < M; ++m) {
            write_group(dkeys + m * whole, f.dkeys + at + m * floats);
            write_group(dvalues + m * whole, f.dvalues + at + m * floats);
        }
    }

    void count_phases() const {
        int32_t phase = f.phase[b];
        for (int64_t t = 0; t < f.sizes.T; ++t) {
            if (starts(t)) phase = 0;
            phases[t] = phase;
            if (!padded(t)) phase = phase + 1 >= f.every ? 0 : phase + 1;
        }
    }

    void clear_dx(int64_t t) const {
        clear(x, block);
        for (int64_t n = 0; n < heads; ++n)
            write_block(f.dx, step_at(t) + n * D * D, D, D, x, P);
    }

    // d: the gradient of h[t], becomes that of h[t-1].
    void step_back(int64_t t) const {
        float* before = h;
        if (starts(t)) identity(before);
        else read_group(t > 0 ? f.h + step_at(t - 1) : f.state + state_at(), before);
        advance(t, before, scales);
        if (phases[t] + 1 >= f.every) retrieve_back();
        const int64_t at = step_at(t);
        for (int64_t n = 0; n < heads; ++n) {
            float *dm = d + n * block, *x_turned = turned, *dx = turned + block;
            unit_backward(a + n * block, scales[n], dm);
            multiply_transposed({before + n * block, P, dm, nullptr, dx, P, P, P});
            write_block(f.dx, at + n * D * D, D, D, dx, P);
            read_block(f.x, at + n * D * D, D, D, x, P);
            transpose_block(x, x_turned, P);
            multiply({dm, P, x_turned, nullptr, dx, P, P, P});
            std::memcpy(dm, dx, P * P * sizeof(float));
        }
    }

    // From the gradient of unit(weights values) to that of a; adds to those of keys and values.
    void retrieve_back() const {
        const int64_t M = f.sizes.M;
        retrieve(mixed);
        for (int64_t n = 0; n < heads; ++n) {
            float* m = mixed + n * block;
            const float scale = scale_of(m);
            for (int64_t i = 0; i < block; i += LANES) store(m + i, load(m + i) * scale);
            unit_backward(m, scale, d + n * block);
        }
        float along = 0;  // what the weights' sum of 1 takes away
        for (int64_t m = 0; m < M; ++m) along += weights[m] * inner(values + m * whole, d, whole);
        clear(given, whole);
        for (int64_t m = 0; m < M; ++m) {
            const float dscore = weights[m] * (inner(values + m * whole, d, whole) - along);
            add(dvalues + m * whole, weights[m], d, whole);
            add(dkeys + m * whole, dscore, a, whole);
            add(given, dscore, keys + m * whole, whole);
        }
        std::memcpy(d, given, whole * sizeof(float));
    }
};

}  // namespace

void snap_backward(const SnapBackward& in) { run<BackwardTask>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
