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
  double dropped = 0.0;
  double loss = 0.0;
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    const Batch batch = batches.get(i);
    const Batch there = batch.to(parameters.device());
    const std::int64_t rows = batch.x.size(0);
    Tape tape(Tape::Options{.gradients = false});
    const Classifier::Output out =
        model.forward(tape.constant(there.x), parameters, false, there.ids, dropless);
    const Tensor logits = out.logits.value();
    const Tensor guess = Tensor::empty({rows}, DType::i32, logits.device());
    kernels(guess.device()).argmax(logits, {rows, logits.size(1), 1}, guess);
    const std::vector<Tensor> numbers = {cross_entropy(out.logits, there.labels).value(),
                                         out.mixture.dropped(), out.mixture.expert_load(), guess};
    const std::vector<double> read = concatenated(numbers).to_vector();
    auto next = read.begin();
    loss += *next++ * static_cast<double>(rows);
    dropped += *next++;
    for (double& load : loads) load += *next++;
    for (const std::int32_t label : batch.labels.values<std::int32_t>()) {
      right += *next++ == static_cast<double>(label) ? 1 : 0;
    }
  }
  const auto n = static_cast<double>(data.x.size(0));
  Evaluation evaluation{.accuracy = static_cast<double>(right) / n,
                        .loss = loss / n,
                        .dropped = dropped_share(dropped, loads)};
  evaluation.expert_load = shares(std::move(loads));
  return evaluation;
}

}  // namespace moegrad
