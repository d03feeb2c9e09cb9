#include "arrays.h"
#include "kernels.h"

namespace matrixstate {

using nb::arg;

static StepConv convolution(const Checker& check, const OptionalArray& weight, const OptionalArray& past,
                            const OptionalArray& last, int64_t B, int64_t channels) {
    StepConv conv{};
    check.require(weight.has_value() == past.has_value() && past.has_value() == last.has_value(),
                  "past and last must be given where there is a convolution and only there");
    if (!weight) return conv;
    conv.channels = channels, conv.taps = check.sizes("weight", *weight, 2)[1];
    check.require(conv.taps > 0, "weight must have at least one step");
    conv.weight = check.floats("weight", weight, {channels, conv.taps});
    conv.past = check.floats("past", past, {B, conv.taps - 1, channels});
    conv.last = check.floats("last", last, {B, conv.taps - 1, channels});
    return conv;
}

static void gated_conv(const Array& x, const Array& gate, const Array& weight, const Array& norm, float eps,
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

static void m2rnn(const Array& x, int64_t query_heads, int64_t key_heads, int64_t value_heads, bool unit_keys,
                  const OptionalArray& weight, const Array& log_rate, const Array& bias, const Array& w,
                  const OptionalArray& residual, const Array& norm, float eps, const OptionalArray& past,
                  const Array& state, const Array& y, const OptionalArray& last, const Array& after, int threads) {
    const Checker check("m2rnn_step");
    const int64_t *sizes = check.sizes("x", x, 3), *matrices = check.sizes("state", state, 4);
    M2rnnStep in{};
    in.B = sizes[0], in.H = matrices[1], in.K = matrices[2], in.V = matrices[3];
    in.Hq = query_heads, in.Hk = key_heads, in.Hv = value_heads;
    in.Hw = check.sizes("w", w, 3)[0], in.Hf = check.sizes("log_rate", log_rate, 1)[0];
    check.require(in.H > 0 && in.K > 0 && in.V > 0, "state must have at least one head, row and column");
    in.Hg = (sizes[2] - in.channels() - in.Hf) / in.V;
    for (int64_t heads : {in.Hq, in.Hk, in.Hv, in.Hw, in.Hf, in.Hg})
        check.require(heads > 0 && in.H % heads == 0, "every head count must divide that of the state");
    check.require(threads > 0, "threads must be positive");
    in.unit_keys = unit_keys;
    in.x = check.input("x", x, {in.B, 1, in.width()}, x);
    in.conv = convolution(check, weight, past, last, in.B, in.channels());
    in.log_rate = check.floats("log_rate", log_rate, {in.Hf});
    in.bias = check.floats("bias", bias, {in.Hf});
    in.w = check.floats("w", w, {in.Hw, in.V, in.V});
    in.residual = check.floats("residual", residual, {in.H, in.V});
    in.norm = {check.floats("norm", norm, {in.H * in.V}), eps};
    in.state = check.floats("state", state, {in.B, in.H, in.K, in.V});
    in.y = check.output("y", y, {in.B, 1, in.H * in.V}, y);
    in.after = check.floats("after", after, {in.B, in.H, in.K, in.V});
    in.threads = threads;
    nb::gil_scoped_release released;
    kernels().m2rnn_step(in);
}

static void mru(const Array& elements, const OptionalArray& value, const OptionalArray& forget,
                const OptionalArray& gate, int builder, int readout, float bound, bool balanced,
                const Array& down, const OptionalArray& weight, const OptionalArray& log_rate, const OptionalArray& bias,
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

void bind_step(nb::module_& m) {
    m.def("mru_step", &mru, arg("elements").noconvert(), arg("value").noconvert().none(),
          arg("forget").noconvert().none(), arg("gate").noconvert().none(), arg("builder"), arg("readout"), arg("bound"),
          arg("balanced"), arg("down").noconvert(), arg("weight").noconvert().none(), arg("log_rate").noconvert().none(),
          arg("bias").noconvert().none(), arg("skip").noconvert().none(), arg("norm").noconvert().none(), arg("eps"),
          arg("past").noconvert().none(), arg("state").noconvert(), arg("exponent").noconvert().none(),
          arg("y").noconvert(), arg("last").noconvert().none(), arg("after").noconvert(),
          arg("after_exponent").noconvert().none(), arg("threads"));
    m.def("gated_conv_step", &gated_conv, arg("x").noconvert(), arg("gate").noconvert(), arg("weight").noconvert(),
          arg("norm").noconvert(), arg("eps"), arg("past").noconvert(), arg("y").noconvert(), arg("last").noconvert(),
          arg("threads"));
    m.def("m2rnn_step", &m2rnn, arg("x").noconvert(), arg("query_heads"), arg("key_heads"), arg("value_heads"),
          arg("unit_keys"), arg("weight").noconvert().none(), arg("log_rate").noconvert(), arg("bias").noconvert(),
          arg("w").noconvert(), arg("residual").noconvert().none(), arg("norm").noconvert(), arg("eps"),
          arg("past").noconvert().none(), arg("state").noconvert(), arg("y").noconvert(),
          arg("last").noconvert().none(), arg("after").noconvert(), arg("threads"));
}

}  // namespace matrixstate
