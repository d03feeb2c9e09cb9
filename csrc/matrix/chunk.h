// What the two directions of the matrix scans share: how the work is cut, where a chunk's matrices lie, and the loops
// over the steps of a chunk.
//
// Rows of a state never mix, heads and batch rows neither. A task is a group of heads of one batch row, or a slice of
// the rows of one head where there are fewer heads than threads. Time is the outer loop and heads the inner one: then
// [B, T, H, ...] is read in order, and the heads hide one another's latency.
#pragma once

#include "common/block.h"
#include "matrix/matrix.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// Blocks of the steps of a chunk and the heads of a group, in an array itself or in scratch memory. There, later steps
// may take the place of earlier ones: `mask` is 0 where all steps share one block, 1 where two steps alternate.
template <class Float>
struct BlocksOf {
    Float* data;
    int64_t step, head;  // floats from one to the next
    int64_t mask = -1;
    Float* at(int64_t i, int64_t n) const { return data + (i & mask) * step + n * head; }
};
using Blocks = BlocksOf<float>;
using ConstBlocks = BlocksOf<const float>;

struct MatrixCut {
    static constexpr int64_t CHUNK = 16384, BALANCED = 4;  // floats, tasks per thread
    MatrixSizes sizes;
    int64_t order;   // P, the padded order
    int64_t heads;   // of a group
    int64_t groups;
    int64_t rows;    // of a slice, a multiple of 4
    int64_t slices;
    int64_t steps;   // of a chunk, so that its matrices fit the second level of the cache

    // Every output belongs to one task and no sum goes over tasks, so the cut may depend on the threads.
    MatrixCut(const MatrixSizes& s, int threads, bool may_slice) : sizes(s), order(padded_order(s.D)), groups(1), slices(1) {
        const int64_t block = order * order, most = CHUNK / (8 * block) > 1 ? CHUNK / (8 * block) : 1;
        while (groups < s.H && (s.H > most * groups || uneven(s.B * groups, threads))) ++groups;
        heads = s.H > 0 ? divide_up(s.H, groups) : 1;
        groups = divide_up(s.H, heads);
        rows = round_up(s.R, 4);
        const int64_t all = s.B * s.H > 0 ? s.B * s.H : 1;
        if (may_slice && all < threads) {
            rows = round_up(divide_up(rows, divide_up(threads, all)), 4);
            slices = divide_up(s.R, rows > 0 ? rows : 1);
        }
        const int64_t fitting = CHUNK / (heads * block);
        steps = fitting < 4 ? 4 : fitting > 64 ? 64 : fitting;
    }
    static bool uneven(int64_t tasks, int threads) {
        return tasks < threads || (tasks % threads != 0 && tasks < BALANCED * threads);
    }
    int64_t tasks() const { return sizes.B * groups * slices; }
    int64_t chunks() const { return divide_up(sizes.T, steps); }
};

// The matrices [rows][D] of one task's heads in an array [B, T, H, R, D], and their blocks.
struct Window {
    int64_t T, H, R, D, P;
    int64_t b, head, heads, row, rows;
    int64_t padded_rows, block;  // of a block, and its floats: padded_rows times P
    int64_t states, chunk;  // floats of scratch memory for one block, or a chunk of blocks, of each of a task's heads

    // The states of a task, or (`square`) its x.
    Window(const MatrixCut& cut, int64_t task, bool square = false)
        : T(cut.sizes.T), H(cut.sizes.H), R(square ? cut.sizes.D : cut.sizes.R), D(cut.sizes.D), P(cut.order) {
        const int64_t slice = task % cut.slices, group = task / cut.slices % cut.groups;
        b = task / cut.slices / cut.groups;
        head = group * cut.heads;
        heads = H - head < cut.heads ? H - head : cut.heads;
        row = square ? 0 : slice * cut.rows;
        rows = square || R - row < cut.rows ? R - row : cut.rows;
        padded_rows = square ? P : round_up(rows, 4);
        block = padded_rows * P;
        // as large as any task's, so that what is padding for one task is padding for the next on the same thread
        states = cut.heads * (square ? P : cut.rows) * P;
        chunk = cut.steps * states;
    }
    int64_t at(int64_t t, int64_t n) const { return (((b * T + t) * H + head + n) * R + row) * D; }
    int64_t at(int64_t n) const { return ((b * H + head + n) * R + row) * D; }  // in an array [B, H, R, D]
    bool in_place(Dtype dtype) const { return dtype == Dtype::float32 && D == P && R % 4 == 0; }  // the same for all tasks
};

// Reads chunks of an array: in place where its matrices are blocks already, else by way of scratch memory.
class Source {
  public:
    Source(Input array, const Window& window, Pieces& pieces);
    bool in_place() const { return window_.in_place(array_.dtype); }
    ConstBlocks open(int64_t begin, int64_t steps) const;

  private:
    const Input array_;
    const Window& window_;
    float* scratch_;
};

// Writes an array: in place where its matrices are blocks, else block by block from scratch memory. An array of at
// least `large` bytes goes past the caches.
class Sink {
  public:
    Sink(Output array, const Window& window, const MatrixCut& cut, int64_t large);
    // Where the blocks of a chunk belong: in the array, or in `scratch`, from where write() takes them.
    Blocks open(int64_t begin, Blocks scratch) const;
    void write(int64_t t, int64_t n, const float* block) const;
    // What a chunk is given: nothing where its blocks lie in place.
    const Sink* writer() const { return in_place_ ? nullptr : this; }

  private:
    const Output array_;
    const Window& window_;
    const bool streams_, in_place_;
};

// The states [B, H, R, D] of a window's heads, from and to blocks.
void read_states(const float* states, const Window& window, float* blocks);
void write_states(const float* blocks, const Window& window, float* states);

// What a reset puts in place of the rows of a window's states: rows of the identity, or zeros.
void fill_start(float* start, const Window& window, bool identity);

// Steps [begin, begin + steps) of a group of heads, forwards.
struct ForwardChunk {
    int64_t begin, steps;
    ConstBlocks x, v;      // v.data null: nothing is added
    Blocks h;
    const Sink* sink;      // of h, or null
    float* state;          // [heads] blocks; in: before the first step, out: after the last
    const float* start;    // one block: what a reset puts in place of the state
    const uint8_t* reset;  // of these steps, or null
    int32_t* exponent;     // [heads] of the state, likewise; null: nothing is rescaled
    int32_t* exponents;    // of these steps, H apart
    int64_t ahead;         // steps from which to prefetch x; 0: nowhere
};

void scan_forward(const ForwardChunk& chunk, const Window& window);

// The same backwards. `carry` is the gradient of the state that the steps done so far left behind.
struct BackwardChunk {
    int64_t begin, steps;
    ConstBlocks x, dh;
    ConstBlocks before;     // the state before each step
    const float* first;     // [heads] blocks: the one before the first step, if `before` does not have it; or null
    const float* start;     // one block
    const uint8_t* reset;   // of these steps, or null
    const float* power;     // [steps][heads]: what each step multiplied its product by; null: nothing
    Blocks g;               // the whole gradient of each state, times its power
    Blocks dx;              // data null: not wanted
    const Sink *g_sink, *dx_sink;  // or null
    float* carry;           // [heads] blocks; null: g is given and only dx is wanted
    float* transposed;      // one block of scratch memory
    int64_t ahead;          // steps back in time from which to prefetch what is read in place; 0: nowhere

    bool is_reset(int64_t i) const { return reset != nullptr && reset[i]; }
};

void scan_backward(const BackwardChunk& chunk, const Window& window);

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
