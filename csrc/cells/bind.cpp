#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;
using Arrays = std::vector<Array>;

// Checks the arguments that both directions take.
static CellInputs inputs(const Checker& check, int kind, const Array& y, const Arrays& w,
                         const OptionalArray& vectors, const OptionalArray& mask, const OptionalArray& reset,
                         int threads) {
    const int64_t* ys = check.sizes("y", y, 4);
    check.require(threads > 0, "threads must be positive");
    check.require(kind >= 0 && kind < CELL_KINDS, "kind must be an index into CELL_SHAPES");
    check.require(ys[1] > 0, "there must be a step");
    CellInputs in{};
    in.kind = static_cast<CellKind>(kind);
    in.sizes = {ys[0], ys[1], ys[2], ys[3]};
    const CellShape& shape = shape_of(in.kind);
    check.require(w.size() == static_cast<size_t>(shape.is_diagonal ? 0 : shape.gates),
                  "each gate has one w, but those of diagonal cells none");
    check.require(vectors.has_value() == (shape.vectors > 0),
                  "vectors must be given for cells with some and for no others");
    for (size_t g = 0; g < w.size(); ++g) in.w[g] = check.floats("w", w[g], {ys[2], ys[3], ys[3]});
    in.vectors = check.floats("vectors", vectors, {shape.vectors, ys[2], ys[3]});
    in.mask = check.flags("mask", mask, {ys[0], ys[1]});
    in.reset = check.flags("reset", reset, {ys[0], ys[1]});
    in.threads = threads;
    return in;
}

// Checks which optional arrays are given; `of_rest` are those that cells with a state of several vectors have.
static void check_options(const Checker& check, const CellShape& shape, size_t sequences,
                          std::initializer_list<const OptionalArray*> of_rest) {
    check.require(sequences == static_cast<size_t>(shape.gates), "each gate has one x and one dx");
    for (const OptionalArray* array : of_rest)
        check.require(array->has_value() == (shape.rest > 0),
                      "arrays of rest must be given for cells with a state beside h and for no others");
}

static void forward(int kind, const Arrays& x, const Arrays& w, const OptionalArray& vectors, const Array& h,
                    const OptionalArray& rest, const OptionalArray& mask, const OptionalArray& reset, const Array& y,
                    const Array& last_h, const OptionalArray& last_rest, const Array& saved, const OptionalArray& rests,
                    int threads) {
    const Checker check("cell_forward");
    CellForward in{};
    static_cast<CellInputs&>(in) = inputs(check, kind, y, w, vectors, mask, reset, threads);
    const auto [B, T, H, d] = in.sizes;
    const CellShape& shape = shape_of(in.kind);
    check_options(check, shape, x.size(), {&rest, &last_rest, &rests});
    for (size_t g = 0; g < x.size(); ++g) in.x[g] = check.sequence("x", x[g], {B, T, H, d});
    in.h = check.floats("h", h, {B, H, d});
    in.rest = check.floats("rest", rest, {shape.rest, B, H, d});
    in.y = check.floats("y", y, {B, T, H, d});
    in.last_h = check.floats("last_h", last_h, {B, H, d});
    in.last_rest = check.floats("last_rest", last_rest, {shape.rest, B, H, d});
    in.steps = check.sizes("saved", saved, 5)[0] == 1 ? 1 : T;
    in.saved = check.floats("saved", saved, {in.steps, shape.saved, B, H, d});
    in.rests = check.floats("rests", rests, {in.steps, shape.rest, B, H, d});
    nb::gil_scoped_release released;
    kernels().cell_forward(in);
}

static void backward(int kind, const Arrays& w, const OptionalArray& vectors, const Array& h,
                     const OptionalArray& mask, const OptionalArray& reset, float clip, const Array& y,
                     const Array& saved, const OptionalArray& rests, const Array& dy, const Array& dlast_h,
                     const OptionalArray& dlast_rest, const Arrays& dx, const Array& dh, const OptionalArray& drest,
                     const OptionalArray& dvectors, const OptionalArray& operand, const OptionalArray& inner,
                     int threads) {
    const Checker check("cell_backward");
    CellBackward in{};
    static_cast<CellInputs&>(in) = inputs(check, kind, y, w, vectors, mask, reset, threads);
    const auto [B, T, H, d] = in.sizes;
    const CellShape& shape = shape_of(in.kind);
    check_options(check, shape, dx.size(), {&rests, &dlast_rest, &drest});
    check.require(dvectors.has_value() == (shape.vectors > 0), "dvectors must be given where vectors are");
    check.require(operand.has_value() == (shape.second < shape.gates) && inner.has_value() == (shape.inner >= 0),
                  "operand and inner must be given for cells that return them and for no others");
    in.clip = clip;
    in.h = check.floats("h", h, {B, H, d});
    in.y = check.floats("y", y, {B, T, H, d});
    in.saved = check.floats("saved", saved, {T, shape.saved, B, H, d});
    in.rests = check.floats("rests", rests, {T, shape.rest, B, H, d});
    in.dy = check.floats("dy", dy, {B, T, H, d});
    in.dlast_h = check.floats("dlast_h", dlast_h, {B, H, d});
    in.dlast_rest = check.floats("dlast_rest", dlast_rest, {shape.rest, B, H, d});
    for (size_t g = 0; g < dx.size(); ++g) in.dx[g] = check.floats("dx", dx[g], {B, T, H, d});
    in.dh = check.floats("dh", dh, {B, H, d});
    in.drest = check.floats("drest", drest, {shape.rest, B, H, d});
    in.dvectors = check.floats("dvectors", dvectors, {shape.vectors, H, d});
    in.operand = check.floats("operand", operand, {B, T, H, d});
    in.inner = check.floats("inner", inner, {B, T, H, d});
    nb::gil_scoped_release released;
    kernels().cell_backward(in);
}

// name -> (index, gates, saved, rest, vectors, second, inner, is_diagonal)
static nb::dict cell_shapes() {
    nb::dict shapes;
    for (int kind = 0; kind < CELL_KINDS; ++kind) {
        const CellShape& s = CELL_SHAPES[kind];
        shapes[s.name] = nb::make_tuple(kind, s.gates, s.saved, s.rest, s.vectors, s.second, s.inner, s.is_diagonal);
    }
    return shapes;
}

void bind_cells(nb::module_& m) {
    m.def("cell_forward", &forward, arg("kind"), arg("x").noconvert(), arg("w").noconvert(),
          arg("vectors").noconvert().none(), arg("h").noconvert(), arg("rest").noconvert().none(),
          arg("mask").noconvert().none(), arg("reset").noconvert().none(), arg("y").noconvert(),
          arg("last_h").noconvert(), arg("last_rest").noconvert().none(), arg("saved").noconvert(),
          arg("rests").noconvert().none(), arg("threads"));
    m.def("cell_backward", &backward, arg("kind"), arg("w").noconvert(), arg("vectors").noconvert().none(),
          arg("h").noconvert(), arg("mask").noconvert().none(), arg("reset").noconvert().none(), arg("clip"),
          arg("y").noconvert(), arg("saved").noconvert(), arg("rests").noconvert().none(), arg("dy").noconvert(),
          arg("dlast_h").noconvert(), arg("dlast_rest").noconvert().none(), arg("dx").noconvert(),
          arg("dh").noconvert(), arg("drest").noconvert().none(), arg("dvectors").noconvert().none(),
          arg("operand").noconvert().none(), arg("inner").noconvert().none(), arg("threads"));
    m.def("cell_shapes", &cell_shapes);
}

}  // namespace matrixstate
