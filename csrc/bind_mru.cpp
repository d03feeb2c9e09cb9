#include "arrays.h"
#include "kernels.h"

namespace matrixstate {

using nb::arg;

// Checks what both directions take.
static MruInputs inputs(const Checker& check, const Array& elements, const OptionalArray& v, const OptionalArray& decay,
                        const Array& down, const OptionalArray& reset, const OptionalArray& mask, int builder,
                        int readout, float bound, bool rescale, int threads) {
    const int64_t *es = check.sizes("elements", elements, 4), *ds = check.sizes("down", down, 3);
    MruInputs in{};
    MruSizes& s = in.sizes;
    s.B = es[0], s.T = es[1], s.H = es[2], s.D = ds[1], s.C = ds[2];
    check.require(threads > 0, "threads must be positive");
    check.require(s.D > 0 && s.C > 0, "down must have rows and columns");
    check.require(builder >= 0 && builder < 3, "builder must be 0, 1 or 2");
    check.require(readout >= 0 && readout < 3, "readout must be 0, 1 or 2");
    check.require(!rescale || !v, "v must be None where rescale is true");
    in.builder = static_cast<MruBuilder>(builder);
    in.readout = static_cast<MruReadout>(readout);
    in.bound = bound;
    in.rescale = rescale;
    in.elements = check.input("elements", elements, {s.B, s.T, s.H, mru_elements(in.builder, s.D)}, elements);
    if (v) in.v = check.input("v", *v, {s.B, s.T, s.H, s.D, s.D}, elements);
    in.decay = check.floats("decay", decay, {s.B, s.T, s.H});
    in.down = check.floats("down", down, {s.H, s.D, s.C});
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.mask = check.flags("mask", mask, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& elements, const OptionalArray& v, const OptionalArray& decay, const Array& down,
                    const OptionalArray& reset, const OptionalArray& mask, const Array& state,
                    const OptionalArray& exponent, int builder, int readout, float bound, const Array& y,
                    const Array& last, const OptionalArray& last_exponent, const OptionalArray& kept,
                    const OptionalArray& kept_exponent, int threads) {
    const Checker check("mru_forward");
    MruForward in{};
    static_cast<MruInputs&>(in) = inputs(check, elements, v, decay, down, reset, mask, builder, readout, bound,
                                         exponent.has_value(), threads);
    const MruSizes& s = in.sizes;
    in.state = check.floats("state", state, {s.B, s.H, s.D, s.D});
    in.exponent = check.integers("exponent", exponent, {s.B, s.H});
    in.y = check.output("y", y, {s.B, s.T, s.H, s.D, s.C}, elements);
    in.last = check.floats("last", last, {s.B, s.H, s.D, s.D});
    in.last_exponent = check.integers("last_exponent", last_exponent, {s.B, s.H});
    in.kept = check.floats("kept", kept, {s.B, s.H, s.intervals(), s.D, s.D});
    in.kept_exponent = check.integers("kept_exponent", kept_exponent, {s.B, s.H, s.intervals()});
    check.require(in.rescale == last_exponent.has_value(), "last_exponent must be given where exponent is");
    check.require((in.rescale && kept) == kept_exponent.has_value(), "kept_exponent must be given where it is needed");
    nb::gil_scoped_release released;
    kernels().mru_forward(in);
}

static void backward(const Array& elements, const OptionalArray& v, const OptionalArray& decay, const Array& down,
                     const OptionalArray& reset, const OptionalArray& mask, const Array& kept,
                     const OptionalArray& kept_exponent, int builder, int readout, float bound, const Array& dy,
                     const Array& dlast, const Array& delements, const OptionalArray& dv, const OptionalArray& ddecay,
                     const Array& ddown, const Array& dstate, int threads) {
    const Checker check("mru_backward");
    MruBackward in{};
    static_cast<MruInputs&>(in) = inputs(check, elements, v, decay, down, reset, mask, builder, readout, bound,
                                         kept_exponent.has_value(), threads);
    const MruSizes& s = in.sizes;
    in.kept = check.floats("kept", kept, {s.B, s.H, s.intervals(), s.D, s.D});
    in.kept_exponent = check.integers("kept_exponent", kept_exponent, {s.B, s.H, s.intervals()});
    in.dy = check.input("dy", dy, {s.B, s.T, s.H, s.D, s.C}, elements);
    in.dlast = check.floats("dlast", dlast, {s.B, s.H, s.D, s.D});
    in.delements = check.output("delements", delements, {s.B, s.T, s.H, mru_elements(in.builder, s.D)}, elements);
    check.require(dv.has_value() == v.has_value(), "dv must be given where v is");
    if (dv) in.dv = check.output("dv", *dv, {s.B, s.T, s.H, s.D, s.D}, elements);
    check.require(ddecay.has_value() == decay.has_value(), "ddecay must be given where decay is");
    in.ddecay = check.floats("ddecay", ddecay, {s.B, s.T, s.H});
    in.ddown = check.floats("ddown", ddown, {s.H, s.D, s.C});
    in.dstate = check.floats("dstate", dstate, {s.B, s.H, s.D, s.D});
    nb::gil_scoped_release released;
    kernels().mru_backward(in);
}

void bind_mru(nb::module_& m) {
    m.attr("MRU_INTERVAL") = MRU_INTERVAL;
    m.def("mru_forward", &forward, arg("elements").noconvert(), arg("v").noconvert().none(),
          arg("decay").noconvert().none(), arg("down").noconvert(), arg("reset").noconvert().none(),
          arg("mask").noconvert().none(), arg("state").noconvert(), arg("exponent").noconvert().none(), arg("builder"),
          arg("readout"), arg("bound"), arg("y").noconvert(), arg("last").noconvert(),
          arg("last_exponent").noconvert().none(), arg("kept").noconvert().none(),
          arg("kept_exponent").noconvert().none(), arg("threads"));
    m.def("mru_backward", &backward, arg("elements").noconvert(), arg("v").noconvert().none(),
          arg("decay").noconvert().none(), arg("down").noconvert(), arg("reset").noconvert().none(),
          arg("mask").noconvert().none(), arg("kept").noconvert(), arg("kept_exponent").noconvert().none(),
          arg("builder"), arg("readout"), arg("bound"), arg("dy").noconvert(), arg("dlast").noconvert(),
          arg("delements").noconvert(), arg("dv").noconvert().none(), arg("ddecay").noconvert().none(),
          arg("ddown").noconvert(), arg("dstate").noconvert(), arg("threads"));
}

}  // namespace matrixstate
