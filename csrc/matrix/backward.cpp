#include "common/parallel.h"
#include "common/rescale.h"
#include "matrix/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t LARGE = 4 << 20;  // bytes of a gradient from which it takes non-temporal stores

// The state before each step of a task: h one step earlier, the initial state before the first, `start` after a reset.
struct Before {
    const MatrixBackward& in;
    const Window& w;
    const Source h;
    float *first, *start;

    Before(const MatrixBackward& in, const Window& w, Arena& arena)
        : in(in),
          w(w),
          h(in.h, w, arena),
          first(arena.take(w.states)),
          start(arena.take(w.states)) {}

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
        if (begin == 0) {  // shifted by a step, so that at(i) is h of step i - 1; at(0) is not read but `first`
            c.before.data -= c.before.step;
            c.first = first;
        }
        return c;
    }
};

// One task, backwards through time. Where the rows of a head are sliced, dx is a sum over slices, that is, over tasks:
// the gradients of the states then go to `whole` [B, T, H, R, D], and a second pass (InputGradients) gives dx, dv.
struct Scan {
    const MatrixBackward& in;
    const MatrixSplit& split;
    const bool sliced;
    const Window w, square;
    const Before before;
    const Source x, dh;
    const Sink g, dx;
    float *carry, *one_g, *one_dx, *transposed, *power;

    Scan(const MatrixBackward& in, const MatrixSplit& split, float* whole, int64_t task, Arena& arena)
        : in(in),
          split(split),
          sliced(whole != nullptr),
          w(split, task),
          square(split, task, true),
          before(in, w, arena),
          x(in.x, square, arena),
          dh(in.dh, w, arena),
          g(sliced ? Output{whole, Dtype::float32} : in.dv, w, split, LARGE),
          dx(in.dx, square, split, LARGE),
          carry(arena.take(w.states)),
          one_g(arena.take(w.states)),
          one_dx(arena.take(square.block)),
          transposed(arena.take(square.block)),
          power(arena.take(split.steps * split.heads)) {}

    void run() const {
        before.prepare();
        read_states(in.dlast, w, carry);
        for (int64_t chunk = split.chunks() - 1; chunk >= 0; --chunk) {
            const int64_t begin = chunk * split.steps;
            run_chunk(begin, w.T - begin < split.steps ? w.T - begin : split.steps);
        }
        write_states(carry, w, in.dstate);
        fence_nontemporal();
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
        c.ahead = begin > 0 && x.in_place() && before.h.in_place() && dh.in_place() ? split.steps : 0;
        scan_backward(c, w);
    }

    // The factor of the product of each step: 2^-(what it moved from m to e), from the differences of the exponents.
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

// The second pass where rows are sliced: dx and dv of a chunk of one group of heads, from the gradients of the states.
struct InputGradients {
    const MatrixBackward& in;
    const MatrixSplit& split;
    const int64_t begin, steps;
    const Window w, square;
    const Before before;
    const Source g;
    const Sink dx;
    float* one_dx;

    InputGradients(const MatrixBackward& in, const MatrixSplit& split, const float* whole, int64_t task, Arena& arena)
        : in(in),
          split(split),
          begin(task % split.chunks() * split.steps),
          steps(split.sizes.T - begin < split.steps ? split.sizes.T - begin : split.steps),
          w(split, task / split.chunks()),
          square(split, task / split.chunks(), true),
          before(in, w, arena),
          g({whole, Dtype::float32}, w, arena),
          dx(in.dx, square, split, LARGE),
          one_dx(arena.take(square.block)) {}

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
        fence_nontemporal();
    }
};

}  // namespace

void matrix_backward(const MatrixBackward& in) {
    const MatrixSizes& s = in.sizes;
    const MatrixSplit split(s, in.threads, true), unsliced(s, in.threads, false);
    const bool sliced = split.slices > 1;
    Buffer gradients(sliced ? s.B * s.T * s.H * s.R * s.D : 0);
    float* whole = sliced ? gradients.data() : nullptr;
    run_tasks(split.tasks(), in.threads,
              [&](int64_t task, Arena& arena) { return Scan(in, split, whole, task, arena); });
    if (!sliced) return;
    run_tasks(unsliced.tasks() * unsliced.chunks(), in.threads,
              [&](int64_t task, Arena& arena) { return InputGradients(in, unsliced, whole, task, arena); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
