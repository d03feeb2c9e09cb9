// The cells on random shapes.
#pragma once

#include "fuzz/draw.h"

// The input of a gate: a view of one projection's output, as the layers pass it, or a dense array.
static Sequence sequence(Arrays& arrays, const CellSizes& s) {
    const int64_t width = s.H * s.d, apart = width * pick(1, 3);
    const int64_t count = s.B * s.T == 0 ? 0 : (s.B * s.T - 1) * apart + width;
    return {arrays.input(count).floats(), s.T * apart, apart, s.d};
}

static bool run_cells(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 1) ? pick(0, 3) : pick(4, 20), T = pick(1, 12), H = pick(0, 4);
    const int64_t d = pick(0, 1) ? pick(0, 9) : pick(10, 80), states = B * H * d;
    CellForward forward{};
    const CellKind kind = forward.kind = static_cast<CellKind>(pick(0, CELL_KINDS - 1));
    const CellSizes s = forward.sizes = {B, T, H, d};
    const bool with_c = kind == CellKind::lstm;
    forward.w = arrays.input(H * d * cell_gates(kind) * d, Dtype::float32, -0.3f, 0.3f).floats();
    std::vector<uint8_t> mask(B * T);
    for (uint8_t& real : mask) real = pick(0, 5) != 0;
    forward.mask = pick(0, 1) ? mask.data() : nullptr;
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    for (int g = 0; g < cell_gates(kind); ++g) forward.x[g] = sequence(arrays, s);
    if (kind == CellKind::gru_after) forward.bias = arrays.input(H * d).floats();
    forward.h = arrays.input(states).floats();
    if (with_c) forward.c = arrays.input(states).floats();
    forward.y = arrays.output(T * states).floats();
    forward.last_h = arrays.output(states).floats();
    if (with_c) forward.last_c = arrays.output(states).floats();
    const bool keep = pick(0, 3) != 0;
    forward.steps = keep ? T : 1;
    forward.gates = arrays.output(forward.steps * cell_saved(kind) * states).floats();
    if (with_c) forward.cells = arrays.output(forward.steps * states).floats();
    kernels.cell_forward(forward);
    if (!keep) return arrays.all_written();

    CellBackward backward{};
    static_cast<CellInputs&>(backward) = forward;
    backward.h = forward.h, backward.y = forward.y, backward.gates = forward.gates, backward.cells = forward.cells;
    backward.dy = arrays.input(T * states).floats();
    backward.dlast_h = arrays.input(states).floats();
    if (with_c) backward.dlast_c = arrays.input(states).floats();
    backward.clip = pick(0, 1) ? 0.1f : 0.0f;
    for (int g = 0; g < cell_gates(kind); ++g) backward.dx[g] = arrays.output(T * states).floats();
    backward.dh = arrays.output(states).floats();
    if (with_c) backward.dc = arrays.output(states).floats();
    kernels.cell_backward(backward);
    return arrays.all_written();
}
