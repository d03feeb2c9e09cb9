// What the two directions of the matrix scans share: how the work is cut, where a chunk's matrices lie, and the loops
// over the steps of a chunk.
//
// Rows of a state never mix, heads and batch rows neither. A task is a group of heads of one batch row, or a slice of
// the rows of one head where there are fewer heads than threads. Time is the outer loop and heads the inner one: then
// [B, T, H, ...] is read in order, and the heads hide one another's latency.
#pragma once

#include "block.h"
#include "matrix.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// Blocks of the steps of a chunk and the heads of a group, in scratch memory or in an array itself.
template <class Float>
struct BlocksOf {
    Float* data;
    int64_t step, head;  // floats from one to the next
    Float* at(int64_t i, int64_t n) const { return data + i * step + n * head; }
};
using Blocks = BlocksOf<float>;
using ConstBlocks = BlocksOf<const float>;

struct MatrixCut {
    static constexpr int64_t CHUNK = 16384, BALANCED = 4, LARGE = 4 << 20;  // floats, tasks per thread, bytes
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
    int64_t block;  // floats of a block: the padded rows times P

    // The states of a task, or (`square`) its x.
    Window(const MatrixCut& cut, int64_t task, bool square = false)
        : T(cut.sizes.T), H(cut.sizes.H), R(square ? cut.sizes.D : cut.sizes.R), D(cut.sizes.D), P(cut.order) {
        const int64_t slice = task % cut.slices, group = task / cut.slices % cut.groups;
        b = task / cut.slices / cut.groups;
        head = group * cut.heads;
        heads = H - head < cut.heads ? H - head : cut.heads;
        row = square ? 0 : slice * cut.rows;
        rows = square || R - row < cut.rows ? R - row : cut.rows;
        block = square ? P * P : round_up(rows, 4) * P;
    }
    int64_t padded_rows() const { return block / P; }
    int64_t at(int64_t t, int64_t n) const { return (((b * T + t) * H + head + n) * R + row) * D; }
    int64_t at(int64_t n) const { return ((b * H + head + n) * R + row) * D; }  // in an array [B, H, R, D]
    bool in_place(Dtype dtype) const { return dtype == Dtype::float32 && D == P && rows % 4 == 0; }
};

// Reads chunks of an array: in place where its matrices are blocks already, else by way of scratch memory.
class Source {
  public:
    Source(Input array, const Window& window, float* scratch) : array_(array), window_(window), scratch_(scratch) {}
    bool in_place() const { return window_.in_place(array_.dtype); }
    ConstBlocks open(int64_t begin, int64_t steps) const;

  private:
    const Input array_;
    const Window& window_;
    float* scratch_;
};

// Writes chunks of an array: open() says where a chunk goes, close() finishes it.
class Sink {
  public:
    // An array of `matrices` in all; a large one is written past the caches.
    Sink(Output array, const Window& window, int64_t matrices, float* scratch);
    Blocks open(int64_t begin) const;
    void close(int64_t begin, int64_t steps) const;

  private:
    bool in_place() const { return window_.in_place(array_.dtype) && !streams_; }
    const Output array_;
    const Window& window_;
    float* scratch_;
    bool streams_;
};

// The states [B, H, R, D] of a window's heads, from and to blocks.
void read_states(const float* states, const Window& window, float* blocks);
void write_states(const float* blocks, const Window& window, float* states);

// What a reset puts in place of the rows of a window's states: rows of the identity, or zeros.
void fill_start(float* start, const Window& window, bool identity);

inline float power_of_two(int k) {  // -126 <= k <= 127
    const uint32_t bits = static_cast<uint32_t>(k + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

// Some steps of a group of heads, forwards.
struct ForwardChunk {
    int64_t steps;
    ConstBlocks x, v;           // v.data null: nothing is added
    Blocks h;
    float* state;               // [heads] blocks; in: before the first step, out: after the last
    const float* start;         // one block: what a reset puts in place of the state
    const uint8_t* reset;       // of these steps, or null
    int32_t *exponent;          // [heads] of the state, likewise; null: nothing is rescaled
    int32_t *exponents;         // of these steps, H apart
};

void scan_forward(const ForwardChunk& chunk, const Window& window);

// The same backwards. `carry` is the gradient of the state that the steps done so far left behind.
struct BackwardChunk {
    int64_t steps;
    ConstBlocks x, dh;
    ConstBlocks before;         // the state before each step
    const float* first;         // [heads] blocks: the one before the first step, if `before` does not have it; or null
    const float* start;         // one block
    const uint8_t* reset;       // of these steps, or null
    const float* power;         // [steps][heads]: what each step multiplied its product by; null: nothing
    Blocks g;                   // the whole gradient of each state, times its power
    Blocks dx;                  // data null: not wanted
    float *carry, *transposed;  // [heads] blocks, null: g is given and only dx is wanted; a block of scratch memory
    int64_t ahead;              // steps back in time from which to prefetch what is read in place; 0: nowhere

    bool is_reset(int64_t i) const { return reset != nullptr && reset[i]; }
};

void scan_backward(const BackwardChunk& chunk, const Window& window);

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
