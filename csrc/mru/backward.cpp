#include "common/parallel.h"
#include "common/sums.h"
#include "mru/task.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// One task, backwards through time. Each interval is first recomputed forwards from the state saved before it.
struct Backward : MruTask {
    const MruBackward& backward;
    float* down_parts;         // [B, H, D, C]
    float* dm;                 // [staged][heads] blocks: the gradient of each state from its read-out
    float* carry;              // [heads] blocks: the gradient of the state from the steps after it
    float *down_t, *ddown;     // [heads]: Wᵀ, of C rows of P; the gradient of W
    float *dy, *one_ddown;     // one matrix times W each: scale dy; the gradient of W from one step
    float *g, *dx, *transposed, *elements, *spare;  // one block each
    float* zeros;              // the gradients of a padded step

    Backward(const MruBackward& in, const MatrixSplit& split, float* down_parts, int64_t task, Arena& arena)
        : MruTask(in, split, task, arena),
          backward(in),
          down_parts(down_parts),
          dm(arena.take(staged * split.heads * block)),
          carry(arena.take(split.heads * block)),
          down_t(arena.take(split.heads * PC * P)),
          ddown(arena.take(split.heads * read_block_size)),
          dy(arena.take(read_block_size)),
          one_ddown(arena.take(read_block_size)),
          g(arena.take(block)),
          dx(arena.take(block)),
          transposed(arena.take(block)),
          elements(arena.take(block)),
          spare(arena.take(block)),
          zeros(arena.take(s.D * s.D)) {}

    void run() const {
        dispatch_order(P, [&](auto order) { run_of<decltype(order)::value>(); });
    }

    template <int ORDER>
    void run_of() const {
        prepare();
        prepare_gradients();
        for (int64_t interval = s.intervals() - 1; interval >= 0; --interval) {
            const int64_t t = interval * MRU_INTERVAL, steps = steps_from(t);
            restore(interval);
            build<ORDER>(t, steps);
            advance<ORDER>(t, steps);
            from_read_out<ORDER>(t, steps);
            for (int64_t i = steps - 1; i >= 0; --i)
                for (int64_t n = 0; n < heads; ++n) backward_step<ORDER>(t + i, i, n);
        }
        for (int64_t n = 0; n < heads; ++n) {
            write_block({backward.dstate, Dtype::float32}, at(n) * s.D * s.D, s.D, s.D, carry + n * block, P);
            const Output part{down_parts, Dtype::float32};
            write_block(part, at(n) * s.D * s.C, s.D, s.C, ddown + n * read_block_size, PC);
        }
    }

    void prepare_gradients() const {
        std::memset(carry, 0, heads * block * sizeof(float));
        std::memset(ddown, 0, heads * read_block_size * sizeof(float));
        std::memset(dy, 0, read_block_size * sizeof(float));
        for (int64_t n = 0; n < heads; ++n) {
            read_block({backward.dlast, Dtype::float32}, at(n) * s.D * s.D, s.D, s.D, carry + n * block, P);
            for (int64_t d = 0; d < s.D; ++d)
                for (int64_t c = 0; c < s.C; ++c)
                    down_t[n * PC * P + c * P + d] = down[n * read_block_size + d * PC + c];
        }
    }

    // The state before an interval, as the forward pass saved it.
    void restore(int64_t interval) const {
        for (int64_t n = 0; n < heads; ++n) {
            const int64_t place = at(n) * s.intervals() + interval;
            read_block({backward.saved, Dtype::float32}, place * s.D * s.D, s.D, s.D, m_at(0, n), P);
            exponent[n] = in.rescale ? backward.saved_exponent[place] : 0;
        }
    }

    // The gradients of the read-out y = scale m W: dW += scale mᵀ dy; dm = P + κ <P, m>/|m|² m, P = scale dy Wᵀ.
    template <int ORDER>
    void from_read_out(int64_t t, int64_t steps) const {
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t n = 0; n < heads; ++n) {
                const ReadOut r = read_outs[i * heads + n];
                float *state = m_at(i + 1, n), *to = dm + (i * heads + n) * block, *sum = ddown + n * read_block_size;
                read_dy(at(t + i, n) * s.D * s.C, r.scale);
                multiply_transposed({state, P, dy, nullptr, one_ddown, rows, s.D, PC});
                add<0>(sum, 1.0f, one_ddown, rows * PC);  // summed per step first: one long sum would round more
                multiply({dy, PC, down_t + n * PC * P, nullptr, to, rows, s.C, P});
                if (r.kappa == 0) continue;
                const float projection = dot<ORDER>(to, state, rows * P) / r.squared_norm;
                add<ORDER>(to, r.kappa * projection, state, rows * P);
            }
    }

    void read_dy(int64_t place, float scale) const {
        const bool direct = reads_in_place(backward.dy.dtype);
        if (!direct) read_block(backward.dy, place, s.D, s.C, dy, PC);
        scale_block<0>(direct ? static_cast<const float*>(backward.dy.data) + place : dy, scale, dy, rows * PC);
    }

    template <int ORDER>
    INLINE void add(float* to, float factor, const float* block, int64_t floats) const {
        constexpr int W = width<ORDER>();
        for (int64_t i = 0; i < floats; i += W)
            store_row<W>(to + i, load_row<W>(to + i) + factor * load_row<W>(block + i));
    }

    // Step t, the i-th of its interval, for one head: g, dX, df and dV, then the gradient of the state before.
    template <int ORDER>
    void backward_step(int64_t t, int64_t i, int64_t n) const {
        const bool masked = is_masked(t), reset = is_reset(t);
        const float f = decay(t, n), *matrix = x_at(i, n);
        float* carried = carry + n * block;
        // g = (dm + carry) 2^-(what the step took out): the gradient of f h[t-1] X + V
        std::memcpy(g, dm + (i * heads + n) * block, rows * P * sizeof(float));
        add<ORDER>(g, 1.0f, carried, rows * P);
        if (in.rescale) scale_block<ORDER>(g, power[i * heads + n], g, rows * P);
        if (in.v.data != nullptr) write_square(backward.dv, at(t, n) * s.D * s.D, masked ? nullptr : g);
        transpose_block(matrix, transposed, P);
        if (masked) {
            write(backward.delements, at(t, n) * builder.elements(), builder.elements(), zeros);
            if (in.decay != nullptr) backward.ddecay[at(t, n)] = 0;
        } else {
            const float* before = reset ? start : m_at(i, n);
            multiply_transposed({before, P, g, nullptr, dx, rows, s.D, P});
            // with K = h[t-1]ᵀ g: df = <K, X>, dX = f K
            if (in.decay != nullptr) backward.ddecay[at(t, n)] = dot<ORDER>(dx, matrix, rows * P);
            if (f != 1) scale_block<ORDER>(dx, f, dx, rows * P);
            element_gradient<ORDER>(at(t, n) * builder.elements());
        }
        if (reset) {  // nothing passes to the step before
            std::memset(carried, 0, block * sizeof(float));
            return;
        }
        if (f != 1) scale_block<ORDER>(transposed, f, transposed, block);  // (f X)ᵀ, rounded as in advance()
        multiply({g, P, transposed, nullptr, carried, rows, s.D, P});
    }

    void write_square(Output to, int64_t place, const float* from) const {
        if (from == nullptr) write(to, place, s.D * s.D, zeros);
        else write_block(to, place, s.D, s.D, from, P);
    }

    // The gradient of the elements from dx, that of X, and Xᵀ.
    template <int ORDER>
    INLINE void element_gradient(int64_t place) const {
        const Output to = backward.delements;
        if (in.builder == MruBuilder::reshape_identity) return write_block(to, place, s.D, s.D, dx, P);
        if (in.builder == MruBuilder::cayley) return skew_gradient<ORDER>(builder, dx, transposed, to, place);
        read_block(in.elements, place, s.D, s.D, elements, P);
        ldu_gradient<ORDER>(builder, elements, dx, spare, to, place);
    }
};

}  // namespace

void mru_backward(const MruBackward& in) {
    const MruSizes& s = in.sizes;
    const MatrixSplit split({s.B, s.T, s.H, s.D, s.D}, in.threads, false);
    Buffer parts(s.B * s.H * s.D * s.C);
    run_tasks(split.tasks(), in.threads,
              [&](int64_t task, Arena& arena) { return Backward(in, split, parts.data(), task, arena); });
    sum_groups(parts.data(), {in.ddown, Dtype::float32}, 1, s.B, s.H * s.D * s.C, in.threads);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
