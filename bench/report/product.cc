#include "bench/report/product.h"

#include <omp.h>

#include "tensor/rng.h"

#ifdef MOEGRAD_HAVE_DNNL
#include <dnnl.h>
#else
#include "tensor/cpu_product.h"
#endif

namespace moegrad::bench {

Product::Product(int threads) {
  Rng rng{.seed = 1};
  for (int i = 0; i < threads; ++i) {
    of_thread_.push_back({rng.normal({kSize, kSize}, DType::f32),
                          rng.normal({kSize, kSize}, DType::f32),
                          Tensor::empty({kSize, kSize}, DType::f32)});
  }
}

double Product::operations() const {
  return 2.0 * kSize * kSize * kSize * static_cast<double>(of_thread_.size());
}

void Product::run() const {
  const int threads = static_cast<int>(of_thread_.size());
#pragma omp parallel num_threads(threads)
  {
    omp_set_num_threads(1);  // of this thread: each product runs on one
    const Matrices& m = of_thread_[static_cast<std::size_t>(omp_get_thread_num())];
#ifdef MOEGRAD_HAVE_DNNL
    dnnl_sgemm('N', 'N', kSize, kSize, kSize, 1.0F, m.a.data<float>(), kSize, m.b.data<float>(),
               kSize, 0.0F, m.c.data<float>(), kSize);
#else
    cpu::product(kSize, kSize, kSize, cpu::Matrix<float>{m.a.data<float>(), kSize},
                 cpu::Matrix<float>{m.b.data<float>(), kSize}, 0.0F, m.c.data<float>(), kSize);
#endif
  }
}

}  // namespace moegrad::bench
