// An array that Python passes, seen without owning it for as long as the call lasts.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace matrixstate {

namespace nb = nanobind;

class Array {
  public:
    // Sees a Python object; false where it is no array. Tensors of a PyTorch that has DLPack's exchange table take some
    // 50 ns, everything else goes through __dlpack__, which is a Python function and takes some 5 µs.
    // A lazily negated tensor is seen as it lies in memory: PyTorch's dispatcher resolves it, or else the caller must.
    bool see(nb::handle object) noexcept;

    size_t ndim() const { return static_cast<size_t>(view_.ndim); }
    const int64_t* shape_ptr() const { return view_.shape; }
    size_t shape(size_t axis) const { return static_cast<size_t>(view_.shape[axis]); }
    int64_t stride(size_t axis) const { return view_.strides[axis]; }
    nb::dlpack::dtype dtype() const { return view_.dtype; }
    int device_type() const { return view_.device.device_type; }
    void* data() const { return static_cast<char*>(view_.data) + view_.byte_offset; }

  private:
    nb::dlpack::dltensor view_;
    nb::ndarray<> owner_;  // where there is no exchange table
};

}  // namespace matrixstate

namespace nanobind::detail {

template <>
struct type_caster<matrixstate::Array> {
    NB_TYPE_CASTER(matrixstate::Array, const_name("tensor"))
    bool from_python(handle source, uint8_t, cleanup_list*) noexcept { return value.see(source); }
};

}  // namespace nanobind::detail
