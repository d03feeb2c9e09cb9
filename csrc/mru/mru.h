// The MRU from the free elements of its matrices to its read-out (derived in src/matrixstate/ops/mru/README.md):
//     h[t] = f[t] h[t-1] X(elements[t]) + v[t]        y[t] = s(h[t]) h[t] W
// With `rescale`, h is m 2^e, e an integer. s is 1 (state), or scales h to the norm of the identity (normalised), or
// keeps a bounded part of its size (bounded).
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

// Steps between two states that the forward pass saves; the backward pass recomputes those in between.
constexpr int64_t MRU_INTERVAL = 16;

enum class MruBuilder { reshape_identity, ldu, cayley };
enum class MruReadout { state, normalised, bounded };

struct MruSizes {
    int64_t B, T, H, D, C;
    int64_t intervals() const { return (T + MRU_INTERVAL - 1) / MRU_INTERVAL; }
};

// The number of free elements of a matrix.
inline int64_t mru_elements(MruBuilder builder, int64_t D) {
    return builder == MruBuilder::cayley ? D * (D - 1) / 2 : D * D;
}

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct MruInputs {
    MruSizes sizes;
    MruBuilder builder;
    MruReadout readout;
    float bound;           // of the bounded read-out
    bool rescale;          // false where v is given
    Input elements;        // [B, T, H, mru_elements]
    Input v;               // [B, T, H, D, D]; data null: nothing is added, and a reset is to the identity, not zeros
    const float* decay;    // [B, T, H], f; or null: 1
    const float* down;     // [H, D, C], W
    const uint8_t* reset;  // [B, T]; where 1, the state is reset before the step. Null: no resets
    const uint8_t* mask;   // [B, T]; where 0, the step is padding: X = I, f = 1, v = 0. Null: no padding
    int threads;           // changes no result
};

struct MruForward : MruInputs {
    const float* state;       // [B, H, D, D]
    const int32_t* exponent;  // [B, H] of the state, where `rescale`
    Output y;                 // [B, T, H, D, C]
    float* last;              // [B, H, D, D]; where `rescale`, with its largest |entry| in [1/2, 1)
    int32_t* last_exponent;   // [B, H], where `rescale`
    float* saved;             // [B, H, intervals, D, D]: m before every MRU_INTERVAL-th step, or null
    int32_t* saved_exponent;  // [B, H, intervals], where `rescale` and saved
};

struct MruBackward : MruInputs {
    const float* saved;             // as written by the forward pass
    const int32_t* saved_exponent;  // the same, where `rescale`
    Input dy;                       // [B, T, H, D, C]
    const float* dlast;             // [B, H, D, D]
    Output delements, dv;           // like elements and v; dv's data null where v's is
    float* ddecay;                  // like decay, null where that is
    float* ddown;                   // like down
    float* dstate;                  // like last
};

}  // namespace matrixstate
