// What the two directions of the matrix scans share: the split into tasks, access to the matrices of a chunk of steps,
// and the loops over its steps.
//
// Rows of a state, heads and batch rows are independent. A task is a group of heads of one batch row, or a slice of
// the rows of one head where there are fewer heads than threads. Time is the outer loop and heads the inner one: then
// [B, T, H, ...] is read in order, and the heads hide one another's latency.
#pragma once

#include "common/block.h"
#include "matrix/matrix.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// The blocks of a chunk's steps and heads, in an array itself or in scratch memory. In scratch memory later steps may
// overwrite earlier ones: `mask` is 0 where all steps share one block, 1 where two alternate, -1 if none share.
template <class Float>
struct BlocksOf {
    Float* data;
    int64_t step, head;  // strides in floats
    int64_t mask = -1;
    Float* at(int64_t i, int64_t n) const { return data + (i & mask) * step + n * head; }
};
using Blocks = BlocksOf<float>;
using ConstBlocks = BlocksOf<const float>;

struct MatrixSplit {
    static constexpr int64_t CHUNK = 16384, BALANCED = 4;  // floats, tasks per thread
    MatrixSizes sizes;
    int64_t order;   // P, the padded order
    int64_t heads;   // of a group
    int64_t groups;  // of heads
    int64_t rows;    // of a slice, a multiple of 4
    int64_t slices;  // of the rows of a head
    int64_t steps;   // of a chunk, so that its matrices fit the second-level cache

    // Every output belongs to one task and no sum goes over tasks, so the split may depend on the number of threads.
    // Heads are grouped to fit the cache, in more groups where threads would idle; the rows of few heads are sliced.
    MatrixSplit(const MatrixSizes& s, int threads, bool may_slice)
        : sizes(s), order(padded_order(s.D)), groups(1), slices(1) {
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
    int64_t padded_rows, block;  // of a block; block = padded_rows * P floats
    int64_t states, chunk;       // floats of scratch memory: one block per head, and one per head and step of a chunk

    // The states of a task, or (`square`) its x.
    Window(const MatrixSplit& split, int64_t task, bool square = false)
        : T(split.sizes.T), H(split.sizes.H), R(square ? split.sizes.D : split.sizes.R), D(split.sizes.D),
          P(split.order) {
        const int64_t slice = task % split.slices, group = task / split.slices % split.groups;
        b = task / split.slices / split.groups;
        head = group * split.heads;
        heads = H - head < split.heads ? H - head : split.heads;
        row = square ? 0 : slice * split.rows;
        rows = square || R - row < split.rows ? R - row : split.rows;
        padded_rows = square ? P : round_up(rows, 4);
        block = padded_rows * P;
        // The same for all tasks, so that what is padding for one task is also padding for the next on the same thread.
        states = split.heads * (square ? P : split.rows) * P;
        chunk = split.steps * states;
    }
    int64_t at(int64_t t, int64_t n) const { return (((b * T + t) * H + head + n) * R + row) * D; }
    int64_t at(int64_t n) const { return ((b * H + head + n) * R + row) * D; }  // in an array [B, H, R, D]
    // Whether matrices are blocks as they are: the same for all tasks.
    bool in_place(Dtype dtype) const { return dtype == Dtype::float32 && D == P && R % 4 == 0; }
};

// Reads chunks of an array: in place where its matrices are blocks as they are, else copied to scratch memory, which
// widens bfloat16 and pads.
class Source {
  public:
    Source(Input array, const Window& window, Arena& arena);
    bool in_place() const { return window_.in_place(array_.dtype); }
    ConstBlocks open(int64_t begin, int64_t steps) const;

  private:
    const Input array_;
    const Window& window_;
    float* scratch_;
};

// Writes an array: in place where its matrices are blocks as they are, else block by block from scratch memory. An
// array of at least `large` bytes takes non-temporal stores, as it would push everything else out of the caches.
class Sink {
  public:
    Sink(Output array, const Window& window, const MatrixSplit& split, int64_t large);
    // Where a chunk writes its blocks: in the array, or in `scratch`, from which write() copies them.
    Blocks open(int64_t begin, Blocks scratch) const;
    void write(int64_t t, int64_t n, const float* block) const;
    // For a chunk's `sink`: null where its blocks are in place and need no write().
    const Sink* writer() const { return in_place_ ? nullptr : this; }

  private:
    const Output array_;
    const Window& window_;
    const bool nontemporal_, in_place_;
};

// Copies the states [B, H, R, D] of a window's heads to and from blocks.
void read_states(const float* states, const Window& window, float* blocks);
void write_states(const float* blocks, const Window& window, float* states);

// The state after a reset, for the rows of a window: rows of the identity, or zeros.
void fill_start(float* start, const Window& window, bool identity);

// Steps [begin, begin + steps) of a group of heads, forwards.
struct ForwardChunk {
    int64_t begin, steps;
    ConstBlocks x, v;  // v.data null: nothing is added
    Blocks h;
    const Sink* sink;      // of h, or null
    float* state;          // [heads] blocks; in: before the first step, out: after the last
    const float* start;    // one block: the state after a reset
    const uint8_t* reset;  // of these steps, or null
    int32_t* exponent;     // [heads], e of the state, in and out like it; null: nothing is rescaled
    int32_t* exponents;    // of these steps, H apart
    int64_t ahead;         // prefetch distance of x in steps; 0: none
};

void scan_forward(const ForwardChunk& chunk, const Window& window);

// The same backwards: B_t, dX_t of ops/matrix/README.md. `carry` is the gradient of the state after the chunk's last
// step, and, on return, before its first.
struct BackwardChunk {
    int64_t begin, steps;
    ConstBlocks x, dh;
    ConstBlocks before;            // the state before each step
    const float* first;            // [heads] blocks: the initial state, if it is the one before the first step; or null
    const float* start;            // one block
    const uint8_t* reset;          // of these steps, or null
    const float* power;            // [steps][heads]: the power of two by which each step scaled its product; null: 1
    Blocks g;                      // the whole gradient of each state, times its power
    Blocks dx;                     // data null: not computed
    const Sink *g_sink, *dx_sink;  // or null
    float* carry;                  // [heads] blocks; null: g is an input and only dx is computed
    float* transposed;             // one block of scratch memory
    int64_t ahead;                 // prefetch distance, in steps back in time, of what is read in place; 0: none

    bool is_reset(int64_t i) const { return reset != nullptr && reset[i]; }
};

void scan_backward(const BackwardChunk& chunk, const Window& window);

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
