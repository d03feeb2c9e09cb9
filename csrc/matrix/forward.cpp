#include "common/parallel.h"
#include "matrix/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t LARGE = 16 << 20;  // bytes of h from which on it is written past the caches
// Floats of x to prefetch from. The hardware stops at the end of a page; matrices of order 32 come in bursts that it does
// better itself.
constexpr int64_t AHEAD = 2048;

// One task, forwards through time.
struct Scan {
    const MatrixForward& in;
    const MatrixCut& cut;
    const Window w, square;
    const Source x, v;
    const Sink h;
    float *pair, *state, *start;
    int32_t* exponent;

    Scan(const MatrixForward& in, const MatrixCut& cut, int64_t task, Pieces& pieces)
        : in(in),
          cut(cut),
          w(cut, task),
          square(cut, task, true),
          x(in.x, square, pieces),
          v(in.v, w, pieces),
          h(in.h, w, cut, LARGE),
          pair(pieces.take(2 * w.states)),
          state(pieces.take(w.states)),
          start(pieces.take(w.states)),
          exponent(reinterpret_cast<int32_t*>(pieces.take(cut.heads))) {}

    void run() const {
        read_states(in.state, w, state);
        fill_start(start, w, in.v.data == nullptr);
        for (int64_t n = 0; in.exponent != nullptr && n < w.heads; ++n)
            exponent[n] = in.exponent[w.b * w.H + w.head + n];
        for (int64_t begin = 0; begin < w.T; begin += cut.steps)
            run_chunk(begin, w.T - begin < cut.steps ? w.T - begin : cut.steps);
        write_states(state, w, in.last);
        finish_streaming();
    }

    void run_chunk(int64_t begin, int64_t steps) const {
        const int64_t row = w.b * w.T + begin;
        ForwardChunk c{};
        c.begin = begin;
        c.steps = steps;
        c.x = x.open(begin, steps);
        if (in.v.data != nullptr) c.v = v.open(begin, steps);
        c.h = h.open(begin, {pair, w.block, 2 * w.block, 1});
        c.sink = h.writer();
        c.state = state;
        c.start = start;
        if (in.reset != nullptr) c.reset = in.reset + row;
        if (in.exponent != nullptr) {
            c.exponent = exponent;
            c.exponents = in.exponents + row * w.H + w.head;
        }
        const int64_t ahead = divide_up(AHEAD, w.heads * square.block);
        if (x.in_place() && w.P <= 16 && begin + steps + ahead <= w.T) c.ahead = ahead;
        scan_forward(c, w);
    }
};

}  // namespace

void matrix_forward(const MatrixForward& in) {
    const MatrixCut cut(in.sizes, in.threads, in.exponent == nullptr);
    run_tasks(cut.tasks(), in.threads, [&](int64_t task, Pieces& pieces) { return Scan(in, cut, task, pieces); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
