#include "common/products.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

namespace {

// Square blocks without padding take the variant with constant addresses.
template <bool TRANSPOSED>
INLINE void multiply_any(const Product& p) {
    dispatch_order(p.columns, [&](auto order) {
        constexpr int P = decltype(order)::value;
        if (P > 0 && p.rows == P && p.count == P && p.a_stride == P) product<P, TRANSPOSED, (P > 0)>(p);
        else product<P, TRANSPOSED, false>(p);
    });
}

}  // namespace

void multiply(const Product& p) { multiply_any<false>(p); }
void multiply_transposed(const Product& p) { multiply_any<true>(p); }

void transpose_block(const float* from, float* to, int64_t columns) {
    dispatch_order(columns, [&](auto order) { transpose<decltype(order)::value>(from, to, columns); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
