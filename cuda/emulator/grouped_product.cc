#include "cuda/emulator/grouped_product.h"

#include <string>
#include <utility>

#include "cuda/emulator/matrix_product.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {
namespace {

[[noreturn]] void fail_group(int e, const std::string& why) {
  throw Error("[cublasLtMatmul] group " + text(e) + ": " + why + ".");
}

// Number e of an array of the device.
std::int64_t number(const void* array, std::int32_t width, int e) {
  if (width == CUBLASLT_INTEGER_WIDTH_64) return static_cast<const std::int64_t*>(array)[e];
  return static_cast<const std::int32_t*>(array)[e];
}

Matrix matrix_of(const Operand& x, int e) {
  return {x.name,
          static_cast<std::byte* const*>(x.pointers)[e],
          x.layout.type,
          number(x.layout.rows, x.layout.size_width, e),
          number(x.layout.cols, x.layout.size_width, e),
          number(x.layout.ld, x.layout.ld_width, e),
          0};
}

void check_arrays(const Operand& x) {
  const auto groups = static_cast<std::size_t>(x.layout.groups);
  const auto check = [&](const char* what, const void* array, std::size_t width) {
    const void* const at = observer::first_unwritten(array, groups * width);
    if (at == nullptr) return;
    throw Error("[cublasLtMatmul] reads what nobody has written: the " + std::string(what) +
                " of " + x.name + ", at " + memory::place_of(at) + ". Write it first.");
  };
  check("pointers", x.pointers, sizeof(void*));
  check("rows", x.layout.rows, bytes_of(x.layout.size_width));
  check("columns", x.layout.cols, bytes_of(x.layout.size_width));
  check("leading dimensions", x.layout.ld, bytes_of(x.layout.ld_width));
}

void check_sizes(const Matrix& x, int e) {
  const auto size = static_cast<std::int64_t>(x.size());
  if (x.rows < 0 || x.columns < 0) {
    fail_group(e, std::string(x.name) + " has " + text(x.rows) + " rows and " + text(x.columns) +
                      " columns");
  }
  if (const Trouble t = check_leading(x); !t.why.empty()) fail_group(e, t.why);
  if (x.rows * size % 16 != 0 || x.ld * size % 16 != 0) {
    fail_group(e, std::string(x.name) + ", of " + text(x.rows) + " rows and ld " + text(x.ld) +
                      ", has columns of no multiple of 16 bytes");
  }
}

void multiply_group(const GroupedProduct& g, int e) {
  Product p{};
  p.call = "cublasLtMatmul";
  p.a = matrix_of(g.a, e);
  p.b = matrix_of(g.b, e);
  p.c = matrix_of(g.d, e);
  p.transposes_a = g.desc.op_a != CUBLAS_OP_N;
  p.transposes_b = g.desc.op_b != CUBLAS_OP_N;
  p.batches = 1;
  p.alpha = g.alpha;
  p.beta = g.beta;
  for (const Matrix* const x : {&p.a, &p.b, &p.c}) check_sizes(*x, e);
  const Matrix a = p.a;
  const Matrix b = p.b;
  set_shape(p, p.c.rows, p.c.columns, p.transposes_a ? a.rows : a.columns);
  for (const auto& [given, needed] : {std::pair{&a, &p.a}, {&b, &p.b}}) {
    if (given->rows == needed->rows && given->columns == needed->columns) continue;
    fail_group(e, std::string(given->name) + " is [" + text(given->rows) + ", " +
                      text(given->columns) + "], where [" + text(needed->rows) + ", " +
                      text(needed->columns) + "] goes with the others");
  }
  if (p.c.rows == 0 || p.c.columns == 0 || (p.k == 0 && g.skips_empty)) return;
  if (const Trouble t = check_places(p, true); !t.why.empty()) fail_group(e, t.why);
  run(p);
}

}  // namespace

void multiply_groups(const GroupedProduct& g) {
  const memory::Open open;
  for (const Operand* const x : {&g.a, &g.b, &g.d}) check_arrays(*x);
  for (int e = 0; e < g.a.layout.groups; ++e) multiply_group(g, e);
}

}  // namespace cuda_emulator
