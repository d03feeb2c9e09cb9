// The last pass of the scaled matrix scan: a matrix as one of constant norm and its size,
//     size = max(|m|, smallest normal) / sqrt(D),    h = m / size.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace matrixstate {

struct NormaliseSizes {
    int64_t count, floats;  // matrices, and the numbers of one
    float sqrt_order;       // sqrt(D)
};

struct NormaliseForward {
    NormaliseSizes sizes;
    const float* m;  // [count, floats]
    Output h;        // [count, floats]
    float* size;     // [count]
    int threads;     // changes no result
};

struct NormaliseBackward {
    NormaliseSizes sizes;
    const float *m, *size;  // input and output of the forward pass
    Input dh;               // [count, floats]
    const float* dsize;     // [count]
    float* dm;              // [count, floats]
    int threads;
};

}  // namespace matrixstate
