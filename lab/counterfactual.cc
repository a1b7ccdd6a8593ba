#include "lab/counterfactual.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <nlohmann/json.hpp>

#include "lab/routes.h"
#include "tensor/rng.h"
#include "train/evaluation.h"
#include "train/model.h"

namespace moegrad {
namespace {

constexpr std::uint64_t kRouteStream = 0x726f7574'65730000U;
// Of a loss: what the same numbers in another order may differ by.
constexpr double kSameLoss = 1e-6;

Pass inference(Tape& tape, const StoredModel& model, const Batch& batch) {
  return model.model->forward(tape, batch, model.parameters,
                              {.training = false, .dropless = model.config.dropless});
}

// The loss of a row of logits, and the largest probability in it.
std::pair<double, double> loss_of_row(std::span<const double> logits, std::int32_t label) {
  const double largest = std::ranges::max(logits);
  double sum = 0.0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  return {largest + std::log(sum) - logits[static_cast<std::size_t>(label)], 1.0 / sum};
}

// The k largest of a row of logits with noise, sorted.
std::vector<std::int32_t> perturbed(std::span<const double> noisy, std::int64_t k) {
  std::vector<std::int32_t> order(noisy.size());
  for (std::size_t e = 0; e < order.size(); ++e) order[e] = static_cast<std::int32_t>(e);
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](std::int32_t e) { return noisy[static_cast<std::size_t>(e)]; });
  order.resize(static_cast<std::size_t>(k));
  std::ranges::sort(order);
  return order;
}

// The layer of a pass by itself, at inference.
struct LayerAlone {
  const Layer& layer;
  const MixturePass& pass;
  bool dropless;

  LayerOutput operator()(Tape& tape) const {
    Weights weights;
    for (const auto& [name, weight] : pass.weights)
      weights.set(name, tape.constant(weight.value()));
    LayerInput in{tape.constant(pass.out.x.value()), weights, false};
    in.ids = pass.ids;
    in.sequence = pass.sequence;
    in.dropless = dropless;
    return layer.forward(in);
  }
};

void require_one_decision(const LayerAlone& alone) {
  Decisions decisions = Decisions::recorder();
  Tape tape({.gradients = false, .decisions = &decisions});
  const Tensor selected = alone(tape).routing.selected.to(Device::cpu);
  const std::vector<Tensor> choices = decisions.recorded("selected");
  if (choices.size() == 1 && choices.front().same_bits(selected)) return;
  fail(
      "study",
      "the choice of router {} is not one decision of a layer, which could be replaced. Give a run "
      "of another router.",
      alone.layer.config().router);
}

// What node `place` of a tape would hold if node `changed` held `value`: those that depend on it are worked
// out again, with all that was decided.
Tensor replayed(const Tape& tape, std::size_t changed, const Tensor& value, std::size_t place) {
  std::vector<Tensor> now(place + 1);
  now[changed] = value;
  for (std::size_t i = changed + 1; i <= place; ++i) {
    const Tape::NodeView node = tape.node(i);
    bool depends = false;
    std::vector<const Tensor*> inputs;
    for (std::size_t j = 0; j < node.sources.size(); ++j) {
      const std::int32_t source = node.sources[j];
      const bool new_one = source >= 0 && now[static_cast<std::size_t>(source)].defined();
      inputs.push_back(new_one ? &now[static_cast<std::size_t>(source)] : &node.inputs[j]);
      depends = depends || new_one;
    }
    if (!depends) continue;
    Forward forward(inputs, nullptr);
    now[i] = node.operation->forward(forward, node.attributes);
  }
  return now[place].defined() ? now[place] : tape.node(place).output;
}

// Of one batch.
class OtherRoutes {
 public:
  OtherRoutes(const StoredModel& model, const Batch& batch, std::size_t layer,
              const CounterfactualOptions& options, Rng rng)
      : options_(options),
        rng_(rng),
        pass_(inference(tape_, model, batch)),
        mixture_(pass_.mixtures[layer]),
        alone_{model.model->mixture(), mixture_, model.config.dropless},
        logits_(mixture_.out.routing.logits.value().to(DType::f64)),
        labels_(pass_.predictions.front().labels) {
    require_one_decision(alone_);
    const std::int64_t length = logits_.size(0) / batch.x.size(0);
    choose_rows(layer + 1 == pass_.mixtures.size() ? 1 : length);
    each_loss(told_with(mixture_.out.routing.selected),
              [&](std::size_t, double loss, double largest) {
                tokens_.push_back({.confidence = largest, .loss = loss, .others = {}});
              });
  }

  std::vector<TokenRoutes> operator()() {
    for (int i = 0; i < options_.routes; ++i) one_route();
    return std::move(tokens_);
  }

 private:
  // What the model tells where the layer chooses like that.
  Tensor told_with(const Tensor& choice) const {
    Decisions decisions;
    decisions.give("selected", choice);
    Tape tape({.gradients = false, .decisions = &decisions});
    const Tensor y = alone_(tape).y.value();
    return replayed(tape_, static_cast<std::size_t>(mixture_.out.y.index()), y,
                    static_cast<std::size_t>(pass_.predictions.front().value.index()));
  }

  // Of so many rows one.
  void choose_rows(std::int64_t among) {
    for (std::int64_t begin = 0; begin < logits_.size(0); begin += among) {
      const double place = rng_.uniform({1}, DType::f64, 0.0, static_cast<double>(among)).item();
      const std::int64_t row = begin + std::min(among - 1, static_cast<std::int64_t>(place));
      if (labels_.data<std::int32_t>()[row] >= 0) rows_.push_back(row);
    }
  }

  void one_route() {
    const Tensor choice = mixture_.out.routing.selected.clone();
    const std::int64_t k = choice.size(1);
    const std::int64_t experts = logits_.size(1);
    const Tensor noise = rng_.gumbel(logits_.shape(), DType::f64, Device::cpu);
    std::vector<bool> other(rows_.size(), false);
    std::vector<double> noisy(static_cast<std::size_t>(experts));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      std::int32_t* const mine = choice.write<std::int32_t>() + rows_[i] * k;
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::int64_t at = rows_[i] * experts + e;
        noisy[static_cast<std::size_t>(e)] = logits_.at(at) + options_.temperature * noise.at(at);
      }
      std::vector<std::int32_t> before(mine, mine + k);
      std::ranges::sort(before);
      const std::vector<std::int32_t> now = perturbed(noisy, k);
      other[i] = now != before;
      if (other[i]) std::ranges::copy(now, mine);
    }
    each_loss(told_with(choice), [&](std::size_t i, double loss, double) {
      if (other[i]) tokens_[i].others.push_back(loss);
    });
  }

  // Calls f(i, loss, largest probability) for each of rows_.
  template <class F>
  void each_loss(const Tensor& value, F&& f) const {
    const std::vector<double> told = value.to_vector();
    const auto classes = static_cast<std::size_t>(value.size(1));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const std::span<const double> row =
          std::span(told).subspan(static_cast<std::size_t>(rows_[i]) * classes, classes);
      const auto [loss, largest] = loss_of_row(row, labels_.data<std::int32_t>()[rows_[i]]);
      f(i, loss, largest);
    }
  }

  const CounterfactualOptions& options_;
  Rng rng_;
  Tape tape_;  // of the pass with the router's own choices; with gradients: it knows its inputs
  Pass pass_;
  const MixturePass& mixture_;  // the layer
  LayerAlone alone_;
  Tensor logits_;  // [N, E] of the layer
  Tensor labels_;
  std::vector<std::int64_t> rows_;  // those whose choice is replaced
  std::vector<TokenRoutes> tokens_;
};

CounterfactualRow summary_of(std::span<const TokenRoutes> tokens) {
  CounterfactualRow row{.tokens = static_cast<std::int64_t>(tokens.size())};
  double routes = 0.0;
  for (const TokenRoutes& t : tokens) {
    double best = t.loss;
    for (const double loss : t.others) {
      row.better_routes += loss < t.loss - kSameLoss ? 1.0 : 0.0;
      row.change += loss - t.loss;
      best = std::min(best, loss);
      routes += 1.0;
    }
    row.confidence += t.confidence;
    row.loss += t.loss;
    row.better_tokens += best < t.loss - kSameLoss ? 1.0 : 0.0;
    row.regret += t.loss - best;
  }
  const auto n = static_cast<double>(tokens.size());
  for (double* const mean : {&row.confidence, &row.loss, &row.better_tokens, &row.regret})
    *mean /= n;
  row.better_routes /= routes;
  row.change /= routes;
  return row;
}

}  // namespace

std::vector<TokenRoutes> other_routes(const StoredModel& model, const Dataset& data, int layer,
                                      const CounterfactualOptions& options) {
  if (model.task.targets.front().kind != Target::Kind::classes) {
    fail("study",
         "the model tells no class, of which there is a probability. Give a run of "
         "another task.");
  }
  require_classes_of_tokens(model);
  const Batches batches(data, rows_of_pass(*model.model));
  std::vector<TokenRoutes> all;
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    Batch batch = batches.get(i);
    if (is_floating(batch.x.dtype())) batch.x = batch.x.to(model.config.type());
    std::vector<TokenRoutes> more = OtherRoutes(
        model, batch, static_cast<std::size_t>(layer), options,
        {.seed = options.seed, .stream = kRouteStream + static_cast<std::uint64_t>(i)})();
    std::ranges::move(more, std::back_inserter(all));
  }
  return all;
}

std::vector<CounterfactualRow> rows_by_confidence(std::vector<TokenRoutes> tokens, int parts) {
  std::vector<CounterfactualRow> rows;
  if (tokens.empty()) return rows;
  std::ranges::stable_sort(tokens, {}, &TokenRoutes::confidence);
  rows.push_back(summary_of(tokens));
  for (int part = 1; part <= parts; ++part) {
    const auto at = [&](int i) {
      return tokens.size() * static_cast<std::size_t>(i) / static_cast<std::size_t>(parts);
    };
    if (at(part) == at(part - 1)) continue;
    rows.push_back(summary_of(std::span(tokens).subspan(at(part - 1), at(part) - at(part - 1))));
    rows.back().part = part;
  }
  return rows;
}

std::vector<CounterfactualRow> counterfactual(const std::string& run, const StoredModel& model,
                                              const Dataset& data,
                                              const CounterfactualOptions& options, int parts) {
  Batch one = Batches(data, 1).get(0);
  if (is_floating(one.x.dtype())) one.x = one.x.to(model.config.type());
  Tape tape(Tape::Options{.gradients = false});
  const std::size_t layers = inference(tape, model, one).mixtures.size();
  std::vector<CounterfactualRow> all;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const int l = static_cast<int>(layer);
    for (CounterfactualRow& row :
         rows_by_confidence(other_routes(model, data, l, options), parts)) {
      row.run = run;
      row.step = model.step;
      row.layer = l;
      all.push_back(row);
    }
  }
  return all;
}

std::string to_json(const CounterfactualRow& row) {
  return nlohmann::ordered_json{{"run", row.run},
                                {"step", row.step},
                                {"layer", row.layer},
                                {"part", row.part},
                                {"tokens", row.tokens},
                                {"confidence", row.confidence},
                                {"loss", row.loss},
                                {"better_tokens", row.better_tokens},
                                {"better_routes", row.better_routes},
                                {"regret", row.regret},
                                {"change", row.change}}
      .dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace moegrad
