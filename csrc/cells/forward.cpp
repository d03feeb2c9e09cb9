#include "cells/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <class Cell>
class Forward : Blocks<Cell> {
    using Base = Blocks<Cell>;
    using typename Base::Place;
    using Base::AFTER, Base::B, Base::GATES, Base::H, Base::HAS_C, Base::SAVED, Base::T, Base::d, Base::stride;

  public:
    explicit Forward(const CellForward& in)
        : Base(in), in(in), memory(3 * H * B * stride), current(memory.data()), next(current + H * B * stride),
          gated(next + H * B * stride) {}

    void run() {
        if (this->is_empty()) return;
        this->pack(false);
        for (int64_t task = 0; task < H * this->blocks; ++task)
            this->for_places(task, 0, B, [&](const Place& at, int64_t) {
                const Vec c = HAS_C ? this->lanes(in.c + at.dense, at.count) : Vec{};
                store_state(-1, at, this->lanes(in.h + at.dense, at.count), c, in.cells);
            });
        for (int64_t t = 0; t < T; ++t) {
            swap();
            phase<0>(t);
            if constexpr (Cell::PHASES == 2) phase<1>(t);
        }
    }

  private:
    float* gates(int64_t t) const { return in.gates + (in.steps == 1 ? 0 : t) * SAVED * B * H * d; }
    float* cells(int64_t t) const { return in.cells + (in.steps == 1 ? 0 : t) * B * H * d; }
    void swap() {
        float* const last = current;
        current = next, next = last;
    }

    // Pointers to the arrays of a step and a head, at the first row of the batch.
    struct View {
        const float* x[GATES];
        int64_t x_row[GATES], y_row, gate;  // strides: from one row to the next; from one gate's array to the next
        float *y, *gates, *cells, *cells_after;
    };
    View view(int64_t t, int64_t head) const {
        View v{};
        for (int g = 0; g < GATES; ++g) v.x[g] = in.x[g].at(0, t, head), v.x_row[g] = in.x[g].row;
        v.y = in.y + (t * H + head) * d, v.y_row = T * H * d;
        v.gates = gates(t), v.gate = B * H * d;
        if constexpr (HAS_C) v.cells = cells(t), v.cells_after = cells(t + 1);
        return v;
    }

    // One phase of step t for all units: the products of its gates with h (or r h), then the equations.
    template <int PHASE>
    void phase(int64_t t) {
        this->for_blocks(t, [&](int64_t task, int64_t first, int64_t rows) {
            alignas(64) float sums[GATES][ROWS * PANEL] = {};
            const View v = view(t, task / this->blocks);
            this->for_places(task, first, rows,
                             [&](const Place& at, int64_t) INLINE_LAMBDA { prefetch<PHASE>(v, at); });
            const float* x = (PHASE == 0 ? current : gated) + (task / this->blocks * B + first) * stride;
            for (int g = Cell::first_gate(PHASE); g < Cell::end_gate(PHASE); ++g)
                multiply_rows(sums[g], x, stride, this->panel(task, g), d, rows);
            this->for_places(task, first, rows,
                             [&](const Place& at, int64_t sum) INLINE_LAMBDA { step<PHASE>(t, v, at, sums, sum); });
        });
    }

    // Prefetches what the equations will read and write, so that it arrives while the product runs.
    template <int PHASE>
    INLINE static void prefetch(const View& v, const Place& at) {
        for (int g = Cell::first_gate(PHASE); g < Cell::end_gate(PHASE); ++g)
            __builtin_prefetch(v.x[g] + at.b * v.x_row[g] + at.unit);
        UNROLL for (int k = Cell::first_gate(PHASE); k < SAVED; ++k)
            __builtin_prefetch(v.gates + k * v.gate + at.dense, 1);
        __builtin_prefetch(v.y + at.b * v.y_row + at.unit, 1);
    }

    template <int PHASE>
    INLINE void step(int64_t t, const View& v, const Place& at, const float (&sums)[GATES][ROWS * PANEL], int64_t sum) {
        constexpr bool LAST = PHASE + 1 == Cell::PHASES;
        constexpr int FIRST = Cell::first_gate(PHASE), END = Cell::end_gate(PHASE);
        Step s{};  // a padded step skips the equations: h and c stay as they are, what it saves is zero
        s.h = load(current + at.scratch);
        if constexpr (HAS_C) s.c = this->lanes(v.cells + at.dense, at.count);
        if (!this->pads(at.b, t)) {
            UNROLL for (int g = FIRST; g < END; ++g) {
                s.x[g] = this->lanes(v.x[g] + at.b * v.x_row[g] + at.unit, at.count);
                s.product[g] = load(sums[g] + sum);
            }
            if constexpr (AFTER) s.bias = this->lanes(in.bias + at.head * d + at.unit, at.count);
            UNROLL for (int k = 0; k < FIRST; ++k) s.saved[k] = this->lanes(v.gates + k * v.gate + at.dense, at.count);
            Cell::template forward<PHASE>(s);
        }
        UNROLL for (int k = FIRST; k < (LAST ? SAVED : END); ++k)
            this->put(v.gates + k * v.gate + at.dense, at.count, s.saved[k]);
        if constexpr (LAST) {
            this->put(v.y + at.b * v.y_row + at.unit, at.count, s.h);
            store_state(t, at, s.h, s.c, v.cells_after);
        } else {  // r h; h itself stays in `current`
            store(gated + at.scratch, s.h);
        }
    }

    // Stores h and c after step t where step t + 1 reads them, or zeros if it is reset; after the last step, outputs.
    INLINE void store_state(int64_t t, const Place& at, Vec h, Vec c, float* cells_after) {
        if (t + 1 == T) {
            this->put(in.last_h + at.dense, at.count, h);
            if constexpr (HAS_C) this->put(in.last_c + at.dense, at.count, c);
            return;
        }
        const bool fresh = this->resets(at.b, t + 1);
        store(next + at.scratch, fresh ? Vec{} : h);
        if constexpr (HAS_C) this->put(cells_after + at.dense, at.count, fresh ? Vec{} : c);
    }

    const CellForward& in;
    Buffer memory;
    float *current, *next, *gated;  // h before and after the step, and r h for the second phase of gru [H, B, stride]
};

}  // namespace

void cell_forward(const CellForward& in) { run_cell<Forward>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
