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
    forward.kind = static_cast<CellKind>(pick(0, CELL_KINDS - 1));
    const CellShape& shape = shape_of(forward.kind);
    const CellSizes s = forward.sizes = {B, T, H, d};
    const auto input = [&](int64_t count) { return count > 0 ? arrays.input(count).floats() : nullptr; };
    const auto output = [&](int64_t count) { return count > 0 ? arrays.output(count).floats() : nullptr; };
    for (int g = 0; g < shape.gates && !shape.is_diagonal; ++g)
        forward.w[g] = arrays.input(H * d * d, Dtype::float32, -0.3f, 0.3f).floats();
    forward.vectors = input(shape.vectors * H * d);
    std::vector<uint8_t> mask(B * T);
    for (uint8_t& real : mask) real = pick(0, 5) != 0;
    forward.mask = pick(0, 1) ? mask.data() : nullptr;
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    for (int g = 0; g < shape.gates; ++g) forward.x[g] = sequence(arrays, s);
    forward.h = input(states);
    forward.rest = shape.rest == 0 ? nullptr : arrays.input(shape.rest * states, Dtype::float32, 0.5f, 1.0f).floats();
    forward.y = output(T * states);
    forward.last_h = output(states);
    forward.last_rest = output(shape.rest * states);
    const bool keep = pick(0, 3) != 0;
    forward.steps = keep ? T : 1;
    forward.saved = output(forward.steps * shape.saved * states);
    forward.rests = output(forward.steps * shape.rest * states);
    kernels.cell_forward(forward);
    if (!keep) return arrays.all_written();

    CellBackward backward{};
    static_cast<CellInputs&>(backward) = forward;
    backward.h = forward.h, backward.y = forward.y, backward.saved = forward.saved, backward.rests = forward.rests;
    backward.dy = input(T * states);
    backward.dlast_h = input(states);
    backward.dlast_rest = input(shape.rest * states);
    backward.clip = pick(0, 1) ? 0.1f : 0.0f;
    for (int g = 0; g < shape.gates; ++g) backward.dx[g] = output(T * states);
    backward.dh = output(states);
    backward.drest = output(shape.rest * states);
    backward.dvectors = output(shape.vectors * H * d);
    if (shape.second < shape.gates) backward.operand = output(T * states);
    if (shape.inner >= 0) backward.inner = output(T * states);
    kernels.cell_backward(backward);
    return arrays.all_written();
}
