#include <chrono>

#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// Vector multiply-adds per second of one thread: as many independent sums as the registers hold, which hides latency.
double multiply_adds_per_second() {
    constexpr int SUMS = REGISTERS - 4, ROUNDS = 20000;
    Vec sums[SUMS], x = splat(0.999f), y = splat(1e-3f);
    UNROLL for (int i = 0; i < SUMS; ++i) sums[i] = splat(static_cast<float>(i));
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < ROUNDS; ++round) {
        UNROLL for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * x + y;
    }
    const auto end = std::chrono::steady_clock::now();
    for (int i = 1; i < SUMS; ++i) sums[0] += sums[i];
    volatile float used = lane_sum(sums[0]);  // or the compiler would remove the loop
    (void)used;
    return double(SUMS) * ROUNDS / std::chrono::duration<double>(end - begin).count();
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
