// A view of an array that Python passes, valid for the length of the call.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace matrixstate {

namespace nb = nanobind;

class Array {
  public:
    // Views a Python object; false if it is not an array. Tensors of a PyTorch with DLPack's exchange table take some
    // 50 ns; everything else goes through __dlpack__, a Python function that takes some 5 µs. A lazily negated tensor
    // (x.neg view) is viewed as stored: PyTorch's dispatcher resolves it, otherwise the caller must.
    bool view(nb::handle object) noexcept;

    size_t ndim() const { return static_cast<size_t>(view_.ndim); }
    const int64_t* shape_ptr() const { return view_.shape; }
    size_t shape(size_t axis) const { return static_cast<size_t>(view_.shape[axis]); }
    int64_t stride(size_t axis) const { return view_.strides[axis]; }
    nb::dlpack::dtype dtype() const { return view_.dtype; }
    int device_type() const { return view_.device.device_type; }
    void* data() const { return static_cast<char*>(view_.data) + view_.byte_offset; }

  private:
    nb::dlpack::dltensor view_;
    nb::ndarray<> owner_;  // keeps a __dlpack__ capsule alive where there is no exchange table
};

}  // namespace matrixstate

namespace nanobind::detail {

template <>
struct type_caster<matrixstate::Array> {
    NB_TYPE_CASTER(matrixstate::Array, const_name("tensor"))
    bool from_python(handle source, uint8_t, cleanup_list*) noexcept { return value.view(source); }
};

}  // namespace nanobind::detail
