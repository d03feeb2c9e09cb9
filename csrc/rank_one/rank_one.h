// Recurrences whose transition is diagonal plus rank one, over rows j = 0 ... T M - 1, M rows (micro-steps) to a step:
//     S[j] = (diag(d[j]) + write[j] read[j]ᵀ) S[j-1] diag(c[j]) + e^input[j] k[j] v[j]ᵀ
//     y[t] = q[t]ᵀ S[last row of t],   or with read_before   q[t]ᵀ (S[t-1] + diag(bonus) k[t] v[t]ᵀ)
// src/matrixstate/ops/delta/README.md and ops/outer/README.md derive both directions.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// Rows between two states that the forward pass saves for the backward pass.
constexpr int64_t RANK_ONE_INTERVAL = 64;

struct RankOneSizes {
    int64_t B, T, M, H, K, V;
    int64_t rows() const { return T * M; }
    int64_t intervals() const { return (rows() + RANK_ONE_INTERVAL - 1) / RANK_ONE_INTERVAL; }
};

// All arrays are dense and row-major, and null where absent. Inputs are never written, outputs are written in full.
// Without `read` and `beta` there is no rank-one part; log_decay_v, log_input, bonus and read_before need that and
// M = 1. `beta` is the delta rule: read = d ∘ k, write = -beta k, and beta k instead of k.
struct RankOneInputs {
    RankOneSizes sizes;
    Input q, k, v;           // [B, T, H, K], [B, T M, H, K], [B, T M, H, V]
    Input read, write;       // like k; write absent: -k
    const float* beta;       // [B, T M, H], instead of read and write
    const float* log_decay;  // of d, at the first row of a step: [B, T, H, K] if per_channel, else [B, T, H]
    bool per_channel;
    const float* log_decay_v;  // of c: [B, T, H, V]
    const float* log_input;    // [B, T, H]
    const float* bonus;        // [H, K], with read_before
    bool read_before;
    const uint8_t* reset;  // [B, T]; where 1, S is zero before the step
    int threads;           // changes no result
    bool reads() const { return read.data != nullptr || beta != nullptr; }
};

struct RankOneForward : RankOneInputs {
    const float* state;  // [B, H, K, V]
    Output y;            // [B, T, H, V]
    float* last;         // [B, H, K, V]
    float* saved;        // [B, H, intervals, K, V]: S before every RANK_ONE_INTERVAL-th row, or null
    float* saved_reads;  // [B, T M, H, V]: read[j]ᵀ S[j-1]; null without saved or reads()
};

struct RankOneBackward : RankOneInputs {
    const float *saved, *saved_reads;  // as written by the forward pass
    Input dy;                          // [B, T, H, V]
    const float* dlast;                // [B, H, K, V]
    Output dq, dk, dv, dread, dwrite;  // like q, k, v, read, write; likewise absent
    float *dbeta, *dlog_decay, *dlog_decay_v, *dlog_input, *dbonus, *dstate;
};

}  // namespace matrixstate
