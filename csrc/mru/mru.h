// The MRU from the free elements of its matrices to its read-out (src/matrixstate/ops/mru/README.md derives both
// directions):
//     h[t] = f[t] h[t-1] X(elements[t]) + v[t]        y[t] = s(h[t]) h[t] W
// h is carried as m 2^e where `rescale` says so; s is 1, or brings h to the norm of the identity or near it.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

constexpr int64_t MRU_INTERVAL = 16;  // steps between the states that are kept for the backward pass

enum class MruBuilder { reshape_identity, ldu, cayley };
enum class MruReadout { state, normalised, bounded };

struct MruSizes {
    int64_t B, T, H, D, C;
    int64_t intervals() const { return (T + MRU_INTERVAL - 1) / MRU_INTERVAL; }
};

// How many free elements a matrix has.
inline int64_t mru_elements(MruBuilder builder, int64_t D) {
    return builder == MruBuilder::cayley ? D * (D - 1) / 2 : D * D;
}

// All arrays are dense and row-major. Inputs are never written, outputs are written in full.
struct MruInputs {
    MruSizes sizes;
    MruBuilder builder;
    MruReadout readout;
    float bound;           // of the bounded read-out
    bool rescale;          // not where v is given
    Input elements;        // [B, T, H, mru_elements]
    Input v;               // [B, T, H, D, D]; data null: nothing is added, and a reset puts in the identity, not zeros
    const float* decay;    // [B, T, H], f; or null: 1
    const float* down;     // [H, D, C], W
    const uint8_t* reset;  // [B, T], or null: nothing is reset
    const uint8_t* mask;   // [B, T], or null; where 0, X and f are 1 and v is 0
    int threads;           // changes no result
};

struct MruForward : MruInputs {
    const float* state;        // [B, H, D, D]
    const int32_t* exponent;   // [B, H] of the state, where `rescale`
    Output y;                  // [B, T, H, D, C]
    float* last;               // [B, H, D, D]; where `rescale`, with its largest |entry| in [1/2, 1)
    int32_t* last_exponent;    // [B, H], where `rescale`
    float* kept;               // [B, H, intervals, D, D]: m before every MRU_INTERVAL-th step, or null
    int32_t* kept_exponent;    // [B, H, intervals], where `rescale` and kept
};

struct MruBackward : MruInputs {
    const float* kept;             // as written by the forward pass
    const int32_t* kept_exponent;  // the same, where `rescale`
    Input dy;                      // [B, T, H, D, C]
    const float* dlast;            // [B, H, D, D]
    Output delements, dv;          // like elements and v; dv's data null where v's is
    float* ddecay;                 // like decay, null where that is
    float* ddown;                  // like down
    float* dstate;                 // like last
};

}  // namespace matrixstate
