// The diagonal-plus-rank-one recurrences on random shapes.
#pragma once

#include "fuzz/draw.h"

static void share_options(Arrays& arrays, RankOneForward& forward, Dtype dtype) {
    const RankOneSizes& s = forward.sizes;
    const int64_t steps = s.B * s.T * s.H;
    if (s.M == 1 && pick(0, 1)) {
        forward.read_before = pick(0, 1);
        if (forward.read_before && pick(0, 1)) forward.bonus = arrays.input(s.H * s.K).floats();
        if (pick(0, 1)) forward.log_decay_v = arrays.input(steps * s.V, Dtype::float32, -3, 0).floats();
        if (pick(0, 1)) forward.log_input = arrays.input(steps).floats();
    } else if (pick(0, 2) == 0) {
        forward.beta = arrays.input(steps * s.M, Dtype::float32, 0, 2).floats();
    } else {
        forward.read = arrays.input(steps * s.M * s.K, dtype, -0.2f, 0.2f).in();
        if (pick(0, 1)) forward.write = arrays.input(steps * s.M * s.K, dtype, -0.2f, 0.2f).in();
    }
    forward.per_channel = pick(0, 1);
    if (pick(0, 2))
        forward.log_decay = arrays.input(steps * (forward.per_channel ? s.K : 1), Dtype::float32, -200, 0).floats();
}

static bool run_rank_one(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 50), M = pick(0, 2) ? 1 : pick(2, 3),
                  H = pick(1, 5);
    const int64_t K = pick(0, 1) ? pick(0, 9) : pick(10, 70), V = pick(0, 1) ? pick(0, 9) : pick(10, 150);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const int64_t steps = B * T * H, rows = steps * M, states = B * H * K * V;
    RankOneForward forward{};
    forward.sizes = {B, T, M, H, K, V};
    forward.q = arrays.input(steps * K, dtype).in();
    forward.k = arrays.input(rows * K, dtype, -0.2f, 0.2f).in();
    forward.v = arrays.input(rows * V, dtype).in();
    share_options(arrays, forward, dtype);
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.state = arrays.input(states).floats();
    forward.y = arrays.output(steps * V, dtype).out();
    forward.last = arrays.output(states).floats();
    forward.saved = arrays.output(states * forward.sizes.intervals()).floats();
    if (forward.reads()) forward.saved_reads = arrays.output(rows * V).floats();
    kernels.rank_one_forward(forward);

    RankOneBackward backward{};
    static_cast<RankOneInputs&>(backward) = forward;
    backward.saved = forward.saved, backward.saved_reads = forward.saved_reads;
    backward.dy = arrays.input(steps * V, dtype).in();
    backward.dlast = arrays.input(states).floats();
    backward.dq = arrays.output(steps * K, dtype).out();
    backward.dk = arrays.output(rows * K, dtype).out();
    backward.dv = arrays.output(rows * V, dtype).out();
    if (forward.read.data != nullptr) backward.dread = arrays.output(rows * K, dtype).out();
    if (forward.write.data != nullptr) backward.dwrite = arrays.output(rows * K, dtype).out();
    if (forward.beta) backward.dbeta = arrays.output(rows).floats();
    if (forward.log_decay) backward.dlog_decay = arrays.output(steps * (forward.per_channel ? K : 1)).floats();
    if (forward.log_decay_v) backward.dlog_decay_v = arrays.output(steps * V).floats();
    if (forward.log_input) backward.dlog_input = arrays.output(steps).floats();
    if (forward.bonus) backward.dbonus = arrays.output(H * K).floats();
    backward.dstate = arrays.output(states).floats();
    kernels.rank_one_backward(backward);
    return arrays.all_written();
}
