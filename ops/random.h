#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Each element is 0 with probability p, else x / (1 - p); p = 1 gives zeros. The random numbers
// come from tape.rng(); the state of that generator is the decision "dropout". No mask is kept.
// When enumerating, each element is a Bernoulli draw, where the 2^n outcomes of n elements are
// within the limit.
Var dropout(Var x, double p);

struct Dropout {
  static constexpr std::string_view name = "dropout";
  static constexpr std::string_view summary = "0 with probability p, else x / (1 - p)";
  static constexpr std::string_view source = "Srivastava et al. 2014";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    Rng rng;
    double p = 0.0;
  };
  static Tensor forward(Forward& in, const Attributes& a);
  static void backward(Backward& b, const Attributes& a);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
