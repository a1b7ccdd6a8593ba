#include "bench/onednn.h"

#include <cstdlib>
#include <string_view>

#include "tensor/error.h"

#ifdef MOEGRAD_HAVE_DNNL
#include <dnnl.h>
#else
#include "tensor/cpu/product.h"
#endif

namespace moegrad::bench {

#ifdef MOEGRAD_HAVE_DNNL

bool have_onednn() { return true; }

void onednn_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c) {
  static const char* const threads = std::getenv("OMP_NUM_THREADS");
  if (threads == nullptr || std::string_view(threads) != "1") {
    fail("onednn", "OMP_NUM_THREADS is '{}'. Set it to 1 before the program starts.",
         threads == nullptr ? "" : threads);
  }
  if (dnnl_sgemm('N', 'N', m, n, k, 1.0F, a, k, b, n, 0.0F, c, n) != dnnl_success) {
    fail("onednn", "oneDNN refused a product of {}x{}x{}.", m, n, k);
  }
}

#else

bool have_onednn() { return false; }

void onednn_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c) {
  cpu::product(m, n, k, cpu::Matrix<float>{a, k}, cpu::Matrix<float>{b, n}, 0.0F, c, n);
}

#endif

}  // namespace moegrad::bench
