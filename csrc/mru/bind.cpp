#include "bindings/checks.h"
#include "bindings/step.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take.
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
                    const Array& last, const OptionalArray& last_exponent, const OptionalArray& saved,
                    const OptionalArray& saved_exponent, int threads) {
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
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.D, s.D});
    in.saved_exponent = check.integers("saved_exponent", saved_exponent, {s.B, s.H, s.intervals()});
    check.require(in.rescale == last_exponent.has_value(), "last_exponent must be given where exponent is");
    check.require((in.rescale && saved) == saved_exponent.has_value(),
                  "saved_exponent must be given where it is needed");
    nb::gil_scoped_release released;
    kernels().mru_forward(in);
}

static void backward(const Array& elements, const OptionalArray& v, const OptionalArray& decay, const Array& down,
                     const OptionalArray& reset, const OptionalArray& mask, const Array& saved,
                     const OptionalArray& saved_exponent, int builder, int readout, float bound, const Array& dy,
                     const Array& dlast, const Array& delements, const OptionalArray& dv, const OptionalArray& ddecay,
                     const Array& ddown, const Array& dstate, int threads) {
    const Checker check("mru_backward");
    MruBackward in{};
    static_cast<MruInputs&>(in) = inputs(check, elements, v, decay, down, reset, mask, builder, readout, bound,
                                         saved_exponent.has_value(), threads);
    const MruSizes& s = in.sizes;
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.D, s.D});
    in.saved_exponent = check.integers("saved_exponent", saved_exponent, {s.B, s.H, s.intervals()});
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

static void step(const Array& elements, const OptionalArray& value, const OptionalArray& forget,
                 const OptionalArray& gate, int builder, int readout, float bound, bool balanced, const Array& down,
                 const OptionalArray& weight, const OptionalArray& log_rate, const OptionalArray& bias,
                 const OptionalArray& skip, const OptionalArray& norm, float eps, const OptionalArray& past,
                 const Array& state, const OptionalArray& exponent, const Array& y, const OptionalArray& last,
                 const Array& after, const OptionalArray& after_exponent, int threads) {
    const Checker check("mru_step");
    const int64_t *es = check.sizes("elements", elements, 4), *ds = check.sizes("down", down, 3);
    MruStep in{};
    const int64_t B = es[0], H = es[2], D = ds[1], C = ds[2];
    in.sizes = {B, 1, H, D, C};
    check.require(threads > 0, "threads must be positive");
    check.require(D > 0 && C > 0, "down must have rows and columns");
    check.require(builder >= 0 && builder < 3, "builder must be 0, 1 or 2");
    check.require(readout >= 0 && readout < 3, "readout must be 0, 1 or 2");
    check.require(value.has_value() == weight.has_value(), "value must be given where conv is, and only there");
    check.require(!exponent || !value, "value must be None where the state is rescaled");
    check.require(!skip || (value && D == C), "skip needs value and as many channels as that");
    check.require(forget.has_value() == log_rate.has_value() && forget.has_value() == bias.has_value(),
                  "forget must be given where log_rate and bias are, and only there");
    check.require(exponent.has_value() == after_exponent.has_value(), "after_exponent must be given where exponent is");
    check.require(!balanced || (value && forget), "balanced needs value and forget");
    in.balanced = balanced;
    in.builder = static_cast<MruBuilder>(builder), in.readout = static_cast<MruReadout>(readout), in.bound = bound;
    in.elements = check.input("elements", elements, {B, 1, H, mru_elements(in.builder, D)}, elements);
    if (value) in.value = check.input("value", *value, {B, 1, in.values()}, *value);
    if (forget) in.forget = check.input("forget", *forget, {B, 1, H}, *forget);
    if (gate) in.gate = check.input("gate", *gate, {B, 1, in.channels()}, *gate);
    in.conv = convolution(check, weight, past, last, B, in.values());
    in.log_rate = check.floats("log_rate", log_rate, {H}), in.bias = check.floats("bias", bias, {H});
    in.down = check.floats("down", down, {H, D, C});
    in.skip = check.floats("skip", skip, {in.values()});
    in.norm = {check.floats("norm", norm, {in.channels()}), eps};
    in.state = check.floats("state", state, {B, H, D, D});
    in.exponent = check.integers("exponent", exponent, {B, H});
    in.y = check.output("y", y, {B, 1, in.channels()}, y);
    in.after = check.floats("after", after, {B, H, D, D});
    in.after_exponent = check.integers("after_exponent", after_exponent, {B, H});
    in.threads = threads;
    nb::gil_scoped_release released;
    kernels().mru_step(in);
}

void bind_mru(nb::module_& m) {
    m.attr("MRU_INTERVAL") = MRU_INTERVAL;
    m.def("mru_forward", &forward, arg("elements").noconvert(), arg("v").noconvert().none(),
          arg("decay").noconvert().none(), arg("down").noconvert(), arg("reset").noconvert().none(),
          arg("mask").noconvert().none(), arg("state").noconvert(), arg("exponent").noconvert().none(), arg("builder"),
          arg("readout"), arg("bound"), arg("y").noconvert(), arg("last").noconvert(),
          arg("last_exponent").noconvert().none(), arg("saved").noconvert().none(),
          arg("saved_exponent").noconvert().none(), arg("threads"));
    m.def("mru_backward", &backward, arg("elements").noconvert(), arg("v").noconvert().none(),
          arg("decay").noconvert().none(), arg("down").noconvert(), arg("reset").noconvert().none(),
          arg("mask").noconvert().none(), arg("saved").noconvert(), arg("saved_exponent").noconvert().none(),
          arg("builder"), arg("readout"), arg("bound"), arg("dy").noconvert(), arg("dlast").noconvert(),
          arg("delements").noconvert(), arg("dv").noconvert().none(), arg("ddecay").noconvert().none(),
          arg("ddown").noconvert(), arg("dstate").noconvert(), arg("threads"));
    m.def("mru_step", &step, arg("elements").noconvert(), arg("value").noconvert().none(),
          arg("forget").noconvert().none(), arg("gate").noconvert().none(), arg("builder"), arg("readout"),
          arg("bound"), arg("balanced"), arg("down").noconvert(), arg("weight").noconvert().none(),
          arg("log_rate").noconvert().none(), arg("bias").noconvert().none(), arg("skip").noconvert().none(),
          arg("norm").noconvert().none(), arg("eps"), arg("past").noconvert().none(), arg("state").noconvert(),
          arg("exponent").noconvert().none(), arg("y").noconvert(), arg("last").noconvert().none(),
          arg("after").noconvert(), arg("after_exponent").noconvert().none(), arg("threads"));
}

}  // namespace matrixstate
