#include "conv/step.h"

#include "common/parallel.h"
#include "common/step_parts.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {

// One pass per row of the batch; x and gate are widened into scratch memory of the thread.
void gated_conv_step(const GatedConvStep& in) {
    const int64_t C = in.conv.channels;
    Buffer buffer(2 * C * in.threads);
    parallel_for(in.B, in.threads, [&](int64_t b, int thread) {
        float *x = buffer.data() + 2 * C * thread, *gate = x + C;
        read(in.x, b * C, C, x);
        read(in.gate, b * C, C, gate);
        convolve(in.conv, b, x);
        gate_and_norm(x, gate, C, C, 1, in.norm, in.y, b);
    });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
