// Runs every kernel of every instruction set on random shapes. Compiled with the sanitizers, it detects accesses out of
// bounds; it also checks that outputs are written in full, and that no uninitialised scratch memory is used.
// Usage: fuzz [seconds] [seed]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fuzz/cells.h"
#include "fuzz/conv.h"
#include "fuzz/m2rnn.h"
#include "fuzz/matrix.h"
#include "fuzz/mru.h"
#include "fuzz/quotient.h"
#include "fuzz/rank_one.h"
#include "fuzz/scan.h"
#include "fuzz/snap.h"
#include "fuzz/steps.h"

// Fills scratch memory, the only memory with an alignment, with NaN, so that uninitialised reads show in the outputs.
void* operator new(std::size_t size, std::align_val_t alignment) {
    void* memory = nullptr;
    if (posix_memalign(&memory, static_cast<std::size_t>(alignment), size) != 0) throw std::bad_alloc();
    return std::memset(memory, 0xff, size);
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }

int main(int count, char** arguments) {
    const double seconds = count > 1 ? std::atof(arguments[1]) : 20;
    const unsigned first = count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 0;
    const auto begin = std::chrono::steady_clock::now();
    unsigned seed = first;
    for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds; ++seed)
        for (int i = 0; i < runnable_kernels().count; ++i) {
            const Kernels& kernels = *runnable_kernels().tables[i];
            generator.seed(seed);
            if (!run_m2rnn(kernels) || !run_conv(kernels) || !run_matrix(kernels) || !run_normalise(kernels) ||
                !run_steps(kernels) || !run_rank_one(kernels) || !run_mru(kernels) || !run_cells(kernels) ||
                !run_scan(kernels) || !run_snap(kernels) || !run_quotient(kernels)) {
                std::printf("%s: an output was not written in full: seed %u\n", kernels.instruction_set, seed);
                return 1;
            }
        }
    std::printf("%u passed, 0 failed\n", seed - first);
    return 0;
}
