// Products and transposes of blocks as functions that are called, not inlined: one compiled copy serves all kernels
// that need several of them, and a call costs a few nanoseconds.
#pragma once

#include "common/block.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void multiply(const Product& p);             // c = a b (+ add)
void multiply_transposed(const Product& p);  // c = aᵀ b (+ add)
void transpose_block(const float* from, float* to, int64_t columns);

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
