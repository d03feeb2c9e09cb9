// The quotient of two linear recurrences on random shapes.
#pragma once

#include "fuzz/draw.h"

static bool run_quotient(const Kernels& kernels) {
    Arrays arrays;
    QuotientForward forward{};
    QuotientSizes& s = forward.sizes;
    s.B = pick(0, 3), s.T = pick(1, 40), s.G = pick(0, 40), s.R = pick(0, 2) ? 1 : pick(0, 40);
    if (pick(0, 4) == 0) s.G = pick(1, 3), s.R = pick(100, 700);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const int64_t scores = s.B * s.T * s.G, values = s.B * s.T * s.row();
    forward.score = arrays.input(scores, dtype, -200, 200).in();
    forward.v = arrays.input(values, dtype).in();
    forward.is_constant = pick(0, 1);
    if (pick(0, 2)) forward.decay = arrays.input(forward.decays(), Dtype::float32, -20, 0).floats();
    if (pick(0, 1)) forward.bonus = arrays.input(s.G).floats();
    forward.max = arrays.input(s.B * s.G).floats();
    forward.den = arrays.input(s.B * s.G, Dtype::float32, 0, 2).floats();
    forward.num = arrays.input(s.B * s.row()).floats();
    forward.reset = arrays.flags(s.B * s.T);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.y = arrays.output(values, dtype).out();
    forward.last_max = arrays.output(s.B * s.G).floats();
    forward.last_den = arrays.output(s.B * s.G).floats();
    forward.last_num = arrays.output(s.B * s.row()).floats();
    forward.saved = arrays.output(s.B * s.intervals() * s.state()).floats();
    kernels.quotient_forward(forward);

    QuotientBackward backward{};
    static_cast<QuotientInputs&>(backward) = forward;
    backward.saved = forward.saved;
    backward.dy = arrays.input(values, dtype).in();
    backward.dlast_den = arrays.input(s.B * s.G).floats();
    backward.dlast_num = arrays.input(s.B * s.row()).floats();
    backward.dscore = arrays.output(scores, dtype).out();
    backward.dv = arrays.output(values, dtype).out();
    backward.ddecay = forward.decay == nullptr ? nullptr : arrays.output(forward.decays()).floats();
    backward.dbonus = forward.bonus == nullptr ? nullptr : arrays.output(s.G).floats();
    backward.dden = arrays.output(s.B * s.G).floats();
    backward.dnum = arrays.output(s.B * s.row()).floats();
    kernels.quotient_backward(backward);
    return arrays.all_written();
}
