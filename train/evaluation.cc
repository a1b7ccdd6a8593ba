#include "train/evaluation.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "ops/ops.h"
#include "tensor/kernels.h"
#include "train/measures.h"

namespace moegrad {
namespace {

constexpr std::int64_t kRows = 512;     // in a pass, of models of one token an example
constexpr std::int64_t kTokens = 2048;  // of others: what a pass writes stays in a core's cache

// Of one target, all predictions of a data set, on the host.
class Collected {
 public:
  explicit Collected(const Target& target) : target_(target) {}

  // What add() reads of a prediction: its loss, and a guess or a value for each row.
  std::vector<Tensor> wanted(const Prediction& p) const {
    Tensor each = p.value.value();
    if (target_.kind == Target::Kind::classes) {
      each = Tensor::empty({p.labels.numel()}, DType::i32, p.labels.device());
      kernels(each.device()).argmax(p.value.value(), {p.value.size(0), p.value.size(1), 1}, each);
    }
    return {loss_of(target_, p).value(), each};
  }
  void add(const double*& read, std::span<const std::int32_t> labels) {
    const double loss = *read++;
    std::int64_t known = 0;
    for (const std::int32_t label : labels) {
      const double value = *read++;
      if (label < 0 && target_.partial) continue;
      ++known;
      labels_.push_back(label);
      values_.push_back(value);
    }
    loss_ += loss * static_cast<double>(known);
  }

  double loss() const {
    return labels_.empty() ? 0.0 : loss_ / static_cast<double>(labels_.size());
  }
  std::vector<std::pair<std::string, double>> measures() const {
    using Kind = Target::Kind;
    if (target_.kind == Kind::number) return {{"rmse", root_mean_square_error(values_, labels_)}};
    std::vector<std::int32_t> guesses(values_.size());
    std::ranges::transform(values_, guesses.begin(), [&](double v) {
      return target_.kind == Kind::classes ? static_cast<std::int32_t>(v) : (v > 0.0 ? 1 : 0);
    });
    if (!target_.lengths.empty()) {
      return {{"accuracy", accuracy(guesses, labels_)},
              {"byte_perplexity", byte_perplexity(loss(), labels_, target_.lengths)}};
    }
    if (target_.kind == Kind::classes) return {{"accuracy", accuracy(guesses, labels_)}};
    return {{"accuracy", accuracy(guesses, labels_)}, {"auc", area_under_curve(values_, labels_)}};
  }

 private:
  const Target& target_;
  double loss_ = 0.0;
  std::vector<double> values_;
  std::vector<std::int32_t> labels_;
};

}  // namespace

double Evaluation::measure(std::string_view name) const {
  const auto found = std::ranges::find_if(measures, [&](const auto& m) { return m.first == name; });
  return found != measures.end() ? found->second : std::numeric_limits<double>::quiet_NaN();
}

std::string text_of(const Evaluation& e) {
  std::string text;
  for (const auto& [name, value] : e.measures) text += fmt::format("test {} {:.4f}, ", name, value);
  return text + fmt::format("test loss {:.4f}", e.loss);
}

std::vector<double> shares(std::vector<double> numbers) {
  double sum = 0.0;
  for (const double n : numbers) sum += n;
  for (double& n : numbers) n = sum == 0.0 ? 0.0 : n / sum;
  return numbers;
}

std::vector<double> mean_of_lists(const std::vector<std::vector<double>>& lists) {
  if (lists.empty()) return {};
  std::vector<double> mean(lists.front().size());
  for (const std::vector<double>& list : lists) {
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += list[i];
  }
  for (double& m : mean) m /= static_cast<double>(lists.size());
  return mean;
}

std::int64_t rows_of_pass(const Model& model) {
  const std::int64_t tokens = model.tokens();
  return tokens == 1 ? kRows : std::max<std::int64_t>(1, kTokens / tokens);
}

Evaluation evaluate(const Model& model, const Parameters& parameters, const Dataset& data,
                    bool dropless) {
  std::vector<Collected> collected(model.targets().begin(), model.targets().end());
  const auto experts = static_cast<std::size_t>(model.mixture().config().size.experts);
  Evaluation evaluation;
  std::vector<std::vector<double>>& loads = evaluation.layer_loads;
  double dropped = 0.0;
  const Batches batches(data, rows_of_pass(model));
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    const Batch batch = batches.get(i).to(parameters.device());
    Tape tape(Tape::Options{.gradients = false});
    const Pass pass =
        model.forward(tape, batch, parameters, {.training = false, .dropless = dropless});
    std::vector<Tensor> numbers;
    for (std::size_t t = 0; t < collected.size(); ++t) {
      for (Tensor& wanted : collected[t].wanted(pass.predictions[t])) {
        numbers.push_back(std::move(wanted));
      }
    }
    for (const MixturePass& mixture : pass.mixtures) {
      numbers.insert(numbers.end(), {mixture.out.dropped(), mixture.out.expert_load()});
    }
    const std::vector<double> read = concatenated(numbers).to_vector();
    const double* next = read.data();
    for (std::size_t t = 0; t < collected.size(); ++t) {
      const Tensor labels = pass.predictions[t].labels.to(Device::cpu);
      collected[t].add(next, labels.values<std::int32_t>());
    }
    loads.resize(pass.mixtures.size(), std::vector<double>(experts));
    for (std::vector<double>& load : loads) {
      dropped += *next++;
      for (double& l : load) l += *next++;
    }
  }
  std::vector<double> all;
  for (const std::vector<double>& load : loads) all.insert(all.end(), load.begin(), load.end());
  evaluation.dropped = dropped_share(dropped, all);
  for (std::vector<double>& load : loads) load = shares(std::move(load));
  evaluation.expert_load = mean_of_lists(loads);
  for (std::size_t t = 0; t < collected.size(); ++t) {
    evaluation.loss += collected[t].loss();
    for (auto& [name, value] : collected[t].measures()) {
      const std::string prefix = collected.size() == 1 ? "" : model.targets()[t].name + "_";
      evaluation.measures.emplace_back(prefix + name, value);
    }
  }
  return evaluation;
}

Tensor probabilities(const Model& model, const Parameters& parameters, const Tensor& x,
                     bool dropless) {
  const auto require_one_class = [](bool one) {
    if (!one) fail("predict", "the model does not tell one class of a row. Give another run.");
  };
  require_one_class(model.targets().size() == 1 &&
                    model.targets().front().kind == Target::Kind::classes);
  const std::int64_t classes = model.targets().front().classes;
  Tensor all = Tensor::empty({x.size(0), classes}, DType::f64, Device::cpu);
  double* out = all.write<double>();
  const Batches batches({.x = x, .labels = Tensor::zeros({x.size(0)}, DType::i32, Device::cpu)},
                        rows_of_pass(model));
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    const Batch batch = batches.get(i).to(parameters.device());
    Tape tape(Tape::Options{.gradients = false});
    const Pass pass =
        model.forward(tape, batch, parameters, {.training = false, .dropless = dropless});
    require_one_class(pass.predictions.front().value.size(0) == batch.x.size(0));
    const Tensor chances = softmax(pass.predictions.front().value).value().to(Device::cpu);
    for (std::int64_t j = 0; j < chances.numel(); ++j) *out++ = chances.at(j);
  }
  return all;
}

}  // namespace moegrad
