// The module matrixstate._native. The functions of each op are in its folder's bind.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "dispatch/kernels.h"

namespace nb = nanobind;

namespace matrixstate {
void bind_conv(nb::module_& m);
void bind_m2rnn(nb::module_& m);
void bind_matrix(nb::module_& m);
void bind_cells(nb::module_& m);
void bind_quotient(nb::module_& m);
void bind_rank_one(nb::module_& m);
void bind_mru(nb::module_& m);
void bind_scan(nb::module_& m);
void bind_snap(nb::module_& m);
}

static std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    const matrixstate::KernelList& list = matrixstate::runnable_kernels();
    for (int i = 0; i < list.count; ++i) names.emplace_back(list.tables[i]->instruction_set);
    return names;
}

static void use_instruction_set(const std::string& name) {
    const matrixstate::KernelList& list = matrixstate::runnable_kernels();
    for (int i = 0; i < list.count; ++i)
        if (name == list.tables[i]->instruction_set) return matrixstate::use_kernels(*list.tables[i]);
    throw nb::value_error(("instruction set: this processor cannot run " + name).c_str());
}

NB_MODULE(_native, m) {
    m.doc() = "Compiled kernels. Called by the kernel_cpu modules of matrixstate.ops only.";
    m.def("instruction_sets", &instruction_sets, "Those this processor can run, the best last.");
    m.def("instruction_set", [] { return std::string(matrixstate::kernels().instruction_set); }, "The one in use.");
    m.def("use_instruction_set", &use_instruction_set, nb::arg("name"), "For tests: from now on use this one.");
    m.def("lanes", [] { return matrixstate::kernels().lanes; }, "The float32 numbers in a vector.");
    m.def("multiply_adds_per_second", [] { return matrixstate::kernels().multiply_adds_per_second(); },
          "Of vectors, at one thread, measured now.");
    matrixstate::bind_conv(m);
    matrixstate::bind_m2rnn(m);
    matrixstate::bind_matrix(m);
    matrixstate::bind_cells(m);
    matrixstate::bind_quotient(m);
    matrixstate::bind_rank_one(m);
    matrixstate::bind_mru(m);
    matrixstate::bind_scan(m);
    matrixstate::bind_snap(m);
    // read here, and not at the first call, so that a name that cannot run fails the import with a message
    const char* wanted = std::getenv("MATRIXSTATE_INSTRUCTION_SET");
    if (wanted != nullptr && *wanted != '\0') use_instruction_set(wanted);
}
