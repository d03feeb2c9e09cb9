#include "matrix_chunk.h"
#include "parallel.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

struct ForwardScratch {
    float *x, *v, *h, *state, *start, *exponent;
    ForwardScratch(Pieces& pieces, const MatrixCut& c)
        : x(pieces.take(c.steps * c.heads * c.order * c.order)),
          v(pieces.take(c.steps * c.heads * c.rows * c.order)),
          h(pieces.take(c.steps * c.heads * c.rows * c.order)),
          state(pieces.take(c.heads * c.rows * c.order)),
          start(pieces.take(c.rows * c.order)),
          exponent(pieces.take(c.heads)) {}
};

void scan(const MatrixForward& in, const MatrixCut& cut, int64_t task, ForwardScratch my) {
    const Window w(cut, task), square(cut, task, true);
    const int64_t matrices = w.T * w.H * cut.sizes.B;
    const Source x(in.x, square, my.x), v(in.v, w, my.v);
    const Sink h(in.h, w, matrices, my.h);
    int32_t* exponent = in.exponent == nullptr ? nullptr : reinterpret_cast<int32_t*>(my.exponent);
    for (int64_t n = 0; exponent != nullptr && n < w.heads; ++n) exponent[n] = in.exponent[w.b * w.H + w.head + n];
    read_states(in.state, w, my.state);
    fill_start(my.start, w, in.v.data == nullptr);
    for (int64_t begin = 0; begin < w.T; begin += cut.steps) {
        const int64_t steps = w.T - begin < cut.steps ? w.T - begin : cut.steps, row = w.b * w.T + begin;
        ForwardChunk c{};
        c.steps = steps;
        c.x = x.open(begin, steps);
        if (in.v.data != nullptr) c.v = v.open(begin, steps);
        c.h = h.open(begin);
        c.state = my.state;
        c.start = my.start;
        if (in.reset != nullptr) c.reset = in.reset + row;
        c.exponent = exponent;
        if (exponent != nullptr) c.exponents = in.exponents + row * w.H + w.head;
        scan_forward(c, w);
        h.close(begin, steps);
    }
    write_states(my.state, w, in.last);
}

}  // namespace

void matrix_forward(const MatrixForward& in) {
    const MatrixCut cut(in.sizes, in.threads, in.exponent == nullptr);
    Pieces counted{nullptr};
    ForwardScratch{counted, cut};
    Buffer scratch(counted.used * in.threads);
    std::memset(scratch.data(), 0, counted.used * in.threads * sizeof(float));  // what is padded stays zero
    parallel_for(cut.tasks(), in.threads, [&](int64_t task, int thread) {
        Pieces pieces{scratch.data() + thread * counted.used};
        scan(in, cut, task, ForwardScratch(pieces, cut));
    });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
