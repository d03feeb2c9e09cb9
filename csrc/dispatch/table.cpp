#include "common/simd.h"
#include "dispatch/kernels.h"

// Compiled once per instruction set, like the kernels it lists.
#define TEXT(name) #name
#define NAME_OF(name) TEXT(name)

namespace matrixstate {
namespace MATRIXSTATE_ISA {

void conv_forward(const ConvForward&);
void conv_backward(const ConvBackward&);
void m2rnn_forward(const M2rnnForward&);
void m2rnn_backward(const M2rnnBackward&);
void matrix_forward(const MatrixForward&);
void matrix_backward(const MatrixBackward&);
void normalise_forward(const NormaliseForward&);
void normalise_backward(const NormaliseBackward&);
void gated_conv_step(const GatedConvStep&);
void m2rnn_step(const M2rnnStep&);
void mru_step(const MruStep&);
void quotient_forward(const QuotientForward&);
void quotient_backward(const QuotientBackward&);
void rank_one_forward(const RankOneForward&);
void rank_one_backward(const RankOneBackward&);
void cell_forward(const CellForward&);
void cell_backward(const CellBackward&);
void mru_forward(const MruForward&);
void mru_backward(const MruBackward&);
void scan_forward(const ScanForward&);
void scan_backward(const ScanBackward&);
void snap_forward(const SnapForward&);
void snap_backward(const SnapBackward&);
double multiply_adds_per_second();

extern const Kernels table = {
    NAME_OF(MATRIXSTATE_ISA),
    LANES,
    conv_forward,
    conv_backward,
    m2rnn_forward,
    m2rnn_backward,
    matrix_forward,
    matrix_backward,
    normalise_forward,
    normalise_backward,
    gated_conv_step,
    m2rnn_step,
    mru_step,
    quotient_forward,
    quotient_backward,
    rank_one_forward,
    rank_one_backward,
    cell_forward,
    cell_backward,
    mru_forward,
    mru_backward,
    scan_forward,
    scan_backward,
    snap_forward,
    snap_backward,
    multiply_adds_per_second,
};

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
