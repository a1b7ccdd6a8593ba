#include "moe/sequences.h"

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

Sequences::Sequences(const LayerInput& in) : Sequences(in.x.size(0), in.sequence) {
  if (!in.places.defined()) return;
  const std::int64_t tokens = in.x.size(0);
  const std::int32_t* const places = in.places.data<std::int32_t>();
  std::vector<std::int64_t> lengths;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool first = t == 0 || places[t] / in.sequence != places[t - 1] / in.sequence;
    if (first) lengths.push_back(0);
    ++lengths.back();
  }
  const auto [shortest, longest] = std::ranges::minmax(lengths);
  count_ = static_cast<std::int64_t>(lengths.size());
  length_ = longest;
  if (shortest == longest) return;
  const Tensor rows = Tensor::full({count_, length_}, -1.0, DType::i32, Device::cpu);
  const Tensor cells = Tensor::empty({tokens}, DType::i32, Device::cpu);
  const Tensor of = Tensor::empty({tokens}, DType::i32, Device::cpu);
  const Tensor each = Tensor::empty({count_, 1}, DType::f64, Device::cpu);
  std::int32_t token = 0;
  for (std::int64_t s = 0; s < count_; ++s) {
    const std::int64_t length = lengths[static_cast<std::size_t>(s)];
    each.write<double>()[s] = static_cast<double>(length);
    for (std::int64_t i = 0; i < length; ++i, ++token) {
      rows.write<std::int32_t>()[s * length_ + i] = token;
      cells.write<std::int32_t>()[token] = static_cast<std::int32_t>(s * length_ + i);
      of.write<std::int32_t>()[token] = static_cast<std::int32_t>(s);
    }
  }
  const Device device = in.x.value().device();
  rows_ = rows.to(device);
  cells_ = cells.to(device);
  of_ = of.to(device);
  lengths_ = each.to(device);
}

Tensor Sequences::of_tokens(std::int64_t tokens, Device device) const {
  return of_.defined() ? of_ : cycle({tokens}, length_, count_, device);
}

Var Sequences::split(Var x, double fill) const {
  const Shape shape = {count_, length_, x.size(1)};
  if (!rows_.defined()) return reshape(x, shape);
  const Var there = reshape(gather_rows(x, rows_.reshape({rows_.numel()})), shape);
  if (fill == 0.0) return there;
  const Tensor is_token = greater(rows_, scalar_like(rows_, -1.0));
  const Tensor value = x.value();
  const Tensor behind = where(is_token, scalar_like(value, 0.0), scalar_like(value, fill));
  return there + x.tape().constant(behind.reshape({count_, length_, 1}));
}

Var Sequences::join(Var x) const {
  const Var rows = reshape(x, {count_ * length_, x.size(2)});
  return cells_.defined() ? gather_rows(rows, cells_) : rows;
}

}  // namespace moegrad
