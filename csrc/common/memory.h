// Arrays that cross into the kernels, and scratch memory. Plain data here, so that every instruction set shares it.
#pragma once

#include <cstdint>

namespace matrixstate {

enum class Dtype { float32, bfloat16 };

// A dense array; a kernel computes in float32 whatever it is stored in.
struct Input {
    const void* data;
    Dtype dtype;
};
struct Output {
    void* data;
    Dtype dtype;
};

// A float32 array [B, T, H, channels] of which only the last axis need be dense.
struct Sequence {
    const float* data;
    int64_t row, step, head;  // strides
    const float* at(int64_t b, int64_t t, int64_t h) const { return data + b * row + t * step + h * head; }
};

// `count` floats, aligned to a cache line, not initialised. Throws std::bad_alloc.
class Buffer {
  public:
    explicit Buffer(int64_t count);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    float* data() const { return data_; }

  private:
    float* data_;
};

// Hands out aligned pieces of a buffer. From null it only counts, which tells how large the buffer must be.
struct Pieces {
    float* memory;
    int64_t used = 0;
    float* take(int64_t count);
};

}  // namespace matrixstate
