// The M²RNN recurrence on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_m2rnn(const Kernels& kernels) {
    Arrays arrays;
    const int64_t H = pick(1, 6), K = pick(0, 1) ? pick(0, 9) : pick(10, 70),
                  V = pick(0, 1) ? pick(0, 9) : pick(10, 70);
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(0, 4) : pick(5, 40);
    const M2rnnSizes s{B, T, H, K, V, divisor_of(H), divisor_of(H), divisor_of(H), H, divisor_of(H)};
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    M2rnnForward forward{};
    forward.sizes = s;
    forward.q = arrays.input(B * T * s.Hq * K, dtype).in();
    forward.k = arrays.input(B * T * s.Hk * K, dtype).in();
    forward.v = arrays.input(B * T * s.Hv * V, dtype).in();
    forward.w = arrays.input(s.Hw * V * V, Dtype::float32, -0.3f, 0.3f).floats();
    forward.f = arrays.input(B * T * s.Hf, Dtype::float32, 0, 1).floats();
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.state = arrays.input(B * H * K * V).floats();
    forward.y = arrays.output(B * T * H * V, dtype).out();
    forward.last = arrays.output(B * H * K * V).floats();
    float* saved = arrays.output(B * H * s.intervals() * V * K).floats();
    forward.saved = saved;
    kernels.m2rnn_forward(forward);

    M2rnnBackward backward{};
    static_cast<M2rnnInputs&>(backward) = forward;
    backward.saved = saved;
    backward.dy = arrays.input(B * T * H * V, dtype).in();
    backward.dlast = arrays.input(B * H * K * V).floats();
    backward.clip = pick(0, 1) ? 0.1f : 0.0f;
    backward.dq = arrays.output(B * T * s.Hq * K, dtype).out();
    backward.dk = arrays.output(B * T * s.Hk * K, dtype).out();
    backward.dv = arrays.output(B * T * s.Hv * V, dtype).out();
    backward.dw = arrays.output(s.Hw * V * V).floats();
    backward.df = arrays.output(B * T * s.Hf).floats();
    backward.dstate = arrays.output(B * H * K * V).floats();
    kernels.m2rnn_backward(backward);
    return arrays.all_written();
}
