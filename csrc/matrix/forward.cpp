#include "common/parallel.h"
#include "matrix/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int64_t LARGE = 16 << 20;  // bytes of h from which it takes non-temporal stores
// Prefetch distance of x in floats. The hardware's prefetcher stops at the end of a page; for matrices of order 32 and
// more it does better by itself, as each is a long run of lines.
constexpr int64_t AHEAD = 2048;

// One task, forwards through time.
struct Scan {
    const MatrixForward& in;
    const MatrixSplit& split;
    const Window w, square;
    const Source x, v;
    const Sink h;
    float *pair, *state, *start;  // two blocks per head where h is not in place: this step's and the last's; one; one
    int32_t* exponent;

    Scan(const MatrixForward& in, const MatrixSplit& split, int64_t task, Arena& arena)
        : in(in),
          split(split),
          w(split, task),
          square(split, task, true),
          x(in.x, square, arena),
          v(in.v, w, arena),
          h(in.h, w, split, LARGE),
          pair(arena.take(2 * w.states)),
          state(arena.take(w.states)),
          start(arena.take(w.states)),
          exponent(reinterpret_cast<int32_t*>(arena.take(split.heads))) {}

    void run() const {
        read_states(in.state, w, state);
        fill_start(start, w, in.v.data == nullptr);
        for (int64_t n = 0; in.exponent != nullptr && n < w.heads; ++n)
            exponent[n] = in.exponent[w.b * w.H + w.head + n];
        for (int64_t begin = 0; begin < w.T; begin += split.steps)
            run_chunk(begin, w.T - begin < split.steps ? w.T - begin : split.steps);
        write_states(state, w, in.last);
        fence_nontemporal();
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
    const MatrixSplit split(in.sizes, in.threads, in.exponent == nullptr);
    run_tasks(split.tasks(), in.threads, [&](int64_t task, Arena& arena) { return Scan(in, split, task, arena); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
