#include "bindings/array.h"

namespace matrixstate {

// The first fields of DLPack's exchange table, as the standard defines it since version 1.3.
struct ExchangeTable {
    struct {
        uint32_t major, minor;
    } version;
    const ExchangeTable* previous;
    void *allocate, *from_object, *to_object;  // not used here
    int (*view)(void* object, nb::dlpack::dltensor* view);
};

// The exchange table of the object's type, or null.
static const ExchangeTable* exchange_table(nb::handle object) {
    static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
    PyObject* capsule = PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())), name);
    if (capsule == nullptr) {
        PyErr_Clear();
        return nullptr;
    }
    auto* table = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);  // the table itself lives as long as the process
    if (table == nullptr) PyErr_Clear();
    while (table != nullptr && table->version.major != 1) table = table->previous;
    return table;
}

bool Array::view(nb::handle object) noexcept {
    const ExchangeTable* table = exchange_table(object);
    if (table != nullptr && table->view != nullptr) {
        if (table->view(object.ptr(), &view_) == 0) return true;
        PyErr_Clear();
    }
    if (!nb::try_cast<nb::ndarray<>>(object, owner_, false)) return false;
    view_.data = owner_.data();
    view_.device = {owner_.device_type(), owner_.device_id()};
    view_.ndim = static_cast<int32_t>(owner_.ndim());
    view_.dtype = owner_.dtype();
    view_.shape = const_cast<int64_t*>(owner_.shape_ptr());
    view_.strides = const_cast<int64_t*>(owner_.stride_ptr());
    view_.byte_offset = 0;  // data() includes it
    return true;
}

}  // namespace matrixstate
