// The fused MRU on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_mru(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 40), H = pick(0, 6);
    const int64_t D = pick(0, 3) ? pick(1, 20) : pick(21, 70), C = pick(0, 1) ? D : pick(1, 40);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool with_v = pick(0, 1), rescale = !with_v && pick(0, 1), decay = pick(0, 1);
    const float most = 0.5f / static_cast<float>(D);  // so that products do not overflow
    MruForward forward{};
    const MruSizes s = forward.sizes = {B, T, H, D, C};
    forward.builder = static_cast<MruBuilder>(pick(0, 2));
    forward.readout = static_cast<MruReadout>(pick(0, 2));
    forward.bound = 2;
    forward.rescale = rescale;
    const int64_t n = mru_elements(forward.builder, D), square = B * H * D * D;
    std::vector<int32_t> exponent(B * H, 3), last_exponent(B * H), saved_exponent(B * H * s.intervals());
    forward.elements = arrays.input(B * T * H * n, dtype, -most, most).in();
    if (with_v) forward.v = arrays.input(T * square, dtype).in();
    if (decay) forward.decay = arrays.input(B * T * H, Dtype::float32, 0.1f, 1).floats();
    forward.down = arrays.input(H * D * C).floats();
    std::vector<uint8_t> mask(B * T);
    for (uint8_t& real : mask) real = pick(0, 5) != 0;
    forward.reset = arrays.flags(B * T);
    forward.mask = pick(0, 1) ? mask.data() : nullptr;
    forward.threads = static_cast<int>(pick(1, 5));
    forward.state = arrays.input(square).floats();
    forward.exponent = rescale ? exponent.data() : nullptr;
    forward.y = arrays.output(B * T * H * D * C, dtype).out();
    forward.last = arrays.output(square).floats();
    forward.last_exponent = rescale ? last_exponent.data() : nullptr;
    float* saved = arrays.output(s.intervals() * square).floats();
    forward.saved = saved;
    forward.saved_exponent = rescale ? saved_exponent.data() : nullptr;
    kernels.mru_forward(forward);

    MruBackward backward{};
    static_cast<MruInputs&>(backward) = forward;
    backward.saved = saved;
    backward.saved_exponent = forward.saved_exponent;
    backward.dy = arrays.input(B * T * H * D * C, dtype).in();
    backward.dlast = arrays.input(square).floats();
    backward.delements = arrays.output(B * T * H * n, dtype).out();
    if (with_v) backward.dv = arrays.output(T * square, dtype).out();
    if (decay) backward.ddecay = arrays.output(B * T * H).floats();
    backward.ddown = arrays.output(H * D * C).floats();
    backward.dstate = arrays.output(square).floats();
    kernels.mru_backward(backward);
    return arrays.all_written();
}
