#include "dispatch/kernels.h"

#include <atomic>

namespace matrixstate {

static KernelList find_runnable() {
    KernelList list{{&baseline::table, nullptr, nullptr}, 1};
#ifdef MATRIXSTATE_X86
    // The features that kernels.cmake's -march flags (x86-64-v3, v4) let the compiler use.
    __builtin_cpu_init();
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
    if (v3) list.tables[list.count++] = &x86_64_v3::table;
    if (v4) list.tables[list.count++] = &x86_64_v4::table;
#endif
    return list;
}

const KernelList& runnable_kernels() {
    static const KernelList list = find_runnable();
    return list;
}

// Atomic, as calls release the GIL. Two first calls may both choose, but choose the same.
static std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() {
    const Kernels* table = chosen.load();
    if (table == nullptr) {
        const KernelList& list = runnable_kernels();
        table = list.tables[list.count - 1];
        chosen.store(table);
    }
    return *table;
}

void use_kernels(const Kernels& table) { chosen.store(&table); }

}  // namespace matrixstate
