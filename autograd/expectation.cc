#include "autograd/expectation.h"

#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include "autograd/differences.h"
#include "autograd/directions.h"
#include "autograd/expectation_runs.h"
#include "autograd/mean_derivative.h"

namespace moegrad {
namespace {

constexpr double kNegligible = 1e-15;  // an outcome of less probability may come and go
constexpr double kErrorFactor = 4.0;   // of the differences' own estimate, as in gradcheck
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// --- moments ----------------------------------------------------------------------------------

void moments(const std::vector<ExpectationRun>& runs, std::span<const Tensor> inputs,
             Expectation& result) {
  result.also.assign(runs.front().also.size(), 0.0);
  for (const ExpectationRun& run : runs) {
    result.loss += run.weight * run.loss;
    for (std::size_t i = 0; i < run.also.size(); ++i) result.also[i] += run.weight * run.also[i];
  }
  for (const ExpectationRun& run : runs) {
    result.loss_variance += run.weight * (run.loss - result.loss) * (run.loss - result.loss);
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) {
      result.gradient.emplace_back();
      result.variance.emplace_back();
      continue;
    }
    const Tensor mean = Tensor::zeros(inputs[i].shape(), DType::f64, Device::cpu);
    const Tensor variance = Tensor::zeros(inputs[i].shape(), DType::f64, Device::cpu);
    for (std::int64_t e = 0; e < mean.numel(); ++e) {
      double m = 0.0;
      for (const ExpectationRun& run : runs) m += run.weight * run.gradients[i].at(e);
      double v = 0.0;
      for (const ExpectationRun& run : runs) {
        const double d = run.gradients[i].at(e) - m;
        v += run.weight * d * d;
      }
      mean.write<double>()[e] = m;
      variance.write<double>()[e] = v;
      result.total_variance += v;
    }
    result.gradient.push_back(mean);
    result.variance.push_back(variance);
  }
}

// --- the reference ----------------------------------------------------------------------------

constexpr const char* kNotFinite = "the mean gradient is not finite";
constexpr const char* kOtherSlopes = "steps of different sizes see different slopes";
constexpr const char* kNoTruth = "the derivative of the program held to be true is unknown";
constexpr const char* kNoStep = "every step leaves the domain or the cell, or is not finite";

// The derivative that a mean gradient is held against, as far as it is known.
using Reference = MeanDerivative;

// What f gives; nothing where it throws an Error: the inputs have left the program's domain.
template <class F>
auto within_domain(const F& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Interruption&) {
    throw;
  } catch (...) {
    return std::nullopt;
  }
}

Reference reference_of(const Derivative& d) {
  if (!d.found) return {kNan, kInfinity, kNoStep};
  if (!std::isfinite(d.error[0])) return {kNan, kInfinity, kOtherSlopes};
  return {d.value[0], kErrorFactor * d.error[0] + d.rounding[0], nullptr};
}

// The derivative at 0 of a function that gives nothing outside of its cell, in an input of value x.
// Where it is not the mean gradient, other steps must say so too.
Reference derivative_at_0(const std::function<std::optional<double>(double)>& f, double x,
                          double size, double scale, double mean) {
  const Curve curve = [&](double h) -> std::optional<Sample> {
    const std::optional<double> value = f(h);
    if (!value) return std::nullopt;
    return Sample{(x + h) - x, {*value}, {std::fmax(size, std::abs(*value))}, {scale}};
  };
  const Derivative first = derivative_of(curve, 1, steps_at(x));
  Reference reference = reference_of(first);
  const double bias = std::abs(mean - reference.value);
  if (!(bias > reference.error)) return reference;
  const Derivative second = derivative_of(curve, 1, others_than(steps_at(x), bias));
  const Reference other = reference_of(second);
  const double apart = std::abs(reference.value - other.value);
  const double noise = kNoises * second.noise[0] / first.step[0];
  if (apart <= noise) {
    reference.error += noise;
  } else if (!(apart <= 0.1 * bias + other.error)) {
    return {kNan, kInfinity, kOtherSlopes};
  } else if (!(std::abs(mean - other.value) > other.error)) {
    reference.error = apart + other.error;
  }
  return reference;
}

class Differences {
 public:
  Differences(const Sampler& sampler, std::span<const Tensor> inputs,
              const std::vector<ExpectationRun>& runs,
              const std::vector<ExpectationSample>& samples, const Expectation& result,
              const ExpectationOptions& options)
      : sampler_(sampler),
        inputs_(inputs),
        moved_(inputs.begin(), inputs.end()),
        runs_(runs),
        samples_(samples),
        result_(result),
        options_(options) {
    for (const ExpectationRun& run : runs) {
      size_ += run.weight * std::abs(run.loss);
      inner_ += run.weight * run.inner;
      scale_ += run.weight * run.scale;
    }
    if (result.exact) {
      for (const ExpectationRun& run : runs) cells_.emplace(outcomes_of(run), &run);
    }
    losses_.assign(samples.size(), 0.0);
    for (std::size_t s = 0; s < samples.size(); ++s) {
      for (const ExpectationRun& run : runs_of(s)) losses_[s] += weight(run) * run.loss;
    }
  }

  Reference at(std::size_t input, std::int64_t element) {
    const double x = inputs_[input].at(element);
    const auto moved = [&](double h) -> const std::vector<Tensor>& {
      moved_[input] = inputs_[input].clone();
      moved_[input].write<double>()[element] = x + h;
      return moved_;
    };
    Reference reference;
    if (result_.exact) {
      reference = derivative_at_0(
          [&](double h) { return within_domain([&] { return expected_loss(moved(h)); }); }, x,
          size_ + inner_, scale_, result_.gradient[input].at(element));
    } else {
      std::vector<double> own(samples_.size(), 0.0);
      for (std::size_t s = 0; s < samples_.size(); ++s) {
        for (const ExpectationRun& run : runs_of(s))
          own[s] += weight(run) * run.gradients[input].at(element);
      }
      const MeanDerivativeOptions of{.first = 0.4 * std::fmax(1.0, std::abs(x)),
                                     .losses = losses_,
                                     .size = size_,
                                     .moved = std::abs(x * result_.gradient[input].at(element)),
                                     .may_jump = result_.noise};
      reference = mean_derivative([&](double h) { return sample_differences(moved, h); }, own, of);
    }
    moved_[input] = inputs_[input];
    return reference;
  }

 private:
  static std::vector<std::int32_t> outcomes_of(const ExpectationRun& run) {
    std::vector<std::int32_t> outcomes;
    for (const auto& [outcome, probability] : run.path) outcomes.push_back(outcome);
    return outcomes;
  }
  std::span<const ExpectationRun> runs_of(std::size_t s) const {
    return {runs_.data() + samples_[s].first, samples_[s].runs};
  }
  double weight(const ExpectationRun& run) const {
    return run.weight * static_cast<double>(samples_.size());
  }

  // Over all outcomes; nothing where one of them is in another cell than at the inputs.
  std::optional<double> expected_loss(std::span<const Tensor> inputs) const {
    const auto runs = sampler_.enumerate(inputs, options_.rng, options_.max_outcomes, false);
    if (!runs) return std::nullopt;
    double sum = 0.0;
    double known = 0.0;  // probability of the outcomes that are possible at the inputs too
    for (const ExpectationRun& run : *runs) {
      sum += run.weight * run.loss;
      const auto base = cells_.find(outcomes_of(run));
      if (base == cells_.end() && run.weight <= kNegligible) continue;
      if (base == cells_.end() || base->second->cell != run.cell) return std::nullopt;
      if (run.took_numbers) return std::nullopt;  // noise that is not at the inputs
      known += base->second->weight;
    }
    if (known < 1.0 - 1e-12 || !std::isfinite(sum)) return std::nullopt;
    return sum;
  }

  struct Value {
    double loss = 0.0;
    double weight = 1.0;
    bool left_cell = false;
  };
  std::optional<Value> sample_value(std::span<const Tensor> inputs, std::size_t s) const {
    const ExpectationSample& sample = samples_[s];
    Value value;
    if (sample.enumerated) {
      const auto runs = sampler_.enumerate(inputs, sample.rng, options_.max_outcomes, false);
      if (!runs) return std::nullopt;
      for (const ExpectationRun& run : *runs) value.loss += run.weight * run.loss;
      const std::span<const ExpectationRun> base = runs_of(s);
      for (std::size_t r = 0; r < runs->size() && r < base.size(); ++r) {
        value.left_cell = value.left_cell || (*runs)[r].cell.first != base[r].cell.first;
      }
    } else {
      const ExpectationRun& base = runs_[sample.first];
      const ExpectationRun run = sampler_.run_along(inputs, sample.rng, base.path, false);
      value.weight = run.weight;
      value.loss = run.weight == 0.0 ? 0.0 : run.weight * run.loss;
      value.left_cell = run.weight != 0.0 && run.cell.first != base.cell.first;
    }
    if (!std::isfinite(value.loss)) return std::nullopt;
    return value;
  }

  // Nothing where a sample leaves the domain, or half of them the cells of their operations: kinks
  // at places of their own are smooth on average, a kink that all have is not.
  template <class Moved>
  std::optional<SampleDifferences> sample_differences(const Moved& moved, double h) const {
    return within_domain([&]() -> std::optional<SampleDifferences> {
      const std::size_t n = samples_.size();
      const std::vector<double> zero(n, 0.0);
      SampleDifferences d{zero, zero, zero};
      std::size_t left = 0;
      bool weighted = false;
      for (const double sign : {1.0, -1.0}) {
        const std::vector<Tensor>& inputs = moved(sign * h);
        for (std::size_t s = 0; s < n; ++s) {
          const auto value = sample_value(inputs, s);
          if (!value) return std::nullopt;
          d.slope[s] += sign * value->loss / (2.0 * h);
          d.bend[s] += (value->loss - losses_[s]) / h;
          d.weight[s] += sign * value->weight / (2.0 * h);
          weighted = weighted || !samples_[s].enumerated;
          if (value->left_cell && 2 * ++left > n) return std::nullopt;
        }
        left = 0;
      }
      if (!weighted) d.weight.clear();
      return d;
    });
  }

  const Sampler& sampler_;
  std::span<const Tensor> inputs_;
  std::vector<Tensor> moved_;
  const std::vector<ExpectationRun>& runs_;
  const std::vector<ExpectationSample>& samples_;
  const Expectation& result_;
  const ExpectationOptions& options_;
  double size_ = 0.0;   // E |L|
  double inner_ = 0.0;  // means of those of the runs
  double scale_ = 0.0;
  std::vector<double> losses_;  // of each sample
  std::map<std::vector<std::int32_t>, const ExpectationRun*> cells_;
};

using ReferenceAt = std::function<Reference(std::size_t input, std::int64_t element)>;

// The derivative of another program's expected loss; sampling moves the mean gradient itself.
ReferenceAt reference_of(const Expectation& truth, const Expectation& result) {
  return [&](std::size_t input, std::int64_t element) {
    const double value = truth.true_gradient[input].at(element);
    double error = truth.error[input].at(element);
    if (!std::isfinite(value) || !std::isfinite(error)) return Reference{kNan, kInfinity, kNoTruth};
    if (!result.exact) {
      const double n = static_cast<double>(result.outcomes);
      error += kStandardErrors * std::sqrt(result.variance[input].at(element) / (n - 1.0));
    }
    return Reference{value, error, nullptr};
  };
}

void compare(const ReferenceAt& reference_at, std::span<const Tensor> inputs,
             const std::vector<ExpectationRun>& runs, Expectation& result) {
  double squares = 0.0;
  double error_squares = 0.0;
  double true_squares = 0.0;
  double worst = kStandardErrors;
  std::int64_t elements = 0;
  std::int64_t unknown = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    result.true_gradient.emplace_back();
    result.error.emplace_back();
    if (!is_floating(inputs[i].dtype())) continue;
    const Tensor gradient = Tensor::zeros(inputs[i].shape(), DType::f64, Device::cpu);
    const Tensor error = Tensor::zeros(inputs[i].shape(), DType::f64, Device::cpu);
    elements += gradient.numel();
    for (std::int64_t e = 0; e < gradient.numel(); ++e) {
      Reference reference = reference_at(i, e);
      double size = 0.0;  // of the terms of the mean gradient
      for (const ExpectationRun& run : runs) size += run.weight * std::abs(run.gradients[i].at(e));
      reference.error += 16.0 * std::numeric_limits<double>::epsilon() * size;
      const double mean = result.gradient[i].at(e);
      const double bias = mean - reference.value;
      gradient.write<double>()[e] = reference.value;
      error.write<double>()[e] = reference.error;
      squares += bias * bias;
      error_squares += reference.error * reference.error;
      true_squares += reference.value * reference.value;
      if (!std::isfinite(bias) || !std::isfinite(reference.error)) {
        if (unknown++ > 0) continue;
        result.unknown = fmt::format("input {}, element {}: {}", i, e,
                                     std::isfinite(mean) ? reference.unknown : kNotFinite);
        continue;
      }
      const double z = std::abs(bias) / (reference.error / kStandardErrors);
      if (!result.exact && std::isfinite(z)) result.largest_z = std::fmax(result.largest_z, z);
      if (!(z > worst)) continue;
      worst = z;
      result.differing =
          fmt::format("input {}, element {}: mean gradient {:.6g}, true {:.6g} +- {:.2g}", i, e,
                      mean, reference.value, reference.error);
    }
    result.true_gradient.back() = gradient;
    result.error.back() = error;
  }
  if (unknown > 1)
    result.unknown += fmt::format(" (and {} more of {} elements)", unknown - 1, elements);
  result.bias = std::sqrt(squares);
  result.bias_error = std::sqrt(error_squares);
  result.true_norm = std::sqrt(true_squares);
}

// Of a program that is not the same when it is run again, nothing is known.
void forget_bias(Expectation& result) {
  for (std::size_t i = 0; i < result.error.size(); ++i) {
    if (!result.error[i].defined()) continue;
    result.true_gradient[i] = Tensor::full(result.error[i].shape(), kNan, DType::f64, Device::cpu);
    result.error[i] = Tensor::full(result.error[i].shape(), kInfinity, DType::f64, Device::cpu);
  }
  result.bias = result.true_norm = kNan;
  result.bias_error = kInfinity;
  result.largest_z = 0.0;
  result.differing.clear();
  result.unknown =
      "run again at the same point, the program gave another loss or gradient; does it depend on "
      "hidden state?";
}

void require_options(std::span<const Tensor> inputs, const ExpectationOptions& options) {
  if (options.samples < 2 || options.max_outcomes < 1) {
    fail("expectation", "{} samples and at most {} outcomes. Give at least 2 and 1.",
         options.samples, options.max_outcomes);
  }
  bool floating = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].dtype() == DType::f32) {
      fail("expectation", "input {} is f32. Exact moments need f64: convert it with to().", i);
    }
    floating = floating || (is_floating(inputs[i].dtype()) && inputs[i].numel() > 0);
  }
  if (options.bias && !floating) {
    fail(
        "expectation",
        "no input has floating elements: there is no gradient to compare. Give one, or set bias to "
        "false.");
  }
}

}  // namespace

Expectation expectation(const Program& program, std::span<const Tensor> inputs,
                        const ExpectationOptions& options) {
  require_options(inputs, options);
  const Sampler sampler(program, options);
  Expectation result;
  std::vector<ExpectationSample> samples;
  auto runs = sampler.enumerate(inputs, options.rng, options.max_outcomes, true);
  result.noise = runs && sampler.noisy(inputs, *runs);
  result.exact = runs && !result.noise;
  if (!result.exact) {
    const bool few = runs && static_cast<std::int64_t>(runs->size()) <= Sampler::kInner;
    if (!runs)
      result.noise = sampler.noisy(inputs, {sampler.run_along(inputs, options.rng, {}, true)});
    runs = sampler.sample(inputs, few, samples);
    for (const ExpectationRun& run : *runs) result.noise = result.noise || run.took_numbers;
  }
  result.outcomes = result.exact ? static_cast<std::int64_t>(runs->size()) : options.samples;
  moments(*runs, inputs, result);
  if (!result.exact) {
    result.loss_confidence =
        1.96 * std::sqrt(result.loss_variance / static_cast<double>(result.outcomes));
  }
  if (options.bias) {
    if (options.truth != nullptr) {
      ExpectationOptions of_truth = options;
      of_truth.truth = nullptr;
      of_truth.also = nullptr;
      const Expectation truth = expectation(*options.truth, inputs, of_truth);
      compare(reference_of(truth, result), inputs, *runs, result);
    } else {
      Differences differences(sampler, inputs, *runs, samples, result, options);
      compare([&](std::size_t i, std::int64_t e) { return differences.at(i, e); }, inputs, *runs,
              result);
    }
    if (!sampler.same_again(inputs, *runs, samples)) forget_bias(result);
  }
  return result;
}

std::string Expectation::text() const {
  std::string text = exact ? fmt::format("expectation: exact, over {} outcome{}\n", outcomes,
                                         outcomes == 1 ? "" : "s")
                           : fmt::format("expectation: Monte Carlo, {} samples: {}\n", outcomes,
                                         noise ? "random numbers outside of enumerated draws"
                                               : "too many outcomes to enumerate");
  text +=
      fmt::format("  loss {:.6g}{}, variance {:.4g}\n", loss,
                  exact ? "" : fmt::format(" +- {:.2g} (95 %)", loss_confidence), loss_variance);
  text += fmt::format("  gradient: variance {:.4g}", total_variance);
  if (true_gradient.empty()) return text;
  text += fmt::format(", norm of the true one {:.6g}\n", true_norm);
  if (unknown.empty()) {
    text += fmt::format("  bias {:.3g} +- {:.2g}{}", bias, bias_error,
                        biased() ? "" : ": not distinguishable from 0");
  } else {
    text += "  bias: unknown; " + unknown;
  }
  return biased() ? text + "\n  biased at " + differing : text;
}

}  // namespace moegrad
