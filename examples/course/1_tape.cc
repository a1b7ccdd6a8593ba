// Chapter 1: a tape, its values and its adjoints, and the same adjoints by hand.
//   1_tape [FILE.html]   writes the page of the tape too
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

double number(const Tensor& t) { return t.item(); }

}  // namespace

int main(int argc, char** argv) {
  Tape t;
  const Var a = t.variable(Tensor::scalar(2.0));
  const Var b = t.variable(Tensor::scalar(-0.5));
  const Var c = a * b;
  const Var d = tanh(c);
  const Var loss = d + a;  // a is used twice

  const std::vector<std::pair<Var, std::string>> names = {
      {a, "a"}, {b, "b"}, {c, "c = a b"}, {d, "d = tanh c"}, {loss, "L = d + a"}};
  if (argc > 1) write_file_atomic(argv[1], tape_page(t, loss, {.title = "A tape", .names = names}));

  // retain: the values stay. keep: the adjoints of c, d and L are wanted too.
  const Gradients adjoint = t.backward(loss, {.retain = true, .keep = {c, d, loss}});
  fmt::print("node  {:<12} {:>8}  {:>8}\n", "value of", "value", "adjoint");
  for (const auto& [v, name] : names) {
    fmt::print("{:<4}  {:<12} {:>8.4f}  {:>8.4f}\n", v.index(), name, number(v.value()),
               number(adjoint[v]));
  }

  // The chain rule, from the last line to the first.
  const double d_loss = 1.0;
  const double d_d = d_loss;                                            // L = d + a
  const double d_c = d_d * (1.0 - std::pow(std::tanh(2.0 * -0.5), 2));  // d = tanh c
  const double d_b = d_c * 2.0;                                         // c = a b
  const double d_a = d_loss + d_c * -0.5;                               // both uses of a
  fmt::print("\nby hand: dL/da = {:.4f}, dL/db = {:.4f}\n", d_a, d_b);
  const bool same = std::abs(d_a - number(adjoint[a])) < 1e-15;
  return same && std::abs(d_b - number(adjoint[b])) < 1e-15 ? 0 : 1;
}
