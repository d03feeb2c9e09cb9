// The elementwise linear recurrence on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_scan(const Kernels& kernels) {
    Arrays arrays;
    ScanForward forward{};
    ScanSizes& s = forward.sizes;
    s.B = pick(0, 3), s.T = pick(1, 70), s.Z = pick(1, 2);
    s.G = pick(0, 40), s.R = pick(0, 2) ? 1 : pick(0, 40);
    if (pick(0, 4) == 0) s.G = pick(1, 3), s.R = pick(300, 1500);
    const Dtype dtype = s.Z == 2 || pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const int64_t row = s.row(), all = s.B * s.T * row;
    forward.is_constant = pick(0, 1), forward.is_log = s.Z == 1 && pick(0, 1);
    const int64_t decays = (forward.is_constant ? 1 : s.B * s.T) * s.G * s.Z;
    forward.x = arrays.input(all, dtype).in();
    const float least = forward.is_log ? -20 : -0.7f, most = forward.is_log ? 0 : 0.7f;
    forward.decay = arrays.input(decays, Dtype::float32, least, most).floats();
    forward.state = arrays.input(s.B * row).floats();
    forward.reset = arrays.flags(s.B * s.T);
    forward.threads = static_cast<int>(pick(1, 3));
    Numbers& h = arrays.output(all, dtype);
    forward.h = h.out();
    forward.last = arrays.output(s.B * row).floats();
    const bool saves = dtype == Dtype::bfloat16 || pick(0, 1);
    forward.saved = saves ? arrays.output(s.B * s.intervals() * row).floats() : nullptr;
    kernels.scan_forward(forward);

    ScanBackward backward{};
    static_cast<ScanInputs&>(backward) = forward;
    backward.h = dtype == Dtype::float32 ? h.floats() : nullptr;
    backward.saved = dtype == Dtype::float32 ? nullptr : forward.saved;
    backward.dh = arrays.input(all, dtype).in();
    backward.dlast = arrays.input(s.B * row).floats();
    backward.dx = arrays.output(all, dtype).out();
    backward.ddecay = arrays.output(decays).floats();
    backward.dstate = arrays.output(s.B * row).floats();
    kernels.scan_backward(backward);
    return arrays.all_written();
}
