#include "array.h"

#include <cstring>
#include <memory>
#include <string>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

namespace moegrad::python {
namespace {

using Array = nb::ndarray<nb::ro>;

std::string class_of(nb::handle h) { return nb::cast<std::string>(h.type().attr("__name__")); }

// "int64"; the name that the object gives its own elements.
std::string element_name(nb::handle h) {
  return nb::cast<std::string>(nb::str(nb::getattr(h, "dtype", nb::str("unknown type"))));
}

Array array_from(nb::handle h, std::string_view what) {
  Array array;
  if (PyObject_HasAttrString(h.ptr(), "__dlpack__") == 0 && PyObject_CheckBuffer(h.ptr()) == 0) {
    fail("array", "{} is of type {}. Give an array, of NumPy say: numpy.asarray(...).", what,
         class_of(h));
  }
  if (!nb::try_cast<Array>(h, array)) {
    PyErr_Clear();
    fail("array",
         "{} is an array of {} that cannot be read. Give one of float64, float32 or int32 in "
         "native byte order: "
         "numpy.ascontiguousarray(...).",
         what, element_name(h));
  }
  if (array.device_type() != nb::device::cpu::value) {
    fail("array", "{} is not on the CPU. Copy it there first.", what);
  }
  return array;
}

DType dtype_from(const Array& array, nb::handle h, std::string_view what) {
  if (array.dtype() == nb::dtype<double>()) return DType::f64;
  if (array.dtype() == nb::dtype<float>()) return DType::f32;
  if (array.dtype() == nb::dtype<std::int32_t>()) return DType::i32;
  fail("array", "{} is of {}. float64, float32 and int32 are served: convert it with .astype().",
       what, element_name(h));
}

Shape shape_from(const Array& array, std::string_view what) {
  if (array.ndim() > Shape::kMaxRank) {
    fail("array", "{} has {} axes, at most {} are served. Merge some with .reshape().", what,
         array.ndim(), Shape::kMaxRank);
  }
  Shape shape;
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    shape.push_back(static_cast<std::int64_t>(array.shape(i)));
  }
  return shape;
}

bool contiguous(const Array& array, const Shape& shape) {
  std::int64_t step = 1;
  for (int axis = shape.rank(); axis-- > 0;) {
    if (shape[axis] != 1 && array.stride(static_cast<std::size_t>(axis)) != step) return false;
    step *= shape[axis];
  }
  return true;
}

// The elements below one place of the leading axes, row-major.
void copy_strided(const std::byte* from, std::byte*& to, const Array& array, const Shape& shape,
                  int axis, std::size_t size) {
  if (axis == shape.rank()) {
    std::memcpy(to, from, size);
    to += size;
    return;
  }
  const std::int64_t step =
      array.stride(static_cast<std::size_t>(axis)) * static_cast<std::int64_t>(size);
  for (std::int64_t i = 0; i < shape[axis]; ++i) {
    copy_strided(from + i * step, to, array, shape, axis + 1, size);
  }
}

Tensor copy_of(const Array& array, const Shape& shape, DType dtype) {
  const Tensor tensor = Tensor::empty(shape, dtype, Device::cpu);
  if (tensor.numel() == 0) return tensor;
  const auto* from = static_cast<const std::byte*>(array.data());
  std::byte* to = tensor.write_raw();
  if (contiguous(array, shape)) {
    std::memcpy(to, from, tensor.bytes());
  } else {
    copy_strided(from, to, array, shape, 0, size_of(dtype));
  }
  return tensor;
}

template <class T>
nb::object view(const Tensor& tensor) {
  std::size_t shape[Shape::kMaxRank];
  for (int i = 0; i < tensor.rank(); ++i) shape[i] = static_cast<std::size_t>(tensor.size(i));
  auto keep = std::make_unique<Tensor>(tensor);
  const auto* data = reinterpret_cast<const std::remove_const_t<T>*>(tensor.raw());
  const nb::capsule owner(keep.get(), [](void* p) noexcept { delete static_cast<Tensor*>(p); });
  keep.release();
  return nb::cast(nb::ndarray<nb::numpy, T>(const_cast<std::remove_const_t<T>*>(data),
                                            static_cast<std::size_t>(tensor.rank()), shape, owner),
                  nb::rv_policy::reference);
}

template <class T>
nb::object view(const Tensor& tensor, Access access) {
  return access == Access::read ? view<const T>(tensor) : view<T>(tensor);
}

}  // namespace

Tensor tensor_of(nb::handle h, std::string_view what) {
  const Array array = array_from(h, what);
  return copy_of(array, shape_from(array, what), dtype_from(array, h, what));
}

Tensor view_of(nb::handle h, std::string_view what) {
  const Array array = array_from(h, what);
  const DType dtype = dtype_from(array, h, what);
  const Shape shape = shape_from(array, what);
  void* data = const_cast<void*>(static_cast<const void*>(array.data()));
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % size_of(dtype) == 0;
  if (shape.numel() == 0 || !aligned || !contiguous(array, shape)) {
    return copy_of(array, shape, dtype);
  }
  const auto release = [](void* p) {
    const nb::gil_scoped_acquire gil;
    delete static_cast<Array*>(p);
  };
  return Tensor::view(shape, dtype, Device::cpu, data,
                      std::shared_ptr<void>(new Array(array), release));
}

nb::object array_of(const Tensor& tensor, Access access) {
  if (!tensor.defined()) return nb::none();
  const Tensor host = tensor.to(Device::cpu);
  switch (host.dtype()) {
    case DType::f32:
      return view<float>(host, access);
    case DType::f64:
      return view<double>(host, access);
    default:
      return view<std::int32_t>(host, access);
  }
}

}  // namespace moegrad::python
