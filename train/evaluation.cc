#include "train/evaluation.h"

#include <utility>

#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

constexpr std::int64_t kEvaluationBatch = 512;

}  // namespace

std::vector<double> shares(std::vector<double> numbers) {
  double sum = 0.0;
  for (const double n : numbers) sum += n;
  for (double& n : numbers) n = sum == 0.0 ? 0.0 : n / sum;
  return numbers;
}

Evaluation evaluate(const Classifier& model, const Parameters& parameters, const Dataset& data,
                    bool dropless) {
  const Batches batches(data, kEvaluationBatch);
  std::vector<double> loads(static_cast<std::size_t>(model.mixture().config().size.experts));
  std::int64_t right = 0;
  double kept = 0.0;
  double dropped = 0.0;
  double loss = 0.0;
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    const Batch batch = batches.get(i);
    const std::int64_t rows = batch.x.size(0);
    Tape tape(Tape::Options{.gradients = false});
    const Classifier::Output out =
        model.forward(tape.constant(batch.x), parameters, false, batch.ids, dropless);
    loss += cross_entropy(out.logits, batch.labels).value().item() * static_cast<double>(rows);
    const Tensor guess = Tensor::empty({rows}, DType::i32, Device::cpu);
    kernels(guess.device()).argmax(out.logits.value(), {rows, out.logits.size(1), 1}, guess);
    for (std::int64_t r = 0; r < rows; ++r) {
      right += guess.data<std::int32_t>()[r] == batch.labels.data<std::int32_t>()[r] ? 1 : 0;
    }
    const std::vector<double> load = out.mixture.expert_load();
    for (std::size_t e = 0; e < loads.size(); ++e) {
      loads[e] += load[e];
      kept += load[e];
    }
    dropped += out.mixture.dropped();
  }
  const auto n = static_cast<double>(data.x.size(0));
  return {.accuracy = static_cast<double>(right) / n,
          .loss = loss / n,
          .expert_load = shares(std::move(loads)),
          .dropped = dropped == 0.0 ? 0.0 : dropped / (dropped + kept)};
}

}  // namespace moegrad
