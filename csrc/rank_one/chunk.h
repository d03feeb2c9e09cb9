// The rows of a chunk as the backward pass takes them: writers and readers, and the decays between them and its ends.
#pragma once

#include "rank_one/pairs.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// Writers are the rows' keys with their values and, for the general kind, `write` with what was read. Readers are the
// queries with dy and, unless the kind is outer, `read` with the gradient of what it read. The second kind of either
// follows the first, so that one product of matrices serves both. Rows that the chunk does not have are zero.
template <Kind KIND>
struct Chunk {
    static constexpr int WRITERS = KIND == Kind::general ? 2 : 1, READERS = KIND == Kind::outer ? 1 : 2;
    static constexpr int64_t W = WRITERS * CHUNK, R = READERS * CHUNK;

    const RankOneBackward& in;
    const ColumnCut& cut;
    const Columns at;
    const int64_t shift[2];                    // how many rows a reader reads before its own
    const bool decays, by_channel, shrinks;    // by_channel: not one decay for all of a row
    int64_t begin = 0, count = 0;              // of the rows
    int64_t rows[CHUNK], steps[CHUNK], starts[CHUNK];  // counting heads, -1 where there is none; see read_writers()
    Matrix keys, writers, readers, decay, upto, after, from_readers, to_end;  // [..][K]
    Matrix values, incoming, shrink, upto_v, after_v, from_incoming, to_end_v;  // [..][V]
    Matrix sees, between;  // [CHUNK][R]: 1 where reader s sees writer t, and the decay between them if one for all

    Chunk(const RankOneBackward& inputs, const ColumnCut& c, int64_t task, Pieces& pieces)
        : in(inputs), cut(c), at(c, task), shift{in.read_before ? 1 : 0, 1}, decays(in.log_decay != nullptr),
          by_channel(decays && in.per_channel), shrinks(KIND == Kind::outer && in.log_decay_v != nullptr) {
        const int64_t K = cut.padded, V = cut.width;
        const auto take = [&](int64_t height, int64_t width) { return take_matrix(pieces, height, width); };
        writers = take(W, K), readers = take(R, K), values = take(W, V), incoming = take(R, V);
        keys = in.log_input != nullptr || in.beta != nullptr ? take(CHUNK, K) : writers.part(0, CHUNK);
        from_readers = readers, to_end = writers, from_incoming = incoming, to_end_v = values;
        if (decays) decay = take(CHUNK, K), upto = take(CHUNK + 1, K), after = take(CHUNK, K);
        if (decays) from_readers = take(R, K), to_end = take(W, K);
        if (shrinks) shrink = take(CHUNK, V), upto_v = take(CHUNK + 1, V), after_v = take(CHUNK, V);
        if (shrinks) from_incoming = take(R, V), to_end_v = take(W, V);
        sees = take(CHUNK, R);
        between = decays && !by_channel ? take(CHUNK, R) : sees;
    }

    void find_who_sees() const {
        for (int64_t t = 0; t < CHUNK; ++t)
            for (int64_t r = 0; r < R; ++r)
                sees.at(t, r / LANES * LANES)[r % LANES] = t + shift[r / CHUNK] <= r % CHUNK ? 1 : 0;
    }

    // Takes rows [first, first + many), as writers only.
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
        if (in.log_input != nullptr || in.beta != nullptr) weigh_keys();
        if (KIND != Kind::outer) read_what_was_read();
        if (KIND == Kind::general) read_keys(in.write, rows, writers.part(CHUNK, CHUNK));
        if (decays) read_decays();
        if (shrinks) read_shrinks();
    }

    // The same rows as readers. What `read` brings back is not known yet.
    void read_readers() const {
        read_keys(in.q, steps, readers.part(0, CHUNK));
        read_values(in.dy, steps, incoming.part(0, CHUNK));
        if (in.beta != nullptr) read_with_keys();
        else if (KIND != Kind::outer) read_keys(in.read, rows, readers.part(CHUNK, CHUNK));
        for (int r = 0; decays && r < READERS; ++r)
            scale(from_readers.part(r * CHUNK, CHUNK), readers.part(r * CHUNK, CHUNK), upto.part(1 - shift[r], CHUNK));
        if (shrinks) scale(from_incoming, incoming, upto_v.part(1 - shift[0], CHUNK));
        if (decays && !by_channel) find_between();
    }

    // What the key of row i is multiplied with where it is written.
    float weight_of(int64_t i) const {
        return in.beta != nullptr ? in.beta[rows[i]] : exponential(in.log_input[rows[i]]);
    }

    // The decay of row k of the state over the whole chunk.
    float whole_decay(int64_t k) const { return decays ? upto.at(CHUNK, k / LANES * LANES)[k % LANES] : 1; }

    // to = the state (or a gradient of it) `from` as it decays over the whole chunk.
    void decay_state(Matrix from, Matrix to) const {
        if (!decays && !shrinks && from.data == to.data) return;
        for (int64_t c = 0; c < to.columns; c += LANES) {
            const Vec whole = shrinks ? load(upto_v.at(CHUNK, c)) : splat(1);
            for (int64_t k = 0; k < to.rows; ++k) store(to.at(k, c), load(from.at(k, c)) * whole_decay(k) * whole);
        }
    }

    // Asks for the inputs of the rows from `first` on.
    void wish(int64_t first, Wishes& wishes) const {
        const RankOneSizes& s = in.sizes;
        wishes.clear();
        for (int64_t j = first; first >= 0 && j < first + CHUNK; ++j) {
            const Place place(s, at, j);
            wishes.add_row(in, at, j);
            if (place.last) wishes.add(in.dy, place.step * s.V + at.first, at.count);
            if (KIND != Kind::outer) wishes.add(in.kept_reads, place.row * s.V + at.first, at.count);
        }
    }

  private:
    // Row index[i], all `length` long: keys whole, values those columns that the task has.
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

    // The delta rule reads the decayed state.
    void read_with_keys() const {
        for (int64_t i = 0; i < CHUNK; ++i)
            for (int64_t c = 0; c < keys.columns; c += LANES)
                store(readers.at(CHUNK + i, c), decays ? load(decay.at(i, c)) * load(keys.at(i, c)) : load(keys.at(i, c)));
    }

    void weigh_keys() const {
        for (int64_t i = 0; i < CHUNK; ++i) {
            const Vec weight = splat(i < count ? weight_of(i) : 0);
            for (int64_t c = 0; c < keys.columns; c += LANES) store(writers.at(i, c), weight * load(keys.at(i, c)));
        }
    }

    void read_what_was_read() const {
        const Matrix taken = incoming.part(CHUNK, CHUNK);  // free until the gradient of what is read is known
        const Matrix reads = KIND == Kind::general ? values.part(CHUNK, CHUNK) : taken;
        read_values({in.kept_reads, Dtype::float32}, rows, reads);
        if (KIND == Kind::general) return;
        for (int64_t c = 0; c < values.columns; c += LANES)  // what the row writes
            for (int64_t i = 0; i < CHUNK; ++i) store(values.at(i, c), load(values.at(i, c)) - load(reads.at(i, c)));
    }

    void read_decays() const {
        if (by_channel) {
            read_keys({in.log_decay, Dtype::float32}, starts, decay);
            exponentials(decay.data, CHUNK * decay.columns, decay.data);
        } else {
            float logs[CHUNK];
            for (int64_t i = 0; i < CHUNK; ++i) logs[i] = starts[i] < 0 ? 0 : in.log_decay[starts[i]];
            exponentials(logs, CHUNK, logs);
            for (int64_t i = 0; i < CHUNK; ++i) decay.fill_rows(i, 1, logs[i]);
        }
        cumulate(decay, upto, after);
        for (int w = 0; w < WRITERS; ++w)
            scale(to_end.part(w * CHUNK, CHUNK), writers.part(w * CHUNK, CHUNK), after);
    }

    void read_shrinks() const {
        read_values({in.log_decay_v, Dtype::float32}, rows, shrink);
        exponentials(shrink.data, CHUNK * shrink.columns, shrink.data);
        cumulate(shrink, upto_v, after_v);
        scale(to_end_v, values, after_v);
    }

    // upto[i]: the product of the decays of rows before i; after[i]: of rows after i.
    static void cumulate(Matrix decay, Matrix upto, Matrix after) {
        for (int64_t c = 0; c < decay.columns; c += LANES) {
            Vec product = splat(1);
            store(upto.at(0, c), product);
            for (int64_t t = 0; t < CHUNK; ++t) store(upto.at(t + 1, c), product *= load(decay.at(t, c)));
            product = splat(1);
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                store(after.at(t, c), product);
                product *= load(decay.at(t, c));
            }
        }
    }

    // From the last writer back: a writer's readers are its first, under no decay, and those of the next writer.
    void find_between() const {
        for (int64_t c = 0; c < R; c += LANES) {
            Vec next{}, seen_by_next{};
            for (int64_t t = CHUNK - 1; t >= 0; --t) {
                const Vec seen = load(sees.at(t, c));
                next = seen - seen_by_next + (t + 1 < CHUNK ? decay.at(t + 1, 0)[0] : 0) * next;
                seen_by_next = seen;
                store(between.at(t, c), next);
            }
        }
    }
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
