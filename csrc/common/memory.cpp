#include "common/memory.h"

#include <cstddef>
#include <new>

namespace matrixstate {

static constexpr std::align_val_t CACHE_LINE{64};

Buffer::Buffer(int64_t count)
    : data_(static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), CACHE_LINE))) {}

Buffer::~Buffer() { ::operator delete(data_, CACHE_LINE); }

float* Arena::take(int64_t count) {
    constexpr int64_t UNIT = 64 / sizeof(float);
    float* taken = memory == nullptr ? nullptr : memory + used;
    used += (count + UNIT - 1) / UNIT * UNIT;
    return taken;
}

}  // namespace matrixstate
