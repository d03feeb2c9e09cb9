// The matrix scans and the normalisation after them on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_matrix(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 90), H = pick(0, 5);
    const int64_t D = pick(0, 2) ? pick(1, 20) : pick(21, 70), R = pick(0, 1) ? D : pick(1, 20);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool scaled = pick(0, 2) == 0, with_v = !scaled && pick(0, 1);
    const float most = 1.5f / static_cast<float>(D);  // so that products do not overflow
    std::vector<int32_t> exponent(B * H, 3), exponents(scaled ? B * T * H : 0);
    MatrixForward forward{};
    forward.sizes = {B, T, H, R, D};
    forward.x = arrays.input(B * T * H * D * D, dtype, -most, most).in();
    forward.state = arrays.input(B * H * R * D).floats();
    forward.exponent = scaled ? exponent.data() : nullptr;
    forward.reset = with_v || R == D ? arrays.flags(B * T) : nullptr;
    forward.threads = static_cast<int>(pick(1, 5));
    if (with_v) forward.v = arrays.input(B * T * H * R * D, dtype).in();
    const Dtype wide = scaled ? Dtype::float32 : dtype;
    Numbers& h = arrays.output(B * T * H * R * D, wide);
    forward.h = h.out();
    forward.last = arrays.output(B * H * R * D).floats();
    forward.exponents = scaled ? exponents.data() : nullptr;
    kernels.matrix_forward(forward);

    MatrixBackward backward{};
    static_cast<MatrixInputs&>(backward) = forward;
    backward.h = h.in();
    backward.exponents = forward.exponents;
    backward.dh = arrays.input(B * T * H * R * D, wide).in();
    backward.dlast = arrays.input(B * H * R * D).floats();
    backward.dx = arrays.output(B * T * H * D * D, dtype).out();
    if (with_v) backward.dv = arrays.output(B * T * H * R * D, dtype).out();
    backward.dstate = arrays.output(B * H * R * D).floats();
    kernels.matrix_backward(backward);
    return arrays.all_written();
}

static bool run_normalise(const Kernels& kernels) {
    Arrays arrays;
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    NormaliseForward forward{};
    forward.sizes = {pick(0, 90), pick(1, 70), static_cast<float>(pick(1, 8))};
    const int64_t numbers = forward.sizes.count * forward.sizes.floats;
    forward.m = arrays.input(numbers).floats();
    forward.h = arrays.output(numbers, dtype).out();
    forward.size = arrays.output(forward.sizes.count).floats();
    forward.threads = static_cast<int>(pick(1, 3));
    kernels.normalise_forward(forward);

    NormaliseBackward backward{};
    backward.sizes = forward.sizes;
    backward.m = forward.m;
    backward.size = forward.size;
    backward.dh = arrays.input(numbers, dtype).in();
    backward.dsize = arrays.input(forward.sizes.count).floats();
    backward.dm = arrays.output(numbers).floats();
    backward.threads = forward.threads;
    kernels.normalise_backward(backward);
    return arrays.all_written();
}
