// Products of groups by cuBLASLt, whose sizes only the device knows. Rows of slots are columns there.
#include <limits>

#include "cuda/cublaslt.h"
#include "cuda/stored.h"
#include "cuda/stream.h"

namespace moegrad::cuda {
namespace {

// Matrices of f32 or bf16, one for each group: where that of the first begins, and bytes on to the
// next, or to the next slot.
struct Place {
  const void* data;
  std::int64_t by_group, by_slot;
  std::int64_t pitch;  // elements

  __device__ const void* of(std::int64_t group, std::int64_t slot) const {
    return static_cast<const std::byte*>(data) + group * by_group + slot * by_slot;
  }
};
Place of_slots(const GemmFactor& x) { return {x.data, 0, 2 * x.pitch, x.pitch}; }
Place of_groups(const GemmFactor& x) { return {x.data, 2 * x.step, 0, x.pitch}; }

constexpr std::int64_t kSlots = -1;  // as many as a group has slots

// to [rows, cols] = left right + beta to by columns.
struct GroupedProduct {
  Groups groups;
  std::int64_t slots;
  Place left, right, to;
  bool transposes_left, transposes_right;
  std::int64_t rows, cols, depth;  // or kSlots
  float beta;
};

// What cuBLASLt answers where it does not; null: it does.
const char* run(const char* operation, const GroupedProduct& p) {
  const std::int64_t count = p.groups.count;
  const Tensor pointers = Tensor::empty({6 * count}, DType::i32, Device::cuda);
  const Tensor sizes = Tensor::empty({6 * count}, DType::i32, Device::cuda);
  auto* const at = reinterpret_cast<const void**>(out<std::int32_t>(pointers));
  std::int32_t* const size = out<std::int32_t>(sizes);
  each(operation, count, [=] __device__(std::int64_t e) {
    const std::int64_t own = p.groups.offsets[e + 1] - p.groups.offsets[e];
    // An empty group at the end has no place of its own.
    const std::int64_t slot = own == 0 ? 0 : p.groups.offsets[e];
    at[e] = p.left.of(e, slot);
    at[count + e] = p.right.of(e, slot);
    at[2 * count + e] = p.to.of(e, slot);
    const std::int64_t of_group[] = {p.rows,       p.cols,        p.depth,
                                     p.left.pitch, p.right.pitch, p.to.pitch};
    UNROLL
    for (int i = 0; i < 6; ++i) {
      size[i * count + e] = static_cast<std::int32_t>(of_group[i] == kSlots ? own : of_group[i]);
    }
  });
  const auto average = [&](std::int64_t n) {
    return n == kSlots ? std::max<std::int64_t>(1, p.slots / count) : n;
  };
  return multiply_by_cublaslt(operation, {.groups = static_cast<std::int32_t>(count),
                                          .transposes_left = p.transposes_left,
                                          .transposes_right = p.transposes_right,
                                          .beta = p.beta,
                                          .left = at,
                                          .right = at + count,
                                          .to = const_cast<void**>(at + 2 * count),
                                          .rows = size,
                                          .cols = size + count,
                                          .depth = size + 2 * count,
                                          .left_pitch = size + 3 * count,
                                          .right_pitch = size + 4 * count,
                                          .to_pitch = size + 5 * count,
                                          .average_rows = average(p.rows),
                                          .average_cols = average(p.cols),
                                          .average_depth = average(p.depth)});
}

// Matrices [count, rows, cols] that products are written to, or where they are not as cuBLASLt wants
// them larger ones [count, filled_rows, filled_cols] in their place.
struct Result {
  Result(float* to, std::int64_t matrices, std::int64_t its_rows, std::int64_t its_cols,
         std::int64_t filled_rows, std::int64_t filled_cols)
      : data(to), count(matrices), rows(its_rows), cols(its_cols), step(rows * cols), pitch(cols) {
    if (rows == filled_rows && cols == filled_cols && are_aligned(to, 0)) return;
    step = filled_rows * filled_cols;
    pitch = filled_cols;
    larger = Tensor::empty({count * step}, DType::f32, Device::cuda);
  }
  float* place() const { return larger.defined() ? out<float>(larger) : data; }
  float beta(bool adds) const { return adds && !larger.defined() ? 1.0F : 0.0F; }
  // From the larger ones, element (matrix, row, col) where is_given(row) is true.
  template <class F>
  void take(const char* operation, bool adds, const F& is_given) const {
    if (!larger.defined()) return;
    const float* const from = in<float>(larger);
    float* const to = data;
    const std::int64_t of_rows = rows, of_cols = cols, of_step = step, of_pitch = pitch;
    each(operation, count * rows * cols, [=] __device__(std::int64_t i) {
      const std::int64_t row = i / of_cols % of_rows;
      if (!is_given(row)) return;
      const float value = from[i / of_cols / of_rows * of_step + row * of_pitch + i % of_cols];
      to[i] = adds ? to[i] + value : value;
    });
  }

  float* data;
  std::int64_t count, rows, cols, step, pitch;
  Tensor larger;
};

std::int64_t eights_of(std::int64_t n) { return 8 * pieces_of(n, 8); }

const char* answer(const char* operation, const Linear<float>& p) {
  const Stored rows = stored_rows(operation, p.rows, p.groups, p.slots, p.depth, true);
  const Stored w = stored(operation, p.w, p.groups.count, p.depth, p.cols, p.b_by_rows);
  const std::int64_t cols = eights_of(p.cols);
  const Result result(p.to, 1, p.slots, p.cols, p.slots, cols);
  const Place to = {result.place(), 0, 4 * cols, cols};
  const char* const trouble =
      run(operation, {p.groups, p.slots, of_groups(w.factor), of_slots(rows.factor), to,
                      !p.b_by_rows, false, cols, kSlots, eights_of(p.depth), result.beta(p.adds)});
  if (trouble != nullptr) return trouble;
  const Groups groups = p.groups;
  result.take(operation, p.adds,
              [=] __device__(std::int64_t slot) { return slot < groups.offsets[groups.count]; });
  if (p.bias != nullptr) add_bias(operation, p);
  return nullptr;
}

const char* answer(const char* operation, const Outer<float>& p) {
  const Stored left = stored_rows(operation, p.left, p.groups, p.slots, p.rows, false);
  const Stored right = stored_rows(operation, p.right, p.groups, p.slots, p.cols, true);
  const std::int64_t rows = eights_of(p.rows);
  const std::int64_t cols = eights_of(p.cols);
  const Result result(p.to, p.groups.count, p.rows, p.cols, rows, cols);
  const Place to = {result.place(), 4 * rows * cols, 0, cols};
  const char* const trouble =
      run(operation, {p.groups, p.slots, of_slots(right.factor), of_slots(left.factor), to, false,
                      true, cols, rows, kSlots, result.beta(p.adds)});
  if (trouble != nullptr) return trouble;
  result.take(operation, p.adds, [] __device__(std::int64_t) { return true; });
  return nullptr;
}

bool fits(const Groups& groups, std::int64_t slots, std::int64_t rows, std::int64_t cols) {
  for (const std::int64_t n : {groups.count, slots, rows, cols}) {
    if (n < 1 || n > std::numeric_limits<std::int32_t>::max() - 8) return false;
  }
  return true;
}

template <class P>
void multiply_or_fail(const char* operation, const P& p) {
  const char* const trouble = answer(operation, p);
  if (trouble == nullptr) return;
  fail(operation, "cuBLASLt answers {}. MOEGRAD_CUDA_PRODUCTS=own does without it.", trouble);
}

// --- the test before the first use

// Whole numbers whose sums are exact in f32 in any order.
Tensor whole_numbers(const Shape& shape, std::int64_t factor) {
  const Tensor x = Tensor::empty(shape, DType::f32, Device::cuda);
  float* const to = out<float>(x);
  each("cuda", x.numel(),
       [=] __device__(std::int64_t i) { to[i] = static_cast<float>(i * factor % 17 - 8); });
  return x;
}

// What is wrong with a product P that make(to) describes, of to [size].
template <class F>
std::string trouble_of(const char* what, std::int64_t size, const F& make) {
  const auto results = [&](auto&& multiply) {
    const Tensor to = whole_numbers({size}, 1);  // that what is left out differs from 0
    multiply(make(out<float>(to)));
    return to;
  };
  const char* answered = nullptr;
  const Tensor got = results([&](const auto& p) { answered = answer("cuda", p); });
  if (answered != nullptr) return std::string("cuBLASLt answers ") + answered;
  const Tensor want = results([](const auto& p) { multiply_on_tensor_cores("cuda", p); });
  if (got.to_vector() == want.to_vector()) return {};
  return std::string("cuBLASLt gets ") + what + " wrong where a group is empty";
}

}  // namespace

std::string grouped_trouble() {
  if (std::string trouble = cublaslt_trouble(); !trouble.empty()) return trouble;
  const MathsScope maths(Maths::bf16);
  constexpr std::int64_t kDepth = 32, kCols = 24, kGroups = 5, kSlotsInAll = 70;
  const Tensor offsets =
      Tensor::of<std::int32_t>({kGroups + 1}, {0, 0, 20, 20, 66, 66}).to(Device::cuda);
  const Tensor x = whole_numbers({kSlotsInAll, kDepth}, 5);
  const Tensor dy = whole_numbers({kSlotsInAll, kCols}, 7);
  const Tensor w = whole_numbers({kGroups, kDepth, kCols}, 11);
  const Groups groups = {in<std::int32_t>(offsets), kGroups};
  const Rows<float> rows = {in<float>(x), kSlotsInAll, kDepth};
  const Rows<float> back = {in<float>(dy), kSlotsInAll, kCols};
  const Factor<float> by_rows = {in<float>(w), kDepth * kCols, kCols, 1};
  const Factor<float> by_cols = {in<float>(w), kDepth * kCols, 1, kCols};
  std::string trouble = trouble_of("products", kSlotsInAll * kCols, [&](float* to) {
    return Linear<float>{groups, kSlotsInAll, rows,  by_rows, nullptr,
                         kCols,  kDepth,      false, to,      true};
  });
  if (!trouble.empty()) return trouble;
  trouble = trouble_of("gradients of rows", kSlotsInAll * kDepth, [&](float* to) {
    return Linear<float>{groups, kSlotsInAll, back,  by_cols, nullptr,
                         kDepth, kCols,       false, to,      false};
  });
  if (!trouble.empty()) return trouble;
  return trouble_of("gradients of weights", kGroups * kDepth * kCols, [&](float* to) {
    return Outer<float>{groups, kSlotsInAll, rows, back, kDepth, kCols, false, to};
  });
}

bool multiply_grouped(const char* operation, const Linear<float>& p) {
  if (!fits(p.groups, p.slots, p.depth, p.cols)) return false;
  multiply_or_fail(operation, p);
  return true;
}
bool multiply_grouped(const char* operation, const Outer<float>& p) {
  if (!fits(p.groups, p.slots, p.rows, p.cols)) return false;
  multiply_or_fail(operation, p);
  return true;
}

}  // namespace moegrad::cuda
