#include "moe/convolution.h"

#include <cmath>

#include "moe/dispatch.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::int64_t kPool = 2;

// Of a side, what a convolution and a pool leave.
std::int64_t after_convolution(std::int64_t side) { return (side - kFilterSide + 1) / kPool; }

Var pooled(Var x) { return max_pool2d(relu(x), kPool, kPool); }

// Of expert e.
Var parameter_of_expert(Var parameters, std::int64_t e) {
  const Shape& all = parameters.shape();
  Shape one;
  for (int axis = 1; axis < all.rank(); ++axis) one.push_back(all[axis]);
  return reshape(slice(parameters, 0, e, e + 1), one);
}

}  // namespace

ConvolutionSize::ConvolutionSize(std::int64_t pixels)
    : side(std::llround(std::sqrt(static_cast<double>(pixels)))) {
  const std::int64_t last = after_convolution(after_convolution(side));
  if (side * side != pixels || last < 1) {
    fail(
        "experts",
        "rows of {} are no images of 16 x 16 pixels or more. Give convolutional experts those of a "
        "square: a width of 784 for 28 x 28.",
        pixels);
  }
  row = kSecondFilters * last * last;
}

void declare_convolutional(const LayerSize& size, std::int64_t count, const std::string& start,
                           Parameters& parameters, const Rng& rng) {
  const auto add = [&](const char* which, const Shape& shape, std::int64_t in, std::int64_t out) {
    const double bound = std::sqrt(1.0 / static_cast<double>(in));
    const std::string name = start + "w" + which;
    parameters.add(name, rng.named(name).uniform(shape, DType::f64, -bound, bound)).decays = true;
    parameters.add(start + "b" + which, Tensor::zeros({count, out}, DType::f64, Device::cpu));
  };
  constexpr std::int64_t kWindow = kFilterSide * kFilterSide;
  const std::int64_t row = ConvolutionSize(size.model).row;
  add("1", {count, kFirstFilters, 1, kFilterSide, kFilterSide}, kWindow, kFirstFilters);
  add("2", {count, kSecondFilters, kFirstFilters, kFilterSide, kFilterSide},
      kWindow * kFirstFilters, kSecondFilters);
  add("3", {count, row, size.output}, row, size.output);
}

Var convolutional_experts(const Experts& experts, Var x, const Plan& plan) {
  const ConvolutionSize size(x.size(1));
  const Tensor offsets = plan.offsets().to(Device::cpu);
  const Var rows = dispatch(x, plan);
  std::vector<Var> parts;
  for (std::int64_t e = 0; e < plan.experts; ++e) {
    const std::int64_t begin = offsets.data<std::int32_t>()[e];
    const std::int64_t end = offsets.data<std::int32_t>()[e + 1];
    const bool last_of_none = parts.empty() && e + 1 == plan.experts;
    if (begin == end && !last_of_none) continue;
    const Var images = reshape(slice(rows, 0, begin, end), {end - begin, 1, size.side, size.side});
    const Var first = pooled(
        conv2d(images, parameter_of_expert(experts.w1, e), parameter_of_expert(experts.b1, e)));
    const Var second = pooled(
        conv2d(first, parameter_of_expert(experts.w2, e), parameter_of_expert(experts.b2, e)));
    parts.push_back(
        matmul(reshape(second, {end - begin, size.row}), parameter_of_expert(experts.w3, e)) +
        parameter_of_expert(experts.b3, e));
  }
  const std::int64_t behind = plan.slots() - offsets.data<std::int32_t>()[plan.experts];
  if (behind > 0) parts.push_back(constant_like(x, {behind, experts.output_width()}, 0.0));
  return concat(parts, 0);
}

std::vector<OperationCase> ConvolutionalExperts::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const char* label, std::int64_t experts, std::int64_t tokens,
                       std::int64_t outputs, const std::vector<std::int32_t>& selected) {
    const std::int64_t choices = tokens == 0 ? 1 : std::ssize(selected) / tokens;
    const Plan plan = make_plan(Tensor::of({tokens, choices}, selected), experts);
    const ConvolutionSize size(256);
    const double second = 0.2;  // sums of 250 terms
    cases.push_back(
        {label,
         {{{tokens, 256}},
          {{experts, kFirstFilters, 1, kFilterSide, kFilterSide}, -0.5, 0.5},
          {{experts, kFirstFilters}},
          {{experts, kSecondFilters, kFirstFilters, kFilterSide, kFilterSide}, -second, second},
          {{experts, kSecondFilters}},
          {{experts, size.row, outputs}},
          {{experts, outputs}}},
         [plan](Tape&, std::span<const Var> in) {
           Experts e;
           e.kind = ExpertKind::convolutional;
           e.w1 = in[1];
           e.b1 = in[2];
           e.w2 = in[3];
           e.b2 = in[4];
           e.w3 = in[5];
           e.b3 = in[6];
           return e(in[0], plan);
         }});
  };
  add("two experts", 2, 2, 2, {1, 0, 1, -1});
  add("empty experts", 3, 1, 1, {1});
  add("one expert", 1, 1, 1, {0});
  add("no token", 2, 0, 2, {});
  return cases;
}

}  // namespace moegrad
