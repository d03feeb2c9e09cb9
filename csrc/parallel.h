// Loops over independent tasks. Included by kernels only: everything is in the namespace of an instruction set.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstring>

#include "memory.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// work(task, thread) for every task < count, with thread < threads. What a task computes may depend on neither the
// thread nor the order, so results do not depend on the number of threads.
template <class Work>
void parallel_for(int64_t count, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1 && count > 1)
    for (int64_t task = 0; task < count; ++task) work(task, omp_get_thread_num());
}

// Runs all tasks of one kind; make(task, pieces) makes one, its scratch memory taken from `pieces`, where what is
// padded stays zero.
template <class Make>
void run_tasks(int64_t tasks, int threads, const Make& make) {
    if (tasks == 0) return;
    Pieces counted{nullptr};
    make(0, counted);
    Buffer scratch(counted.used * threads);
    std::memset(scratch.data(), 0, counted.used * threads * sizeof(float));
    parallel_for(tasks, threads, [&](int64_t task, int thread) {
        Pieces pieces{scratch.data() + thread * counted.used};
        make(task, pieces).run();
    });
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
