#include "bindings/checks.h"
#include "bindings/step.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take. H, the largest head count, is that of the state.
static M2rnnInputs inputs(const Checker& check, const Array& q, const Array& k, const Array& v, const Array& w,
                          const Array& f, const OptionalArray& reset, int threads) {
    const int64_t *qs = check.sizes("q", q, 4), *ks = check.sizes("k", k, 4), *vs = check.sizes("v", v, 4);
    M2rnnInputs in{};
    M2rnnSizes& s = in.sizes;
    s.B = qs[0], s.T = qs[1], s.K = qs[3], s.V = vs[3];
    s.Hq = qs[2], s.Hk = ks[2], s.Hv = vs[2], s.Hw = check.sizes("w", w, 3)[0], s.Hf = check.sizes("f", f, 3)[2];
    for (int64_t heads : {s.Hq, s.Hk, s.Hv, s.Hw, s.Hf}) s.H = heads > s.H ? heads : s.H;
    for (int64_t heads : {s.Hq, s.Hk, s.Hv, s.Hw, s.Hf})
        check.require(heads > 0 && s.H % heads == 0, "every head count must divide the largest");
    check.require(threads > 0, "threads must be positive");
    in.q = check.input("q", q, {s.B, s.T, s.Hq, s.K}, q);
    in.k = check.input("k", k, {s.B, s.T, s.Hk, s.K}, q);
    in.v = check.input("v", v, {s.B, s.T, s.Hv, s.V}, q);
    in.w = check.floats("w", w, {s.Hw, s.V, s.V});
    in.f = check.floats("f", f, {s.B, s.T, s.Hf});
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& q, const Array& k, const Array& v, const Array& w, const Array& f,
                    const Array& state, const OptionalArray& reset, const Array& y, const Array& last,
                    const OptionalArray& saved, int threads) {
    const Checker check("m2rnn_forward");
    M2rnnForward in{};
    static_cast<M2rnnInputs&>(in) = inputs(check, q, k, v, w, f, reset, threads);
    const M2rnnSizes& s = in.sizes;
    in.state = check.floats("state", state, {s.B, s.H, s.K, s.V});
    in.y = check.output("y", y, {s.B, s.T, s.H, s.V}, q);
    in.last = check.floats("last", last, {s.B, s.H, s.K, s.V});
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.K, s.V});
    nb::gil_scoped_release released;
    kernels().m2rnn_forward(in);
}

static void backward(const Array& q, const Array& k, const Array& v, const Array& w, const Array& f,
                     const OptionalArray& reset, const Array& saved, const Array& dy, const Array& dlast, float clip,
                     const Array& dq, const Array& dk, const Array& dv, const Array& dw, const Array& df,
                     const Array& dstate, int threads) {
    const Checker check("m2rnn_backward");
    M2rnnBackward in{};
    static_cast<M2rnnInputs&>(in) = inputs(check, q, k, v, w, f, reset, threads);
    const M2rnnSizes& s = in.sizes;
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.K, s.V});
    in.dy = check.input("dy", dy, {s.B, s.T, s.H, s.V}, q);
    in.dlast = check.floats("dlast", dlast, {s.B, s.H, s.K, s.V});
    in.clip = clip;
    in.dq = check.output("dq", dq, {s.B, s.T, s.Hq, s.K}, q);
    in.dk = check.output("dk", dk, {s.B, s.T, s.Hk, s.K}, q);
    in.dv = check.output("dv", dv, {s.B, s.T, s.Hv, s.V}, q);
    in.dw = check.floats("dw", dw, {s.Hw, s.V, s.V});
    in.df = check.floats("df", df, {s.B, s.T, s.Hf});
    in.dstate = check.floats("dstate", dstate, {s.B, s.H, s.K, s.V});
    nb::gil_scoped_release released;
    kernels().m2rnn_backward(in);
}

static void step(const Array& x, int64_t query_heads, int64_t key_heads, int64_t value_heads, bool unit_keys,
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

void bind_m2rnn(nb::module_& m) {
    m.attr("M2RNN_INTERVAL") = M2RNN_INTERVAL;
    m.def("m2rnn_forward", &forward, arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
          arg("w").noconvert(), arg("f").noconvert(), arg("state").noconvert(), arg("reset").noconvert().none(),
          arg("y").noconvert(), arg("last").noconvert(), arg("saved").noconvert().none(), arg("threads"));
    m.def("m2rnn_backward", &backward, arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
          arg("w").noconvert(), arg("f").noconvert(), arg("reset").noconvert().none(), arg("saved").noconvert(),
          arg("dy").noconvert(), arg("dlast").noconvert(), arg("clip"), arg("dq").noconvert(),
          arg("dk").noconvert(), arg("dv").noconvert(), arg("dw").noconvert(), arg("df").noconvert(),
          arg("dstate").noconvert(), arg("threads"));
    m.def("m2rnn_step", &step, arg("x").noconvert(), arg("query_heads"), arg("key_heads"), arg("value_heads"),
          arg("unit_keys"), arg("weight").noconvert().none(), arg("log_rate").noconvert(), arg("bias").noconvert(),
          arg("w").noconvert(), arg("residual").noconvert().none(), arg("norm").noconvert(), arg("eps"),
          arg("past").noconvert().none(), arg("state").noconvert(), arg("y").noconvert(),
          arg("last").noconvert().none(), arg("after").noconvert(), arg("threads"));
}

}  // namespace matrixstate
