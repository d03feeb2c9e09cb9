// The corrected product on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_snap(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(1, 20), G = pick(1, 3), H = G * pick(1, 3), M = pick(1, 9);
    const int64_t D = pick(0, 3) ? pick(1, 9) : pick(10, 40), square = D * D, states = B * H * square;
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    SnapForward forward{};
    forward.sizes = {B, T, H, D, G, M};
    forward.x = arrays.input(T * states, dtype).in();
    forward.keys = arrays.input(M * H * square).floats();
    forward.values = arrays.input(M * H * square).floats();
    forward.state = arrays.input(states).floats();
    std::vector<int32_t> phase(B), after(B);
    forward.every = pick(1, 6);
    for (int32_t& steps : phase) steps = static_cast<int32_t>(pick(0, forward.every - 1));
    forward.phase = phase.data();
    std::vector<uint8_t> mask(B * T);
    for (uint8_t& real : mask) real = pick(0, 5) != 0;
    forward.mask = pick(0, 1) ? mask.data() : nullptr;
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    float* h = arrays.output(T * states).floats();
    forward.h = h;
    forward.last = arrays.output(states).floats();
    forward.after = after.data();
    kernels.snap_forward(forward);

    SnapBackward backward{};
    static_cast<SnapInputs&>(backward) = forward;
    backward.h = h;
    backward.dh = arrays.input(T * states).floats();
    backward.dlast = arrays.input(states).floats();
    backward.dx = arrays.output(T * states, dtype).out();
    backward.dkeys = arrays.output(M * states).floats();
    backward.dvalues = arrays.output(M * states).floats();
    backward.dstate = arrays.output(states).floats();
    kernels.snap_backward(backward);
    return arrays.all_written();
}
