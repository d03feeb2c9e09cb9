// The table of all kernels, compiled once per instruction set, and the choice of a table at run time.
#pragma once

#include "cells/cells.h"
#include "conv/conv.h"
#include "conv/step.h"
#include "m2rnn/m2rnn.h"
#include "m2rnn/step.h"
#include "matrix/matrix.h"
#include "matrix/normalise.h"
#include "mru/mru.h"
#include "mru/step.h"
#include "quotient/quotient.h"
#include "rank_one/rank_one.h"
#include "scan/scan.h"
#include "snap/snap.h"

namespace matrixstate {

struct Kernels {
    const char* instruction_set;
    int lanes;  // float32 numbers in a vector
    void (*conv_forward)(const ConvForward&);
    void (*conv_backward)(const ConvBackward&);
    void (*m2rnn_forward)(const M2rnnForward&);
    void (*m2rnn_backward)(const M2rnnBackward&);
    void (*matrix_forward)(const MatrixForward&);
    void (*matrix_backward)(const MatrixBackward&);
    void (*normalise_forward)(const NormaliseForward&);
    void (*normalise_backward)(const NormaliseBackward&);
    void (*gated_conv_step)(const GatedConvStep&);
    void (*m2rnn_step)(const M2rnnStep&);
    void (*mru_step)(const MruStep&);
    void (*quotient_forward)(const QuotientForward&);
    void (*quotient_backward)(const QuotientBackward&);
    void (*rank_one_forward)(const RankOneForward&);
    void (*rank_one_backward)(const RankOneBackward&);
    void (*cell_forward)(const CellForward&);
    void (*cell_backward)(const CellBackward&);
    void (*mru_forward)(const MruForward&);
    void (*mru_backward)(const MruBackward&);
    void (*scan_forward)(const ScanForward&);
    void (*scan_backward)(const ScanBackward&);
    void (*snap_forward)(const SnapForward&);
    void (*snap_backward)(const SnapBackward&);
    double (*multiply_adds_per_second)();  // of vectors: the peak that benchmarks compare with
};

// One table per instruction set, defined by table.cpp in the namespace of the instruction set.
namespace baseline { extern const Kernels table; }
namespace x86_64_v3 { extern const Kernels table; }
namespace x86_64_v4 { extern const Kernels table; }

// The tables that this processor can run, from the oldest instruction set to the newest.
struct KernelList {
    const Kernels* tables[3];
    int count;
};
const KernelList& runnable_kernels();

// The table in use: the last of the list, unless use_kernels() chose another.
const Kernels& kernels();
void use_kernels(const Kernels& table);

}  // namespace matrixstate
