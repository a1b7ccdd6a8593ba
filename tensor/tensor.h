#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace moegrad {

// A cheap handle to an array: shared storage, shape, element type, device. Always contiguous and
// row-major. Copying the handle shares the elements; `reshape` and `rows` are views; `clone`
// copies.
class Tensor {
 public:
  // No tensor at all; `defined()` is false.
  Tensor() = default;

  // Elements not set. (In the pool's checked mode: signalling NaN.)
  static Tensor empty(const Shape& shape, DType dtype, Device device);
  static Tensor zeros(const Shape& shape, DType dtype, Device device);
  static Tensor full(const Shape& shape, double value, DType dtype, Device device);
  // Elements not set, with this type and on this device.
  Tensor like(const Shape& shape) const { return empty(shape, dtype_, device_); }
  Tensor like() const { return like(shape_); }
  // On the host: the values in row-major order; as many as the shape has elements.
  template <class T>
  static Tensor of(const Shape& shape, std::span<const T> values);
  template <class T>
  static Tensor of(const Shape& shape, const std::vector<T>& values) {
    return of(shape, std::span<const T>(values));
  }
  template <class T>
  static Tensor of(const Shape& shape, std::initializer_list<T> values) {
    return of(shape, std::span<const T>(values.begin(), values.size()));
  }
  template <class T>
  static Tensor scalar(T value) {
    return of<T>({}, {value});
  }
  // Somebody else's elements, row-major from `data` on of that device, without a copy; `owner` is
  // kept as long as a handle is. Errors: an address that is not a multiple of the element's size.
  static Tensor view(const Shape& shape, DType dtype, Device device, void* data,
                     std::shared_ptr<void> owner);

  bool defined() const { return static_cast<bool>(storage_); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  // The size of an axis; negative axes count from the end.
  std::int64_t size(int axis) const { return shape_[axis < 0 ? axis + shape_.rank() : axis]; }
  std::int64_t numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::size_t bytes() const { return static_cast<std::size_t>(numel_) * size_of(dtype_); }
  // Lets go of the elements: defined() is false from then on, while shape, type and device stay.
  void release() { storage_ = Storage(); }
  // True when no other handle shares these elements.
  bool unique() const { return storage_.unique(); }
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  // Where the elements begin, on whatever device: to tell handles apart, and for its kernels alone
  // to read from; the second is for those that write, and counts version() up.
  std::uintptr_t place() const {
    return reinterpret_cast<std::uintptr_t>(storage_.data()) + offset_;
  }
  std::uintptr_t place_to_write() const {
    storage_.count_write();
    return place();
  }

  // The elements, on the host, to read. T must be the type of dtype(). Of another device than the
  // CPU an Error: to(Device::cpu) copies.
  template <class T>
  const T* data() const {
    require(dtype_of<std::remove_const_t<T>>);
    return reinterpret_cast<const T*>(raw());
  }
  template <class T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<std::size_t>(numel_)};
  }
  // The same to be changed, which counts version() up.
  template <class T>
  T* write() const {
    require(dtype_of<T>);
    return reinterpret_cast<T*>(write_raw());
  }
  template <class T>
  std::span<T> write_values() const {
    return {write<T>(), static_cast<std::size_t>(numel_)};
  }
  const std::byte* raw() const {
    if (device_ != Device::cpu) require_host();
    return storage_.data() + offset_;
  }
  std::byte* write_raw() const {
    if (device_ != Device::cpu) require_host();
    storage_.count_write();
    return storage_.data() + offset_;
  }
  // How often elements of this storage were asked for to be changed, by any handle or view of it. A
  // tape notes it where backward will want the elements, and compares.
  std::uint32_t version() const { return storage_.version(); }
  // One element as a double, whatever the dtype; for tests and reports. On the host.
  double at(std::int64_t index) const;
  // The only element of a tensor of one element, and all of them; copied from another device.
  double item() const;
  std::vector<double> to_vector() const;

  // A view of the same elements with another shape of as many elements.
  Tensor reshape(const Shape& shape) const;
  // A view of [begin, end) along the first axis.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  Tensor clone() const;
  // A copy as another type; itself when the type is the same already.
  Tensor to(DType dtype) const;
  // A copy on another device; itself when it is there already, or is no tensor. From a device to
  // the host is a wait for all that was asked of the device before.
  Tensor to(Device device) const;

  // The same shape, type and bits (NaN equals the same NaN).
  bool same_bits(const Tensor& other) const;

 private:
  void require(DType dtype) const {
    if (dtype_ != dtype) refuse(dtype);
  }
  [[noreturn]] void refuse(DType dtype) const;
  void require_host() const;

  Storage storage_;
  std::size_t offset_ = 0;
  std::int64_t numel_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

// All elements of tensors of one device (one tensor at least), one tensor behind the other: f64 [n].
Tensor concatenated(std::span<const Tensor> tensors);

// How often this process has waited for a device, to have a copy of its elements on the host.
std::uint64_t waits_for_devices();

}  // namespace moegrad
