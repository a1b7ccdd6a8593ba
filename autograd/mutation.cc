#include "autograd/mutation.h"

#include <utility>

#include "tensor/kernels.h"

namespace moegrad {
namespace {

Tensor mutated(Mutation::Kind kind, const Tensor& gradient) {
  Kernels& k = kernels(gradient.device());
  const std::int64_t n = gradient.numel();
  Tensor out = Tensor::zeros(gradient.shape(), gradient.dtype(), gradient.device());
  switch (kind) {
    case Mutation::Kind::sign:
      k.accumulate(-1.0, gradient, out);
      break;
    case Mutation::Kind::twice:
      k.accumulate(2.0, gradient, out);
      break;
    case Mutation::Kind::transposed: {
      const std::int64_t cols = gradient.shape().back();
      const std::int64_t rows = cols == 0 ? 0 : n / cols;
      k.swap_axes(gradient, 1, rows, 1, cols, 1, out);
      break;
    }
    case Mutation::Kind::rotated: {
      const std::int64_t cols = n == gradient.shape().back() ? 1 : gradient.shape().back();
      if (n == 0) break;
      k.copy_block(gradient, 0, n, 1, n - cols, cols, n, out);
      k.copy_block(gradient, n - cols, n, 1, cols, 0, n, out);
      break;
    }
    default:  // dropped: zeros
      break;
  }
  return out;
}

// As numbers: -0 is 0, and NaN differs from everything.
bool same_values(const Tensor& on_a, const Tensor& on_b) {
  const Tensor a = on_a.to(Device::cpu);
  const Tensor b = on_b.to(Device::cpu);
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    if (!(a.at(i) == b.at(i))) return false;
  }
  return true;
}

}  // namespace

void Mutation::apply(Tensor& adjoint, Tensor& gradient) const {
  bool changes = false;
  if (kind == Kind::overwrites) {
    changes =
        adjoint.defined() &&
        !same_values(adjoint, Tensor::zeros(adjoint.shape(), adjoint.dtype(), adjoint.device()));
    adjoint = Tensor();
  } else {
    Tensor broken = mutated(kind, gradient);
    changes = !same_values(broken, gradient);
    gradient = std::move(broken);
  }
  if (changes && applied != nullptr) *applied = true;
}

std::string_view name_of(Mutation::Kind kind) {
  switch (kind) {
    case Mutation::Kind::sign:
      return "sign";
    case Mutation::Kind::twice:
      return "factor 2";
    case Mutation::Kind::dropped:
      return "dropped";
    case Mutation::Kind::transposed:
      return "transposed";
    case Mutation::Kind::rotated:
      return "stale permutation";
    default:
      return "= for +=";
  }
}

}  // namespace moegrad
