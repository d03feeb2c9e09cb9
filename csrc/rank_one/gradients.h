// The gradients of a chunk of rows from the state before it and the gradient of the state after it: "Backward" of
// ops/outer/README.md with the second reader and writer of ops/delta/README.md.
#pragma once

#include "rank_one/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <Kind KIND>
struct Gradients {
    static constexpr int WRITERS = Chunk<KIND>::WRITERS, READERS = Chunk<KIND>::READERS;
    static constexpr int64_t W = Chunk<KIND>::W, R = Chunk<KIND>::R;

    Chunk<KIND> chunk;
    const int64_t K, V;  // rounded up to whole vectors
    Matrix state, grad;  // [K][V]: S before the chunk, and G, the gradient of the state after it
    Matrix by_k, by_v;   // [W][R]: products of all pairs, keys with queries and values with incoming gradients
    Matrix readers_t, values_t, incoming_t, dwriters_t, dreaders_t;  // transposed
    Matrix dwriters, dreaders, ddecay, dvalues, y, ddecay_v;
    PrefetchQueue prefetches;

    Gradients(const RankOneBackward& in, const ColumnSplit& split, int64_t task, Arena& arena)
        : chunk(in, split, task, arena), K(split.padded), V(split.width) {
        const auto take = [&](int64_t rows, int64_t columns) { return take_matrix(arena, rows, columns); };
        grad = take(K, V), by_k = take(W, R), by_v = take(W, R);
        readers_t = take(K, R), values_t = take(V, W), incoming_t = take(V, R);
        dwriters_t = take(K, W), dreaders_t = take(K, R), dwriters = take(W, K), dreaders = take(R, K);
        dvalues = take(W, V), ddecay = take(CHUNK, K);
        if (chunk.decays_v) y = take(CHUNK, V), ddecay_v = take(CHUNK, V);
    }

    // Finds the gradients of all rows, and replaces `grad` by the gradient of the state before the chunk.
    void find() {
        find_value_gradients();
        find_key_gradients();
        chunk.decay_state(grad, grad);
        multiply<true>(grad, chunk.from_readers, chunk.from_incoming, true, prefetches);
    }

    // The state after the chunk, from the one before it.
    void step(Matrix before, Matrix after) {
        chunk.decay_state(before, after);
        multiply<true>(after, chunk.to_end, chunk.to_end_v, true, prefetches);
    }

  private:
    static Matrix part(Matrix of, int kind) { return of.part(kind * CHUNK, CHUNK); }
    Side<READERS> k_side() { return {chunk.readers, chunk.decay, chunk.shift, prefetches}; }
    Side<READERS> v_side() { return {chunk.incoming, chunk.decay_v, chunk.shift, prefetches}; }

    // dvalues = G's part + pairs, and du on the way.
    void find_value_gradients() {
        const Chunk<KIND>& x = chunk;
        multiply<false>(dvalues, x.to_end, grad, false, prefetches);
        if (x.per_channel) {
            for (int w = 0; w < WRITERS; ++w) k_side().multiply(part(x.writers, w), part(by_k, w));
        } else {
            transpose(x.readers, readers_t);
            multiply<false>(by_k, x.writers, readers_t, false, prefetches);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_k, w), part(by_k, w), x.decay_between);
        }
        if (chunk.decays_v) find_decay_v_gradients();
        if (chunk.decays_v) v_side().spread(x.values, by_k, dvalues, nullptr, ddecay_v);
        else multiply<false>(dvalues, by_k, part(x.incoming, 0), true, prefetches);
        if constexpr (KIND != Kind::outer) find_read_gradients();
        if constexpr (KIND == Kind::general)
            multiply<false>(part(dvalues, 0), by_k.part(0, CHUNK, CHUNK, CHUNK), part(x.incoming, 1), true, prefetches);
    }

    // Solves the triangular system for du (ops/delta/README.md) by back substitution, a block of rows at a time: du_j
    // is the gradient of the u that row j writes, to which all later reads contribute. For the delta rule du = -dv.
    void find_read_gradients() {
        constexpr float SIGN = KIND == Kind::general ? 1 : -1;
        const Matrix pairs = by_k.part((WRITERS - 1) * CHUNK, CHUNK, CHUNK, CHUNK);
        const Matrix written = part(dvalues, WRITERS - 1), dreads = part(chunk.incoming, 1);
        for (int64_t c = 0; c < V; c += LANES)
            for (int64_t row = CHUNK - LANES; row >= 0; row -= LANES) {
                Vec acc[LANES];
                UNROLL for (int i = 0; i < LANES; ++i) acc[i] = load(written.at(row + i, c));
                for (int64_t later = row + LANES; later < CHUNK; later += LANES)
                    multiply_blocks<false>(acc, pairs.at(row, later), dreads.at(later, c));
                const float* weights = pairs.at(row, row);
                UNROLL for (int s = LANES - 1; s >= 0; --s) {
                    store(written.at(row + s, c), acc[s]);
                    store(dreads.at(row + s, c), SIGN * acc[s]);
                    UNROLL for (int t = 0; t < s; ++t) acc[t] += SIGN * weights[t * LANES + s] * acc[s];
                }
            }
    }

    // The parts of the gradient of log_decay_v with S or G in them; pairs are added by spread().
    void find_decay_v_gradients() {
        const Chunk<KIND>& x = chunk;
        scale(dvalues, dvalues, x.decay_after_v);
        multiply<false>(y, x.from_readers, state, false, prefetches);
        for (int64_t c = 0; c < V; c += LANES) {
            Vec both{};
            for (int64_t k = 0; k < K; ++k) both += x.whole_decay(k) * load(state.at(k, c)) * load(grad.at(k, c));
            both *= load(x.decay_before_v.at(CHUNK, c));
            for (int64_t t = 0; t < CHUNK; ++t) {
                store(ddecay_v.at(t, c), both);
                both += load(x.values.at(t, c)) * load(dvalues.at(t, c));
            }
            both = Vec{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                const int64_t s = t + x.shift[0];  // the first reader that reads row t
                if (s < CHUNK) both += load(x.from_incoming.at(s, c)) * load(y.at(s, c));
                store(ddecay_v.at(t, c), load(ddecay_v.at(t, c)) + both);
            }
        }
    }

    // The gradients of keys, queries and decays.
    void find_key_gradients() {
        const Chunk<KIND>& x = chunk;
        transpose(x.to_end_v, values_t);
        transpose(x.from_incoming, incoming_t);
        multiply<false>(dwriters_t, grad, values_t, false, prefetches);
        multiply<false>(dreaders_t, state, incoming_t, false, prefetches);
        transpose(dwriters_t, dwriters);
        transpose(dreaders_t, dreaders);
        if (chunk.decays) find_decay_gradients();
        if (chunk.decays_v) {
            v_side().multiply(x.values, by_v);
        } else {
            multiply<false>(by_v, x.values, incoming_t, false, prefetches);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v, w), part(by_v, w), x.causal);
        }
        if (x.per_channel) {
            for (int w = 0; w < WRITERS; ++w)
                k_side().spread(part(x.writers, w), part(by_v, w), part(dwriters, w), &dreaders, ddecay);
            return;
        }
        if (chunk.decays) {
            if (K > 0) add_decay_gradients_of_pairs();  // channel 0 exists
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v, w), part(by_v, w), x.decay_between);
        }
        multiply<false>(dwriters, by_v, x.readers, true, prefetches);
        multiply<true>(dreaders, by_v, x.writers, true, prefetches);
    }

    // Multiplies dwriters and dreaders by the decays to the chunk's ends, and starts ddecay. The gradient of a decay is
    // the sum over everything written before its row and read after it; here the parts with S (written before the
    // chunk) or G (read after it) in them.
    void find_decay_gradients() {
        const Chunk<KIND>& x = chunk;
        for (int w = 0; w < WRITERS; ++w) scale(part(dwriters, w), part(dwriters, w), x.decay_after);
        for (int r = 0; r < READERS; ++r)
            scale(part(dreaders, r), part(dreaders, r), x.decay_before.part(1 - x.shift[r], CHUNK));
        for (int64_t c = 0; c < K; c += LANES) {
            Vec both = state_times_gradient(c) * load(x.decay_before.at(CHUNK, c));
            for (int64_t t = 0; t < CHUNK; ++t) {
                store(ddecay.at(t, c), both);
                for (int64_t w = t; w < W; w += CHUNK) both += load(x.writers.at(w, c)) * load(dwriters.at(w, c));
            }
            both = Vec{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                for (int r = 0; r < READERS; ++r) {
                    const int64_t s = t + x.shift[r], at = r * CHUNK + s;  // the first reader that reads row t
                    if (s < CHUNK) both += load(x.readers.at(at, c)) * load(dreaders.at(at, c));
                }
                store(ddecay.at(t, c), load(ddecay.at(t, c)) + both);
            }
        }
    }

    // Lane i: Σ over columns of S ∘ G in row k + i, what is written before and read after the chunk.
    Vec state_times_gradient(int64_t k) const {
        Vec sums[LANES] = {};
        for (int64_t c = 0; c < V; c += LANES) {
            const Vec whole = chunk.decays_v ? load(chunk.decay_before_v.at(CHUNK, c)) : splat(1);
            UNROLL for (int i = 0; i < LANES; ++i)
                sums[i] += load(state.at(k + i, c)) * load(grad.at(k + i, c)) * whole;
        }
        return lane_sums<LANES>(sums);
    }

    // With one decay per row: the part of its gradient from what is written before and read after it within the chunk.
    // Only the sum over channels is used, so it goes to channel 0.
    void add_decay_gradients_of_pairs() {
        Vec sums[CHUNK] = {};
        for (int64_t c = 0; c < R; c += LANES) {
            Vec written{};  // by the rows before
            for (int64_t t = 0; t < CHUNK; ++t) {
                sums[t] += written * load(chunk.causal.at(t, c));
                for (int64_t w = t; w < W; w += CHUNK) written += load(by_k.at(w, c)) * load(by_v.at(w, c));
            }
        }
        for (int64_t t = 0; t < CHUNK; ++t) ddecay.at(t, 0)[0] += lane_sums<1>(sums + t)[0];
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
