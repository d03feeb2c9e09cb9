#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// Checks the arguments that both directions take. Arrays may have any axes after B and T: their numbers are counted.
static QuotientInputs inputs(const Checker& check, const Array& score, const Array& v, const OptionalArray& decay,
                             bool is_constant, const OptionalArray& bonus, const Array& max, const Array& den,
                             const Array& num, const OptionalArray& reset, int64_t G, int64_t R, int threads) {
    QuotientInputs in{};
    QuotientSizes& s = in.sizes;
    check.require(v.ndim() >= 2, "v must have the axes B and T");
    s.B = v.shape_ptr()[0], s.T = v.shape_ptr()[1], s.G = G, s.R = R;
    check.require(s.T > 0, "v must have at least one step");
    check.require(G >= 0 && R >= 0, "G and R must not be negative");
    check.require(threads > 0, "threads must be positive");
    in.score = check.flat_input("score", score, s.B * s.T * G, v);
    in.v = check.flat_input("v", v, s.B * s.T * s.row(), v);
    in.is_constant = is_constant;
    in.decay = check.flat_floats("decay", decay, in.decays());
    in.bonus = check.flat_floats("bonus", bonus, G);
    in.max = check.flat_floats("max", max, s.B * G);
    in.den = check.flat_floats("den", den, s.B * G);
    in.num = check.flat_floats("num", num, s.B * s.row());
    in.reset = check.flags("reset", reset, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& score, const Array& v, const OptionalArray& decay, bool is_constant,
                    const OptionalArray& bonus, const Array& max, const Array& den, const Array& num,
                    const OptionalArray& reset, int64_t G, int64_t R, const Array& y, const Array& last_max,
                    const Array& last_den, const Array& last_num, const OptionalArray& saved, int threads) {
    const Checker check("quotient_forward");
    QuotientForward in{};
    static_cast<QuotientInputs&>(in) =
        inputs(check, score, v, decay, is_constant, bonus, max, den, num, reset, G, R, threads);
    const QuotientSizes& s = in.sizes;
    in.y = check.flat_output("y", y, s.B * s.T * s.row(), v);
    in.last_max = check.flat_floats("last_max", last_max, s.B * G);
    in.last_den = check.flat_floats("last_den", last_den, s.B * G);
    in.last_num = check.flat_floats("last_num", last_num, s.B * s.row());
    in.saved = check.flat_floats("saved", saved, s.B * s.intervals() * s.state());
    nb::gil_scoped_release released;
    kernels().quotient_forward(in);
}

static void backward(const Array& score, const Array& v, const OptionalArray& decay, bool is_constant,
                     const OptionalArray& bonus, const Array& max, const Array& den, const Array& num,
                     const OptionalArray& reset, int64_t G, int64_t R, const Array& saved, const Array& dy,
                     const Array& dlast_den, const Array& dlast_num, const Array& dscore, const Array& dv,
                     const OptionalArray& ddecay, const OptionalArray& dbonus, const Array& dden, const Array& dnum,
                     int threads) {
    const Checker check("quotient_backward");
    QuotientBackward in{};
    static_cast<QuotientInputs&>(in) =
        inputs(check, score, v, decay, is_constant, bonus, max, den, num, reset, G, R, threads);
    const QuotientSizes& s = in.sizes;
    check.require(ddecay.has_value() == decay.has_value(), "ddecay must be given with decay, and only then");
    check.require(dbonus.has_value() == bonus.has_value(), "dbonus must be given with bonus, and only then");
    in.saved = check.flat_floats("saved", saved, s.B * s.intervals() * s.state());
    in.dy = check.flat_input("dy", dy, s.B * s.T * s.row(), v);
    in.dlast_den = check.flat_floats("dlast_den", dlast_den, s.B * G);
    in.dlast_num = check.flat_floats("dlast_num", dlast_num, s.B * s.row());
    in.dscore = check.flat_output("dscore", dscore, s.B * s.T * G, v);
    in.dv = check.flat_output("dv", dv, s.B * s.T * s.row(), v);
    in.ddecay = check.flat_floats("ddecay", ddecay, in.decays());
    in.dbonus = check.flat_floats("dbonus", dbonus, G);
    in.dden = check.flat_floats("dden", dden, s.B * G);
    in.dnum = check.flat_floats("dnum", dnum, s.B * s.row());
    nb::gil_scoped_release released;
    kernels().quotient_backward(in);
}

void bind_quotient(nb::module_& m) {
    m.attr("QUOTIENT_INTERVAL") = QUOTIENT_INTERVAL;
    m.def("quotient_forward", &forward, arg("score").noconvert(), arg("v").noconvert(),
          arg("decay").noconvert().none(), arg("is_constant"), arg("bonus").noconvert().none(), arg("max").noconvert(),
          arg("den").noconvert(), arg("num").noconvert(), arg("reset").noconvert().none(), arg("G"), arg("R"),
          arg("y").noconvert(), arg("last_max").noconvert(), arg("last_den").noconvert(), arg("last_num").noconvert(),
          arg("saved").noconvert().none(), arg("threads"));
    m.def("quotient_backward", &backward, arg("score").noconvert(), arg("v").noconvert(),
          arg("decay").noconvert().none(), arg("is_constant"), arg("bonus").noconvert().none(), arg("max").noconvert(),
          arg("den").noconvert(), arg("num").noconvert(), arg("reset").noconvert().none(), arg("G"), arg("R"),
          arg("saved").noconvert(), arg("dy").noconvert(), arg("dlast_den").noconvert(), arg("dlast_num").noconvert(),
          arg("dscore").noconvert(), arg("dv").noconvert(), arg("ddecay").noconvert().none(),
          arg("dbonus").noconvert().none(), arg("dden").noconvert(), arg("dnum").noconvert(), arg("threads"));
}

}  // namespace matrixstate
