// Loops over independent tasks. Included by kernels only: everything is in the namespace of an instruction set.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstring>

#include "common/memory.h"

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

// work(task) for every task < count, for loops that are run over and over: a thread takes the same tasks each time,
// from the last to the first where `back`, so that it finds in its cache what it used last.
template <class Work>
void parallel_sweep(int64_t count, int threads, bool back, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1 && count > 1)
    for (int part = 0; part < threads; ++part) {
        const int64_t begin = count * part / threads, end = count * (part + 1) / threads;
        for (int64_t task = begin; task < end; ++task) work(back ? begin + end - 1 - task : task);
    }
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
