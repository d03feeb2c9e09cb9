// The gradients that a chunk of rows brings, from the state before it and the gradient of the state after it.
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
    const int64_t K, V;  // whole vectors
    Matrix state, grad;  // [K][V], the one before and the gradient of the one after
    Matrix by_k, by_v;   // [W][R], products of writers and readers, of either side
    Matrix readers_t, values_t, incoming_t, dwriters_t, dreaders_t;  // transposed
    Matrix dwriters, dreaders, ddecay, dvalues, y, dshrink;
    Wishes wishes;

    Gradients(const RankOneBackward& in, const ColumnCut& cut, int64_t task, Pieces& pieces)
        : chunk(in, cut, task, pieces), K(cut.padded), V(cut.width) {
        const auto take = [&](int64_t rows, int64_t columns) { return take_matrix(pieces, rows, columns); };
        grad = take(K, V), by_k = take(W, R), by_v = take(W, R);
        readers_t = take(K, R), values_t = take(V, W), incoming_t = take(V, R);
        dwriters_t = take(K, W), dreaders_t = take(K, R), dwriters = take(W, K), dreaders = take(R, K);
        dvalues = take(W, V), ddecay = take(CHUNK, K);
        if (chunk.shrinks) y = take(CHUNK, V), dshrink = take(CHUNK, V);
    }

    // Finds those of all rows, and takes `grad` from the state after the chunk to the one before it.
    void find() {
        find_value_gradients();
        find_key_gradients();
        chunk.decay_state(grad, grad);
        multiply<true>(grad, chunk.from_readers, chunk.from_incoming, true, wishes);
    }

    // The state after the chunk, from the one before it.
    void step(Matrix before, Matrix after) {
        chunk.decay_state(before, after);
        multiply<true>(after, chunk.to_end, chunk.to_end_v, true, wishes);
    }

  private:
    static Matrix part(Matrix of, int kind) { return of.part(kind * CHUNK, CHUNK); }
    Side<READERS> k_side() { return {chunk.readers, chunk.decay, chunk.shift, wishes}; }
    Side<READERS> v_side() { return {chunk.incoming, chunk.shrink, chunk.shift, wishes}; }

    // dvalues, the gradients of what is written, and with them those of what is read.
    void find_value_gradients() {
        const Chunk<KIND>& x = chunk;
        multiply<false>(dvalues, x.to_end, grad, false, wishes);
        if (x.by_channel) {
            for (int w = 0; w < WRITERS; ++w) k_side().multiply(part(x.writers, w), part(by_k, w));
        } else {
            transpose(x.readers, readers_t);
            multiply<false>(by_k, x.writers, readers_t, false, wishes);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_k, w), part(by_k, w), x.between);
        }
        if (chunk.shrinks) find_shrink_gradients();
        if (chunk.shrinks) v_side().spread(x.values, by_k, dvalues, nullptr, dshrink);
        else multiply<false>(dvalues, by_k, part(x.incoming, 0), true, wishes);
        if constexpr (KIND != Kind::outer) find_read_gradients();
        if constexpr (KIND == Kind::general)
            multiply<false>(part(dvalues, 0), by_k.part(0, CHUNK, CHUNK, CHUNK), part(x.incoming, 1), true, wishes);
    }

    // Solves for the gradients of what is read: those of the values that it is written as (or taken from), to which all
    // later reads bring theirs. From the last row back, a block of rows at a time.
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

    // The parts of the gradient of log_decay_v that the states before and after the chunk have in it.
    void find_shrink_gradients() {
        const Chunk<KIND>& x = chunk;
        scale(dvalues, dvalues, x.after_v);
        multiply<false>(y, x.from_readers, state, false, wishes);
        for (int64_t c = 0; c < V; c += LANES) {
            Vec both{};
            for (int64_t k = 0; k < K; ++k) both += x.whole_decay(k) * load(state.at(k, c)) * load(grad.at(k, c));
            both *= load(x.upto_v.at(CHUNK, c));
            for (int64_t t = 0; t < CHUNK; ++t) {
                store(dshrink.at(t, c), both);
                both += load(x.values.at(t, c)) * load(dvalues.at(t, c));
            }
            both = Vec{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                const int64_t s = t + x.shift[0];  // the first reader that reads row t
                if (s < CHUNK) both += load(x.from_incoming.at(s, c)) * load(y.at(s, c));
                store(dshrink.at(t, c), load(dshrink.at(t, c)) + both);
            }
        }
    }

    // The gradients of keys, queries and decays.
    void find_key_gradients() {
        const Chunk<KIND>& x = chunk;
        transpose(x.to_end_v, values_t);
        transpose(x.from_incoming, incoming_t);
        multiply<false>(dwriters_t, grad, values_t, false, wishes);
        multiply<false>(dreaders_t, state, incoming_t, false, wishes);
        transpose(dwriters_t, dwriters);
        transpose(dreaders_t, dreaders);
        if (chunk.decays) find_decay_gradients();
        if (chunk.shrinks) {
            v_side().multiply(x.values, by_v);
        } else {
            multiply<false>(by_v, x.values, incoming_t, false, wishes);
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v, w), part(by_v, w), x.sees);
        }
        if (x.by_channel) {
            for (int w = 0; w < WRITERS; ++w)
                k_side().spread(part(x.writers, w), part(by_v, w), part(dwriters, w), &dreaders, ddecay);
            return;
        }
        if (chunk.decays) {
            if (K > 0) add_decay_gradients_of_pairs();  // there is a column to put them into
            for (int w = 0; w < WRITERS; ++w) scale(part(by_v, w), part(by_v, w), x.between);
        }
        multiply<false>(dwriters, by_v, x.readers, true, wishes);
        multiply<true>(dreaders, by_v, x.writers, true, wishes);
    }

    // Puts the decays between the chunk's ends and its rows into dwriters and dreaders, and starts ddecay with what the
    // states before and after the chunk have in it: all that is written before a row and read behind it.
    void find_decay_gradients() {
        const Chunk<KIND>& x = chunk;
        for (int w = 0; w < WRITERS; ++w) scale(part(dwriters, w), part(dwriters, w), x.after);
        for (int r = 0; r < READERS; ++r)
            scale(part(dreaders, r), part(dreaders, r), x.upto.part(1 - x.shift[r], CHUNK));
        for (int64_t c = 0; c < K; c += LANES) {
            Vec both = read_by_both_ends(c) * load(x.upto.at(CHUNK, c));
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

    // Sums over the rows k, k + 1, ... of the state before the chunk times the gradient of the one after it.
    Vec read_by_both_ends(int64_t k) const {
        Vec sums[LANES] = {};
        for (int64_t c = 0; c < V; c += LANES) {
            const Vec whole = chunk.shrinks ? load(chunk.upto_v.at(CHUNK, c)) : splat(1);
            UNROLL for (int i = 0; i < LANES; ++i)
                sums[i] += load(state.at(k + i, c)) * load(grad.at(k + i, c)) * whole;
        }
        return sums_of<LANES>(sums);
    }

    // Where a row has one decay: what is written before it and read behind it within the chunk.
    void add_decay_gradients_of_pairs() {
        Vec sums[CHUNK] = {};
        for (int64_t c = 0; c < R; c += LANES) {
            Vec written{};  // by the rows before
            for (int64_t t = 0; t < CHUNK; ++t) {
                sums[t] += written * load(chunk.sees.at(t, c));
                for (int64_t w = t; w < W; w += CHUNK) written += load(by_k.at(w, c)) * load(by_v.at(w, c));
            }
        }
        for (int64_t t = 0; t < CHUNK; ++t) ddecay.at(t, 0)[0] += sums_of<1>(sums + t)[0];
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
