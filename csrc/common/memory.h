// Arrays as the kernels take them, and scratch memory. Plain data, compiled once and shared by all instruction sets.
#pragma once

#include <cstdint>

namespace matrixstate {

enum class Dtype { float32, bfloat16 };

// A dense array. Kernels compute in float32 whatever the storage dtype is.
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

// `count` floats, aligned to a cache line, uninitialised. Throws std::bad_alloc.
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

// A bump allocator over a buffer: take() returns the next `count` floats, aligned to a cache line. With memory = null
// it only counts, so that the code that lays out scratch memory also says how large its buffer must be.
struct Arena {
    float* memory;
    int64_t used = 0;
    float* take(int64_t count);
};

}  // namespace matrixstate
