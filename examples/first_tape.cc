// A loss on a tape, its gradients, and the same gradients by hand.
#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

int main() {
  Tape t;
  const Var x = t.constant(Tensor::of<double>({3, 2}, {0.5, -1.0, 2.0, 0.25, -0.5, 1.5}));
  const Var w = t.variable(Tensor::of<double>({2, 1}, {1.0, -0.5}));

  const Var u = matmul(x, w);  // [3, 1]
  const Var loss = mean(square(tanh(u)));
  fmt::print("loss {:.6f}\n\n{}\n", loss.value().item(), t.table());

  const Tensor x_value = x.value();  // read before backward: it releases what it went through
  const Tensor u_value = u.value();
  const Gradients g = t.backward(loss);
  const Tensor dw = g[w];
  fmt::print("dloss/dw = {:.6f} {:.6f}\n\n{}", dw.at(0), dw.at(1), t.table());

  // By hand: du_i = (2/3) tanh(u_i) (1 - tanh(u_i)^2) and dw = x^T du.
  double largest = 0.0;
  for (int column = 0; column < 2; ++column) {
    double by_hand = 0.0;
    for (int row = 0; row < 3; ++row) {
      const double y = std::tanh(u_value.at(row));
      by_hand += x_value.at(row * 2 + column) * 2.0 / 3.0 * y * (1.0 - y * y);
    }
    largest = std::max(largest, std::abs(by_hand - dw.at(column)));
  }
  fmt::print("\nlargest difference to the gradient by hand: {:.1e}\n", largest);
  return largest < 1e-15 ? 0 : 1;
}
