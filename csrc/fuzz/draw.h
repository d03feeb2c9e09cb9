// Random arrays in allocations of exactly their size, so that the sanitizers detect any access out of bounds.
#pragma once

#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "dispatch/kernels.h"

using namespace matrixstate;

static std::mt19937 generator;

static int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// An array with an allocation of its own, bfloat16 or float32.
class Numbers {
  public:
    Numbers(int64_t count, Dtype dtype) : count_(count), dtype_(dtype), bytes_(count * width()) {}
    Numbers& random(float low, float high) {
        for (int64_t i = 0; i < count_; ++i) set(i, std::uniform_real_distribution<float>(low, high)(generator));
        return *this;
    }
    Numbers& poison() {
        for (int64_t i = 0; i < count_; ++i) set(i, NAN);
        return *this;
    }
    bool finite() const {
        for (int64_t i = 0; i < count_; ++i)
            if (!std::isfinite(get(i))) return false;
        return true;
    }
    Input in() const { return {bytes_.data(), dtype_}; }
    Output out() { return {bytes_.data(), dtype_}; }
    float* floats() { return reinterpret_cast<float*>(bytes_.data()); }

  private:
    int64_t width() const { return dtype_ == Dtype::float32 ? 4 : 2; }
    void set(int64_t i, float value) {
        uint32_t bits;
        __builtin_memcpy(&bits, &value, 4);
        const uint16_t half = static_cast<uint16_t>(bits >> 16);
        if (dtype_ == Dtype::float32) __builtin_memcpy(bytes_.data() + 4 * i, &bits, 4);
        else __builtin_memcpy(bytes_.data() + 2 * i, &half, 2);
    }
    float get(int64_t i) const {
        uint32_t bits = 0;
        float value;
        if (dtype_ == Dtype::float32) __builtin_memcpy(&bits, bytes_.data() + 4 * i, 4);
        else __builtin_memcpy(reinterpret_cast<char*>(&bits) + 2, bytes_.data() + 2 * i, 2);
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
    int64_t count_;
    Dtype dtype_;
    std::vector<unsigned char> bytes_;
};

// Owns the arrays of one call. Outputs begin as NaN and must be finite afterwards: a kernel writes them in full.
class Arrays {
  public:
    Numbers& input(int64_t count, Dtype dtype = Dtype::float32, float low = -1, float high = 1) {
        return add(count, dtype).random(low, high);
    }
    Numbers& output(int64_t count, Dtype dtype = Dtype::float32) {
        Numbers& numbers = add(count, dtype).poison();
        written_.push_back(&numbers);
        return numbers;
    }
    const uint8_t* flags(int64_t count) {
        if (pick(0, 1)) return nullptr;
        flags_.resize(count);
        for (uint8_t& flag : flags_) flag = pick(0, 5) == 0;
        return flags_.data();
    }
    bool all_written() const {
        for (const Numbers* numbers : written_)
            if (!numbers->finite()) return false;
        return true;
    }

  private:
    Numbers& add(int64_t count, Dtype dtype) {
        owned_.push_back(std::make_unique<Numbers>(count, dtype));
        return *owned_.back();
    }
    std::vector<std::unique_ptr<Numbers>> owned_;
    std::vector<Numbers*> written_;
    std::vector<uint8_t> flags_;
};

static int64_t divisor_of(int64_t n) {
    int64_t d = pick(1, n);
    while (n % d) --d;
    return d;
}
