#include "matrix_chunk.h"
#include "parallel.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct BackwardScratch {
    float *x, *h, *dh, *g, *dx, *first, *start, *carry, *transposed, *power;
    BackwardScratch(Pieces& pieces, const MatrixCut& c)
        : x(pieces.take(c.steps * c.heads * c.order * c.order)),
          h(pieces.take(c.steps * c.heads * c.rows * c.order)),
          dh(pieces.take(c.steps * c.heads * c.rows * c.order)),
          g(pieces.take(c.steps * c.heads * c.rows * c.order)),
          dx(pieces.take(c.steps * c.heads * c.order * c.order)),
          first(pieces.take(c.heads * c.rows * c.order)),
          start(pieces.take(c.rows * c.order)),
          carry(pieces.take(c.heads * c.rows * c.order)),
          transposed(pieces.take(c.order * c.order)),
          power(pieces.take(c.steps * c.heads)) {}
};

// What both passes below read: the states before the steps of a chunk, and what a reset puts in their place.
class Before {
  public:
    Before(const MatrixBackward& in, const Window& w, const BackwardScratch& my)
        : in_(in), w_(w), my_(my), h_(in.h, w, my.h) {
        read_states(in.state, w, my.first);
        fill_start(my.start, w, in.dv.data == nullptr);
    }
    BackwardChunk open(int64_t begin, int64_t steps) const {
        BackwardChunk c{};
        c.steps = steps;
        c.start = my_.start;
        if (in_.reset != nullptr) c.reset = in_.reset + w_.b * w_.T + begin;
        if (begin > 0) {
            c.before = h_.open(begin - 1, steps);
            return c;
        }
        c.first = my_.first;
        c.before = h_.open(0, steps);
        c.before.data -= c.before.step;
        return c;
    }
    bool in_place() const { return h_.in_place(); }

  private:
    const MatrixBackward& in_;
    const Window& w_;
    const BackwardScratch& my_;
    const Source h_;
};

// The factors of the products of steps [begin, begin + steps): 2^-(what was moved from m to e).
void read_powers(const MatrixBackward& in, const Window& w, int64_t begin, int64_t steps, float* power) {
    for (int64_t i = 0; i < steps; ++i)
        for (int64_t n = 0; n < w.heads; ++n) {
            const int64_t t = begin + i, row = w.b * w.T + t, at = row * w.H + w.head + n;
            int32_t before = t > 0 ? in.exponents[at - w.H] : in.exponent[w.b * w.H + w.head + n];
            if (in.reset != nullptr && in.reset[row]) before = 0;
            power[i * w.heads + n] = power_of_two(before - in.exponents[at]);
        }
}

// One task. With `gradients` [B, T, H, R, D], the gradients of the states go there and dx is left to input_gradients.
void scan(const MatrixBackward& in, const MatrixCut& cut, float* gradients, int64_t task, const BackwardScratch& my) {
    const Window w(cut, task), square(cut, task, true);
    const int64_t matrices = cut.sizes.B * w.T * w.H;
    const Before before(in, w, my);
    const Source x(in.x, square, my.x), dh(in.dh, w, my.dh);
    const Output states = gradients == nullptr ? in.dv : Output{gradients, Dtype::float32};
    const Sink g(states, w, matrices, my.g), dx(in.dx, square, matrices, my.dx);
    const bool in_place = x.in_place() && dh.in_place() && before.in_place();
    read_states(in.dlast, w, my.carry);
    for (int64_t chunk = cut.chunks() - 1; chunk >= 0; --chunk) {
        const int64_t begin = chunk * cut.steps, steps = w.T - begin < cut.steps ? w.T - begin : cut.steps;
        BackwardChunk c = before.open(begin, steps);
        c.x = x.open(begin, steps);
        c.dh = dh.open(begin, steps);
        if (in.exponent != nullptr) {
            read_powers(in, w, begin, steps, my.power);
            c.power = my.power;
        }
        c.g = states.data == nullptr ? Blocks{my.g, 0, w.block} : g.open(begin);
        if (gradients == nullptr) c.dx = dx.open(begin);
        c.carry = my.carry;
        c.transposed = my.transposed;
        c.ahead = in_place && begin > 0 ? cut.steps : 0;
        scan_backward(c, w);
        if (states.data != nullptr) g.close(begin, steps);
        if (gradients == nullptr) dx.close(begin, steps);
    }
    write_states(my.carry, w, in.dstate);
}

// dx, and dv if wanted, of one chunk of one group of heads, from the gradients of the states.
void input_gradients(const MatrixBackward& in, const MatrixCut& cut, const float* gradients, int64_t task,
                     const BackwardScratch& my) {
    const Window w(cut, task / cut.chunks()), square(cut, task / cut.chunks(), true);
    const int64_t matrices = cut.sizes.B * w.T * w.H;
    const int64_t begin = task % cut.chunks() * cut.steps, steps = w.T - begin < cut.steps ? w.T - begin : cut.steps;
    const Before before(in, w, my);
    const Source g({gradients, Dtype::float32}, w, my.g);
    const Sink dx(in.dx, square, matrices, my.dx), dv(in.dv, w, matrices, my.dh);
    BackwardChunk c = before.open(begin, steps);
    const ConstBlocks whole = g.open(begin, steps);
    c.g = {const_cast<float*>(whole.data), whole.step, whole.head};  // read only
    c.dx = dx.open(begin);
    scan_backward(c, w);
    dx.close(begin, steps);
    if (in.dv.data == nullptr) return;
    const Blocks out = dv.open(begin);
    for (int64_t i = 0; i < steps; ++i)
        for (int64_t n = 0; n < w.heads; ++n)
            std::memcpy(out.at(i, n), whole.at(i, n), w.block * sizeof(float));
    dv.close(begin, steps);
}

}  // namespace

void matrix_backward(const MatrixBackward& in) {
    const MatrixSizes& s = in.sizes;
    const MatrixCut cut(s, in.threads, true), unsliced(s, in.threads, false);
    Pieces counted{nullptr};
    BackwardScratch{counted, unsliced};
    Buffer scratch(counted.used * in.threads), gradients(cut.slices > 1 ? s.B * s.T * s.H * s.R * s.D : 0);
    float* sliced = cut.slices > 1 ? gradients.data() : nullptr;
    std::memset(scratch.data(), 0, counted.used * in.threads * sizeof(float));  // what is padded stays zero
    const auto my = [&](int thread) {
        Pieces pieces{scratch.data() + thread * counted.used};
        return BackwardScratch(pieces, unsliced);
    };
    parallel_for(cut.tasks(), in.threads, [&](int64_t task, int thread) { scan(in, cut, sliced, task, my(thread)); });
    if (sliced == nullptr) return;
    parallel_for(unsliced.tasks() * unsliced.chunks(), in.threads,
                 [&](int64_t task, int thread) { input_gradients(in, unsliced, sliced, task, my(thread)); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
