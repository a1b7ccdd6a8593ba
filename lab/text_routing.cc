#include "lab/text_routing.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "train/language.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

using Json = nlohmann::ordered_json;

Json in_three_digits(double x) { return std::strtod(fmt::format("{:.3g}", x).c_str(), nullptr); }

// The rows of the data with this label, at most so many, evenly.
std::vector<std::int64_t> window_rows(const Dataset& data, std::int32_t label, int most) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < data.labels.numel(); ++i) {
    if (data.labels.data<std::int32_t>()[i] == label) rows.push_back(i);
  }
  std::vector<std::int64_t> some;
  const auto count = static_cast<std::size_t>(
      std::min<std::int64_t>(most, static_cast<std::int64_t>(rows.size())));
  for (std::size_t i = 0; i < count; ++i) some.push_back(rows[i * rows.size() / count]);
  return some;
}

Batch window_batch(const Dataset& data, const std::vector<std::int64_t>& rows) {
  const auto n = static_cast<std::int64_t>(rows.size());
  const std::int64_t width = data.x.size(1);
  Batch batch{Tensor::empty({n, width}, DType::i32, Device::cpu),
              Tensor::empty({n}, DType::i32, Device::cpu),
              Tensor::empty({n}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    std::copy_n(data.x.data<std::int32_t>() + row * width, width,
                batch.x.write<std::int32_t>() + i * width);
    batch.labels.write<std::int32_t>()[i] = data.labels.data<std::int32_t>()[row];
    batch.ids.write<std::int32_t>()[i] = static_cast<std::int32_t>(row);
  }
  return batch;
}

// Of a token the selected expert of the largest weight.
std::int32_t chosen_expert(const Routing& r, std::int64_t token) {
  const std::int64_t k = r.selected.size(1);
  const Tensor& weights = r.weights.value();
  std::int32_t best = -1;
  double largest = 0.0;
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int32_t e = r.selected.data<std::int32_t>()[token * k + j];
    const double weight = weights.at(token * k + j);
    if (e < 0 || (best >= 0 && weight <= largest)) continue;
    best = e;
    largest = weight;
  }
  return best;
}

Json domain_shares(const MixturePass& mixture) {
  const std::vector<double> load = mixture.out.expert_load().to_vector();
  double total = 0.0;
  for (const double l : load) total += l;
  Json shares = Json::array();
  for (const double l : load) shares.push_back(in_three_digits(total > 0.0 ? l / total : 0.0));
  return shares;
}

// Of the first window of the pass.
Json routed_text(const Batch& batch, const BytePairs& pairs, const Pass& pass,
                 std::int64_t length) {
  Json text = {{"pieces", Json::array()}, {"chosen", Json::array()}, {"scores", Json::array()}};
  for (std::int64_t t = 0; t < length; ++t) {
    Json piece = Json::array();
    for (const char byte : pairs.text(batch.x.data<std::int32_t>()[t])) {
      piece.push_back(static_cast<int>(static_cast<unsigned char>(byte)));
    }
    text["pieces"].push_back(piece);
  }
  for (const MixturePass& mixture : pass.mixtures) {
    const Routing& r = mixture.out.routing;
    const std::int64_t experts = r.scores.size(1);
    Json chosen = Json::array();
    Json scores = Json::array();
    for (std::int64_t t = 0; t < length; ++t) {
      chosen.push_back(chosen_expert(r, t));
      Json row = Json::array();
      for (std::int64_t e = 0; e < experts; ++e) {
        row.push_back(in_three_digits(r.scores.value().at(t * experts + e)));
      }
      scores.push_back(row);
    }
    text["chosen"].push_back(chosen);
    text["scores"].push_back(scores);
  }
  return text;
}

}  // namespace

Json text_routing(const std::filesystem::path& run) {
  const StoredModel stored = load_model(checkpoint_of(run));
  const TrainConfig config = config_of(run, stored);
  if (config.task != "language") {
    fail("report", "'{}' was trained on the task {}, which has no text. Leave --texts out.",
         run.string(), config.task);
  }
  const BytePairs pairs(stored.task.pairs);
  const Dataset data = test_windows(config.data, config.domains, config.context, pairs);
  const std::vector<std::string> names = chosen_domains(config.domains);
  Json out = {{"domains", Json::array()},
              {"windows", Json::array()},
              {"shares", Json::array()},
              {"texts", Json::array()}};
  for (std::size_t d = 0; d < names.size(); ++d) {
    const std::vector<std::int64_t> rows =
        window_rows(data, static_cast<std::int32_t>(d), kMostTextWindows);
    if (rows.empty()) continue;
    const Batch batch = window_batch(data, rows);
    Tape tape({.gradients = false});
    const Pass pass = stored.model->forward(tape, batch, stored.parameters, {.training = false});
    out["domains"].push_back(names[d]);
    out["windows"].push_back(rows.size());
    for (std::size_t l = 0; l < pass.mixtures.size(); ++l) {
      if (out["shares"].size() == l) out["shares"].push_back(Json::array());
      out["shares"][l].push_back(domain_shares(pass.mixtures[l]));
    }
    out["texts"].push_back(routed_text(batch, pairs, pass, config.context));
  }
  return out;
}

}  // namespace moegrad
