// Checks of the arrays that Python passes, before any pointer of theirs is used.
#pragma once

#include <nanobind/stl/optional.h>

#include <initializer_list>
#include <string>

#include "bindings/array.h"
#include "common/memory.h"

namespace matrixstate {

using OptionalArray = std::optional<Array>;
using Shape = std::initializer_list<int64_t>;

enum class Element { float32, bfloat16, int32, boolean, other };

// Names a function in every complaint; raises ValueError where an array is not what the kernel takes.
class Checker {
  public:
    explicit Checker(const char* function) : function_(function) {}

    // The sizes of an array of `rank` axes.
    const int64_t* sizes(const char* name, const Array& array, size_t rank) const;
    // A dense array on the CPU of exactly this shape and element type.
    void* data(const char* name, const Array& array, Shape shape, Element element) const;
    float* floats(const char* name, const Array& array, Shape shape) const {
        return static_cast<float*>(data(name, array, shape, Element::float32));
    }
    float* floats(const char* name, const OptionalArray& array, Shape shape) const {
        return array ? floats(name, *array, shape) : nullptr;
    }
    int32_t* integers(const char* name, const OptionalArray& array, Shape shape) const {
        return array ? static_cast<int32_t*>(data(name, *array, shape, Element::int32)) : nullptr;
    }
    const uint8_t* flags(const char* name, const OptionalArray& array, Shape shape) const {
        return array ? static_cast<const uint8_t*>(data(name, *array, shape, Element::boolean)) : nullptr;
    }
    // An array whose element type is that of `like`, which must be float32 or bfloat16.
    Input input(const char* name, const Array& array, Shape shape, const Array& like) const;
    Output output(const char* name, const Array& array, Shape shape, const Array& like) const;
    // A float32 array of four axes, the last one dense.
    Sequence sequence(const char* name, const Array& array, Shape shape) const;
    void require(bool holds, const char* complaint) const {
        if (!holds) fail(complaint);
    }

  private:
    [[noreturn]] void fail(const std::string& complaint) const;
    void form(const char* name, const Array& array, Shape shape, Element element) const;
    void* memory(const char* name, const Array& array) const;
    Dtype storage(const char* name, const Array& array) const;
    const char* function_;
};

}  // namespace matrixstate
