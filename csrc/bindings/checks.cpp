#include "bindings/checks.h"

namespace matrixstate {

static Element element_of(const Array& array) {
    const nb::dlpack::dtype type = array.dtype();
    if (type == nb::dtype<float>()) return Element::float32;
    if (type == nb::dlpack::dtype{uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1}) return Element::bfloat16;
    if (type == nb::dtype<int32_t>()) return Element::int32;
    if (type == nb::dtype<bool>()) return Element::boolean;
    return Element::other;
}

static const char* name_of(Element element) {
    switch (element) {
        case Element::float32: return "float32";
        case Element::bfloat16: return "bfloat16";
        case Element::int32: return "int32";
        case Element::boolean: return "bool";
        default: return "another type";
    }
}

template <class Sizes>
static std::string text_of(const Sizes& sizes) {
    std::string text = "[";
    for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

static std::string shape_of(const Array& array) {
    std::string text = "[";
    for (size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + "]";
}

static bool is_empty(const Array& array) {
    for (size_t i = 0; i < array.ndim(); ++i)
        if (array.shape(i) == 0) return true;
    return false;
}

// Axes of size 1 may have any stride, and so may all axes of an empty array.
static bool is_dense(const Array& array) {
    if (is_empty(array)) return true;
    int64_t expected = 1;
    for (size_t i = array.ndim(); i-- > 0;) {
        const int64_t size = static_cast<int64_t>(array.shape(i));
        if (size != 1 && array.stride(i) != expected) return false;
        expected *= size;
    }
    return true;
}

void Checker::fail(const std::string& complaint) const {
    throw nb::value_error((std::string(function_) + ": " + complaint).c_str());
}

const int64_t* Checker::sizes(const char* name, const Array& array, size_t rank) const {
    if (array.ndim() != rank)
        fail(std::string(name) + " must have " + std::to_string(rank) + " axes, got " + shape_of(array));
    return array.shape_ptr();
}

void Checker::check_layout(const char* name, const Array& array, Shape shape, Element element) const {
    bool same = array.ndim() == shape.size();
    for (size_t i = 0; same && i < shape.size(); ++i) same = array.shape_ptr()[i] == shape.begin()[i];
    const Element got = element_of(array);
    if (!same || got != element)
        fail(std::string(name) + " must be " + name_of(element) + " " + text_of(shape) + ", got " + name_of(got) + " " +
             shape_of(array));
    if (array.device_type() != nb::device::cpu::value) fail(std::string(name) + " must be on the CPU");
}

void* Checker::pointer(const char* name, const Array& array) const {
    // Functional and fake tensors of PyTorch have no memory.
    if (array.data() == nullptr && !is_empty(array)) fail(std::string(name) + " must have memory of its own");
    return array.data();
}

void* Checker::data(const char* name, const Array& array, Shape shape, Element element) const {
    check_layout(name, array, shape, element);
    if (!is_dense(array)) fail(std::string(name) + " must be contiguous");
    return pointer(name, array);
}

void* Checker::flat(const char* name, const Array& array, int64_t count, Element element) const {
    int64_t got = 1;
    for (size_t i = 0; i < array.ndim(); ++i) got *= array.shape_ptr()[i];
    if (got != count || element_of(array) != element)
        fail(std::string(name) + " must be " + name_of(element) + " of " + std::to_string(count) + " numbers, got " +
             name_of(element_of(array)) + " " + shape_of(array));
    if (array.device_type() != nb::device::cpu::value) fail(std::string(name) + " must be on the CPU");
    if (!is_dense(array)) fail(std::string(name) + " must be contiguous");
    return pointer(name, array);
}

Dtype Checker::dtype_of(const char* name, const Array& array) const {
    const Element element = element_of(array);
    if (element != Element::float32 && element != Element::bfloat16)
        fail(std::string(name) + " must be float32 or bfloat16, got " + name_of(element));
    return element == Element::float32 ? Dtype::float32 : Dtype::bfloat16;
}

Input Checker::input(const char* name, const Array& array, Shape shape, const Array& like) const {
    const Dtype dtype = dtype_of(name, like);
    return {data(name, array, shape, element_of(like)), dtype};
}

Input Checker::flat_input(const char* name, const Array& array, int64_t count, const Array& like) const {
    const Dtype dtype = dtype_of(name, like);
    return {flat(name, array, count, element_of(like)), dtype};
}

Output Checker::flat_output(const char* name, const Array& array, int64_t count, const Array& like) const {
    const Dtype dtype = dtype_of(name, like);
    return {flat(name, array, count, element_of(like)), dtype};
}

Sequence Checker::sequence(const char* name, const Array& array, Shape shape) const {
    check_layout(name, array, shape, Element::float32);
    if (array.shape(3) > 1 && array.stride(3) != 1) fail(std::string(name) + " must be dense in its last axis");
    return {static_cast<const float*>(pointer(name, array)), array.stride(0), array.stride(1), array.stride(2)};
}

Output Checker::output(const char* name, const Array& array, Shape shape, const Array& like) const {
    const Dtype dtype = dtype_of(name, like);
    return {data(name, array, shape, element_of(like)), dtype};
}

}  // namespace matrixstate
