#include "arrays.h"
#include "kernels.h"

namespace matrixstate {

using nb::arg;

static void product(const Array& x, const Array& panels, const OptionalArray& plus, const Array& out, int threads) {
    const Checker check("panel_product");
    const int64_t *xs = check.sizes("x", x, 2), *ps = check.sizes("panels", panels, 3);
    PanelProduct in{};
    in.rows = xs[0], in.terms = xs[1], in.columns = ps[0] * PANEL, in.threads = threads;
    check.require(threads > 0, "threads must be positive");
    in.x = check.floats("x", x, {in.rows, in.terms});
    in.panels = check.floats("panels", panels, {ps[0], in.terms, PANEL});
    in.plus = check.floats("plus", plus, {in.rows, in.columns});
    in.out = check.floats("out", out, {in.rows, in.columns});
    nb::gil_scoped_release released;
    kernels().panel_product(in);
}

void bind_panel(nb::module_& m) {
    m.attr("PANEL") = PANEL;
    m.def("panel_product", &product, arg("x").noconvert(), arg("panels").noconvert(), arg("plus").noconvert().none(),
          arg("out").noconvert(), arg("threads"));
}

}  // namespace matrixstate
