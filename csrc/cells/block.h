// What both passes of the cells share: weights packed in panels, products with them, and the loop over blocks of units.
#pragma once

#include "cells/equations.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/tiles.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int WIDE = 2;                  // vectors in a row of a panel: a register tile is ROWS by WIDE
constexpr int64_t PANEL = WIDE * LANES;  // units of a block
constexpr int64_t LEAST_WORK = 1 << 16;  // multiply-adds of a step that pay for the barrier of a second thread

// sums [rows][PANEL] += x [rows][stride] times a panel [terms][PANEL], for rows <= R. Each number of rows has a tile of
// its own, so that small batches do no work on padding.
template <int R = ROWS>
__attribute__((noinline)) void multiply_rows(float* sums, const float* x, int64_t stride, const float* panel,
                                             int64_t terms, int64_t rows) {
    if (rows == R) add_product<R, WIDE>(sums, {x, stride, 1}, panel, terms, PANEL);
    else if constexpr (R > 1) multiply_rows<R - 1>(sums, x, stride, panel, terms, rows);
}

// Sizes, packed weights and loops of either pass. A task is a block of PANEL units of a head: it alone computes these
// units for every step, so that its weights can stay in the cache of one thread.
template <class Cell>
class Blocks {
  protected:
    static constexpr int GATES = Cell::GATES, PRODUCTS = Cell::PRODUCTS, SAVED = Cell::SAVED;
    static constexpr int REST = Cell::REST, VECTORS = Cell::VECTORS;
    static constexpr bool TWO_PHASES = Cell::PHASES == 2;

    // LANES units of a row: their offsets in arrays [B, H, d] and in scratch memory [H, B, stride]; how many exist.
    struct Place {
        int64_t b, head, unit, dense, scratch, count;
    };

    explicit Blocks(const CellInputs& in)
        : B(in.sizes.B), T(in.sizes.T), H(in.sizes.H), d(in.sizes.d), stride(round_up(d, PANEL)),
          blocks(divide_up(d, PANEL)), layer(B * H * d), scratch(H * B * stride), in(in),
          panels(H * blocks * PRODUCTS * d * PANEL) {}

    bool is_empty() const { return layer == 0; }
    bool resets(int64_t b, int64_t t) const { return in.reset != nullptr && in.reset[b * T + t]; }
    bool pads(int64_t b, int64_t t) const { return in.mask != nullptr && !in.mask[b * T + t]; }
    // Loads `count` numbers; further lanes are zero.
    static INLINE Vec lanes(const float* from, int64_t count) { return read_lanes({from, Dtype::float32}, 0, count); }
    static INLINE void put(float* to, int64_t count, Vec x) { write_lanes({to, Dtype::float32}, 0, count, x); }

    INLINE void read_vectors(Vec (&to)[MOST_VECTORS], const Place& at) const {
        UNROLL for (int k = 0; k < VECTORS; ++k)
            to[k] = lanes(in.vectors + (k * H + at.head) * d + at.unit, at.count);
    }

    // Packs the weights in the order in which the products read them, once for all steps: a panel [d][PANEL] for each
    // task and gate. Its columns are the block's units after the step (forward, h W) or, transposed, before it (dp Wᵀ).
    void pack(bool transposed) {
        if (PRODUCTS == 0) return;
        parallel_for(H * blocks, in.threads, [&](int64_t task, int) {
            const int64_t head = task / blocks, first = task % blocks * PANEL;
            for (int g = 0; g < PRODUCTS; ++g) {
                const float* from = in.w[g] + head * d * d + first * (transposed ? d : 1);
                float* to = panels.data() + (task * PRODUCTS + g) * d * PANEL;
                const int64_t exist = d - first < PANEL ? d - first : PANEL;
                for (int64_t j = 0; j < d; ++j, to += PANEL) {
                    if (transposed)
                        for (int64_t n = 0; n < exist; ++n) to[n] = from[n * d + j];
                    else std::memcpy(to, from + j * d, exist * sizeof(float));
                    std::memset(to + exist, 0, (PANEL - exist) * sizeof(float));
                }
            }
        });
    }

    const float* panel(int64_t task, int gate) const { return panels.data() + (task * PRODUCTS + gate) * d * PANEL; }

    // work(task, first row, rows) for all rows of the batch, in tiles of nearly equal height, for one task or for ALL.
    // Odd steps go through the tasks in reverse: the panels used first are then those used last, which are still in the
    // cache.
    template <class Work>
    INLINE void for_blocks(int64_t t, int64_t task, const Work& work) const {
        const int64_t high = divide_up(B, divide_up(B, ROWS));
        const auto of_task = [&](int64_t task) {
            for (int64_t b = 0; b < B; b += high) work(task, b, b + high < B ? high : B - b);
        };
        if (PRODUCTS == 0) return of_task(task);
        const int threads = B * d * d * GATES * H < LEAST_WORK ? 1 : in.threads;
        parallel_sweep(H * blocks, threads, t % 2 != 0, of_task);
    }

    // Calls steps(task), which goes through all steps: once for ALL tasks or, as those of a diagonal cell need nothing
    // of each other, for every task by itself.
    static constexpr int64_t ALL = -1;
    template <class Steps>
    INLINE void for_steps(const Steps& steps) const {
        if (PRODUCTS > 0) return steps(ALL);
        parallel_for(H * blocks, B * d * H * T < LEAST_WORK ? 1 : in.threads, [&](int64_t task, int) { steps(task); });
    }

    // work(place, its offset in the tile's sums) for all units of a task's rows. Sizes are copied to locals: vectors
    // may alias anything, so members would be loaded again after every store.
    template <class Work>
    INLINE void for_places(int64_t task, int64_t first, int64_t rows, const Work& work) const {
        const int64_t B = this->B, H = this->H, d = this->d, stride = this->stride;
        const int64_t head = task / blocks, begin = task % blocks * PANEL;
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t n = 0; n < PANEL && begin + n < d; n += LANES) {
                const int64_t b = first + i, unit = begin + n;
                work(Place{b, head, unit, (b * H + head) * d + unit, (head * B + b) * stride + unit, d - unit},
                     i * PANEL + n);
            }
    }

    const int64_t B, T, H, d, stride, blocks;
    const int64_t layer, scratch;  // numbers of an array [B, H, d] and of one in scratch memory, [H, B, stride]

  private:
    const CellInputs& in;
    Buffer panels;
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
