// The rows of a chunk in the backward pass: writers, readers, and the decays between them and the chunk's ends.
#pragma once

#include "rank_one/pairs.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Writers are (key, value) and, for the general kind, (write, u), u what was read. Readers are (query, dy) and, unless
// the kind is outer, (read, du). The second kind of either follows the first in the same matrix, so that one product
// serves both. A chunk with fewer than CHUNK rows is padded with zeros.
template <Kind KIND>
struct Chunk {
    static constexpr int WRITERS = KIND == Kind::general ? 2 : 1, READERS = KIND == Kind::outer ? 1 : 2;
    static constexpr int64_t W = WRITERS * CHUNK, R = READERS * CHUNK;

    const RankOneBackward& in;
    const ColumnSplit& split;
    const Columns at;
    const int64_t shift[2];                    // of either kind of reader: 1 where it reads before the row's update
    const bool decays, per_channel, decays_v;  // log_decay, log_decay per channel, log_decay_v are given
    int64_t begin = 0, count = 0;              // of rows
    int64_t rows[CHUNK], steps[CHUNK], starts[CHUNK];  // indices (see Place); -1 where absent
    Matrix keys, writers, readers, decay, decay_before, decay_after, from_readers, to_end;  // [..][K]
    Matrix values, incoming, decay_v, decay_before_v, decay_after_v, from_incoming, to_end_v;  // [..][V]
    Matrix causal, decay_between;  // [CHUNK][R]: 1 if reader s sees writer t; times the decay between them, if per row

    Chunk(const RankOneBackward& inputs, const ColumnSplit& c, int64_t task, Arena& arena)
        : in(inputs), split(c), at(c, task), shift{in.read_before ? 1 : 0, 1}, decays(in.log_decay != nullptr),
          per_channel(decays && in.per_channel), decays_v(KIND == Kind::outer && in.log_decay_v != nullptr) {
        const int64_t K = split.padded, V = split.width;
        const auto take = [&](int64_t height, int64_t width) { return take_matrix(arena, height, width); };
        writers = take(W, K), readers = take(R, K), values = take(W, V), incoming = take(R, V);
        keys = in.log_input != nullptr || in.beta != nullptr ? take(CHUNK, K) : writers.part(0, CHUNK);
        from_readers = readers, to_end = writers, from_incoming = incoming, to_end_v = values;
        if (decays) decay = take(CHUNK, K), decay_before = take(CHUNK + 1, K), decay_after = take(CHUNK, K);
        if (decays) from_readers = take(R, K), to_end = take(W, K);
        if (decays_v) decay_v = take(CHUNK, V), decay_before_v = take(CHUNK + 1, V), decay_after_v = take(CHUNK, V);
        if (decays_v) from_incoming = take(R, V), to_end_v = take(W, V);
        causal = take(CHUNK, R);
        decay_between = decays && !per_channel ? take(CHUNK, R) : causal;
    }

    void fill_causal_mask() const {
        for (int64_t t = 0; t < CHUNK; ++t)
            for (int64_t r = 0; r < R; ++r)
                causal.at(t, r / LANES * LANES)[r % LANES] = t + shift[r / CHUNK] <= r % CHUNK ? 1 : 0;
    }

    // Reads rows [first, first + many) as writers.
    void read_writers(int64_t first, int64_t many) {
        const RankOneSizes& s = in.sizes;
        begin = first, count = many;
        for (int64_t i = 0; i < CHUNK; ++i) {
            const Place place(s, at, begin + i);
            const bool here = i < count;
            rows[i] = here ? place.row : -1;
            steps[i] = here && place.last ? place.step : -1;
            starts[i] = here && place.first ? place.step : -1;
        }
        read_keys(in.k, rows, keys);
        read_values(in.v, rows, values.part(0, CHUNK));
        if (in.log_input != nullptr || in.beta != nullptr) scale_keys();
        if (KIND != Kind::outer) load_saved_reads();
        if (KIND == Kind::general) read_keys(in.write, rows, writers.part(CHUNK, CHUNK));
        if (decays) read_decays();
        if (decays_v) read_decays_v();
    }

    // Reads the same rows as readers, except du, which Gradients solves for.
    void read_readers() const {
        read_keys(in.q, steps, readers.part(0, CHUNK));
        read_values(in.dy, steps, incoming.part(0, CHUNK));
        if (in.beta != nullptr) read_with_keys();
        else if (KIND != Kind::outer) read_keys(in.read, rows, readers.part(CHUNK, CHUNK));
        for (int r = 0; decays && r < READERS; ++r)
            scale(from_readers.part(r * CHUNK, CHUNK), readers.part(r * CHUNK, CHUNK),
                  decay_before.part(1 - shift[r], CHUNK));
        if (decays_v) scale(from_incoming, incoming, decay_before_v.part(1 - shift[0], CHUNK));
        if (decays && !per_channel) fill_decay_between();
    }

    // The factor of the key of row i in what it writes.
    float weight_of(int64_t i) const {
        return in.beta != nullptr ? in.beta[rows[i]] : exponential(in.log_input[rows[i]]);
    }

    // The decay of row k of the state over the whole chunk.
    float whole_decay(int64_t k) const { return decays ? decay_before.at(CHUNK, k / LANES * LANES)[k % LANES] : 1; }

    // to = `from`, a state or its gradient, decayed over the whole chunk.
    void decay_state(Matrix from, Matrix to) const {
        if (!decays && !decays_v && from.data == to.data) return;
        for (int64_t c = 0; c < to.columns; c += LANES) {
            const Vec whole = decays_v ? load(decay_before_v.at(CHUNK, c)) : splat(1);
            for (int64_t k = 0; k < to.rows; ++k) store(to.at(k, c), load(from.at(k, c)) * whole_decay(k) * whole);
        }
    }

    // Queues the inputs of the CHUNK rows from `first`.
    void queue_prefetches(int64_t first, PrefetchQueue& prefetches) const {
        const RankOneSizes& s = in.sizes;
        prefetches.clear();
        for (int64_t j = first; first >= 0 && j < first + CHUNK; ++j) {
            const Place place(s, at, j);
            prefetches.add_row(in, at, j);
            if (place.last) prefetches.add(in.dy, place.step * s.V + at.first, at.count);
            if (KIND != Kind::outer) prefetches.add(in.saved_reads, place.row * s.V + at.first, at.count);
        }
    }

  private:
    // Reads rows index[i] of an array of rows of `length`: keys whole, of values the columns of the task.
    void read_rows(Input from, const int64_t* index, int64_t length, int64_t first, int64_t size, Matrix to) const {
        for (int64_t i = 0; i < CHUNK; ++i) {
            if (index[i] >= 0) read_row(from, index[i] * length + first, size, to, i);
            else to.fill_rows(i, 1, 0);
        }
    }
    void read_keys(Input from, const int64_t* index, Matrix to) const {
        read_rows(from, index, in.sizes.K, 0, in.sizes.K, to);
    }
    void read_values(Input from, const int64_t* index, Matrix to) const {
        read_rows(from, index, in.sizes.V, at.first, at.count, to);
    }

    // The delta rule reads the decayed state: read = d ∘ k.
    void read_with_keys() const {
        for (int64_t i = 0; i < CHUNK; ++i)
            for (int64_t c = 0; c < keys.columns; c += LANES)
                store(readers.at(CHUNK + i, c),
                      decays ? load(decay.at(i, c)) * load(keys.at(i, c)) : load(keys.at(i, c)));
    }

    // Keys as they are written: beta k, or e^input k.
    void scale_keys() const {
        for (int64_t i = 0; i < CHUNK; ++i) {
            const Vec weight = splat(i < count ? weight_of(i) : 0);
            for (int64_t c = 0; c < keys.columns; c += LANES) store(writers.at(i, c), weight * load(keys.at(i, c)));
        }
    }

    // The u that the forward pass saved. The general kind writes them; the delta rule subtracts them from its values.
    void load_saved_reads() const {
        const Matrix taken = incoming.part(CHUNK, CHUNK);  // not in use until du is known
        const Matrix reads = KIND == Kind::general ? values.part(CHUNK, CHUNK) : taken;
        read_values({in.saved_reads, Dtype::float32}, rows, reads);
        if (KIND == Kind::general) return;
        for (int64_t c = 0; c < values.columns; c += LANES)
            for (int64_t i = 0; i < CHUNK; ++i) store(values.at(i, c), load(values.at(i, c)) - load(reads.at(i, c)));
    }

    void read_decays() const {
        if (per_channel) {
            read_keys({in.log_decay, Dtype::float32}, starts, decay);
            exponentials(decay.data, CHUNK * decay.columns, decay.data);
        } else {
            float logs[CHUNK];
            for (int64_t i = 0; i < CHUNK; ++i) logs[i] = starts[i] < 0 ? 0 : in.log_decay[starts[i]];
            exponentials(logs, CHUNK, logs);
            for (int64_t i = 0; i < CHUNK; ++i) decay.fill_rows(i, 1, logs[i]);
        }
        cumulate(decay, decay_before, decay_after);
        for (int w = 0; w < WRITERS; ++w)
            scale(to_end.part(w * CHUNK, CHUNK), writers.part(w * CHUNK, CHUNK), decay_after);
    }

    void read_decays_v() const {
        read_values({in.log_decay_v, Dtype::float32}, rows, decay_v);
        exponentials(decay_v.data, CHUNK * decay_v.columns, decay_v.data);
        cumulate(decay_v, decay_before_v, decay_after_v);
        scale(to_end_v, values, decay_after_v);
    }

    // before[i]: the product of the decays of rows before i; after[i]: of rows after i. Products only, never quotients.
    static void cumulate(Matrix decay, Matrix before, Matrix after) {
        for (int64_t c = 0; c < decay.columns; c += LANES) {
            Vec product = splat(1);
            store(before.at(0, c), product);
            for (int64_t t = 0; t < CHUNK; ++t) store(before.at(t + 1, c), product *= load(decay.at(t, c)));
            product = splat(1);
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                store(after.at(t, c), product);
                product *= load(decay.at(t, c));
            }
        }
    }

    // From the last writer back: the readers of a writer are its first, without decay, and those of the next writer,
    // with the decay of the next row once more.
    void fill_decay_between() const {
        for (int64_t c = 0; c < R; c += LANES) {
            Vec next{}, seen_by_next{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                const Vec seen = load(causal.at(t, c));
                next = seen - seen_by_next + (t + 1 < CHUNK ? decay.at(t + 1, 0)[0] : 0) * next;
                seen_by_next = seen;
                store(decay_between.at(t, c), next);
            }
        }
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
