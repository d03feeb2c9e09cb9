// The causal convolution on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_conv(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(1, 300), C = pick(0, 40), K = pick(0, 3) ? pick(1, 5) : pick(6, 40);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool with_bias = pick(0, 1);
    ConvForward forward{};
    forward.B = B, forward.T = T, forward.C = C, forward.K = K;
    forward.x = arrays.input(B * T * C, dtype).in();
    forward.weight = arrays.input(C * K).floats();
    forward.bias = with_bias ? arrays.input(C).floats() : nullptr;
    forward.state = arrays.input(B * (K - 1) * C).floats();
    forward.reset = arrays.flags(B * T);
    forward.silu = pick(0, 1);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.y = arrays.output(B * T * C, dtype).out();
    forward.last = arrays.output(B * (K - 1) * C).floats();
    kernels.conv_forward(forward);

    ConvBackward backward{};
    static_cast<ConvInputs&>(backward) = forward;
    backward.dy = arrays.input(B * T * C, dtype).in();
    backward.dlast = arrays.input(B * (K - 1) * C).floats();
    backward.dx = arrays.output(B * T * C, dtype).out();
    backward.dweight = arrays.output(C * K).floats();
    backward.dbias = with_bias ? arrays.output(C).floats() : nullptr;
    backward.dstate = arrays.output(B * (K - 1) * C).floats();
    kernels.conv_backward(backward);
    return arrays.all_written();
}
