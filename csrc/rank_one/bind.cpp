#include "bindings/checks.h"
#include "dispatch/kernels.h"

namespace matrixstate {

using nb::arg;

// The optional arguments that both directions take.
struct RankOneOptions {
    const OptionalArray &read, &write, &beta, &log_decay, &log_decay_v, &log_input, &bonus, &reset;
    bool read_before;
    // Not RankOneInputs::reads(), as an empty array may have a null pointer.
    bool reads() const { return read.has_value() || beta.has_value(); }
};

// Checks the arguments that both directions take.
static RankOneInputs inputs(const Checker& check, const Array& q, const Array& k, const Array& v,
                            const RankOneOptions& options, int threads) {
    const int64_t *qs = check.sizes("q", q, 4), *ks = check.sizes("k", k, 4), *vs = check.sizes("v", v, 4);
    RankOneInputs in{};
    RankOneSizes& s = in.sizes;
    s.B = qs[0], s.T = qs[1], s.H = qs[2], s.K = qs[3], s.V = vs[3], s.M = s.T > 0 ? ks[1] / s.T : 1;
    const int64_t rows = s.rows();
    check.require(threads > 0, "threads must be positive");
    check.require(s.M > 0, "k must have at least as many rows as q");
    check.require(!options.write || options.read, "write must be None where read is");
    check.require(!options.beta || !options.read, "read must be None where beta is given");
    const bool plain = !options.read && !options.beta && s.M == 1;
    check.require(plain || !(options.log_decay_v || options.log_input || options.bonus || options.read_before),
                  "log_decay_v, log_input, bonus and read_before need one row a step, no read and no beta");
    check.require(options.read_before || !options.bonus, "bonus needs read_before");
    in.q = check.input("q", q, {s.B, s.T, s.H, s.K}, q);
    in.k = check.input("k", k, {s.B, rows, s.H, s.K}, q);
    in.v = check.input("v", v, {s.B, rows, s.H, s.V}, q);
    if (options.read) in.read = check.input("read", *options.read, {s.B, rows, s.H, s.K}, q);
    if (options.write) in.write = check.input("write", *options.write, {s.B, rows, s.H, s.K}, q);
    in.beta = check.floats("beta", options.beta, {s.B, rows, s.H});
    in.per_channel = options.log_decay && options.log_decay->ndim() == 4;
    in.log_decay = in.per_channel ? check.floats("log_decay", options.log_decay, {s.B, s.T, s.H, s.K})
                                  : check.floats("log_decay", options.log_decay, {s.B, s.T, s.H});
    in.log_decay_v = check.floats("log_decay_v", options.log_decay_v, {s.B, s.T, s.H, s.V});
    in.log_input = check.floats("log_input", options.log_input, {s.B, s.T, s.H});
    in.bonus = check.floats("bonus", options.bonus, {s.H, s.K});
    in.read_before = options.read_before;
    in.reset = check.flags("reset", options.reset, {s.B, s.T});
    in.threads = threads;
    return in;
}

static void forward(const Array& q, const Array& k, const Array& v, const OptionalArray& read,
                    const OptionalArray& write, const OptionalArray& beta, const OptionalArray& log_decay,
                    const OptionalArray& log_decay_v, const OptionalArray& log_input, const OptionalArray& bonus,
                    const OptionalArray& reset, bool read_before, const Array& state, const Array& y, const Array& last,
                    const OptionalArray& saved, const OptionalArray& saved_reads, int threads) {
    const Checker check("rank_one_forward");
    RankOneForward in{};
    const RankOneOptions options{read, write, beta, log_decay, log_decay_v, log_input, bonus, reset, read_before};
    static_cast<RankOneInputs&>(in) = inputs(check, q, k, v, options, threads);
    const RankOneSizes& s = in.sizes;
    check.require(saved_reads.has_value() == (saved.has_value() && options.reads()),
                  "saved_reads must be given where saved and read or beta are, and only there");
    in.state = check.floats("state", state, {s.B, s.H, s.K, s.V});
    in.y = check.output("y", y, {s.B, s.T, s.H, s.V}, q);
    in.last = check.floats("last", last, {s.B, s.H, s.K, s.V});
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.K, s.V});
    in.saved_reads = check.floats("saved_reads", saved_reads, {s.B, s.rows(), s.H, s.V});
    nb::gil_scoped_release released;
    kernels().rank_one_forward(in);
}

static void backward(const Array& q, const Array& k, const Array& v, const OptionalArray& read,
                     const OptionalArray& write, const OptionalArray& beta, const OptionalArray& log_decay,
                     const OptionalArray& log_decay_v, const OptionalArray& log_input, const OptionalArray& bonus,
                     const OptionalArray& reset, bool read_before, const Array& saved, const OptionalArray& saved_reads,
                     const Array& dy, const Array& dlast, const Array& dq, const Array& dk, const Array& dv,
                     const OptionalArray& dread, const OptionalArray& dwrite, const OptionalArray& dbeta,
                     const OptionalArray& dlog_decay, const OptionalArray& dlog_decay_v,
                     const OptionalArray& dlog_input, const OptionalArray& dbonus, const Array& dstate, int threads) {
    const Checker check("rank_one_backward");
    RankOneBackward in{};
    const RankOneOptions options{read, write, beta, log_decay, log_decay_v, log_input, bonus, reset, read_before};
    static_cast<RankOneInputs&>(in) = inputs(check, q, k, v, options, threads);
    const RankOneSizes& s = in.sizes;
    const auto together = [](const OptionalArray& a, const OptionalArray& b) { return a.has_value() == b.has_value(); };
    check.require(saved_reads.has_value() == options.reads() && together(read, dread) && together(write, dwrite) &&
                      together(beta, dbeta) && together(log_decay, dlog_decay) &&
                      together(log_decay_v, dlog_decay_v) && together(log_input, dlog_input) && together(bonus, dbonus),
                  "gradients must be given for exactly the inputs that are");
    in.saved = check.floats("saved", saved, {s.B, s.H, s.intervals(), s.K, s.V});
    in.saved_reads = check.floats("saved_reads", saved_reads, {s.B, s.rows(), s.H, s.V});
    in.dy = check.input("dy", dy, {s.B, s.T, s.H, s.V}, q);
    in.dlast = check.floats("dlast", dlast, {s.B, s.H, s.K, s.V});
    in.dq = check.output("dq", dq, {s.B, s.T, s.H, s.K}, q);
    in.dk = check.output("dk", dk, {s.B, s.rows(), s.H, s.K}, q);
    in.dv = check.output("dv", dv, {s.B, s.rows(), s.H, s.V}, q);
    if (dread) in.dread = check.output("dread", *dread, {s.B, s.rows(), s.H, s.K}, q);
    if (dwrite) in.dwrite = check.output("dwrite", *dwrite, {s.B, s.rows(), s.H, s.K}, q);
    in.dbeta = check.floats("dbeta", dbeta, {s.B, s.rows(), s.H});
    in.dlog_decay = in.per_channel ? check.floats("dlog_decay", dlog_decay, {s.B, s.T, s.H, s.K})
                                   : check.floats("dlog_decay", dlog_decay, {s.B, s.T, s.H});
    in.dlog_decay_v = check.floats("dlog_decay_v", dlog_decay_v, {s.B, s.T, s.H, s.V});
    in.dlog_input = check.floats("dlog_input", dlog_input, {s.B, s.T, s.H});
    in.dbonus = check.floats("dbonus", dbonus, {s.H, s.K});
    in.dstate = check.floats("dstate", dstate, {s.B, s.H, s.K, s.V});
    nb::gil_scoped_release released;
    kernels().rank_one_backward(in);
}

void bind_rank_one(nb::module_& m) {
    m.attr("RANK_ONE_INTERVAL") = RANK_ONE_INTERVAL;
    m.def("rank_one_forward", &forward, arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
          arg("read").noconvert().none(), arg("write").noconvert().none(), arg("beta").noconvert().none(),
          arg("log_decay").noconvert().none(), arg("log_decay_v").noconvert().none(),
          arg("log_input").noconvert().none(), arg("bonus").noconvert().none(), arg("reset").noconvert().none(),
          arg("read_before"), arg("state").noconvert(), arg("y").noconvert(),
          arg("last").noconvert(), arg("saved").noconvert().none(), arg("saved_reads").noconvert().none(),
          arg("threads"));
    m.def("rank_one_backward", &backward, arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
          arg("read").noconvert().none(), arg("write").noconvert().none(), arg("beta").noconvert().none(),
          arg("log_decay").noconvert().none(), arg("log_decay_v").noconvert().none(),
          arg("log_input").noconvert().none(), arg("bonus").noconvert().none(), arg("reset").noconvert().none(),
          arg("read_before"), arg("saved").noconvert(),
          arg("saved_reads").noconvert().none(), arg("dy").noconvert(), arg("dlast").noconvert(),
          arg("dq").noconvert(), arg("dk").noconvert(), arg("dv").noconvert(), arg("dread").noconvert().none(),
          arg("dwrite").noconvert().none(), arg("dbeta").noconvert().none(), arg("dlog_decay").noconvert().none(),
          arg("dlog_decay_v").noconvert().none(), arg("dlog_input").noconvert().none(),
          arg("dbonus").noconvert().none(), arg("dstate").noconvert(), arg("threads"));
}

}  // namespace matrixstate
