#include "autograd/expectation_runs.h"

#include <cmath>

#include "autograd/directions.h"

namespace moegrad {
namespace {

constexpr std::size_t kProbes = 16;  // runs with another seed, to find noise

bool same_run(const ExpectationRun& a, const ExpectationRun& b) {
  if (!Tensor::scalar(a.loss).same_bits(Tensor::scalar(b.loss))) return false;
  for (std::size_t i = 0; i < a.gradients.size(); ++i) {
    if (a.gradients[i].defined() && !a.gradients[i].same_bits(b.gradients[i])) return false;
  }
  return a.path == b.path;
}

}  // namespace

ExpectationRun Sampler::run(std::span<const Tensor> inputs, const Rng& rng, Decisions& decisions,
                            bool gradients) const {
  Tape tape({.gradients = gradients, .track_cell = true, .rng = rng, .decisions = &decisions});
  std::vector<Var> leaves;
  for (const Tensor& input : inputs) {
    leaves.push_back(is_floating(input.dtype()) ? tape.variable(input) : tape.constant(input));
  }
  const Var loss = program_(tape, leaves);
  if (loss.shape().numel() != 1) {
    fail("expectation", "the program gives a loss of shape {}. Give one number: a sum or a mean.",
         loss.shape().str());
  }
  if (loss.value().dtype() != DType::f64) {
    fail("expectation", "the program gives a loss of {}. Moments need f64.",
         name_of(loss.value().dtype()));
  }
  ExpectationRun result;
  result.weight = decisions.weight();
  result.loss = loss.value().item();
  if (options_.also != nullptr) result.also = *options_.also;
  result.may_peek = tape.rng_asked() > decisions.draws();
  result.took_numbers = !(tape.rng() == rng);
  result.path = decisions.path();
  result.cell = {tape.cell().signature(), decisions.signature()};
  if (!gradients) return result;
  const bool reached = loss.needs_gradient();
  const auto add = [&](const Tensor& value, const Tensor& gradient) {
    result.inner = std::hypot(result.inner, norm_of_product(gradient, value));
    result.scale = std::hypot(result.scale, norm_of_product(gradient, value, 1.0));
  };
  const Gradients g = reached ? tape.backward(loss, {.visit = add}) : Gradients();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool floating = is_floating(inputs[i].dtype());
    if (floating && reached) {
      result.gradients.push_back(g[leaves[i]]);
    } else {
      result.gradients.push_back(
          floating ? Tensor::zeros(inputs[i].shape(), inputs[i].dtype(), Device::cpu) : Tensor());
    }
  }
  return result;
}

ExpectationRun Sampler::run_along(std::span<const Tensor> inputs, const Rng& rng,
                                  const Decisions::Path& path, bool gradients) const {
  Decisions decisions =
      Decisions::along(path, rng.split(0x7061'7468'0000'0000U + rng.stream), options_.max_outcomes);
  return run(inputs, rng, decisions, gradients);
}

std::optional<std::vector<ExpectationRun>> Sampler::enumerate(std::span<const Tensor> inputs,
                                                              const Rng& rng, std::int64_t limit,
                                                              bool gradients) const {
  Decisions decisions = Decisions::enumerator(options_.max_outcomes);
  std::vector<ExpectationRun> runs;
  try {
    do {
      if (static_cast<std::int64_t>(runs.size()) == limit) return std::nullopt;
      runs.push_back(run(inputs, rng, decisions, gradients));
      runs.back().weight = decisions.probability();
    } while (decisions.next_outcome());
  } catch (const TooManyDraws&) {
    return std::nullopt;
  }
  return runs;
}

std::vector<ExpectationRun> Sampler::sample(std::span<const Tensor> inputs, bool inner,
                                            std::vector<ExpectationSample>& samples) const {
  std::vector<ExpectationRun> all;
  for (std::int64_t s = 0; s < options_.samples; ++s) {
    ExpectationSample sample{options_.rng, inner, all.size(), 1};
    sample.rng.seed += static_cast<std::uint64_t>(s);
    std::optional<std::vector<ExpectationRun>> runs;
    if (inner) runs = enumerate(inputs, sample.rng, kInner, true);
    sample.enumerated = runs.has_value();
    if (!runs) runs.emplace().push_back(run_along(inputs, sample.rng, {}, true));
    sample.runs = runs->size();
    for (ExpectationRun& run : *runs) {
      run.weight /= static_cast<double>(options_.samples);
      all.push_back(std::move(run));
    }
    samples.push_back(sample);
  }
  return all;
}

bool Sampler::noisy(std::span<const Tensor> inputs, const std::vector<ExpectationRun>& runs) const {
  // Who asks for the generator more often than its draws need may look at numbers in a copy.
  for (const ExpectationRun& run : runs) {
    if (run.took_numbers || run.may_peek) return true;
  }
  for (std::size_t i = 0; i < kProbes; ++i) {
    const ExpectationRun& of = runs[i * runs.size() / kProbes];
    if (i == 0 && !same_run(run_along(inputs, options_.rng, of.path, true), of)) {
      fail("expectation",
           "the program gave another loss or gradient when it was run again with the same inputs, "
           "decisions and random numbers. Draw from the tape's rng() alone.");
    }
    Rng other = options_.rng;
    other.seed += 0x9e37'79b9'7f4a'7c15U * (i + 1);
    if (!same_run(run_along(inputs, other, of.path, true), of)) return true;
  }
  return false;
}

bool Sampler::same_again(std::span<const Tensor> inputs, const std::vector<ExpectationRun>& runs,
                         const std::vector<ExpectationSample>& samples) const {
  const std::vector<ExpectationSample> all = {{options_.rng, true, 0, runs.size()}};
  try {
    for (const ExpectationSample& sample : samples.empty() ? all : samples) {
      for (std::size_t r = sample.first; r < sample.first + sample.runs; ++r) {
        if (!same_run(run_along(inputs, sample.rng, runs[r].path, true), runs[r])) return false;
      }
    }
  } catch (const Interruption&) {
    throw;
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

}  // namespace moegrad
