#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;
using Arrays = std::vector<Array>;

// Checks the arguments that both directions take.
static CellInputs inputs(const Checker& check, int kind, const Array& y, const Array& w, const OptionalArray& mask,
                         const OptionalArray& reset, int threads) {
    const int64_t* ys = check.sizes("y", y, 4);
    check.require(threads > 0, "threads must be positive");
    check.require(kind >= 0 && kind < CELL_KINDS, "kind must be 0, 1, 2 or 3");
    check.require(ys[1] > 0, "there must be a step");
    CellInputs in{};
    in.kind = static_cast<CellKind>(kind);
    in.sizes = {ys[0], ys[1], ys[2], ys[3]};
    in.w = check.floats("w", w, {ys[2], ys[3], cell_gates(in.kind) * ys[3]});
    in.mask = check.flags("mask", mask, {ys[0], ys[1]});
    in.reset = check.flags("reset", reset, {ys[0], ys[1]});
    in.threads = threads;
    return in;
}

// Checks which optional arrays are given; `of_c` are those that only lstm has.
static void check_options(const Checker& check, CellKind kind, size_t sequences,
                          std::initializer_list<const OptionalArray*> of_c) {
    check.require(sequences == static_cast<size_t>(cell_gates(kind)), "each gate has one x and one dx");
    for (const OptionalArray* array : of_c)
        check.require(array->has_value() == (kind == CellKind::lstm),
                      "arrays of c must be given for kind 3 (lstm) and no other");
}

static void forward(int kind, const Arrays& x, const Array& w, const OptionalArray& bias, const Array& h,
                    const OptionalArray& c, const OptionalArray& mask, const OptionalArray& reset, const Array& y,
                    const Array& last_h, const OptionalArray& last_c, const Array& gates, const OptionalArray& cells,
                    int threads) {
    const Checker check("cell_forward");
    CellForward in{};
    static_cast<CellInputs&>(in) = inputs(check, kind, y, w, mask, reset, threads);
    const auto [B, T, H, d] = in.sizes;
    check_options(check, in.kind, x.size(), {&c, &last_c, &cells});
    check.require(bias.has_value() == (in.kind == CellKind::gru_after),
                  "bias must be given for kind 2 (gru_after) and no other");
    for (size_t g = 0; g < x.size(); ++g) in.x[g] = check.sequence("x", x[g], {B, T, H, d});
    in.bias = check.floats("bias", bias, {H, d});
    in.h = check.floats("h", h, {B, H, d});
    in.c = check.floats("c", c, {B, H, d});
    in.y = check.floats("y", y, {B, T, H, d});
    in.last_h = check.floats("last_h", last_h, {B, H, d});
    in.last_c = check.floats("last_c", last_c, {B, H, d});
    in.steps = check.sizes("gates", gates, 5)[0] == 1 ? 1 : T;
    in.gates = check.floats("gates", gates, {in.steps, cell_saved(in.kind), B, H, d});
    in.cells = check.floats("cells", cells, {in.steps, B, H, d});
    nb::gil_scoped_release released;
    kernels().cell_forward(in);
}

static void backward(int kind, const Array& w, const Array& h, const OptionalArray& mask, const OptionalArray& reset,
                     float clip, const Array& y, const Array& gates, const OptionalArray& cells, const Array& dy,
                     const Array& dlast_h, const OptionalArray& dlast_c, const Arrays& dx, const Array& dh,
                     const OptionalArray& dc, int threads) {
    const Checker check("cell_backward");
    CellBackward in{};
    static_cast<CellInputs&>(in) = inputs(check, kind, y, w, mask, reset, threads);
    const auto [B, T, H, d] = in.sizes;
    check_options(check, in.kind, dx.size(), {&cells, &dlast_c, &dc});
    in.clip = clip;
    in.h = check.floats("h", h, {B, H, d});
    in.y = check.floats("y", y, {B, T, H, d});
    in.gates = check.floats("gates", gates, {T, cell_saved(in.kind), B, H, d});
    in.cells = check.floats("cells", cells, {T, B, H, d});
    in.dy = check.floats("dy", dy, {B, T, H, d});
    in.dlast_h = check.floats("dlast_h", dlast_h, {B, H, d});
    in.dlast_c = check.floats("dlast_c", dlast_c, {B, H, d});
    for (size_t g = 0; g < dx.size(); ++g) in.dx[g] = check.floats("dx", dx[g], {B, T, H, d});
    in.dh = check.floats("dh", dh, {B, H, d});
    in.dc = check.floats("dc", dc, {B, H, d});
    nb::gil_scoped_release released;
    kernels().cell_backward(in);
}

void bind_cells(nb::module_& m) {
    m.def("cell_forward", &forward, arg("kind"), arg("x").noconvert(), arg("w").noconvert(),
          arg("bias").noconvert().none(), arg("h").noconvert(), arg("c").noconvert().none(),
          arg("mask").noconvert().none(), arg("reset").noconvert().none(), arg("y").noconvert(),
          arg("last_h").noconvert(), arg("last_c").noconvert().none(), arg("gates").noconvert(),
          arg("cells").noconvert().none(), arg("threads"));
    m.def("cell_backward", &backward, arg("kind"), arg("w").noconvert(), arg("h").noconvert(),
          arg("mask").noconvert().none(), arg("reset").noconvert().none(), arg("clip"), arg("y").noconvert(),
          arg("gates").noconvert(), arg("cells").noconvert().none(), arg("dy").noconvert(),
          arg("dlast_h").noconvert(), arg("dlast_c").noconvert().none(), arg("dx").noconvert(),
          arg("dh").noconvert(), arg("dc").noconvert().none(), arg("threads"));
}

}  // namespace matrixstate
