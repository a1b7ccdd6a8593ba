#include "tensor/tensor.h"

#include <atomic>
#include <cstring>

#include "tensor/guarded/memory.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// The high word makes an f64 a signalling NaN and an f32 a NaN; as an i32 it is beyond any index.
constexpr std::uint32_t kPoison = 0x7ff40000U;

void poison(std::byte* data, std::size_t bytes) {
  for (std::size_t i = 0; i + 4 <= bytes; i += 4) std::memcpy(data + i, &kPoison, 4);
}

std::atomic<std::uint64_t> waits{0};

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = Storage::allocate(t.bytes(), device);
  if (pool::checked() && device != Device::cuda) {
    const guarded::Open open(device);
    poison(t.write_raw(), t.bytes());
  }
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  if (device == Device::cpu) {
    std::memset(t.write_raw(), 0, t.bytes());
  } else {
    kernels(device).fill(0.0, t);
  }
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  kernels(device).fill(value, t);
  return t;
}

template <class T>
Tensor Tensor::of(const Shape& shape, std::span<const T> values) {
  if (static_cast<std::int64_t>(values.size()) != shape.numel()) {
    fail("tensor", "{} values for shape {}, which has {} elements. Give as many values.",
         values.size(), shape, shape.numel());
  }
  Tensor t = empty(shape, dtype_of<T>, Device::cpu);
  if (!values.empty()) std::memcpy(t.write_raw(), values.data(), t.bytes());
  return t;
}
template Tensor Tensor::of<float>(const Shape&, std::span<const float>);
template Tensor Tensor::of<double>(const Shape&, std::span<const double>);
template Tensor Tensor::of<std::int32_t>(const Shape&, std::span<const std::int32_t>);

Tensor Tensor::view(const Shape& shape, DType dtype, Device device, void* data,
                    std::shared_ptr<void> owner) {
  if (reinterpret_cast<std::uintptr_t>(data) % size_of(dtype) != 0) {
    fail("tensor", "a view of {} at an address that is no multiple of {}. Copy the elements.",
         name_of(dtype), size_of(dtype));
  }
  Tensor t;
  t.shape_ = shape;
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = Storage::view(data, t.bytes(), device, std::move(owner));
  return t;
}

void Tensor::require_host() const {
  if (device_ == Device::guarded && guarded::is_open()) return;
  fail("tensor", "elements of a {} tensor {} asked for on the host. Copy it: to(Device::cpu).",
       name_of(device_), shape_);
}

void Tensor::refuse(DType dtype) const {
  fail("tensor", "elements are {}, asked for as {}. Convert with to().", name_of(dtype_),
       name_of(dtype));
}

double Tensor::at(std::int64_t index) const {
  if (index < 0 || index >= numel_) {
    fail("tensor", "element {} of {} asked for. Use 0 to {}.", index, numel_, numel_ - 1);
  }
  switch (dtype_) {
    case DType::f32:
      return static_cast<double>(data<float>()[index]);
    case DType::f64:
      return data<double>()[index];
    default:
      return data<std::int32_t>()[index];
  }
}

double Tensor::item() const {
  if (numel_ != 1) fail("tensor", "item() of shape {}. It needs exactly one element.", shape_);
  return to(Device::cpu).at(0);
}

std::vector<double> Tensor::to_vector() const {
  const Tensor host = to(Device::cpu);
  std::vector<double> values(static_cast<std::size_t>(numel_));
  for (std::int64_t i = 0; i < numel_; ++i) values[static_cast<std::size_t>(i)] = host.at(i);
  return values;
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.numel() != numel_) {
    fail("reshape", "{} has {} elements and {} has {}. The numbers must agree.", shape_, numel_,
         shape, shape.numel());
  }
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  if (rank() == 0 || begin < 0 || begin > end || end > shape_[0]) {
    fail("rows", "rows {} to {} of shape {}. Stay within the first axis.", begin, end, shape_);
  }
  Tensor t = *this;
  t.shape_[0] = end - begin;
  t.numel_ = t.shape_.numel();
  const std::int64_t row = shape_.product(1, rank());
  t.offset_ += static_cast<std::size_t>(begin * row) * size_of(dtype_);
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device_);
  if (bytes() > 0) kernels(device_).copy(*this, t);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device_);
  kernels(device_).convert(*this, t);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (!defined() || device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  if (device_ == Device::cpu) {
    if (bytes() > 0) kernels(device).upload(raw(), t);
    return t;
  }
  if (device != Device::cpu) return to(Device::cpu).to(device);
  if (bytes() > 0) {
    ++waits;
    kernels(device_).download(*this, t.write_raw());
  }
  return t;
}

Tensor concatenated(std::span<const Tensor> tensors) {
  std::int64_t elements = 0;
  for (const Tensor& t : tensors) elements += t.numel();
  Tensor all = Tensor::empty({elements}, DType::f64, tensors.front().device());
  std::int64_t next = 0;
  for (const Tensor& t : tensors) {
    kernels(all.device()).convert(t, all.rows(next, next + t.numel()));
    next += t.numel();
  }
  return all;
}

std::uint64_t waits_for_devices() { return waits; }

bool Tensor::same_bits(const Tensor& other) const {
  return shape_ == other.shape_ && dtype_ == other.dtype_ && defined() == other.defined() &&
         (bytes() == 0 ||
          std::memcmp(to(Device::cpu).raw(), other.to(Device::cpu).raw(), bytes()) == 0);
}

}  // namespace moegrad
