#include "train/step.h"

#include <cmath>

#include "tensor/kernels.h"
#include "train/evaluation.h"

namespace moegrad {

StepReport TrainingStep::operator()(const Batch& batch, const Rng& rng, double learning_rate,
                                    bool of_mixture) {
  const Batch there = batch.to(parameters_.device());
  tape_.clear();  // of a step that threw
  tape_.rng() = rng;
  const Classifier::Losses l = model_.losses(tape_, there, parameters_);
  // Values are taken before the backward pass, which releases them.
  const LayerOutput& mixture = l.mixture;
  std::vector<Tensor> numbers = {l.task.value(), l.total.value()};
  if (mixture.auxiliary.defined()) numbers.push_back(mixture.auxiliary.value());
  if (of_mixture) {
    for (const AuxiliaryLoss& loss : mixture.losses) numbers.push_back(loss.value.value());
    numbers.insert(numbers.end(), {mixture.dropped(), mixture.expert_load()});
  }
  const Gradients gradients = tape_.backward(l.total);
  numbers.push_back(
      optimiser_.step(parameters_, gradients, learning_rate, max_norm_, l.total.value()));

  const std::vector<double> read = to_vector(numbers);
  auto next = read.begin();
  StepReport report;
  report.loss = *next++;
  const double total = *next++;
  if (mixture.auxiliary.defined()) report.auxiliary = *next++;
  if (of_mixture) {
    report.mixture.emplace();
    for (const AuxiliaryLoss& loss : mixture.losses) {
      report.mixture->losses.emplace_back(loss.name, *next++);
    }
    const double dropped = *next++;
    report.mixture->expert_load.assign(next, read.end() - 1);
    report.mixture->dropped = dropped_share(dropped, report.mixture->expert_load);
    report.mixture->expert_load = shares(std::move(report.mixture->expert_load));
  }
  report.gradient_norm = read.back();

  if (!std::isfinite(total)) {
    const char* const value = std::isnan(total) ? "nan" : total > 0 ? "inf" : "-inf";
    report.failure = fmt::format("the loss is {}: {}", value, cause_of_loss(there, rng));
  } else if (!std::isfinite(report.gradient_norm)) {
    report.failure = fmt::format("the loss is {}, and the gradient of {} is not finite.",
                                 report.loss, cause_of_norm(gradients));
  } else {
    Classifier::update(parameters_, mixture.updates);
  }
  tape_.clear();
  return report;
}

// The same forward pass again, stopping at the operation that makes the first NaN or infinity.
std::string TrainingStep::cause_of_loss(const Batch& batch, const Rng& rng) const {
  try {
    Tape tape(Tape::Options{.check_finite = true, .rng = rng});
    model_.losses(tape, batch, parameters_);
  } catch (const Error& error) {
    return error.what();
  }
  return "no operation of a second run did it again.";
}

std::string TrainingStep::cause_of_norm(const Gradients& gradients) const {
  for (const Parameter& p : parameters_) {
    const Tensor g = gradients.find(p);
    if (p.trained && g.defined() && !kernels(g.device()).all_finite(g)) return "'" + p.name + "'";
  }
  return "all parameters together";
}

}  // namespace moegrad
