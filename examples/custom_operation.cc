// An operation of one's own: declared as a struct, checked, and used.
#include <cmath>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

// cap tanh(x / cap): bounds logits smoothly.
struct SoftCap {
  static constexpr std::string_view name = "soft_cap";
  static constexpr std::string_view summary = "cap tanh(x / cap) for a number cap";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::output;
  struct Attributes {
    double cap = 1.0;
  };

  static Tensor forward(Forward& in, const Attributes& a) {
    Tensor y = in[0].like();
    with_floating(y.dtype(), name, [&](auto zero) {
      using T = decltype(zero);
      for (std::int64_t i = 0; i < y.numel(); ++i) {
        y.write<T>()[i] = T(a.cap) * std::tanh(in[0].data<T>()[i] / T(a.cap));
      }
    });
    return y;
  }

  // dx = dy (1 - (y / cap)^2)
  static void backward(Backward& b, const Attributes& a) {
    Tensor dx = b.dy().like();
    with_floating(dx.dtype(), name, [&](auto zero) {
      using T = decltype(zero);
      for (std::int64_t i = 0; i < dx.numel(); ++i) {
        const T r = b.output().data<T>()[i] / T(a.cap);
        dx.write<T>()[i] = b.dy().data<T>()[i] * (T(1) - r * r);
      }
    });
    b.add(0, dx);
  }

  static std::vector<OperationCase> cases() {
    const Attributes a{1.5};
    const Program fused = [a](Tape&, std::span<const Var> x) { return apply<SoftCap>({x[0]}, a); };
    const Program plain = [a](Tape&, std::span<const Var> x) { return a.cap * tanh(x[0] / a.cap); };
    std::vector<OperationCase> cases;
    for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{0, 3}}) {
      cases.push_back({shape.str(), {{shape}}, fused, plain});
    }
    return cases;
  }
};

}  // namespace

int main() {
  const CheckRow row = check_operation(entry_of<SoftCap>());
  fmt::print("{}: {} ({}), {} cases, largest relative error {:.1e}\n", row.name,
             name_of(row.verdict), row.oracle, row.cases, row.max_error);

  // The same check on a backward pass that is broken on purpose.
  const Mutation mutation{.operation = SoftCap::name, .kind = Mutation::Kind::sign};
  const CheckRow broken = check_operation(entry_of<SoftCap>(), &mutation);
  fmt::print("with the sign of its gradient turned: {}\n", name_of(broken.verdict));

  Tape t;
  const Var logits = t.variable(Tensor::of<double>({1, 3}, {0.5, 4.0, -40.0}));
  const Var capped = apply<SoftCap>({logits}, {5.0});
  const Tensor y = capped.value();
  fmt::print("capped at 5: {:.3f} {:.3f} {:.3f}\n", y.at(0), y.at(1), y.at(2));
  const Tensor g = t.backward(sum(capped))[logits];
  fmt::print("gradient:    {:.3f} {:.3f} {:.3f}\n", g.at(0), g.at(1), g.at(2));
  return row.verdict == Verdict::pass && broken.verdict == Verdict::fail ? 0 : 1;
}
