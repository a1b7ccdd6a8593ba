#include "bench/report/product.h"

#include "bench/onednn.h"
#include "tensor/cpu/parallel.h"
#include "tensor/rng.h"
#include "tensor/threads.h"

namespace moegrad::bench {

Product::Product(int threads) {
  Rng rng{.seed = 1};
  for (int i = 0; i < threads; ++i) {
    of_thread_.push_back({rng.normal({kSize, kSize}, DType::f32),
                          rng.normal({kSize, kSize}, DType::f32),
                          Tensor::empty({kSize, kSize}, DType::f32, Device::cpu)});
  }
}

double Product::operations() const {
  return 2.0 * kSize * kSize * kSize * static_cast<double>(of_thread_.size());
}

void Product::run() const {
  const auto pieces = static_cast<std::int64_t>(of_thread_.size());
  const ThreadScope threads(static_cast<int>(pieces));
  cpu::parallel_pieces(pieces, [&](std::int64_t piece, int) {
    const Matrices& m = of_thread_[static_cast<std::size_t>(piece)];
    onednn_product(kSize, kSize, kSize, m.a.data<float>(), m.b.data<float>(), m.c.write<float>());
  });
}

}  // namespace moegrad::bench
