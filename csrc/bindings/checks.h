// Checks of the arrays that Python passes, made before any of their pointers is used.
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

// Raises ValueError, naming function and argument, where an array is not what the kernel expects.
class Checker {
  public:
    explicit Checker(const char* function) : function_(function) {}

    // The sizes of an array, which must have `rank` axes.
    const int64_t* sizes(const char* name, const Array& array, size_t rank) const;
    // The data of an array of any shape that must be contiguous, on the CPU, and of `count` numbers of this type.
    void* flat(const char* name, const Array& array, int64_t count, Element element) const;
    float* flat_floats(const char* name, const Array& array, int64_t count) const {
        return static_cast<float*>(flat(name, array, count, Element::float32));
    }
    float* flat_floats(const char* name, const OptionalArray& array, int64_t count) const {
        return array ? flat_floats(name, *array, count) : nullptr;
    }
    // The data of an array that must be contiguous, on the CPU, and of this shape and element type.
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
    // An array of the element type of `like`, which must be float32 or bfloat16.
    Input input(const char* name, const Array& array, Shape shape, const Array& like) const;
    Output output(const char* name, const Array& array, Shape shape, const Array& like) const;
    Input flat_input(const char* name, const Array& array, int64_t count, const Array& like) const;
    Output flat_output(const char* name, const Array& array, int64_t count, const Array& like) const;
    // A float32 array of four axes, of which only the last must be dense.
    Sequence sequence(const char* name, const Array& array, Shape shape) const;
    void require(bool holds, const char* complaint) const {
        if (!holds) fail(complaint);
    }

  private:
    [[noreturn]] void fail(const std::string& complaint) const;
    void check_layout(const char* name, const Array& array, Shape shape, Element element) const;
    void* pointer(const char* name, const Array& array) const;
    Dtype dtype_of(const char* name, const Array& array) const;
    const char* function_;
};

}  // namespace matrixstate
