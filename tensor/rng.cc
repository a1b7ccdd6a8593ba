#include "tensor/rng.h"

#include <limits>
#include <numeric>

#include "tensor/kernels.h"

namespace moegrad {

// FNV-1a (Fowler, Noll, Vo), 64 bits, from the stream on.
Rng Rng::named(std::string_view name) const {
  std::uint64_t hash = 0xcbf29ce484222325U ^ stream;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  }
  return split(hash);
}

Tensor Rng::uniform(const Shape& shape, DType dtype, Device device, double low, double high) {
  Tensor t = Tensor::empty(shape, dtype, device);
  kernels(device).random_uniform(take(static_cast<std::uint64_t>(t.numel())), low, high, t);
  return t;
}

Tensor Rng::normal(const Shape& shape, DType dtype, Device device, double mean, double deviation) {
  Tensor t = Tensor::empty(shape, dtype, device);
  // Two uniform numbers for each normal one.
  kernels(device).random_normal(take(2 * static_cast<std::uint64_t>(t.numel())), mean, deviation,
                                t);
  return t;
}

Tensor Rng::gumbel(const Shape& shape, DType dtype, Device device) {
  Tensor t = Tensor::empty(shape, dtype, device);
  kernels(device).random_gumbel(take(static_cast<std::uint64_t>(t.numel())), t);
  return t;
}

Tensor Rng::permutation(std::int64_t n) {
  if (n < 0 || n > std::numeric_limits<std::int32_t>::max()) {
    fail("permutation", "{} numbers asked for. They are i32: use 0 to {}.", n,
         std::numeric_limits<std::int32_t>::max());
  }
  Tensor t = Tensor::empty({n}, DType::i32, Device::cpu);
  const std::span<std::int32_t> p = t.write_values<std::int32_t>();
  std::iota(p.begin(), p.end(), 0);
  const Rng at = take(static_cast<std::uint64_t>(n));
  for (std::size_t i = p.size(); i > 1; --i) {
    std::swap(p[i - 1], p[at.bits(i - 1) % i]);
  }
  return t;
}

}  // namespace moegrad
