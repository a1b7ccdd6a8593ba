#include "ops/loss.h"

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"

namespace moegrad {
namespace {

void require_same_shape(std::string_view operation, Var a, Var b) {
  if (!(a.shape() == b.shape())) {
    fail(operation, "shapes {} and {}. A loss does not broadcast: reshape one of them.", a.shape(),
         b.shape());
  }
}

}  // namespace

Tensor CrossEntropy::forward(Forward& in, const Attributes& p) {
  const Tensor& logits = in[0];
  const std::int64_t rows = logits.size(0);
  const Tensor each = Tensor::empty({rows}, logits.dtype(), logits.device());
  const Tensor lse = Tensor::empty({rows}, logits.dtype(), logits.device());
  Kernels& k = kernels(logits.device());
  k.cross_entropy(logits, in[1], each, lse);
  in.save(lse);
  const Tensor total = Tensor::empty({}, logits.dtype(), logits.device());
  k.reduce(Reduction::sum, each, {1, rows, 1}, total);
  Tensor loss = Tensor::empty({}, logits.dtype(), logits.device());
  k.expand(total, p.scale, {1, 1, 1}, loss);
  return loss;
}

void CrossEntropy::backward(Backward& b, const Attributes& p) {
  Tensor dlogits = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dlogits.device())
      .cross_entropy_backward(b.input(0), b.input(1), b.saved(0), b.dy(), p.scale, dlogits);
  b.add(0, std::move(dlogits));
}

std::vector<OperationCase> CrossEntropy::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, std::initializer_list<std::int32_t> labels, double low,
                       double high, std::optional<std::int32_t> ignore_index = std::nullopt) {
    const Tensor l = Tensor::of<std::int32_t>({shape[0]}, labels);
    cases.push_back(
        {fmt::format("{} in {} to {}{}", shape, low, high,
                     ignore_index ? fmt::format(" without {}", *ignore_index) : ""),
         {{shape, low, high}},
         [=](Tape&, std::span<const Var> x) { return cross_entropy(x[0], l, ignore_index); }});
  };
  add({4, 3}, {2, 0, 2, 1}, -2, 2);
  add({3, 4}, {3, 3, 0}, 100, 104);  // e^x alone would overflow in f32
  add({1, 5}, {4}, -2, 2);
  add({2, 1}, {0, 0}, -2, 2);
  add({1, 1}, {0}, -2, 2);
  add({5, 47}, {46, 0, 17, 17, 3}, -2, 2);
  add({4, 3}, {-100, 0, 2, -100}, -2, 2, -100);
  add({2, 40}, {0, 39}, -2, 2, 0);
  add({2, 3}, {-1, -1}, -2, 2, -1);
  return cases;
}

Tensor Mse::forward(Forward& in, const Attributes&) {
  require_same_dtype(name, in[0], in[1]);
  Kernels& k = kernels(in[0].device());
  const Tensor total = Tensor::empty({}, in[0].dtype(), in[0].device());
  k.squared_error(in[0], in[1], total);
  Tensor loss = Tensor::empty({}, in[0].dtype(), in[0].device());
  k.expand(total, 1.0 / static_cast<double>(in[0].numel()), {1, 1, 1}, loss);
  return loss;
}

void Mse::backward(Backward& b, const Attributes&) {
  for (const int i : {0, 1}) {
    if (!b.wants(i)) continue;
    Tensor d = Tensor::empty(b.input_shape(i), b.dy().dtype(), b.dy().device());
    kernels(d.device())
        .squared_error_backward(b.input(i), b.input(1 - i), b.dy(),
                                1.0 / static_cast<double>(d.numel()), d);
    b.add(i, std::move(d));
  }
}

std::vector<OperationCase> Mse::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{1, 1}, Shape{11, 23}}) {
    cases.push_back(
        {shape.str(),
         {{shape}, {shape}},
         [](Tape&, std::span<const Var> x) { return mse(x[0], x[1]); },
         [](Tape&, std::span<const Var> x) { return mean(squared_difference(x[0], x[1])); }});
  }
  return cases;
}

std::vector<OperationCase> BceWithLogits::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{1, 1}}) {
    cases.push_back({shape.str(),
                     {{shape, -3, 3}, {shape, 0, 1}},
                     [](Tape&, std::span<const Var> x) { return bce_with_logits(x[0], x[1]); }});
  }
  return cases;
}

Var cross_entropy(Var logits, const Tensor& labels, std::optional<std::int32_t> ignore_index) {
  constexpr std::string_view name = CrossEntropy::name;
  require_rank(name, "logits", logits.shape(), 2);
  const std::int64_t rows = logits.size(0);
  const std::int64_t classes = logits.size(1);
  if (!labels.defined() || labels.dtype() != DType::i32 || !(labels.shape() == Shape{rows})) {
    fail(name, "labels are {} for logits {}. Give i32 [{}].",
         labels.defined() ? fmt::format("{} {}", moegrad::name_of(labels.dtype()), labels.shape())
                          : "undefined",
         logits.shape(), rows);
  }
  if (rows == 0) fail(name, "logits {} have no rows. Leave empty batches out.", logits.shape());
  if (!ignore_index && labels.device() != Device::cpu) {
    return apply<CrossEntropy>({logits, index_for(logits, labels)},
                               {1.0 / static_cast<double>(rows)});
  }
  Tensor used = labels.to(Device::cpu);  // -1 for those ignored
  if (ignore_index) used = used.clone();
  std::int64_t ignored = 0;
  const auto values = used.values<std::int32_t>();
  for (std::size_t row = 0; row < values.size(); ++row) {
    if (ignore_index && values[row] == *ignore_index) {
      used.write<std::int32_t>()[row] = -1;
      ++ignored;
    } else if (values[row] < 0 || values[row] >= classes) {
      fail(name, "row {} has label {}, outside 0 to {}. Check the labels.", row, values[row],
           classes - 1);
    }
  }
  const double scale = ignored == rows ? 0.0 : 1.0 / static_cast<double>(rows - ignored);
  return apply<CrossEntropy>({logits, index_for(logits, used)}, {scale});
}

Var mse(Var a, Var b) {
  require_same_shape(Mse::name, a, b);
  if (a.shape().numel() == 0) {
    fail(Mse::name, "over no elements, of shape {}. Leave empty tensors out.", a.shape());
  }
  return apply<Mse>({a, b});
}

Var bce_with_logits(Var logits, Var targets) {
  require_same_shape(BceWithLogits::name, logits, targets);
  return mean(binary_cross_entropy(logits, targets));
}

}  // namespace moegrad
