// Products of f32 with TF32 and bf16: as they are in memory, or from copies in pairs of bf16.
#include <vector>

#include "cuda/products.h"
#include "cuda/stream.h"
#include "tensor/maths.h"

namespace moegrad::cuda {
namespace {

// Words of the depth lie side by side in rows of a, in columns of b.
template <class S>
void run_words(const char* operation, const MatMul<S, float>& p) {
  if (p.a_by_rows) {
    p.b_by_rows ? run_mma_product<true, false>(operation, p)
                : run_mma_product<true, true>(operation, p);
  } else {
    p.b_by_rows ? run_mma_product<false, false>(operation, p)
                : run_mma_product<false, true>(operation, p);
  }
}
template <class S>
void run_words(const char* operation, const Linear<S, float>& p) {
  p.b_by_rows ? run_mma_product<true, false>(operation, p)
              : run_mma_product<true, true>(operation, p);
}
template <class S>
void run_words(const char* operation, const Outer<S, float>& p) {
  run_mma_product<false, false>(operation, p);
}

// --- in pairs of bf16

using Words = std::vector<Tensor>;  // to be kept for as long as a problem is in use

Pair* words(std::int64_t count, Words& kept) {
  kept.push_back(Tensor::empty({count}, DType::i32, Device::cuda));
  return reinterpret_cast<Pair*>(out<std::int32_t>(kept.back()));
}

std::int64_t pairs_of(std::int64_t n) { return pieces_of(n, 2); }
// So that lines begin at multiples of 16 bytes.
std::int64_t fours_of(std::int64_t n) { return 4 * pieces_of(n, 4); }

// The first `left` of x[0] and x[step], and 0.
__device__ Pair pair_of(const float* x, std::int64_t step, std::int64_t left) {
  using cuda_emulator::bf16;
  return cuda_emulator::pair(bf16(x[0]), bf16(left > 1 ? x[step] : 0.0F));
}

// A factor of `matrices`, with `depth` rows where by_rows, else columns; and `lines` of the other.
Factor<Pair> in_pairs(const char* operation, const Factor<float>& x, std::int64_t matrices,
                      std::int64_t lines, std::int64_t depth, bool along_rows, bool by_rows,
                      Words& kept) {
  const std::int64_t pairs = pairs_of(depth);
  const bool along = along_rows == by_rows;  // words of a line lie side by side
  const std::int64_t inner = along ? pairs : lines;
  const std::int64_t outer = along ? lines : pairs;
  const std::int64_t pitch = fours_of(inner);
  const std::int64_t k_step = along_rows ? x.col_step : x.row_step;
  const std::int64_t line_step = along_rows ? x.row_step : x.col_step;
  const std::int64_t count = x.step == 0 ? 1 : matrices;
  Pair* const to = words(count * outer * pitch, kept);
  const Divisor by_outer(outer);
  each_cell(operation, count * outer, inner,
            [=] __device__(std::int64_t, std::int64_t row, std::int64_t col) {
              const Quotient of_matrix = by_outer.of(row);
              const std::int64_t pair = along ? col : of_matrix.rest;
              const std::int64_t line = along ? of_matrix.rest : col;
              const float* const from = x.data + of_matrix.times * x.step + line * line_step;
              to[row * pitch + col] = pair_of(from + 2 * pair * k_step, k_step, depth - 2 * pair);
            });
  return by_rows ? Factor<Pair>{to, x.step == 0 ? 0 : outer * pitch, pitch, 1}
                 : Factor<Pair>{to, x.step == 0 ? 0 : outer * pitch, 1, pitch};
}

// Of rows of slots, [.., width]: pairs of slots, that of a group e beginning in row first_pair().
Rows<Pair> slots_in_pairs(const char* operation, const Rows<float>& x, const Groups& groups,
                          std::int64_t slots, std::int64_t width, Words& kept) {
  const std::int64_t rows = first_pair(slots, groups.count) + 1;
  const std::int64_t pitch = fours_of(width);
  Pair* const to = words(rows * pitch, kept);
  const auto of_row = [=] __device__(std::int64_t, std::int64_t row, std::int64_t col) {
    const auto first_row = [=](std::int64_t e) { return first_pair(groups.offsets[e], e); };
    const std::int64_t e = groups.before(row, first_row);
    if (e == groups.count) return;
    const std::int64_t slot = groups.offsets[e] + 2 * (row - first_row(e));
    const std::int64_t left = groups.offsets[e + 1] - slot;
    if (left <= 0) return;  // nobody reads it
    const float* const first = x.at(slot, col);
    to[row * pitch + col] = pair_of(first, left > 1 ? x.at(slot + 1, col) - first : 0, left);
  };
  each_cell(operation, rows, width, of_row);
  return {to, rows, pitch};
}

MatMul<Pair, float> in_pairs(const char* operation, const MatMul<float>& p, Words& kept) {
  return {in_pairs(operation, p.left, p.batch, p.rows, p.depth, true, p.a_by_rows, kept),
          in_pairs(operation, p.right, p.batch, p.cols, p.depth, false, p.b_by_rows, kept),
          p.batch,
          p.rows,
          p.cols,
          pairs_of(p.depth),
          p.beta,
          p.to,
          p.a_by_rows,
          p.b_by_rows};
}
Linear<Pair, float> in_pairs(const char* operation, const Linear<float>& p, Words& kept) {
  const Factor<float> rows = {p.rows.data, 0, p.rows.step, 1};
  const Factor<Pair> left = in_pairs(operation, rows, 1, p.rows.count, p.depth, true, true, kept);
  return {p.groups,
          p.slots,
          {left.data, p.rows.count, left.row_step, p.rows.order, p.rows.choices},
          in_pairs(operation, p.w, p.groups.count, p.cols, p.depth, false, p.b_by_rows, kept),
          p.bias,
          p.cols,
          pairs_of(p.depth),
          p.adds,
          p.to,
          p.b_by_rows};
}
Outer<Pair, float> in_pairs(const char* operation, const Outer<float>& p, Words& kept) {
  const auto half = [&](const Rows<float>& x, std::int64_t width) {
    return slots_in_pairs(operation, x, p.groups, p.slots, width, kept);
  };
  return {p.groups, p.slots, half(p.left, p.rows), half(p.right, p.cols), p.rows, p.cols,
          p.adds,   p.to};
}

void require_tensor_cores(const char* operation) {
  static const cudaDeviceProp device = [&] {
    cudaDeviceProp found;
    require(cudaGetDeviceProperties(&found, 0), operation);
    return found;
  }();
  if (device.major >= 8) return;
  fail(operation,
       "maths is {}, which this device, of compute capability {}.{}, does not have. Use exact.",
       name_of(maths()), device.major, device.minor);
}

template <class P>
void run_as_asked(const char* operation, const P& p) {
  require_tensor_cores(operation);
  if (maths() == Maths::tf32) return run_words(operation, p);
  Words kept;
  run_words(operation, in_pairs(operation, p, kept));
}

}  // namespace

void multiply_on_tensor_cores(const char* operation, const MatMul<float>& p) {
  run_as_asked(operation, p);
}
void multiply_on_tensor_cores(const char* operation, const Linear<float>& p) {
  run_as_asked(operation, p);
}
void multiply_on_tensor_cores(const char* operation, const Outer<float>& p) {
  run_as_asked(operation, p);
}

}  // namespace moegrad::cuda
