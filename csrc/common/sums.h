// Sums of the partial results of heads, batch rows and slices that share one output, always in the same order: results
// are then the same bits for any number of threads.
#pragma once

#include "common/parallel.h"
#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// out [outer, inner] = the sum of parts [outer, group, inner] over its middle axis.
inline void sum_groups(const float* parts, Output out, int64_t outer, int64_t group, int64_t inner, int threads) {
    constexpr int64_t BLOCK = 64, BLOCKS_OF_A_TASK = 32;
    const int64_t blocks = divide_up(inner, BLOCK), all = outer * blocks;
    parallel_for(divide_up(all, BLOCKS_OF_A_TASK), threads, [&](int64_t task, int) {
        for (int64_t p = task * BLOCKS_OF_A_TASK; p < all && p < (task + 1) * BLOCKS_OF_A_TASK; ++p) {
            const int64_t o = p / blocks, begin = p % blocks * BLOCK;
            const int64_t count = inner - begin < BLOCK ? inner - begin : BLOCK;
            const float* from = parts + o * group * inner + begin;
            float sum[BLOCK] = {};
            for (int64_t g = 0; g < group; ++g)
                for (int64_t i = 0; i < count; ++i) sum[i] += from[g * inner + i];
            write(out, o * inner + begin, count, sum);
        }
    });
}

// A gradient that several tasks contribute to: they write partial sums [outer, group, inner] to `sink`, and reduce()
// adds them up over `group`. With one task per output the sink is the output itself.
class PartialSums {
  public:
    PartialSums(Output to, int64_t outer, int64_t group, int64_t inner)
        : to_(to), outer_(outer), group_(group), inner_(inner), parts_(group != 1 ? outer * group * inner : 0) {}
    Output sink() const { return group_ != 1 ? Output{parts_.data(), Dtype::float32} : to_; }
    void reduce(int threads) const {
        if (group_ != 1) sum_groups(parts_.data(), to_, outer_, group_, inner_, threads);
    }

  private:
    Output to_;
    int64_t outer_, group_, inner_;
    Buffer parts_;
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
