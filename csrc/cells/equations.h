// The equations of one step of each cell and of its gradient (ops/cells/README.md), and the choice among them.
#pragma once

#include "cells/diagonal.h"
#include "cells/gated.h"
#include "cells/lstm.h"
#include "cells/slstm.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

template <CellKind KIND>
struct EquationsOf {
    using Type = Lstm<KIND>;
};
template <> struct EquationsOf<CellKind::rnn> { using Type = Rnn; };
template <> struct EquationsOf<CellKind::gru> { using Type = Gru; };
template <> struct EquationsOf<CellKind::gru_after> { using Type = GruAfter; };
template <> struct EquationsOf<CellKind::mgu> { using Type = Mgu; };
template <> struct EquationsOf<CellKind::lem> { using Type = Lem; };
template <> struct EquationsOf<CellKind::slstm> { using Type = Slstm; };
template <> struct EquationsOf<CellKind::multiplicative_lstm> { using Type = MultiplicativeLstm; };
template <> struct EquationsOf<CellKind::indrnn> { using Type = IndRnn; };
template <> struct EquationsOf<CellKind::elstm> { using Type = ELstm; };

// Runs Kernel<Cell>(in) for the cell in.kind.
template <template <class> class Kernel, class Inputs, int KIND = 0>
void run_cell(const Inputs& in) {
    if (static_cast<int>(in.kind) == KIND)
        return Kernel<typename EquationsOf<static_cast<CellKind>(KIND)>::Type>(in).run();
    if constexpr (KIND + 1 < CELL_KINDS) run_cell<Kernel, Inputs, KIND + 1>(in);
}

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
