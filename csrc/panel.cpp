#include "panel.h"
#include "parallel.h"
#include "tiles.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

constexpr int WIDE = PANEL / LANES;              // vectors of a panel
constexpr int HIGH = REGISTERS / 2 / WIDE;       // rows of a tile
constexpr int64_t PANELS_OF_A_TASK = 8;

template <int R>
INLINE void tile(const PanelProduct& in, const float* panel, int64_t row, int64_t column) {
    Vec acc[R][WIDE];
    const float* plus = in.plus + row * in.columns + column;
    UNROLL for (int i = 0; i < R; ++i)
        UNROLL for (int n = 0; n < WIDE; ++n)
            acc[i][n] = in.plus == nullptr ? Vec{} : load(plus + i * in.columns + n * LANES);
    multiply<R, WIDE>(acc, {in.x + row * in.terms, in.terms, 1}, panel, PANEL, in.terms);
    float* out = in.out + row * in.columns + column;
    UNROLL for (int i = 0; i < R; ++i)
        UNROLL for (int n = 0; n < WIDE; ++n) store(out + i * in.columns + n * LANES, acc[i][n]);
}

}  // namespace

void panel_product(const PanelProduct& in) {
    const int64_t panels = in.columns / PANEL;
    parallel_for(divide_up(panels, PANELS_OF_A_TASK), in.threads, [&](int64_t task, int) {
        for (int64_t p = task * PANELS_OF_A_TASK; p < panels && p < (task + 1) * PANELS_OF_A_TASK; ++p) {
            const float* panel = in.panels + p * in.terms * PANEL;
            int64_t row = 0;
            for (; row + HIGH <= in.rows; row += HIGH) tile<HIGH>(in, panel, row, p * PANEL);
            for (; row < in.rows; ++row) tile<1>(in, panel, row, p * PANEL);
        }
    });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
