#include "train/step.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "ops/ops.h"
#include "tensor/kernels.h"
#include "tensor/maths.h"
#include "train/evaluation.h"

namespace moegrad {
namespace {

Tensor scalar(double value, Device device) { return Tensor::full({}, value, DType::f64, device); }

bool alike(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && a.dtype() == b.dtype() && a.shape() == b.shape();
}

// The state of the mixtures during a step: what a part of the batch makes of it stands in for the
// parameter until the step is made or lost.
class StateOfStep {
 public:
  explicit StateOfStep(Parameters& parameters) : parameters_(parameters) {}
  ~StateOfStep() {
    for (auto& [state, own] : before_) state->value = own;
  }
  StateOfStep(const StateOfStep&) = delete;
  StateOfStep& operator=(const StateOfStep&) = delete;

  void update(const MixturePass& mixture) {
    for (const auto& [name, value] : mixture.out.updates) {
      Parameter* const state = parameters_.find(mixture.name + name);
      if (state == nullptr || !(state->value.shape() == value.shape())) {
        fail("train", "the layer updates '{}' {}, which it has not declared.", name, value.shape());
      }
      const auto same = [&](const auto& entry) { return entry.first == state; };
      if (std::ranges::none_of(before_, same)) before_.emplace_back(state, state->value);
      state->value = value.to(state->value.device()).to(state->value.dtype());
    }
  }
  // Becomes the parameters', where `number` (f64 []) is finite.
  void write(const Tensor& number) {
    for (auto& [state, own] : before_) {
      kernels(own.device()).copy_if_finite(number, state->value, own);
    }
  }

 private:
  Parameters& parameters_;
  std::vector<std::pair<Parameter*, Tensor>> before_;
};

}  // namespace

StepReport TrainingStep::operator()(const Batch& batch, const Rng& rng, double learning_rate,
                                    bool of_mixtures) {
  const Device device = parameters_.device();
  StepReport report =
      report_of(options_.captures
                    ? replay(batch, rng, learning_rate)
                    : compute(batch.to(device), rng, scalar(learning_rate, device), of_mixtures));
  if (!of_mixtures) report.mixtures.clear();  // a recorded step tells of them always
  if (!std::isfinite(report.objective)) {
    const double total = report.objective;
    const char* const value = std::isnan(total) ? "nan" : total > 0 ? "inf" : "-inf";
    report.failure = fmt::format("the loss is {}: {}", value, cause_of_loss(batch.to(device), rng));
  } else if (!std::isfinite(report.gradient_norm)) {
    report.failure = fmt::format("the loss is {}, and the gradient of {} is not finite.",
                                 report.loss, cause_of_norm(batch.to(device), rng));
  }
  return report;
}

std::vector<Batch> TrainingStep::parts_of(const Batch& batch) const {
  const std::int64_t rows = batch.x.size(0);
  const std::int64_t parts = std::min(options_.parts, rows);
  std::vector<Batch> all;
  for (std::int64_t i = 0; i < parts; ++i) {
    const std::int64_t begin = rows * i / parts;
    const std::int64_t end = rows * (i + 1) / parts;
    const auto cut = [&](const Tensor& t) { return t.defined() ? t.rows(begin, end) : t; };
    all.push_back(parts == 1
                      ? batch
                      : Batch{cut(batch.x), cut(batch.labels), cut(batch.ids), cut(batch.guide)});
  }
  return all;
}

TrainingStep::Numbers TrainingStep::compute(const Batch& there, const Rng& rng,
                                            const Tensor& learning_rate, bool of_mixtures) {
  tape_.clear();  // of a step that threw
  tape_.rng() = rng;
  const std::vector<Batch> parts = parts_of(there);
  Numbers numbers;
  std::vector<Tensor> all;
  std::optional<Gradients> gradients;
  Tensor objective;
  StateOfStep state(parameters_);
  const Tensor labels = parts.size() > 1 ? there.labels : Tensor();
  for (const Batch& part : parts) {
    const Rng drawn_from = tape_.rng();
    const Model::Losses l = model_.losses(tape_, part, parameters_, labels);
    const double weight =
        static_cast<double>(part.x.size(0)) / static_cast<double>(there.x.size(0));
    const Var minimised = parts.size() == 1 ? l.total : affine(l.total, weight, 0.0);
    // Values are taken before the backward pass, which releases them.
    numbers.weights.push_back(weight);
    numbers.auxiliary = l.auxiliary.defined();
    all.insert(all.end(), {l.task.value(), l.total.value()});
    if (numbers.auxiliary) all.push_back(l.auxiliary.value());
    if (of_mixtures && &part == &parts.back()) {
      for (const MixturePass& mixture : l.pass.mixtures) {
        auto& names = numbers.losses.emplace_back();
        for (const AuxiliaryLoss& loss : mixture.out.losses) {
          names.emplace_back(loss.name);
          all.push_back(loss.value.value());
        }
        all.insert(all.end(), {mixture.out.dropped(), mixture.out.expert_load()});
      }
    }
    if (objective.defined()) {
      objective = objective.clone();
      kernels(objective.device()).accumulate(1.0, minimised.value(), objective);
    } else {
      objective = minimised.value();
    }
    Gradients more = tape_.backward(minimised);
    if (options_.norms_of != nullptr) take_norms(more, part, labels, drawn_from, weight);
    if (gradients) {
      gradients->add(more);
    } else {
      gradients = std::move(more);
    }
    for (const MixturePass& mixture : l.pass.mixtures) state.update(mixture);
    const Rng next = tape_.rng();
    tape_.clear();
    tape_.rng() = next;
  }
  const Tensor norm =
      optimiser_.step(parameters_, *gradients, learning_rate, options_.max_norm, objective);
  state.write(norm);
  all.push_back(norm);
  numbers.all = concatenated(all);
  return numbers;
}

void TrainingStep::take_norms(const Gradients& gradients, const Batch& part, const Tensor& labels,
                              const Rng& rng, double weight) const {
  Tape tape(Tape::Options{.rng = rng});
  const Gradients other =
      tape.backward(options_.norms_of->losses(tape, part, parameters_, labels).total);
  const Device device = parameters_.device();
  const Tensor none = scalar(0.0, device);
  for (const Parameter& p : parameters_) {
    const Tensor own = gradients.find(p);
    if (!p.trained || !own.defined()) continue;
    const auto norm_of = [&](const Tensor& gradient) {
      if (!gradient.defined()) return 0.0;
      const ParameterStep step{.parameter = p.value, .gradient = gradient};
      const Tensor norm = none.clone();
      kernels(device).gradient_norm({&step, 1}, none, norm);
      return norm.to_vector().front();
    };
    const double norm = norm_of(own);
    if (norm == 0.0) continue;
    kernels(device).accumulate(weight * norm_of(other.find(p)) / norm - 1.0, own.clone(), own);
  }
}

TrainingStep::Recorded::Recorded(const Batch& there)
    : work(there.x.device()), batch(there), learning_rate(scalar(0.0, there.x.device())) {}

bool TrainingStep::Recorded::is_for(const Batch& other) const {
  return alike(batch.x, other.x) && alike(batch.labels, other.labels) &&
         alike(batch.ids, other.ids) && alike(batch.guide, other.guide);
}

std::vector<std::uint64_t> TrainingStep::fixed_numbers() const {
  std::vector<std::uint64_t> all = {static_cast<std::uint64_t>(maths())};
  for (const Parameter& p : parameters_) {
    all.insert(all.end(), {p.value.place_to_write(), std::bit_cast<std::uint64_t>(p.rate),
                           std::uint64_t{p.decays}, std::uint64_t{p.trained}});
  }
  for (const auto& [name, state] : optimiser_.state()) all.push_back(state.place_to_write());
  return all;
}

const TrainingStep::Numbers& TrainingStep::replay(const Batch& batch, const Rng& rng,
                                                  double learning_rate) {
  std::vector<std::uint64_t> fixed = fixed_numbers();
  if (fixed != fixed_) recorded_.clear();
  fixed_ = std::move(fixed);

  Kernels& device = kernels(parameters_.device());
  const auto found = std::ranges::find_if(recorded_, [&](auto& r) { return r.is_for(batch); });
  Recorded& r =
      found != recorded_.end() ? *found : recorded_.emplace_back(batch.to(parameters_.device()));
  device.upload(batch.x.raw(), r.batch.x);
  device.upload(batch.labels.raw(), r.batch.labels);
  if (batch.ids.defined()) device.upload(batch.ids.raw(), r.batch.ids);
  if (batch.guide.defined()) device.upload(batch.guide.raw(), r.batch.guide);
  device.upload(reinterpret_cast<const std::byte*>(&learning_rate), r.learning_rate);
  r.work(rng, [&] {
    r.numbers = {};  // its memory is wanted again
    r.numbers = compute(r.batch, rng, r.learning_rate, true);
  });
  return r.numbers;
}

StepReport TrainingStep::report_of(const Numbers& numbers) const {
  const std::vector<double> read = numbers.all.to_vector();
  auto next = read.begin();
  StepReport report;
  for (const double weight : numbers.weights) {
    report.loss += weight * *next++;
    report.objective += weight * *next++;
    if (numbers.auxiliary) report.auxiliary += weight * *next++;
  }
  for (const std::vector<std::string>& names : numbers.losses) {
    MixtureReport& mixture = report.mixtures.emplace_back();
    for (const std::string& name : names) mixture.losses.emplace_back(name, *next++);
    const double dropped = *next++;
    const auto experts = model_.mixture().config().size.experts;
    mixture.expert_load.assign(next, next + experts);
    next += experts;
    mixture.dropped = dropped_share(dropped, mixture.expert_load);
    mixture.expert_load = shares(std::move(mixture.expert_load));
  }
  report.gradient_norm = read.back();
  return report;
}

// The same forward pass again, stopping at the operation that makes the first NaN or infinity.
std::string TrainingStep::cause_of_loss(const Batch& there, const Rng& rng) const {
  try {
    Tape tape(Tape::Options{.check_finite = true, .rng = rng});
    model_.losses(tape, there, parameters_);
  } catch (const Error& error) {
    return error.what();
  }
  return "no operation of a second run did it again.";
}

std::string TrainingStep::cause_of_norm(const Batch& there, const Rng& rng) const {
  Tape tape(Tape::Options{.rng = rng});
  const Gradients gradients = tape.backward(model_.losses(tape, there, parameters_).total);
  for (const Parameter& p : parameters_) {
    const Tensor g = gradients.find(p);
    if (p.trained && g.defined() && !kernels(g.device()).all_finite(g)) return "'" + p.name + "'";
  }
  return "all parameters together";
}

}  // namespace moegrad
