#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take. Arrays may have any axes after B and T: their numbers are counted.
static ScanInputs inputs(const Checker& check, const Array& x, int64_t G, int64_t R, int64_t Z, const Array& decay,
                         bool is_constant, bool is_log, const Array& state, const OptionalArray& reset, int threads) {
    ScanInputs in{};
    ScanSizes& s = in.sizes;
    check.require(x.ndim() >= 2, "x must have the axes B and T");
    s.B = x.shape_ptr()[0], s.T = x.shape_ptr()[1], s.G = G, s.R = R, s.Z = Z;
    check.require(s.T > 0, "x must have at least one step");
    check.require(G >= 0 && R >= 0 && (Z == 1 || Z == 2), "G and R must not be negative, Z must be 1 or 2");
    check.require(Z == 1 || !is_log, "a logarithm must be real");
    check.require(threads > 0, "threads must be positive");
    in.x = check.flat_input("x", x, s.numbers(), x);
    check.require(Z == 1 || in.x.dtype == Dtype::float32, "complex numbers must be float32");
    in.is_constant = is_constant;
    in.decay = check.flat_floats("decay", decay, in.decays());
    in.is_log = is_log;
    in.state = check.flat_floats("state", state, s.B * s.row());
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& x, int64_t G, int64_t R, int64_t Z, const Array& decay, bool is_constant, bool is_log,
                    const Array& state, const OptionalArray& reset, const Array& h, const Array& last,
                    const OptionalArray& saved, int threads) {
    const Checker check("scan_forward");
    ScanForward in{};
    static_cast<ScanInputs&>(in) = inputs(check, x, G, R, Z, decay, is_constant, is_log, state, reset, threads);
    const ScanSizes& s = in.sizes;
    in.h = check.flat_output("h", h, s.numbers(), x);
    in.last = check.flat_floats("last", last, s.B * s.row());
    in.saved = check.flat_floats("saved", saved, s.B * s.intervals() * s.row());
    nb::gil_scoped_release released;
    kernels().scan_forward(in);
}

static void backward(const Array& known, int64_t G, int64_t R, int64_t Z, const Array& decay, bool is_constant,
                     bool is_log, const Array& state, const OptionalArray& reset, const OptionalArray& saved,
                     const Array& dh, const Array& dlast, const Array& dx, const Array& ddecay, const Array& dstate,
                     int threads) {
    const Checker check("scan_backward");
    ScanBackward in{};
    static_cast<ScanInputs&>(in) = inputs(check, known, G, R, Z, decay, is_constant, is_log, state, reset, threads);
    const ScanSizes& s = in.sizes;
    const bool is_h = in.x.dtype == Dtype::float32;
    check.require(saved.has_value() != is_h, "saved must be given where h is not float32, and only there");
    in.h = is_h ? static_cast<const float*>(in.x.data) : nullptr;
    in.saved = check.flat_floats("saved", saved, s.B * s.intervals() * s.row());
    in.dh = check.flat_input("dh", dh, s.numbers(), known);
    in.dlast = check.flat_floats("dlast", dlast, s.B * s.row());
    in.dx = check.flat_output("dx", dx, s.numbers(), known);
    in.ddecay = check.flat_floats("ddecay", ddecay, in.decays());
    in.dstate = check.flat_floats("dstate", dstate, s.B * s.row());
    nb::gil_scoped_release released;
    kernels().scan_backward(in);
}

void bind_scan(nb::module_& m) {
    m.attr("SCAN_INTERVAL") = SCAN_INTERVAL;
    m.def("scan_forward", &forward, arg("x").noconvert(), arg("G"), arg("R"), arg("Z"), arg("decay").noconvert(),
          arg("is_constant"), arg("is_log"), arg("state").noconvert(), arg("reset").noconvert().none(),
          arg("h").noconvert(), arg("last").noconvert(), arg("saved").noconvert().none(), arg("threads"));
    m.def("scan_backward", &backward, arg("known").noconvert(), arg("G"), arg("R"), arg("Z"),
          arg("decay").noconvert(), arg("is_constant"), arg("is_log"), arg("state").noconvert(),
          arg("reset").noconvert().none(), arg("saved").noconvert().none(), arg("dh").noconvert(),
          arg("dlast").noconvert(), arg("dx").noconvert(), arg("ddecay").noconvert(), arg("dstate").noconvert(),
          arg("threads"));
}

}  // namespace matrixstate
