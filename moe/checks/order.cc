// The mean over all outcomes of an estimator's router gradient, held against the exact one: what
// Claim::unbiased and Claim::biased_order say.
//
// One token; its logits are x itself; experts with constant outputs E_i; the loss f(y) a polynomial
// of degree d. With p = softmax(x), the exact gradient is that of
//   categorical routers   J = sum_i p_i f(E_i)
//   others (w = s p_D)    J = sum_i p_i f(p_i E_i); where the estimator claims no more, of
//                         sum_i f(p_i E_i) p_i with f held, the part of the choice

#include <cmath>

#include "autograd/differences.h"
#include "autograd/expectation.h"
#include "moe/checks/check.h"
#include "moe/checks/moments.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::int64_t kOutputs = 2;
constexpr int kDegrees = 4;
constexpr double kExact = 1e-9;  // exact
constexpr double kWrong = 1e-3;  // measurably not

// f(y) = sum_{m=1..d} <c_m, y>^m
constexpr double kDirections[kDegrees][kOutputs] = {
    {0.7, -1.3}, {1.1, 0.6}, {-0.9, 1.2}, {1.4, 0.8}};

double polynomial(const double* y, double factor, int degree) {
  double sum = 0.0;
  for (int m = 0; m < degree; ++m) {
    double inner = 0.0;
    for (std::int64_t d = 0; d < kOutputs; ++d) inner += kDirections[m][d] * factor * y[d];
    sum += std::pow(inner, m + 1);
  }
  return sum;
}

// Of each row of y [n, Dout]: [n].
Var polynomial(Var y, int degree) {
  Var sum_of_powers;
  for (int m = 0; m < degree; ++m) {
    const Var inner = sum(y * y.tape().constant(Tensor::of<double>(
                                  {kOutputs}, {kDirections[m][0], kDirections[m][1]})),
                          1);
    Var power = inner;
    for (int i = 0; i < m; ++i) power = power * inner;
    sum_of_powers = m == 0 ? power : sum_of_powers + power;
  }
  return sum_of_powers;
}

struct OrderCase {
  LayerConfig config;
  std::vector<double> logits;
  Tensor outputs;  // [E, Dout]
};

OrderCase order_case(const EstimatorEntry& entry, const std::map<std::string, std::string>& options,
                     std::int64_t experts) {
  OrderCase c;
  c.config.size = {experts, 1, kOutputs, experts, 1};
  c.config.router = entry.routers.front();
  c.config.estimator = entry.name;
  c.config.options = options;
  c.config.force = true;
  for (const OptionSpec& spec : router_entry(c.config.router).options) {
    if (spec.name == "argmax-rule") c.config.options[spec.name] = "false";
  }
  // Near each other: a mask by relative distance leaves all.
  c.logits = Rng{31, static_cast<std::uint64_t>(experts), 0}
                 .uniform({experts}, DType::f64, 4.2, 5.0)
                 .to_vector();
  c.outputs = Rng{32, static_cast<std::uint64_t>(experts), 0}.uniform({experts, kOutputs},
                                                                      DType::f64, -2.0, 2.5);
  return c;
}

std::vector<double> exact_gradient(const OrderCase& c, const EstimatorEntry& entry, int degree) {
  const bool categorical = entry.traits.categorical;
  const std::vector<double> held = softmax_of(c.logits);
  const auto expected_loss = [&](const std::vector<double>& logits) {
    const std::vector<double> p = softmax_of(logits);
    double sum = 0.0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double factor = categorical ? 1.0 : entry.traits.choice_alone ? held[i] : p[i];
      sum += p[i] * polynomial(c.outputs.data<double>() + i * kOutputs, factor, degree);
    }
    return sum;
  };
  std::vector<double> gradient;
  for (std::size_t q = 0; q < c.logits.size(); ++q) {
    const auto moved = [&](double h) -> std::optional<double> {
      std::vector<double> logits = c.logits;
      logits[q] += h;
      return expected_loss(logits);
    };
    gradient.push_back(derivative_of(moved, {.first = 0.1}).value[0]);
  }
  return gradient;
}

std::vector<double> mean_gradient(const OrderCase& c, Form form, int degree) {
  Layer layer(c.config);
  layer.set_form(form);
  Parameters parameters;
  Rng rng{33, 0, 0};
  layer.declare("", parameters, rng);
  const LayerSize& s = c.config.size;
  const Tensor identity = Tensor::zeros({s.experts, s.experts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < s.experts; ++e) {
    identity.write<double>()[e * s.experts + e] = 1.0;
  }
  const Program program = [&](Tape& tape, std::span<const Var> in) {
    Weights weights;
    for (const Parameter& p : parameters) {
      Tensor value = p.value;
      if (p.name == "router.weight") value = identity;
      if (p.name == "experts.w2") value = Tensor::zeros(value.shape(), DType::f64, Device::cpu);
      if (p.name == "experts.b2") value = c.outputs;
      if (p.name.starts_with("estimator."))
        value = Tensor::full(value.shape(), 0.2, DType::f64, Device::cpu);
      weights.set(p.name, tape.constant(value));
    }
    const std::int64_t copies = layer.estimator().samples();
    const Var x = gather_rows(in[0], Tensor::zeros({copies}, DType::i32, Device::cpu));
    const LayerInput input{x, weights, true};
    const LayerOutput out = layer.forward(input);
    const Var losses = polynomial(out.y, degree);
    return layer.objective(losses, out, input);
  };
  ExpectationOptions options;
  options.bias = false;
  const auto experts = static_cast<std::int64_t>(c.logits.size());
  const Expectation e = expectation(program, {Tensor::of<double>({1, experts}, c.logits)}, options);
  if (!e.exact) {
    fail("check",
         "estimator {} draws numbers that cannot be enumerated: its claim cannot be shown.",
         c.config.estimator);
  }
  return e.gradient[0].to_vector();
}

}  // namespace

void check_order(const EstimatorEntry& entry, const std::map<std::string, std::string>& options,
                 CheckRow& row) {
  const bool unbiased = entry.claim == Claim::unbiased;
  const int exact = unbiased ? kDegrees : entry.traits.order;
  row.note(exact >= 1 && exact <= kDegrees - (unbiased ? 0 : 1), "no degree is stated");
  for (const std::int64_t experts : {3, 5, 9}) {
    if (experts > 5 && !options.empty()) continue;  // of one draw
    const OrderCase c = order_case(entry, options, experts);
    // With many experts p_i E_i is small, and so is what a degree above is missed by.
    const int most = experts > 5 ? exact : std::min(exact + 1, kDegrees);
    for (int degree = 1; degree <= most; ++degree) {
      const std::vector<double> expected = exact_gradient(c, entry, degree);
      for (const Form form : {Form::written, Form::fused}) {
        const std::vector<double> mean = mean_gradient(c, form, degree);
        double error = 0.0;
        double size = 1.0;
        for (std::size_t q = 0; q < mean.size(); ++q) {
          error = std::fmax(error, std::abs(mean[q] - expected[q]));
          if (std::isnan(mean[q])) error = std::numeric_limits<double>::infinity();
          size = std::fmax(size, std::abs(expected[q]));
        }
        ++row.cases;
        if (degree <= exact) row.error(error / size);
        row.note(degree <= exact ? error <= kExact * size : error > kWrong,
                 fmt::format("{} experts, a loss of degree {}: the mean router gradient is {:.3e} "
                             "from the exact one, which is {} by claim",
                             experts, degree, error, degree <= exact ? "reached" : "missed"));
      }
    }
  }
}

}  // namespace moegrad
