#include "cells/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <class Cell>
class Forward : Blocks<Cell> {
    using Base = Blocks<Cell>;
    using typename Base::Place;
    using Base::B, Base::GATES, Base::H, Base::PRODUCTS, Base::REST, Base::SAVED, Base::T, Base::TWO_PHASES;
    using Base::VECTORS, Base::d, Base::layer, Base::scratch, Base::stride;

  public:
    explicit Forward(const CellForward& in)
        : Base(in), in(in), memory((2 + TWO_PHASES) * scratch), operand(memory.data() + 2 * scratch) {}

    void run() {
        if (this->is_empty()) return;
        this->pack(false);
        for (int64_t task = 0; task < H * this->blocks; ++task)
            this->for_places(task, 0, B, [&](const Place& at, int64_t) {
                Step s{};
                s.h = this->lanes(in.h + at.dense, at.count);
                for (int k = 0; k < REST; ++k) s.rest[k] = this->lanes(in.rest + k * layer + at.dense, at.count);
                store_state(-1, at, s, in.rests);
            });
        this->for_steps([&](int64_t task) {
            for (int64_t t = 0; t < T; ++t) {
                phase<0>(t, task);
                if constexpr (TWO_PHASES) phase<1>(t, task);
            }
        });
    }

  private:
    float* h_before(int64_t t) const { return memory.data() + t % 2 * scratch; }  // h before step t [H, B, stride]
    int64_t kept(int64_t t) const { return in.steps == 1 ? 0 : t; }
    float* rests(int64_t t) const { return in.rests + kept(t) * REST * layer; }

    // Pointers to the arrays of a step and a head, at the first row of the batch.
    struct View {
        const float *x[GATES], *before;
        int64_t x_row[GATES], y_row, layer;  // strides: from one row to the next; from one saved array to the next
        float *y, *saved, *rest, *rest_after;
    };
    View view(int64_t t, int64_t head) const {
        View v{};
        for (int g = 0; g < GATES; ++g) v.x[g] = in.x[g].at(0, t, head), v.x_row[g] = in.x[g].row;
        v.before = h_before(t);
        v.y = in.y + (t * H + head) * d, v.y_row = T * H * d;
        v.saved = in.saved + kept(t) * SAVED * layer, v.layer = layer;
        if constexpr (REST > 0) v.rest = rests(t), v.rest_after = rests(t + 1);
        return v;
    }

    // One phase of step t for all units: the products of its gates with h (or the operand), then the equations.
    template <int PHASE>
    void phase(int64_t t, int64_t tasks) {
        this->for_blocks(t, tasks, [&](int64_t task, int64_t first, int64_t rows) {
            alignas(64) float sums[GATES][ROWS * PANEL];
            const View v = view(t, task / this->blocks);
            this->for_places(task, first, rows,
                             [&](const Place& at, int64_t) INLINE_LAMBDA { prefetch<PHASE>(v, at); });
            const float* x = (PHASE == 0 ? v.before : operand) + (task / this->blocks * B + first) * stride;
            for (int g = Cell::first_gate(PHASE); g < Cell::first_gate(PHASE + 1) && PRODUCTS > 0; ++g) {
                std::memset(sums[g], 0, sizeof sums[g]);
                multiply_rows(sums[g], x, stride, this->panel(task, g), d, rows);
            }
            this->for_places(task, first, rows,
                             [&](const Place& at, int64_t sum) INLINE_LAMBDA { step<PHASE>(t, v, at, sums, sum); });
        });
    }

    // Prefetches what the equations will read and write, so that it arrives while the product runs.
    template <int PHASE>
    INLINE static void prefetch(const View& v, const Place& at) {
        for (int g = Cell::first_gate(PHASE); g < Cell::first_gate(PHASE + 1); ++g)
            __builtin_prefetch(v.x[g] + at.b * v.x_row[g] + at.unit);
        UNROLL for (int k = Cell::first_saved(PHASE); k < SAVED; ++k)
            __builtin_prefetch(v.saved + k * v.layer + at.dense, 1);
        __builtin_prefetch(v.y + at.b * v.y_row + at.unit, 1);
    }

    template <int PHASE>
    INLINE void step(int64_t t, const View& v, const Place& at, const float (&sums)[GATES][ROWS * PANEL], int64_t sum) {
        constexpr int GATE = Cell::first_gate(PHASE), END_GATE = Cell::first_gate(PHASE + 1);
        constexpr int FIRST = Cell::first_saved(PHASE), END = Cell::first_saved(PHASE + 1);
        Step s{};  // a padded step skips the equations: the state stays as it is, what it saves is zero
        s.h = load(v.before + at.scratch);
        UNROLL for (int k = 0; k < REST; ++k) s.rest[k] = this->lanes(v.rest + k * v.layer + at.dense, at.count);
        if (!this->pads(at.b, t)) {
            UNROLL for (int g = GATE; g < END_GATE; ++g) {
                s.x[g] = this->lanes(v.x[g] + at.b * v.x_row[g] + at.unit, at.count);
                if (PRODUCTS > 0) s.product[g] = load(sums[g] + sum);
            }
            this->read_vectors(s.vector, at);
            UNROLL for (int k = 0; k < FIRST; ++k) s.saved[k] = this->lanes(v.saved + k * v.layer + at.dense, at.count);
            Cell::template forward<PHASE>(s);
        }
        UNROLL for (int k = FIRST; k < END; ++k)
            this->put(v.saved + k * v.layer + at.dense, at.count, s.saved[k]);
        if constexpr (PHASE + 1 == Cell::PHASES) {
            this->put(v.y + at.b * v.y_row + at.unit, at.count, s.h);
            store_state(t, at, s, v.rest_after);
        } else {
            store(operand + at.scratch, s.operand);
        }
    }

    // Stores the state after step t where step t + 1 reads it, or zeros if it is reset; after the last step, outputs.
    INLINE void store_state(int64_t t, const Place& at, const Step& s, float* rest_after) {
        const bool fresh = t + 1 < T && this->resets(at.b, t + 1);
        if (t + 1 < T) store(h_before(t + 1) + at.scratch, fresh ? Vec{} : s.h);
        else this->put(in.last_h + at.dense, at.count, s.h);
        float* const rest = t + 1 < T ? rest_after : in.last_rest;
        UNROLL for (int k = 0; k < REST; ++k)
            this->put(rest + k * layer + at.dense, at.count, fresh ? Vec{} : s.rest[k]);
    }

    const CellForward& in;
    Buffer memory;
    float* const operand;  // of the second phase's products [H, B, stride]
};

}  // namespace

void cell_forward(const CellForward& in) { run_cell<Forward>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
