// A product with the same weights over and over: out = x w, or plus + x w, for few rows of x.
#pragma once

#include <cstdint>

namespace matrixstate {

// Columns of a panel. The weights [terms, columns] are stored as [columns / PANEL, terms, PANEL], to be read in order.
constexpr int64_t PANEL = 32;

struct PanelProduct {
    int64_t rows, terms, columns;
    const float *x, *panels, *plus;  // [rows, terms]; the weights; [rows, columns] or null
    float* out;                      // [rows, columns]
    int threads;                     // changes no result
};

}  // namespace matrixstate
