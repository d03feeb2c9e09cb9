#include "common/parallel.h"
#include "common/rescale.h"
#include "matrix/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t LARGE = 4 << 20;  // bytes of a gradient from which on it is written past the caches

// The states before the steps of a task, and what a reset puts in their place.
struct Before {
    const MatrixBackward& in;
    const Window& w;
    const Source h;
    float *first, *start;

    Before(const MatrixBackward& in, const Window& w, Pieces& pieces)
        : in(in),
          w(w),
          h(in.h, w, pieces),
          first(pieces.take(w.states)),
          start(pieces.take(w.states)) {}

    void prepare() const {
        read_states(in.state, w, first);
        fill_start(start, w, in.dv.data == nullptr);
    }
    BackwardChunk open(int64_t begin, int64_t steps) const {
        BackwardChunk c{};
        c.begin = begin;
        c.steps = steps;
        c.start = start;
        if (in.reset != nullptr) c.reset = in.reset + w.b * w.T + begin;
        c.before = h.open(begin > 0 ? begin - 1 : 0, steps);
        if (begin == 0) {
            c.before.data -= c.before.step;
            c.first = first;
        }
        return c;
    }
};

// One task, backwards through time. Where the rows of a head are sliced, dx sums over the slices of several tasks: the
// gradients of the states then go to `whole` [B, T, H, R, D], and tasks of InputGradients make dx and dv of them.
struct Scan {
    const MatrixBackward& in;
    const MatrixCut& cut;
    const bool sliced;
    const Window w, square;
    const Before before;
    const Source x, dh;
    const Sink g, dx;
    float *carry, *one_g, *one_dx, *transposed, *power;

    Scan(const MatrixBackward& in, const MatrixCut& cut, float* whole, int64_t task, Pieces& pieces)
        : in(in),
          cut(cut),
          sliced(whole != nullptr),
          w(cut, task),
          square(cut, task, true),
          before(in, w, pieces),
          x(in.x, square, pieces),
          dh(in.dh, w, pieces),
          g(sliced ? Output{whole, Dtype::float32} : in.dv, w, cut, LARGE),
          dx(in.dx, square, cut, LARGE),
          carry(pieces.take(w.states)),
          one_g(pieces.take(w.states)),
          one_dx(pieces.take(square.block)),
          transposed(pieces.take(square.block)),
          power(pieces.take(cut.steps * cut.heads)) {}

    void run() const {
        before.prepare();
        read_states(in.dlast, w, carry);
        for (int64_t chunk = cut.chunks() - 1; chunk >= 0; --chunk) {
            const int64_t begin = chunk * cut.steps;
            run_chunk(begin, w.T - begin < cut.steps ? w.T - begin : cut.steps);
        }
        write_states(carry, w, in.dstate);
        finish_streaming();
    }

    void run_chunk(int64_t begin, int64_t steps) const {
        BackwardChunk c = before.open(begin, steps);
        c.x = x.open(begin, steps);
        c.dh = dh.open(begin, steps);
        if (in.exponent != nullptr) {
            read_powers(begin, steps);
            c.power = power;
        }
        c.g = {one_g, 0, 0, 0};
        if (sliced || in.dv.data != nullptr) {
            c.g = g.open(begin, c.g);
            c.g_sink = g.writer();
        }
        if (!sliced) {
            c.dx = dx.open(begin, {one_dx, 0, 0, 0});
            c.dx_sink = dx.writer();
        }
        c.carry = carry;
        c.transposed = transposed;
        c.ahead = begin > 0 && x.in_place() && before.h.in_place() && dh.in_place() ? cut.steps : 0;
        scan_backward(c, w);
    }

    // The factors of the products of these steps: 2^-(what was moved from m to e).
    void read_powers(int64_t begin, int64_t steps) const {
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < w.heads; ++n) {
                const int64_t t = begin + i, row = w.b * w.T + t, at = row * w.H + w.head + n;
                int32_t earlier = t > 0 ? in.exponents[at - w.H] : in.exponent[w.b * w.H + w.head + n];
                if (in.reset != nullptr && in.reset[row]) earlier = 0;
                power[i * w.heads + n] = power_of_two(earlier - in.exponents[at]);
            }
    }
};

// A chunk of one group of heads.
struct InputGradients {
    const MatrixBackward& in;
    const MatrixCut& cut;
    const int64_t begin, steps;
    const Window w, square;
    const Before before;
    const Source g;
    const Sink dx;
    float* one_dx;

    InputGradients(const MatrixBackward& in, const MatrixCut& cut, const float* whole, int64_t task, Pieces& pieces)
        : in(in),
          cut(cut),
          begin(task % cut.chunks() * cut.steps),
          steps(cut.sizes.T - begin < cut.steps ? cut.sizes.T - begin : cut.steps),
          w(cut, task / cut.chunks()),
          square(cut, task / cut.chunks(), true),
          before(in, w, pieces),
          g({whole, Dtype::float32}, w, pieces),
          dx(in.dx, square, cut, LARGE),
          one_dx(pieces.take(square.block)) {}

    void run() const {
        before.prepare();
        const ConstBlocks whole = g.open(begin, steps);
        BackwardChunk c = before.open(begin, steps);
        c.g = {const_cast<float*>(whole.data), whole.step, whole.head};  // without `carry` it is only read
        c.dx = dx.open(begin, {one_dx, 0, 0, 0});
        c.dx_sink = dx.writer();
        scan_backward(c, w);
        for (int64_t i = 0; in.dv.data != nullptr && i < steps; ++i)
            for (int64_t n = 0; n < w.heads; ++n)
                write_block(in.dv, w.at(begin + i, n), w.rows, w.D, whole.at(i, n), w.P);
        finish_streaming();
    }
};

}  // namespace

void matrix_backward(const MatrixBackward& in) {
    const MatrixSizes& s = in.sizes;
    const MatrixCut cut(s, in.threads, true), unsliced(s, in.threads, false);
    const bool sliced = cut.slices > 1;
    Buffer gradients(sliced ? s.B * s.T * s.H * s.R * s.D : 0);
    float* whole = sliced ? gradients.data() : nullptr;
    run_tasks(cut.tasks(), in.threads, [&](int64_t task, Pieces& pieces) { return Scan(in, cut, whole, task, pieces); });
    if (!sliced) return;
    run_tasks(unsliced.tasks() * unsliced.chunks(), in.threads,
              [&](int64_t task, Pieces& pieces) { return InputGradients(in, unsliced, whole, task, pieces); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
