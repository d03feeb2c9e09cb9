#include "snap/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task backwards. Only h was saved: a[t] and the softmax are recomputed from h[t-1].
struct BackwardTask : Task {
    const SnapBackward& f;
    float *scales, *d, *given, *mixed, *transposed, *dkeys, *dvalues;
    int32_t* phases;  // before each step; in scratch memory of floats

    BackwardTask(const SnapBackward& in, int64_t task, const float* codes, Arena& arena)
        : Task(in, task, codes, arena), f(in), scales(arena.take(heads)), d(arena.take(whole)),
          given(arena.take(whole)), mixed(arena.take(whole)), transposed(arena.take(2 * block)),
          dkeys(arena.take(in.sizes.M * whole)), dvalues(arena.take(in.sizes.M * whole)),
          phases(reinterpret_cast<int32_t*>(arena.take(in.sizes.T))) {}

    void run() const {
        const int64_t T = f.sizes.T, M = f.sizes.M;
        clear(dkeys, M * whole), clear(dvalues, M * whole);
        count_phases();
        read_group(f.dlast + state_at(), d);
        for (int64_t t = T - 1; t >= 0; --t) {
            read_group(f.dh + step_at(t), given);
            add(d, 1.0f, given, whole);
            if (padded(t)) clear_dx(t);
            else backward_step(t);
            if (resets(t)) clear(d, whole);  // the identity depends on nothing
        }
        write_group(d, f.dstate + state_at());
        const int64_t floats = heads * D * D, at = (b * f.sizes.G + g) * M * floats;
        for (int64_t m = 0; m < M; ++m) {
            write_group(dkeys + m * whole, f.dkeys + at + m * floats);
            write_group(dvalues + m * whole, f.dvalues + at + m * floats);
        }
    }

    // Which steps correct, counted forwards as in the forward pass.
    void count_phases() const {
        int32_t phase = f.phase[b];
        for (int64_t t = 0; t < f.sizes.T; ++t) {
            if (resets(t)) phase = 0;
            phases[t] = phase;
            if (!padded(t)) phase = phase + 1 >= f.every ? 0 : phase + 1;
        }
    }

    void clear_dx(int64_t t) const {
        clear(x, block);
        for (int64_t n = 0; n < heads; ++n)
            write_block(f.dx, step_at(t) + n * D * D, D, D, x, P);
    }

    // Replaces d, the gradient of h[t], by that of h[t-1]; writes dx. a[t] is recomputed from h[t-1].
    void backward_step(int64_t t) const {
        float* before = h;
        if (resets(t)) identity(before);
        else read_group(t > 0 ? f.h + step_at(t - 1) : f.state + state_at(), before);
        advance(t, before, scales);
        if (phases[t] + 1 >= f.every) retrieve_backward();
        const int64_t at = step_at(t);
        for (int64_t n = 0; n < heads; ++n) {
            float *dm = d + n * block, *x_transposed = transposed, *dx = transposed + block;
            // dx = h[t-1]ᵀ dm and dh[t-1] = dm x[t]ᵀ, with dm the gradient of h[t-1] x[t]
            unit_backward(a + n * block, scales[n], dm);
            multiply_transposed({before + n * block, P, dm, nullptr, dx, P, P, P});
            write_block(f.dx, at + n * D * D, D, D, dx, P);
            read_block(f.x, at + n * D * D, D, D, x, P);
            transpose_block(x, x_transposed, P);
            multiply({dm, P, x_transposed, nullptr, dx, P, P, P});
            std::memcpy(dm, dx, P * P * sizeof(float));
        }
    }

    // A correction: from the gradient of unit(Σ p values) to that of a; adds to those of keys and values.
    void retrieve_backward() const {
        const int64_t M = f.sizes.M;
        retrieve(mixed);
        for (int64_t n = 0; n < heads; ++n) {
            float* m = mixed + n * block;
            const float scale = scale_of(m);
            for (int64_t i = 0; i < block; i += LANES) store(m + i, load(m + i) * scale);
            unit_backward(m, scale, d + n * block);
        }
        float projection = 0;  // Σ p <values, d>, which softmax subtracts
        for (int64_t m = 0; m < M; ++m) projection += weights[m] * inner(values + m * whole, d, whole);
        clear(given, whole);
        for (int64_t m = 0; m < M; ++m) {
            const float dscore = weights[m] * (inner(values + m * whole, d, whole) - projection);
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
