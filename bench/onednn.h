#pragma once

#include <cstdint>

namespace moegrad::bench {

// Whether oneDNN was found when this was compiled. It is a peer only: its code is not safe against
// signals (docs/performance.md).
bool have_onednn();

// c [m, n] = a [m, k] b [k, n], all row-major and f32, by oneDNN on the calling thread; without it
// by what the library uses. An error where OMP_NUM_THREADS is not 1: oneDNN would share the product
// out among threads of its own.
void onednn_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                    float* c);

}  // namespace moegrad::bench
