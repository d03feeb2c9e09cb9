#include "bindings/checks.h"
#include "bindings/step.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take.
static ConvInputs inputs(const Checker& check, const Array& x, const Array& weight, const OptionalArray& bias,
                         const Array& state, const OptionalArray& reset, bool silu, int threads) {
    const int64_t* sizes = check.sizes("x", x, 3);
    ConvInputs in{};
    in.B = sizes[0], in.T = sizes[1], in.C = sizes[2], in.K = check.sizes("weight", weight, 2)[1];
    check.require(in.T > 0 && in.K > 0, "x and weight must have at least one step");
    check.require(threads > 0, "threads must be positive");
    in.x = check.input("x", x, {in.B, in.T, in.C}, x);
    in.weight = check.floats("weight", weight, {in.C, in.K});
    in.bias = check.floats("bias", bias, {in.C});
    in.state = check.floats("state", state, {in.B, in.K - 1, in.C});
    in.reset = check.flags("reset", reset, {in.B, in.T});
    in.silu = silu;
    in.threads = threads;
    return in;
}

static void forward(const Array& x, const Array& weight, const OptionalArray& bias, const Array& state,
                    const OptionalArray& reset, bool silu, const Array& y, const Array& last, int threads) {
    const Checker check("conv_forward");
    ConvForward in{};
    static_cast<ConvInputs&>(in) = inputs(check, x, weight, bias, state, reset, silu, threads);
    in.y = check.output("y", y, {in.B, in.T, in.C}, x);
    in.last = check.floats("last", last, {in.B, in.K - 1, in.C});
    nb::gil_scoped_release released;
    kernels().conv_forward(in);
}

static void backward(const Array& x, const Array& weight, const OptionalArray& bias, const Array& state,
                     const OptionalArray& reset, bool silu, const Array& dy, const Array& dlast, const Array& dx,
                     const Array& dweight, const OptionalArray& dbias, const Array& dstate, int threads) {
    const Checker check("conv_backward");
    ConvBackward in{};
    static_cast<ConvInputs&>(in) = inputs(check, x, weight, bias, state, reset, silu, threads);
    in.dy = check.input("dy", dy, {in.B, in.T, in.C}, x);
    in.dlast = check.floats("dlast", dlast, {in.B, in.K - 1, in.C});
    in.dx = check.output("dx", dx, {in.B, in.T, in.C}, x);
    in.dweight = check.floats("dweight", dweight, {in.C, in.K});
    in.dbias = check.floats("dbias", dbias, {in.C});
    in.dstate = check.floats("dstate", dstate, {in.B, in.K - 1, in.C});
    nb::gil_scoped_release released;
    kernels().conv_backward(in);
}

static void step(const Array& x, const Array& gate, const Array& weight, const Array& norm, float eps,
                       const Array& past, const Array& y, const Array& last, int threads) {
    const Checker check("gated_conv_step");
    const int64_t *sizes = check.sizes("x", x, 3), B = sizes[0], C = sizes[2];
    GatedConvStep in{};
    check.require(threads > 0, "threads must be positive");
    in.B = B;
    in.x = check.input("x", x, {B, 1, C}, x);
    in.gate = check.input("gate", gate, {B, 1, C}, x);
    in.conv = convolution(check, weight, past, last, B, C);
    in.norm = {check.floats("norm", norm, {C}), eps};
    in.y = check.output("y", y, {B, 1, C}, y);
    in.threads = threads;
    nb::gil_scoped_release released;
    kernels().gated_conv_step(in);
}

void bind_conv(nb::module_& m) {
    m.def("conv_forward", &forward, arg("x").noconvert(), arg("weight").noconvert(), arg("bias").noconvert().none(),
          arg("state").noconvert(), arg("reset").noconvert().none(), arg("silu"), arg("y").noconvert(),
          arg("last").noconvert(), arg("threads"));
    m.def("conv_backward", &backward, arg("x").noconvert(), arg("weight").noconvert(), arg("bias").noconvert().none(),
          arg("state").noconvert(), arg("reset").noconvert().none(), arg("silu"), arg("dy").noconvert(),
          arg("dlast").noconvert(), arg("dx").noconvert(), arg("dweight").noconvert(),
          arg("dbias").noconvert().none(), arg("dstate").noconvert(), arg("threads"));
    m.def("gated_conv_step", &step, arg("x").noconvert(), arg("gate").noconvert(), arg("weight").noconvert(),
          arg("norm").noconvert(), arg("eps"), arg("past").noconvert(), arg("y").noconvert(), arg("last").noconvert(),
          arg("threads"));
}

}  // namespace matrixstate
