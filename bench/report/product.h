#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace moegrad::bench {

// The ceiling: products of 1024^3 in f32 by onednn_product, one on each thread, each on its own
// matrices.
class Product {
 public:
  explicit Product(int threads);
  void run() const;
  // Of all threads together.
  double operations() const;

 private:
  static constexpr std::int64_t kSize = 1024;
  struct Matrices {
    Tensor a, b, c;
  };
  std::vector<Matrices> of_thread_;
};

}  // namespace moegrad::bench
