// A mixture of experts trained on points around eight centres, each with a linear rule of its own.
#include <string>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

double accuracy(const Tensor& logits, const Tensor& labels) {
  const std::int64_t rows = logits.size(0);
  const std::int64_t classes = logits.size(1);
  std::int64_t right = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t best = 0;
    for (std::int64_t c = 1; c < classes; ++c) {
      if (logits.at(r * classes + c) > logits.at(r * classes + best)) best = c;
    }
    right += best == static_cast<std::int64_t>(labels.at(r)) ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(rows);
}

}  // namespace

int main() {
  const Task task = make_synthetic(DType::f32, 1);

  LayerConfig config;
  config.size = {.model = 16, .hidden = 32, .output = 4, .experts = 8, .active = 2};
  config.router = "top-k";
  config.estimator = "expert-group";
  config.options = {{"aux", "0.01"}};
  const Layer mixture(config);

  Parameters parameters;
  Rng rng{.seed = 1};
  mixture.declare("mixture.", parameters, rng);
  for (Parameter& p : parameters) p.value = p.value.to(DType::f32);
  AdamWOptimiser adamw(parameters, {});

  constexpr int kEpochs = 10;
  std::vector<double> losses;
  double right = 0.0;
  fmt::print("epoch  train loss  test accuracy  expert load\n");
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const Batches batches(task.train, 128, epoch_rng(1, static_cast<std::uint64_t>(epoch)));
    double total = 0.0;
    for (std::int64_t i = 0; i < batches.size(); ++i) {
      const Batch batch = batches.get(i);
      Tape t;
      const Var x = t.constant(batch.x);
      const LayerOutput out = mixture.forward(x, bind(t, parameters, "mixture."), true);
      const Var loss = cross_entropy(out.y, batch.labels);
      total += loss.value().item() / static_cast<double>(batches.size());
      const Gradients g = t.backward(loss + out.auxiliary);
      adamw.step(parameters, g, 1e-2, /*max_norm=*/1.0);
    }
    losses.push_back(total);

    Tape t(Tape::Options{.gradients = false});
    const Var x = t.constant(task.test.x);
    const LayerOutput out = mixture.forward(x, bind(t, parameters, "mixture."), false);
    right = accuracy(out.y.value(), task.test.labels);
    std::string load;
    for (const double tokens : out.expert_load().to_vector()) load += fmt::format(" {:4}", tokens);
    fmt::print("{:5}  {:10.4f}  {:13.4f}  {}\n", epoch + 1, total, right, load);
  }
  return losses.back() < losses.front() / 2.0 && right > 0.8 ? 0 : 1;
}
