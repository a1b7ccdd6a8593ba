#include "autograd/expectation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "autograd/ridders.h"

namespace moegrad {
namespace {

struct Run {
  double probability = 0.0;
  double loss = 0.0;
  std::vector<Tensor> gradients;  // by input; undefined for integer inputs
};

class Sampler {
 public:
  Sampler(const Program& program, const ExpectationOptions& options)
      : program_(program), options_(options) {}

  // Every outcome, or nothing when there are more than the limit.
  std::optional<std::vector<Run>> enumerate(std::span<const Tensor> inputs, bool gradients) const {
    Decisions decisions = Decisions::enumerator();
    std::vector<Run> runs;
    do {
      if (static_cast<std::int64_t>(runs.size()) == options_.max_outcomes) return std::nullopt;
      runs.push_back(run(inputs, options_.rng, &decisions, gradients));
      runs.back().probability = decisions.probability();
    } while (decisions.next_outcome());
    return runs;
  }

  // Draws with the seeds 0, 1, ...: the same for every inputs (common random numbers).
  std::vector<Run> sample(std::span<const Tensor> inputs, bool gradients) const {
    std::vector<Run> runs;
    for (std::int64_t s = 0; s < options_.samples; ++s) {
      Rng rng = options_.rng;
      rng.seed += static_cast<std::uint64_t>(s);
      runs.push_back(run(inputs, rng, nullptr, gradients));
      runs.back().probability = 1.0 / static_cast<double>(options_.samples);
    }
    return runs;
  }

 private:
  Run run(std::span<const Tensor> inputs, const Rng& rng, Decisions* decisions,
          bool gradients) const {
    Tape::Options options;
    options.rng = rng;
    options.decisions = decisions;
    options.gradients = gradients;
    Tape tape(options);
    std::vector<Var> leaves;
    for (const Tensor& input : inputs) {
      leaves.push_back(is_floating(input.dtype()) ? tape.variable(input) : tape.constant(input));
    }
    const Var loss = program_(tape, leaves);
    Run result;
    result.loss = loss.value().item();
    if (!gradients) return result;
    const bool reached = loss.needs_gradient();
    const Gradients g = reached ? tape.backward(loss) : Gradients();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const bool floating = is_floating(inputs[i].dtype());
      if (floating && reached) {
        result.gradients.push_back(g[leaves[i]]);
      } else {
        result.gradients.push_back(floating ? Tensor::zeros(inputs[i].shape(), inputs[i].dtype())
                                            : Tensor());
      }
    }
    return result;
  }

  const Program& program_;
  const ExpectationOptions& options_;
};

double mean_loss(const std::vector<Run>& runs) {
  double sum = 0.0;
  for (const Run& run : runs) sum += run.probability * run.loss;
  return sum;
}

void moments(const std::vector<Run>& runs, std::span<const Tensor> inputs, Expectation& result) {
  result.loss = mean_loss(runs);
  for (const Run& run : runs) {
    result.loss_variance += run.probability * (run.loss - result.loss) * (run.loss - result.loss);
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) {
      result.gradient.emplace_back();
      result.variance.emplace_back();
      continue;
    }
    const Tensor mean = Tensor::zeros(inputs[i].shape(), DType::f64);
    const Tensor variance = Tensor::zeros(inputs[i].shape(), DType::f64);
    for (std::int64_t e = 0; e < mean.numel(); ++e) {
      double m = 0.0;
      for (const Run& run : runs) m += run.probability * run.gradients[i].at(e);
      double v = 0.0;
      for (const Run& run : runs) {
        const double d = run.gradients[i].at(e) - m;
        v += run.probability * d * d;
      }
      mean.write<double>()[e] = m;
      variance.write<double>()[e] = v;
      result.total_variance += v;
    }
    result.gradient.push_back(mean);
    result.variance.push_back(variance);
  }
}

// The mean and the variance of (up - down) / width over samples with common random numbers. One
// wide difference: a draw may flip within the step.
void sampled_derivative(const std::vector<Run>& up, const std::vector<Run>& down, double width,
                        double& mean, double& variance) {
  const auto samples = static_cast<double>(up.size());
  double squares = 0.0;
  mean = 0.0;
  for (std::size_t s = 0; s < up.size(); ++s) {
    const double d = (up[s].loss - down[s].loss) / width;
    mean += d / samples;
    squares += d * d / samples;
  }
  variance = std::fmax(0.0, squares - mean * mean);
}

void differences(const Sampler& sampler, std::span<const Tensor> inputs, Expectation& result) {
  double squares = 0.0;
  double true_squares = 0.0;
  const auto samples = static_cast<double>(result.outcomes);
  std::vector<Tensor> moved(inputs.begin(), inputs.end());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) {
      result.true_gradient.emplace_back();
      continue;
    }
    const Tensor gradient = Tensor::zeros(inputs[i].shape(), DType::f64);
    for (std::int64_t e = 0; e < gradient.numel(); ++e) {
      const auto move = [&](double h) {
        moved[i] = inputs[i].clone();
        moved[i].data<double>()[e] += h;
      };
      const auto at = [&](double h) -> std::optional<std::vector<double>> {
        move(h);
        const auto runs = sampler.enumerate(moved, false);
        if (!runs) return std::nullopt;
        return std::vector<double>{mean_loss(*runs)};
      };
      const auto sample_at = [&](double h) {
        move(h);
        return sampler.sample(moved, false);
      };
      double derivative = 0.0;
      double variance = 0.0;  // of one sample of the derivative
      if (result.exact) {
        const Derivative d = ridders(at, 0.02, {std::abs(result.loss) + 1.0});
        derivative = d.inside ? d.value[0] : std::numeric_limits<double>::quiet_NaN();
      } else {
        sampled_derivative(sample_at(0.1), sample_at(-0.1), 0.2, derivative, variance);
      }
      gradient.write<double>()[e] = derivative;
      const double bias = result.gradient[i].at(e) - derivative;
      squares += bias * bias;
      true_squares += derivative * derivative;
      const double error = std::sqrt((result.variance[i].at(e) + variance) / samples);
      if (!result.exact && error > 0.0) {
        result.largest_z = std::fmax(result.largest_z, std::abs(bias) / error);
      }
    }
    moved[i] = inputs[i];
    result.true_gradient.push_back(gradient);
  }
  result.bias = std::sqrt(squares);
  result.true_norm = std::sqrt(true_squares);
}

}  // namespace

Expectation expectation(const Program& program, std::span<const Tensor> inputs,
                        const ExpectationOptions& options) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].dtype() == DType::f32) {
      fail("expectation", "input {} is f32. Exact moments need f64: convert it with to().", i);
    }
  }
  const Sampler sampler(program, options);
  Expectation result;
  auto runs = sampler.enumerate(inputs, true);
  result.exact = runs.has_value();
  if (!runs) runs = sampler.sample(inputs, true);
  result.outcomes = static_cast<std::int64_t>(runs->size());
  moments(*runs, inputs, result);
  if (!result.exact) {
    result.loss_confidence =
        1.96 * std::sqrt(result.loss_variance / static_cast<double>(result.outcomes));
  }
  if (options.bias) differences(sampler, inputs, result);
  return result;
}

}  // namespace moegrad
