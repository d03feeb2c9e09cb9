#include "matrix/normalise.h"

#include <cfloat>

#include "common/parallel.h"
#include "common/simd.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// work(n) for every matrix.
template <class Work>
void for_matrices(const NormaliseSizes& s, int threads, const Work& work) {
    constexpr int64_t OF_A_TASK = 64;
    parallel_for(divide_up(s.count, OF_A_TASK), threads, [&](int64_t task, int) {
        const int64_t begin = task * OF_A_TASK, end = begin + OF_A_TASK < s.count ? begin + OF_A_TASK : s.count;
        for (int64_t n = begin; n < end; ++n) work(n);
    });
}

// Calls work(at, count) for the vectors of a matrix; `count` is LANES except for the last.
template <class Work>
INLINE void for_lanes(int64_t floats, const Work& work) {
    int64_t i = 0;
    for (; i + LANES <= floats; i += LANES) work(i, LANES);
    if (i < floats) work(i, floats - i);
}

INLINE Input floats(const float* data) { return {data, Dtype::float32}; }
INLINE Output floats(float* data) { return {data, Dtype::float32}; }

template <Dtype TYPE>
void forward(const NormaliseForward& in) {
    const int64_t floats_of_one = in.sizes.floats;
    for_matrices(in.sizes, in.threads, [&](int64_t n) {
        const int64_t first = n * floats_of_one;
        Vec squares{};
        for_lanes(floats_of_one, [&](int64_t i, int64_t count) INLINE_LAMBDA {
            const Vec x = read_lanes(floats(in.m), first + i, count);
            squares += x * x;
        });
        const float norm = __builtin_sqrtf(lane_sum(squares));
        const float size = (norm < FLT_MIN ? FLT_MIN : norm) / in.sizes.sqrt_order;
        in.size[n] = size;
        for_lanes(floats_of_one, [&](int64_t i, int64_t count) INLINE_LAMBDA {
            write_lanes({in.h.data, TYPE}, first + i, count, read_lanes(floats(in.m), first + i, count) / size);
        });
    });
}

// dm = dh / size + (dsize - <dh, m> / size²) m / (D size), from size = sqrt(<m, m> / D). Where size was clamped it is a
// constant, and the second term is zero.
template <Dtype TYPE>
void backward(const NormaliseBackward& in) {
    const float order = in.sizes.sqrt_order * in.sizes.sqrt_order;
    const int64_t floats_of_one = in.sizes.floats;
    for_matrices(in.sizes, in.threads, [&](int64_t n) {
        const int64_t first = n * floats_of_one;
        const float size = in.size[n], inverse = 1.0f / size;
        float radial = 0;
        if (!(size <= FLT_MIN / in.sizes.sqrt_order)) {
            Vec projection{};
            for_lanes(floats_of_one, [&](int64_t i, int64_t count) INLINE_LAMBDA {
                projection +=
                    read_lanes({in.dh.data, TYPE}, first + i, count) * read_lanes(floats(in.m), first + i, count);
            });
            radial = (in.dsize[n] - lane_sum(projection) * inverse * inverse) * inverse / order;
        }
        for_lanes(floats_of_one, [&](int64_t i, int64_t count) INLINE_LAMBDA {
            const Vec dh = read_lanes({in.dh.data, TYPE}, first + i, count);
            write_lanes(floats(in.dm), first + i, count,
                        inverse * dh + radial * read_lanes(floats(in.m), first + i, count));
        });
    });
}

}  // namespace

void normalise_forward(const NormaliseForward& in) {
    in.h.dtype == Dtype::float32 ? forward<Dtype::float32>(in) : forward<Dtype::bfloat16>(in);
}

void normalise_backward(const NormaliseBackward& in) {
    in.dh.dtype == Dtype::float32 ? backward<Dtype::float32>(in) : backward<Dtype::bfloat16>(in);
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
