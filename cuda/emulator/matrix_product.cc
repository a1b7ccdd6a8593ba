#include "cuda/emulator/matrix_product.h"

#include <algorithm>
#include <cmath>

#include "cuda/emulator/emulator.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/mma.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {
namespace {

Trouble check_memory(const Matrix& x, int batches, bool aligned) {
  const std::string name = x.name;
  if (x.at == nullptr) return invalid(name + " is the null pointer");
  const std::size_t alignment = aligned ? 16 : x.size();
  if (reinterpret_cast<std::uintptr_t>(x.at) % alignment != 0 ||
      (aligned && batches > 1 && x.stride * static_cast<long long>(x.size()) % 16 != 0)) {
    return invalid(name + " of each batch must begin at a multiple of " +
                   text(static_cast<long long>(alignment)) + " bytes for these types");
  }
  for (int batch = 0; batch < batches; batch += std::max(1, batches - 1)) {
    const auto bytes = static_cast<std::size_t>((x.columns - 1) * x.ld + x.rows) * x.size();
    const std::byte* const begin = x.column(batch, 0);
    if (memory::whole(begin, bytes)) continue;
    return {CUBLAS_STATUS_EXECUTION_FAILED,
            name + (batch > 0 ? " of the last batch" : "") + " is " +
                text(static_cast<long long>(bytes)) + " bytes, " +
                (memory::holds(begin) ? "and begins at " + memory::place_of(begin)
                                      : "not memory of the device")};
  }
  return {};
}

// Whether columns of one share bytes with columns of the other.
bool overlap(const Matrix& x, std::int64_t x_batch, const Matrix& y, std::int64_t y_batch) {
  for (std::int64_t i = 0, j = 0; i < x.columns && j < y.columns;) {
    const std::byte *const p = x.column(x_batch, i), *const q = y.column(y_batch, j);
    if (p < q + y.column_bytes() && q < p + x.column_bytes()) return true;
    if (p < q) {
      ++i;
    } else {
      ++j;
    }
  }
  return false;
}

Trouble check_overlap(const Product& p) {
  for (int batch = 0; batch < p.batches; ++batch) {
    for (const Matrix* const x : {&p.a, &p.b}) {
      if (p.k > 0 && overlap(p.c, batch, *x, batch)) {
        return invalid("C overlaps " + std::string(x->name) + ". Give C memory of its own");
      }
    }
    if (batch > 0 && overlap(p.c, batch, p.c, batch - 1)) {
      return invalid("C overlaps C of the next batch: the stride is " + text(p.c.stride));
    }
  }
  return {};
}

void check_written(const Product& p, const Matrix& x) {
  for (int batch = 0; batch < p.batches; ++batch) {
    for (std::int64_t j = 0; j < x.columns; ++j) {
      const void* const at = observer::first_unwritten(x.column(batch, j), x.column_bytes());
      if (at == nullptr) continue;
      throw Error("[" + std::string(p.call) + "] reads what nobody has written: " + x.name +
                  ", at " + memory::place_of(at) + ". Write it first.");
    }
  }
}

template <class T>
void multiply(const Product& p, T alpha, T beta) {
  const bool sums = alpha != 0 && p.k > 0;
  if (sums) {
    check_written(p, p.a);
    check_written(p, p.b);
  }
  if (beta != 0) check_written(p, p.c);
  const auto in = [&](T x) { return p.tf32 ? static_cast<T>(to_tf32(static_cast<float>(x))) : x; };
  for (int batch = 0; batch < p.batches; ++batch) {
    for (std::int64_t j = 0; j < p.c.columns; ++j) {
      for (std::int64_t i = 0; i < p.c.rows; ++i) {
        T sum = 0;
        for (std::int64_t k = 0; sums && k < p.k; ++k) {
          const T a = p.transposes_a ? p.a.get<T>(batch, k, i) : p.a.get<T>(batch, i, k);
          const T b = p.transposes_b ? p.b.get<T>(batch, j, k) : p.b.get<T>(batch, k, j);
          sum = std::fma(in(a), in(b), sum);
        }
        // C is not read where beta is 0: it may be NaN.
        const T old = beta == 0 ? T{0} : beta * p.c.get<T>(batch, i, j);
        p.c.set<T>(batch, i, j, sums ? std::fma(alpha, sum, old) : old);
      }
      observer::written(p.c.column(batch, j), p.c.column_bytes());
    }
  }
}

}  // namespace

void set_shape(Product& p, std::int64_t m, std::int64_t n, std::int64_t k) {
  p.k = k;
  p.a.rows = p.transposes_a ? k : m;
  p.a.columns = p.transposes_a ? m : k;
  p.b.rows = p.transposes_b ? n : k;
  p.b.columns = p.transposes_b ? k : n;
  p.c.rows = m;
  p.c.columns = n;
}

Trouble check_leading(const Matrix& x) {
  if (x.ld >= std::max<std::int64_t>(1, x.rows)) return {};
  return invalid("ld" + std::string(x.name) + " is " + text(x.ld) + ", where " + x.name +
                 ", as it lies in memory, has " + text(x.rows) + " rows");
}

Trouble check_places(const Product& p, bool aligned) {
  for (const Matrix* const x : {&p.a, &p.b, &p.c}) {
    if (x != &p.c && p.k == 0) continue;
    if (const Trouble t = check_memory(*x, p.batches, aligned); !t.why.empty()) return t;
  }
  return check_overlap(p);
}

void run(const Product& p) {
  const memory::Open open;
  const bool wide = p.c.type == CUDA_R_64F;
  const auto number = [&](double value, const void* at) {
    if (at == nullptr) return value;
    return wide ? *static_cast<const double*>(at) : double{*static_cast<const float*>(at)};
  };
  const double alpha = number(p.alpha, p.device_alpha), beta = number(p.beta, p.device_beta);
  if (wide) {
    multiply<double>(p, alpha, beta);
  } else {
    multiply<float>(p, static_cast<float>(alpha), static_cast<float>(beta));
  }
}

}  // namespace cuda_emulator
