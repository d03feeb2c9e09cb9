#include <cmath>

#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take. R, the number of rows, is that of the state.
static MatrixInputs inputs(const Checker& check, const Array& x, const Array& state, const OptionalArray& exponent,
                           const OptionalArray& reset, bool has_v, int threads) {
    const int64_t *xs = check.sizes("x", x, 5), *ss = check.sizes("state", state, 4);
    MatrixInputs in{};
    MatrixSizes& s = in.sizes;
    s.B = xs[0], s.T = xs[1], s.H = xs[2], s.D = xs[3], s.R = ss[2];
    check.require(threads > 0, "threads must be positive");
    check.require(!exponent || !has_v, "v must be None where exponent is given");
    check.require(!reset || has_v || s.R == s.D, "reset without v needs a square state");
    in.x = check.input("x", x, {s.B, s.T, s.H, s.D, s.D}, x);
    in.state = check.floats("state", state, {s.B, s.H, s.R, s.D});
    in.exponent = check.integers("exponent", exponent, {s.B, s.H});
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& x, const OptionalArray& v, const Array& state, const OptionalArray& exponent,
                    const OptionalArray& reset, const Array& h, const Array& last, const OptionalArray& exponents,
                    int threads) {
    const Checker check("matrix_forward");
    MatrixForward in{};
    static_cast<MatrixInputs&>(in) = inputs(check, x, state, exponent, reset, v.has_value(), threads);
    const MatrixSizes& s = in.sizes;
    if (v) in.v = check.input("v", *v, {s.B, s.T, s.H, s.R, s.D}, x);
    in.h = check.output("h", h, {s.B, s.T, s.H, s.R, s.D}, h);
    in.last = check.floats("last", last, {s.B, s.H, s.R, s.D});
    in.exponents = check.integers("exponents", exponents, {s.B, s.T, s.H});
    check.require(exponent.has_value() == exponents.has_value(), "exponents must be given where exponent is");
    nb::gil_scoped_release released;
    kernels().matrix_forward(in);
}

static void backward(const Array& x, const Array& state, const OptionalArray& exponent, const OptionalArray& reset,
                     const Array& h, const OptionalArray& exponents, const Array& dh, const Array& dlast,
                     const Array& dx, const OptionalArray& dv, const Array& dstate, int threads) {
    const Checker check("matrix_backward");
    MatrixBackward in{};
    static_cast<MatrixInputs&>(in) = inputs(check, x, state, exponent, reset, dv.has_value(), threads);
    const MatrixSizes& s = in.sizes;
    in.h = check.input("h", h, {s.B, s.T, s.H, s.R, s.D}, h);
    in.exponents = check.integers("exponents", exponents, {s.B, s.T, s.H});
    check.require(exponent.has_value() == exponents.has_value(), "exponents must be given where exponent is");
    in.dh = check.input("dh", dh, {s.B, s.T, s.H, s.R, s.D}, h);
    in.dlast = check.floats("dlast", dlast, {s.B, s.H, s.R, s.D});
    in.dx = check.output("dx", dx, {s.B, s.T, s.H, s.D, s.D}, x);
    if (dv) in.dv = check.output("dv", *dv, {s.B, s.T, s.H, s.R, s.D}, x);
    in.dstate = check.floats("dstate", dstate, {s.B, s.H, s.R, s.D});
    nb::gil_scoped_release released;
    kernels().matrix_backward(in);
}

static NormaliseSizes sizes_of(const Checker& check, const Array& m, int threads) {
    const int64_t* s = check.sizes("m", m, 5);
    check.require(threads > 0, "threads must be positive");
    return {s[0] * s[1] * s[2], s[3] * s[4], std::sqrt(static_cast<float>(s[4]))};
}

static void normalise(const Array& m, const Array& h, const Array& size, int threads) {
    const Checker check("normalise_forward");
    const NormaliseSizes sizes = sizes_of(check, m, threads);
    const int64_t* s = check.sizes("m", m, 5);
    NormaliseForward in{sizes, nullptr, {}, nullptr, threads};
    in.m = check.floats("m", m, {s[0], s[1], s[2], s[3], s[4]});
    in.h = check.output("h", h, {s[0], s[1], s[2], s[3], s[4]}, h);
    in.size = check.floats("size", size, {s[0], s[1], s[2]});
    nb::gil_scoped_release released;
    kernels().normalise_forward(in);
}

static void normalise_back(const Array& m, const Array& size, const Array& dh, const Array& dsize, const Array& dm,
                           int threads) {
    const Checker check("normalise_backward");
    const NormaliseSizes sizes = sizes_of(check, m, threads);
    const int64_t* s = check.sizes("m", m, 5);
    NormaliseBackward in{sizes, nullptr, nullptr, {}, nullptr, nullptr, threads};
    in.m = check.floats("m", m, {s[0], s[1], s[2], s[3], s[4]});
    in.size = check.floats("size", size, {s[0], s[1], s[2]});
    in.dh = check.input("dh", dh, {s[0], s[1], s[2], s[3], s[4]}, dh);
    in.dsize = check.floats("dsize", dsize, {s[0], s[1], s[2]});
    in.dm = check.floats("dm", dm, {s[0], s[1], s[2], s[3], s[4]});
    nb::gil_scoped_release released;
    kernels().normalise_backward(in);
}

void bind_matrix(nb::module_& m) {
    m.def("normalise_forward", &normalise, arg("m").noconvert(), arg("h").noconvert(), arg("size").noconvert(),
          arg("threads"));
    m.def("normalise_backward", &normalise_back, arg("m").noconvert(), arg("size").noconvert(), arg("dh").noconvert(),
          arg("dsize").noconvert(), arg("dm").noconvert(), arg("threads"));
    m.def("matrix_forward", &forward, arg("x").noconvert(), arg("v").noconvert().none(), arg("state").noconvert(),
          arg("exponent").noconvert().none(), arg("reset").noconvert().none(), arg("h").noconvert(),
          arg("last").noconvert(), arg("exponents").noconvert().none(), arg("threads"));
    m.def("matrix_backward", &backward, arg("x").noconvert(), arg("state").noconvert(),
          arg("exponent").noconvert().none(), arg("reset").noconvert().none(), arg("h").noconvert(),
          arg("exponents").noconvert().none(), arg("dh").noconvert(), arg("dlast").noconvert(), arg("dx").noconvert(),
          arg("dv").noconvert().none(), arg("dstate").noconvert(), arg("threads"));
}

}  // namespace matrixstate
