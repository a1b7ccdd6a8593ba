// Chapter 3: the loss of a top-2 layer as one logit moves. It jumps, and its gradient does not see
// the jump, nor the experts that did not run.
#include <cmath>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

// Four experts whose outputs are numbers: y = the sum over the two largest scores of p_e E_e.
struct Result {
  std::string selected;
  double loss;
  std::vector<double> gradient;  // of the logits
};
Result run(const std::vector<double>& logits, const std::vector<double>& outputs) {
  Tape t;
  const Var o = t.variable(Tensor::of<double>({1, 4}, logits));
  const Var experts = t.constant(Tensor::of<double>({1, 4}, outputs));
  const Var p = softmax(o);
  const Tensor selected = top_k_indices(o, 2);
  const Var y = sum(take_columns(p, selected) * take_columns(experts, selected), 1);
  const Var loss = sum(square(y - 1.0));  // the target is 1
  const double value = loss.value().item();
  const std::string ids = fmt::format("{} {}", selected.at(0), selected.at(1));
  return {ids, value, t.backward(loss)[o].to_vector()};
}

}  // namespace

int main() {
  const std::vector<double> outputs = {1.0, 0.5, 2.5, -1.0};
  fmt::print("{:>7}  {:<8} {:>7}  {:>9}  {:>11}\n", "logit 2", "selected", "loss", "gradient",
             "differences");
  const double h = 0.125;
  double jump = 0.0;
  double before = 0.0;
  for (int i = 0; i <= 8; ++i) {
    const double o = h * i;
    const auto at = [&](double x) { return run({1.0, 0.5, x, -0.5}, outputs); };
    const Result here = at(o);
    const double differences = (at(o + h).loss - at(o - h).loss) / (2.0 * h);
    fmt::print("{:>7.3f}  {:<8} {:>7.4f}  {:>9.4f}  {:>11.4f}\n", o, here.selected, here.loss,
               here.gradient[2], differences);
    if (i > 0) jump = std::fmax(jump, std::abs(here.loss - before));
    before = here.loss;
  }

  // Expert 2 does not run at logit 0: whatever it would answer, the gradient is the same.
  fmt::print("\ngradient of the logits at logit 2 = 0:\n");
  bool same = true;
  const std::vector<double> first = run({1.0, 0.5, 0.0, -0.5}, outputs).gradient;
  for (const double answer : {-10.0, 0.0, 2.5}) {
    const Result r = run({1.0, 0.5, 0.0, -0.5}, {1.0, 0.5, answer, -1.0});
    fmt::print("  expert 2 would answer {:>5.1f}: {:.4f}\n", answer, fmt::join(r.gradient, " "));
    same = same && r.gradient == first;
  }
  return same && jump > 0.1 ? 0 : 1;
}
