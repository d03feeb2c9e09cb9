#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take.
static SnapInputs inputs(const Checker& check, const Array& x, const Array& keys, const Array& values,
                         const Array& state, const Array& phase, int64_t every, const OptionalArray& mask,
                         const OptionalArray& reset, int threads) {
    const int64_t *xs = check.sizes("x", x, 5), *ks = check.sizes("keys", keys, 5);
    SnapInputs in{};
    SnapSizes& s = in.sizes;
    s = {xs[0], xs[1], xs[2], xs[3], ks[0], ks[1]};
    check.require(threads > 0, "threads must be positive");
    check.require(every > 0, "every must be positive");
    check.require(s.D > 0 && s.G > 0 && s.M > 0 && s.H % s.G == 0, "keys must be [G, M, H/G, D, D], G a divisor of H");
    in.x = check.input("x", x, {s.B, s.T, s.H, s.D, s.D}, x);
    in.keys = check.floats("keys", keys, {s.G, s.M, s.H / s.G, s.D, s.D});
    in.values = check.floats("values", values, {s.G, s.M, s.H / s.G, s.D, s.D});
    in.state = check.floats("state", state, {s.B, s.H, s.D, s.D});
    in.phase = check.integers("phase", phase, {s.B});
    in.mask = check.flags("mask", mask, {s.B, s.T});
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.every = every;
    in.threads = threads;
    return in;
}

static void forward(const Array& x, const Array& keys, const Array& values, const Array& state, const Array& phase,
                    int64_t every, const OptionalArray& mask, const OptionalArray& reset, const Array& h,
                    const Array& last, const Array& after, int threads) {
    const Checker check("snap_forward");
    SnapForward in{};
    static_cast<SnapInputs&>(in) = inputs(check, x, keys, values, state, phase, every, mask, reset, threads);
    const SnapSizes& s = in.sizes;
    in.h = check.floats("h", h, {s.B, s.T, s.H, s.D, s.D});
    in.last = check.floats("last", last, {s.B, s.H, s.D, s.D});
    in.after = check.integers("after", after, {s.B});
    nb::gil_scoped_release released;
    kernels().snap_forward(in);
}

static void backward(const Array& x, const Array& keys, const Array& values, const Array& state, const Array& phase,
                     int64_t every, const OptionalArray& mask, const OptionalArray& reset, const Array& h,
                     const Array& dh, const Array& dlast, const Array& dx, const Array& dkeys, const Array& dvalues,
                     const Array& dstate, int threads) {
    const Checker check("snap_backward");
    SnapBackward in{};
    static_cast<SnapInputs&>(in) = inputs(check, x, keys, values, state, phase, every, mask, reset, threads);
    const SnapSizes& s = in.sizes;
    in.h = check.floats("h", h, {s.B, s.T, s.H, s.D, s.D});
    in.dh = check.floats("dh", dh, {s.B, s.T, s.H, s.D, s.D});
    in.dlast = check.floats("dlast", dlast, {s.B, s.H, s.D, s.D});
    in.dx = check.output("dx", dx, {s.B, s.T, s.H, s.D, s.D}, x);
    const int64_t share[] = {s.B, s.G, s.M, s.H / s.G, s.D, s.D};
    in.dkeys = check.floats("dkeys", dkeys, {share[0], share[1], share[2], share[3], share[4], share[5]});
    in.dvalues = check.floats("dvalues", dvalues, {share[0], share[1], share[2], share[3], share[4], share[5]});
    in.dstate = check.floats("dstate", dstate, {s.B, s.H, s.D, s.D});
    nb::gil_scoped_release released;
    kernels().snap_backward(in);
}

void bind_snap(nb::module_& m) {
    m.def("snap_forward", &forward, arg("x").noconvert(), arg("keys").noconvert(), arg("values").noconvert(),
          arg("state").noconvert(), arg("phase").noconvert(), arg("every"), arg("mask").noconvert().none(),
          arg("reset").noconvert().none(), arg("h").noconvert(), arg("last").noconvert(), arg("after").noconvert(),
          arg("threads"));
    m.def("snap_backward", &backward, arg("x").noconvert(), arg("keys").noconvert(), arg("values").noconvert(),
          arg("state").noconvert(), arg("phase").noconvert(), arg("every"), arg("mask").noconvert().none(),
          arg("reset").noconvert().none(), arg("h").noconvert(), arg("dh").noconvert(), arg("dlast").noconvert(),
          arg("dx").noconvert(), arg("dkeys").noconvert(), arg("dvalues").noconvert(), arg("dstate").noconvert(),
          arg("threads"));
}

}  // namespace matrixstate
