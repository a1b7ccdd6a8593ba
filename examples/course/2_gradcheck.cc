// Chapter 2: a gradient checker of ten lines, some ways to fool it, and the checker of the library
// on the same programs.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

double loss_at(const Program& program, const std::vector<double>& x) {
  Tape t;
  const Var in[] = {t.constant(Tensor::of<double>({static_cast<std::int64_t>(x.size())}, x))};
  return program(t, in).value().item();
}

// |analytic - (L(x + h) - L(x - h)) / 2h| <= 1e-3 for each element, with one h for everything.
bool naive_check(const Program& program, const std::vector<double>& x) {
  Tape t;
  const Var in[] = {t.variable(Tensor::of<double>({static_cast<std::int64_t>(x.size())}, x))};
  const Tensor analytic = t.backward(program(t, in))[in[0]];
  const double h = 1e-6;
  bool good = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::vector<double> up = x;
    std::vector<double> down = x;
    up[i] += h;
    down[i] -= h;
    const double numeric = (loss_at(program, up) - loss_at(program, down)) / (2.0 * h);
    good = good && std::abs(analytic.at(static_cast<std::int64_t>(i)) - numeric) <= 1e-3;
  }
  return good;
}

// The value of f with c times its gradient. The rest of f leaves the tape by a back door.
Var with_gradient(Var f, double c) {
  const Tensor value = f.value();
  return c * f + (1.0 - c) * f.tape().constant(value);
}

struct Trial {
  std::string name;
  bool right;  // the gradient
  Program program;
  std::vector<double> x;
};

}  // namespace

int main() {
  const auto of = [](auto f, double c) -> Program {
    return [f, c](Tape&, std::span<const Var> x) { return sum(with_gradient(f(x[0]), c)); };
  };
  const auto tanh_of = [](Var x) { return tanh(x); };
  const auto small = [](Var x) { return 1e-4 * square(x); };
  const auto wave = [](Var x) { return sin(x * (2e6 * std::numbers::pi)) / 2e6; };
  const auto large = [](Var x) { return tanh(x) + 1e16; };
  const auto gate = [](Var x) { return tanh(x) + stop_gradient(sign(x) - tanh(x)); };
  const std::vector<Trial> trials = {
      {"tanh x", true, of(tanh_of, 1.0), {0.3, -1.2}},
      {"tanh x, gradient doubled", false, of(tanh_of, 2.0), {0.3, -1.2}},
      {"x^2 / 10^4, gradient doubled", false, of(small, 2.0), {0.3, -1.2}},
      {"a wave whose period is h, gradient dropped", false, of(wave, 0.0), {0.3, -1.2}},
      {"tanh x + 10^16", true, of(large, 1.0), {0.3, -1.2}},
      {"tanh x + 10^16, gradient dropped", false, of(large, 0.0), {0.3, -1.2}},
      {"straight-through sign", true, of(gate, 1.0), {0.3, -1.2}},
      {"straight-through sign, gradient doubled", false, of(gate, 2.0), {0.3, -1.2}}};

  fmt::print("{:<43} {:<8} {:<7} {}\n", "program", "gradient", "naive", "gradcheck");
  bool never_wrong = true;
  for (const Trial& trial : trials) {
    const bool naive = naive_check(trial.program, trial.x);
    const std::int64_t n = static_cast<std::int64_t>(trial.x.size());
    const Verdict verdict = gradcheck(trial.program, {Tensor::of<double>({n}, trial.x)}).verdict;
    fmt::print("{:<43} {:<8} {:<7} {}\n", trial.name, trial.right ? "right" : "wrong",
               naive ? "pass" : "fail", name_of(verdict));
    never_wrong = never_wrong && verdict != (trial.right ? Verdict::fail : Verdict::pass);
  }
  return never_wrong ? 0 : 1;
}
