#include "cells/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <class Cell>
class Backward : Blocks<Cell> {
    using Base = Blocks<Cell>;
    using typename Base::Place;
    using Base::B, Base::GATES, Base::H, Base::PRODUCTS, Base::REST, Base::SAVED, Base::T, Base::TWO_PHASES;
    using Base::VECTORS, Base::d, Base::layer, Base::scratch, Base::stride;

  public:
    explicit Backward(const CellBackward& in)
        : Base(in), in(in), memory((2 * PRODUCTS + 1 + REST + VECTORS) * scratch), dh(memory.data()),
          drest(dh + scratch), dvectors(drest + REST * scratch), products(dvectors + VECTORS * scratch) {}

    void run() {
        if (this->is_empty()) return add_rows();  // of no rows: zeros
        this->pack(true);
        std::memset(dvectors, 0, VECTORS * scratch * sizeof(float));
        for (int64_t task = 0; task < H * this->blocks; ++task)
            this->for_places(task, 0, B, [&](const Place& at, int64_t) {
                store(dh + at.scratch, this->lanes(in.dlast_h + at.dense, at.count));
                for (int k = 0; k < REST; ++k) {
                    const Vec last = this->lanes(in.dlast_rest + k * layer + at.dense, at.count);
                    store(drest + k * scratch + at.scratch, last);
                }
            });
        this->for_steps([&](int64_t task) {
            for (int64_t t = T - 1; t >= 0; --t) {
                phase<0>(t, task);
                if constexpr (TWO_PHASES) phase<1>(t, task);
            }
            phase<0>(-1, task);  // the gradient of the first state
        });
        add_rows();
    }

  private:
    // The gradients of the gates' products at step t [H, B, GATES, stride].
    float* products_at(int64_t t) const { return products + (t + 1) % 2 * PRODUCTS * scratch; }

    // Pointers to the arrays of a step and a head, at the first row of the batch.
    struct View {
        const float *before, *dy, *saved, *rest;
        float *dx[GATES], *operand, *inner, *products;
        int64_t row, before_row, layer;  // strides: from one row to the next; from one saved array to the next
    };
    View view(int64_t t, int64_t head) const {
        View v{};
        const int64_t at = (t * H + head) * d, width = H * d;
        for (int g = 0; g < GATES; ++g) v.dx[g] = in.dx[g] + at;
        if constexpr (TWO_PHASES) v.operand = in.operand + at;
        if constexpr (Cell::SHAPE.inner >= 0) v.inner = in.inner + at;
        v.dy = in.dy + at, v.row = T * width, v.layer = layer;
        v.before = t > 0 ? in.y + at - width : in.h + head * d, v.before_row = t > 0 ? v.row : width;
        v.saved = in.saved + t * SAVED * layer, v.products = products_at(t);
        if constexpr (REST > 0) v.rest = in.rests + t * REST * layer;
        return v;
    }

    // One phase of step t for all units: dp Wᵀ, then the equations. The first phase multiplies the dp of step t + 1,
    // which gives dh of this step; a second, those of its own gates at this step, which gives that of their operand.
    template <int PHASE>
    void phase(int64_t t, int64_t tasks) {
        this->for_blocks(t, tasks, [&](int64_t task, int64_t first, int64_t rows) {
            alignas(64) float sums[ROWS * PANEL] = {};
            const View v = view(t < 0 ? 0 : t, task / this->blocks);
            this->for_places(task, first, rows, [&](const Place& at, int64_t) INLINE_LAMBDA { prefetch(v, at); });
            if (PRODUCTS > 0 && (PHASE == 1 || t + 1 < T)) {
                const float* x = products_at(t + 1 - PHASE) + (task / this->blocks * B + first) * GATES * stride;
                for (int g = Cell::first_gate(PHASE); g < Cell::first_gate(PHASE + 1); ++g)
                    multiply_rows(sums, x + g * stride, GATES * stride, this->panel(task, g), d, rows);
            }
            this->for_places(task, first, rows, [&](const Place& at, int64_t sum) INLINE_LAMBDA {
                if (PHASE == 1) second_phase(t, v, at, load(sums + sum));
                else if (t < 0) finish(at, load(sums + sum));
                else step(t, v, at, load(sums + sum));
            });
        });
    }

    // Prefetches what the equations will read and write, so that it arrives while the product runs.
    INLINE static void prefetch(const View& v, const Place& at) {
        UNROLL for (int k = 0; k < SAVED; ++k) __builtin_prefetch(v.saved + k * v.layer + at.dense);
        UNROLL for (int g = 0; g < GATES; ++g) __builtin_prefetch(v.dx[g] + at.b * v.row + at.unit, 1);
        __builtin_prefetch(v.dy + at.b * v.row + at.unit);
        __builtin_prefetch(v.before + at.b * v.before_row + at.unit);
    }

    // The gradients of the state after step t, without that of y: zero if step t + 1 is reset.
    INLINE void load_incoming(int64_t t, const Place& at, Vec product, StepBack& s) const {
        if (t + 1 < T && this->resets(at.b, t + 1)) return;
        load_state(at, s);
        s.dh += product;
    }
    INLINE void load_state(const Place& at, StepBack& s) const {
        s.dh = load(dh + at.scratch);
        UNROLL for (int k = 0; k < REST; ++k) s.drest[k] = load(drest + k * scratch + at.scratch);
    }
    INLINE void store_state(const Place& at, const StepBack& s) const {
        store(dh + at.scratch, s.dh);
        UNROLL for (int k = 0; k < REST; ++k) store(drest + k * scratch + at.scratch, s.drest[k]);
    }

    INLINE void finish(const Place& at, Vec product) {
        StepBack s{};
        load_incoming(-1, at, product, s);
        this->put(in.dh + at.dense, at.count, s.dh);
        UNROLL for (int k = 0; k < REST; ++k) this->put(in.drest + k * layer + at.dense, at.count, s.drest[k]);
    }

    INLINE void step(int64_t t, const View& v, const Place& at, Vec product) {
        StepBack s{};
        load_incoming(t, at, product, s);
        s.dh += this->lanes(v.dy + at.b * v.row + at.unit, at.count);
        if (!this->pads(at.b, t)) {
            // Real steps only: padding is the identity, also for gradients.
            if (in.clip > 0) {
                s.dh = clamp(s.dh, splat(in.clip));
                UNROLL for (int k = 0; k < REST; ++k) s.drest[k] = clamp(s.drest[k], splat(in.clip));
            }
            read_step(t, v, at, s);
            Cell::template backward<0>(s);
            add_to_vectors(at, s);
        }
        store_state(at, s);
        write_gates<0>(v, at, s);
    }

    INLINE void second_phase(int64_t t, const View& v, const Place& at, Vec product) {
        StepBack s{};
        if (!this->pads(at.b, t)) {
            load_state(at, s);
            constexpr int GATE = Cell::first_gate(1);
            UNROLL for (int g = 0; g < GATE; ++g) s.dx[g] = load(product_of(v, at, g));
            read_step(t, v, at, s);
            s.product = product;
            Cell::template backward<1>(s);
            store_state(at, s);
        }
        write_gates<1>(v, at, s);
        this->put(v.operand + at.b * v.row + at.unit, at.count, s.operand);
    }

    INLINE void read_step(int64_t t, const View& v, const Place& at, StepBack& s) const {
        if (!this->resets(at.b, t)) s.h = this->lanes(v.before + at.b * v.before_row + at.unit, at.count);
        UNROLL for (int k = 0; k < REST; ++k) s.rest[k] = this->lanes(v.rest + k * v.layer + at.dense, at.count);
        UNROLL for (int k = 0; k < SAVED; ++k) s.saved[k] = this->lanes(v.saved + k * v.layer + at.dense, at.count);
        this->read_vectors(s.vector, at);
    }

    // Writes the gradients of the gates that this phase completes: of the inputs and, for dp Wᵀ, of the products. The
    // first of two phases leaves there also what it knows of the others.
    template <int PHASE>
    INLINE void write_gates(const View& v, const Place& at, const StepBack& s) {
        constexpr int DONE = PHASE == 0 ? GATES : Cell::first_gate(1);
        UNROLL for (int g = 0; g < DONE; ++g) {
            const bool whole = PHASE + 1 == Cell::PHASES || g >= Cell::first_gate(1);
            if (whole) this->put(v.dx[g] + at.b * v.row + at.unit, at.count, s.dx[g]);
            if (whole && g == Cell::SHAPE.inner) this->put(v.inner + at.b * v.row + at.unit, at.count, s.inner);
            if (PRODUCTS > 0) store(product_of(v, at, g), whole && g == Cell::SHAPE.inner ? s.inner : s.dx[g]);
        }
    }
    INLINE float* product_of(const View& v, const Place& at, int gate) const {
        return v.products + ((at.head * B + at.b) * GATES + gate) * stride + at.unit;
    }

    // A task sums its units over time for every row; the rows are added at the end: the order is always the same.
    INLINE void add_to_vectors(const Place& at, const StepBack& s) {
        UNROLL for (int k = 0; k < VECTORS; ++k) {
            float* const sum = dvectors + k * scratch + at.scratch;
            store(sum, load(sum) + s.dvector[k]);
        }
    }
    void add_rows() {
        for (int64_t k = 0; k < VECTORS; ++k)
            for (int64_t head = 0; head < H; ++head)
                for (int64_t unit = 0; unit < d; unit += LANES) {
                    const float* const first = dvectors + k * scratch + head * B * stride + unit;
                    Vec sum{};
                    for (int64_t b = 0; b < B; ++b) sum += load(first + b * stride);
                    this->put(in.dvectors + (k * H + head) * d + unit, d - unit, sum);
                }
    }

    const CellBackward& in;
    Buffer memory;
    // Gradients of the state before the step, except what comes through the products, [1 + REST, H, B, stride]; sums
    // over time of those of the vectors, [VECTORS, H, B, stride]; those of the products at this step and the next.
    float *const dh, *const drest, *const dvectors, *const products;
};

}  // namespace

void cell_backward(const CellBackward& in) { run_cell<Backward>(in); }

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
