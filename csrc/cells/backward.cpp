#include "cells/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <class Cell>
class Backward : Blocks<Cell> {
    using Base = Blocks<Cell>;
    using typename Base::Place;
    using Base::AFTER, Base::B, Base::GATES, Base::H, Base::HAS_C, Base::SAVED, Base::T, Base::d, Base::stride;

  public:
    explicit Backward(const CellBackward& in)
        : Base(in), in(in), memory((2 * GATES + 2) * H * B * stride), current(memory.data()),
          following(current + GATES * H * B * stride), dh(following + GATES * H * B * stride), dc(dh + H * B * stride) {
    }

    void run() {
        if (this->is_empty()) return;
        this->pack(true);
        for (int64_t task = 0; task < H * this->blocks; ++task)
            this->for_places(task, 0, B, [&](const Place& at, int64_t) {
                store(dh + at.scratch, this->lanes(in.dlast_h + at.dense, at.count));
                if constexpr (HAS_C) store(dc + at.scratch, this->lanes(in.dlast_c + at.dense, at.count));
            });
        for (int64_t t = T - 1; t >= 0; --t) {
            phase<0>(t);
            if constexpr (Cell::PHASES == 2) phase<1>(t);
            swap();
        }
        phase<0>(-1);  // the gradient of the initial state
    }

  private:
    void swap() {
        float* const last = current;
        current = following, following = last;
    }

    // Pointers to the arrays of a step and a head, at the first row of the batch.
    struct View {
        const float *before, *dy, *gates, *cells;
        float* dx[GATES];
        int64_t row, before_row, gate;  // strides: from one row to the next; from one gate's array to the next
    };
    View view(int64_t t, int64_t head) const {
        View v{};
        const int64_t at = (t * H + head) * d, width = H * d;
        for (int g = 0; g < GATES; ++g) v.dx[g] = in.dx[g] + at;
        v.dy = in.dy + at, v.row = T * width, v.gate = B * width;
        v.before = t > 0 ? in.y + at - width : in.h + head * d, v.before_row = t > 0 ? v.row : width;
        v.gates = in.gates + t * SAVED * v.gate;
        if constexpr (HAS_C) v.cells = in.cells + t * v.gate;
        return v;
    }

    // One phase of step t for all units: dp Wᵀ, then the equations. The first phase multiplies the dp of step t + 1,
    // which gives dh of this step; the second, of gru, that of this step's candidate, which gives the gradient of r h.
    template <int PHASE>
    void phase(int64_t t) {
        this->for_blocks(t, [&](int64_t task, int64_t first, int64_t rows) {
            alignas(64) float sums[ROWS * PANEL] = {};
            const View v = view(t < 0 ? 0 : t, task / this->blocks);
            this->for_places(task, first, rows, [&](const Place& at, int64_t) INLINE_LAMBDA { prefetch(v, at); });
            const float* x = (PHASE == 0 ? following : current) + (task / this->blocks * B + first) * GATES * stride;
            if (PHASE == 1 || t + 1 < T)
                for (int g = Cell::first_gate(PHASE); g < Cell::end_gate(PHASE); ++g)
                    multiply_rows(sums, x + g * stride, GATES * stride, this->panel(task, g), d, rows);
            this->for_places(task, first, rows, [&](const Place& at, int64_t sum) INLINE_LAMBDA {
                if (PHASE == 1) second_phase(t, v, at, load(sums + sum));
                else if (t < 0) finish(at, load(sums + sum));
                else step(t, v, at, load(sums + sum));
            });
        });
    }

    // Prefetches what the equations will read and write, so that it arrives while the product runs.
    INLINE static void prefetch(const View& v, const Place& at) {
        UNROLL for (int k = 0; k < SAVED; ++k) __builtin_prefetch(v.gates + k * v.gate + at.dense);
        UNROLL for (int g = 0; g < GATES; ++g) __builtin_prefetch(v.dx[g] + at.b * v.row + at.unit, 1);
        __builtin_prefetch(v.dy + at.b * v.row + at.unit);
        __builtin_prefetch(v.before + at.b * v.before_row + at.unit);
    }

    // The gradients of h and c after step t, without that of y: zero if step t + 1 is reset.
    INLINE void load_incoming(int64_t t, const Place& at, Vec product, StepBack& s) const {
        if (t + 1 < T && this->resets(at.b, t + 1)) return;
        s.dh = load(dh + at.scratch) + product;
        if constexpr (HAS_C) s.dc = load(dc + at.scratch);
    }

    INLINE void finish(const Place& at, Vec product) {
        StepBack s{};
        load_incoming(-1, at, product, s);
        this->put(in.dh + at.dense, at.count, s.dh);
        if constexpr (HAS_C) this->put(in.dc + at.dense, at.count, s.dc);
    }

    INLINE void step(int64_t t, const View& v, const Place& at, Vec product) {
        StepBack s{};
        load_incoming(t, at, product, s);
        s.dh += this->lanes(v.dy + at.b * v.row + at.unit, at.count);
        if (!this->pads(at.b, t)) {
            // Real steps only: padding is the identity, also for gradients.
            if (in.clip > 0) s.dh = clamp(s.dh, splat(in.clip)), s.dc = clamp(s.dc, splat(in.clip));
            read_step(t, v, at, s);
            Cell::template backward<0>(s);
        }
        store(dh + at.scratch, s.dh);
        if constexpr (HAS_C) store(dc + at.scratch, s.dc);
        UNROLL for (int g = 0; g < GATES; ++g) write_gate(v, at, g, s.dx[g], AFTER && g == 2 ? s.inner : s.dx[g]);
    }

    INLINE void second_phase(int64_t t, const View& v, const Place& at, Vec product) {
        StepBack s{};
        if (!this->pads(at.b, t)) {
            read_step(t, v, at, s);
            s.dh = product;
            Cell::template backward<1>(s);
        }
        store(dh + at.scratch, load(dh + at.scratch) + s.dh);
        write_gate(v, at, 1, s.dx[1], s.dx[1]);
    }

    INLINE void read_step(int64_t t, const View& v, const Place& at, StepBack& s) const {
        if (!this->resets(at.b, t)) s.h = this->lanes(v.before + at.b * v.before_row + at.unit, at.count);
        if constexpr (HAS_C) s.c = this->lanes(v.cells + at.dense, at.count);
        UNROLL for (int k = 0; k < SAVED; ++k) s.saved[k] = this->lanes(v.gates + k * v.gate + at.dense, at.count);
    }

    // Writes the gradient of a gate's input and, for dp Wᵀ of the step before, that of the gate's product with h.
    INLINE void write_gate(const View& v, const Place& at, int gate, Vec dx, Vec multiplied) {
        this->put(v.dx[gate] + at.b * v.row + at.unit, at.count, dx);
        store(current + ((at.head * B + at.b) * GATES + gate) * stride + at.unit, multiplied);
    }

    const CellBackward& in;
    Buffer memory;
    float *current, *following;  // gradients of the gates' products at this step and the next [H, B, GATES, stride]
    float *dh, *dc;  // gradients of h and c before the step, except what comes through the products [H, B, stride]
};

}  // namespace

void cell_backward(const CellBackward& in) { run_cell<Backward>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
