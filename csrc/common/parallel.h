// Parallel loops over independent tasks. Included by kernels only: all of it is in the namespace of an instruction set.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstring>

#include "common/memory.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// work(task, thread) for every task < count, with thread < threads. A task's result may depend on neither the thread
// nor the order, so that results do not depend on the number of threads. Tasks are dynamically scheduled, as they
// differ in length and other processes may hold up a thread.
template <class Work>
void parallel_for(int64_t count, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1 && count > 1)
    for (int64_t task = 0; task < count; ++task) work(task, omp_get_thread_num());
}

// work(task) for every task < count, for a loop that is run once per step: each thread takes the same tasks every time,
// in reverse order where `back`, so that what it used last, which is still in its cache, is used first.
template <class Work>
void parallel_sweep(int64_t count, int threads, bool back, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1 && count > 1)
    for (int part = 0; part < threads; ++part) {
        const int64_t begin = count * part / threads, end = count * (part + 1) / threads;
        for (int64_t task = begin; task < end; ++task) work(back ? begin + end - 1 - task : task);
    }
}

// Runs all tasks: make(task, arena) constructs one, with its scratch memory from `arena`. Each thread has one region of
// scratch memory, zeroed once; tasks lay it out alike, so padding that no task writes stays zero for all of them.
template <class Make>
void run_tasks(int64_t tasks, int threads, const Make& make) {
    if (tasks == 0) return;
    Arena sizing{nullptr};
    make(0, sizing);
    Buffer scratch(sizing.used * threads);
    std::memset(scratch.data(), 0, sizing.used * threads * sizeof(float));
    parallel_for(tasks, threads, [&](int64_t task, int thread) {
        Arena arena{scratch.data() + thread * sizing.used};
        make(task, arena).run();
    });
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
