#include "lab/fidelity.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "ops/ops.h"
#include "train/modules.h"

namespace moegrad {
namespace {

constexpr std::int64_t kExamples = 512;  // to measure on where nobody says how many
constexpr std::int64_t kTexts = 16;
constexpr int kWarmUpPasses = 30;                  // passes that fill a moving average
constexpr Rng kDraws{1, 0x66696465'6c000000U, 0};  // every estimator sees the same draws

double inner(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.at(i) * b.at(i);
  return sum;
}

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// Of a to b: undefined where b is 0.
double cosine(const Tensor& a, const Tensor& b) {
  if (inner(b, b) == 0.0) return kUndefined;
  const double norms = std::sqrt(inner(a, a) * inner(b, b));
  return norms > 0.0 ? inner(a, b) / norms : 0.0;
}
double norm_ratio(const Tensor& a, const Tensor& b) {
  const double other = inner(b, b);
  return other > 0.0 ? std::sqrt(inner(a, a) / other) : kUndefined;
}

// What a mixture layer got and what the model wants of it, on the model's device.
struct Point {
  std::string name;                                     // of the layer's parameters
  std::vector<std::pair<std::string, Tensor>> weights;  // these, by their names in the layer
  Tensor x;                                             // [N, D]
  Tensor gradient;                                      // dL/dy [N, D]
  Tensor ids;
  std::int64_t sequence = 1;
  Tensor mask = {};
};

std::vector<Point> points_of(const StoredModel& stored, const Batch& host) {
  Batch batch = host.to(stored.parameters.device());
  if (is_floating(batch.x.dtype())) batch.x = batch.x.to(stored.config.type());
  Tape tape({.rng = kDraws});
  const Model::Losses l = stored.model->losses(tape, batch, stored.parameters);
  BackwardOptions options;
  for (const MixturePass& mixture : l.pass.mixtures) options.keep.push_back(mixture.out.y);
  std::vector<Point> points;
  for (const MixturePass& mixture : l.pass.mixtures) {
    std::vector<std::pair<std::string, Tensor>> weights;
    for (const auto& [name, weight] : mixture.weights) weights.emplace_back(name, weight.value());
    points.push_back({.name = mixture.name,
                      .weights = std::move(weights),
                      .x = mixture.out.x.value().clone(),
                      .gradient = {},
                      .ids = mixture.ids,
                      .sequence = mixture.sequence,
                      .mask = mixture.mask});
  }
  const Gradients g = tape.backward(l.task, options);
  for (std::size_t i = 0; i < points.size(); ++i) points[i].gradient = g[options.keep[i]];
  return points;
}

// One estimator on the layer's parameters.
class Probe {
 public:
  Probe(const StoredModel& model, const Point& point, const FidelityVariant& variant)
      : point_(point), layer_(config(model, variant)) {
    Rng rng;
    layer_.declare("", parameters_, rng);
    for (Parameter& p : parameters_) {
      p.value = p.value.to(device());
      for (const auto& [name, weight] : point.weights) {
        if (name == p.name) p.value = weight.to(DType::f64);
      }
    }
    for (int i = 0; i < kWarmUpPasses; ++i) {
      Tape tape({.gradients = false, .rng = kDraws});
      const Updates updates = forward(tape).updates;
      if (updates.empty()) break;
      for (const auto& [name, value] : updates) {
        if (!name.starts_with("estimator.")) continue;  // the router stays as it was trained
        if (Parameter* p = parameters_.find(name)) p->value = value.to(DType::f64);
      }
    }
  }

  // The gradient of the router's matrix for a cotangent of y. What is given lies on the host.
  Tensor router_gradient(const Tensor& cotangent) const {
    Tape tape({.rng = kDraws});
    const LayerOutput out = forward(tape);
    BackwardOptions options;
    options.cotangent = cotangent.to(DType::f64);
    const Parameter* weight = nullptr;
    for (const Parameter& p : parameters_) {
      if (p.name == "router.weight") weight = &p;
    }
    if (weight == nullptr) {
      fail("study", "router {} has no matrix to compare the gradients of. Choose another model.",
           layer_.config().router);
    }
    return tape.backward(out.y, options)[*weight].to(Device::cpu);
  }

  // What stands for each expert's output at each token, [Dout] of [N, E]: the gradient of the
  // scores for each unit vector as the cotangent. `selected` gets the experts of each token.
  std::vector<Tensor> outputs(Tensor& selected) const {
    Tape tape({.rng = kDraws});
    const LayerOutput out = forward(tape);
    selected = out.routing.selected.to(Device::cpu);
    std::vector<Tensor> all;
    for (std::int64_t d = 0; d < out.y.size(1); ++d) {
      const Tensor cotangent = Tensor::zeros(out.y.shape(), DType::f64, Device::cpu);
      for (std::int64_t t = 0; t < out.y.size(0); ++t) {
        cotangent.write<double>()[t * out.y.size(1) + d] = 1.0;
      }
      BackwardOptions options;
      options.cotangent = cotangent.to(device());
      options.retain = true;
      options.keep = {out.routing.scores};
      all.push_back(tape.backward(out.y, options)[out.routing.scores].to(Device::cpu));
    }
    return all;
  }

 private:
  Device device() const { return point_.x.device(); }
  static LayerConfig config(const StoredModel& model, const FidelityVariant& variant) {
    LayerConfig layer = model.model->mixture().config();
    const EstimatorEntry& own = estimator_entry(layer.estimator);
    if (variant.estimator != own.name) {
      for (const OptionSpec& spec : own.options) layer.options.erase(spec.name);
    }
    layer.estimator = variant.estimator;
    for (const auto& [option, value] : variant.options) layer.options[option] = value;
    layer.router_gradient.clear();
    layer.expert_gradient.clear();
    return layer;
  }

  LayerOutput forward(Tape& tape) const {
    const Weights weights = bind(tape, parameters_, "");
    LayerInput in{tape.constant(point_.x.to(DType::f64)), weights, true};
    in.ids = point_.ids;
    in.sequence = point_.sequence;
    in.mask = point_.mask;
    return layer_.forward(in);
  }

  const Point& point_;
  Layer layer_;
  Parameters parameters_;
};

// ||V - E|| / ||E|| where the token did not select the expert.
double output_error(const std::vector<Tensor>& mine, const std::vector<Tensor>& dense,
                    const Tensor& selected) {
  const std::int64_t tokens = dense.front().size(0);
  const std::int64_t experts = dense.front().size(1);
  std::vector<bool> on(static_cast<std::size_t>(tokens * experts), false);
  for (std::int64_t i = 0; i < selected.numel(); ++i) {
    const std::int32_t e = selected.data<std::int32_t>()[i];
    if (e >= 0) on[static_cast<std::size_t>(i / selected.size(1) * experts + e)] = true;
  }
  double away = 0.0;
  double size = 0.0;
  for (std::size_t d = 0; d < dense.size(); ++d) {
    for (std::int64_t i = 0; i < tokens * experts; ++i) {
      if (on[static_cast<std::size_t>(i)]) continue;
      const double e = dense[d].at(i);
      away += (mine[d].at(i) - e) * (mine[d].at(i) - e);
      size += e * e;
    }
  }
  return size > 0.0 ? std::sqrt(away / size) : kUndefined;
}

}  // namespace

std::vector<FidelityRow> measure_fidelity(const StoredModel& model, const Batch& batch,
                                          const std::vector<std::string>& estimators) {
  const bool causal = model.model->mixture().config().causal;
  std::vector<FidelityVariant> variants;
  for (const std::string& name : estimators) {
    FidelityVariant& variant = variants.emplace_back(FidelityVariant{name, name});
    if (!causal) continue;
    for (const OptionSpec& option : estimator_entry(name).options) {
      if (option.name == "causal") variant.options["causal"] = "true";
      if (option.name == "forward") variant.options["forward"] = "false";
    }
  }
  return measure_variants(model, batch, variants);
}

std::vector<FidelityRow> measure_variants(const StoredModel& model, const Batch& batch,
                                          const std::vector<FidelityVariant>& variants) {
  std::vector<FidelityRow> rows;
  const std::vector<Point> points = points_of(model, batch);
  for (std::size_t layer = 0; layer < points.size(); ++layer) {
    const Point& point = points[layer];
    const Device device = point.x.device();
    const Tensor ones = Tensor::full(point.gradient.shape(), 1.0, DType::f64, device);
    const Probe dense(model, point, {"ste-dense", "ste-dense"});
    const Tensor dense_real = dense.router_gradient(point.gradient);
    const Tensor dense_ones = dense.router_gradient(ones);
    Tensor selected;
    const std::vector<Tensor> dense_outputs = dense.outputs(selected);
    for (const FidelityVariant& variant : variants) {
      const Probe probe(model, point, variant);
      const Tensor real = probe.router_gradient(point.gradient);
      const Tensor all_ones = probe.router_gradient(ones);
      FidelityRow row;
      row.step = model.step;
      row.layer = static_cast<int>(layer);
      row.estimator = variant.name;
      row.device = device;
      row.cosine_real = cosine(real, dense_real);
      row.norm_ratio_real = norm_ratio(real, dense_real);
      row.cosine_ones = cosine(all_ones, dense_ones);
      row.norm_ratio_ones = norm_ratio(all_ones, dense_ones);
      row.output_error = output_error(probe.outputs(selected), dense_outputs, selected);
      rows.push_back(row);
    }
  }
  return rows;
}

std::string to_json(const FidelityRow& r) {
  return nlohmann::ordered_json{{"step", r.step},
                                {"layer", r.layer},
                                {"estimator", r.estimator},
                                {"device", name_of(r.device)},
                                {"cosine_real", r.cosine_real},
                                {"norm_ratio_real", r.norm_ratio_real},
                                {"cosine_ones", r.cosine_ones},
                                {"norm_ratio_ones", r.norm_ratio_ones},
                                {"output_error", r.output_error}}
      .dump();
}

std::vector<std::string> comparable_estimators() {
  std::vector<std::string> names;
  for (const EstimatorEntry& e : estimators()) {
    if (!e.routers.empty() && e.routers.front() == "top-k") names.push_back(e.name);
  }
  return names;
}

std::vector<FidelityRow> study_fidelity(const std::vector<std::filesystem::path>& checkpoints,
                                        const Task& task,
                                        const std::vector<std::string>& estimators,
                                        std::int64_t batch, Device device) {
  const std::vector<std::string> names = estimators.empty() ? comparable_estimators() : estimators;
  const bool text = task.shape().ids && task.fields.empty();
  const std::int64_t examples = batch > 0 ? batch : text ? kTexts : kExamples;
  const Batch some = Batches(task.train, examples).get(0);
  std::vector<FidelityRow> rows;
  for (const std::filesystem::path& path : checkpoints) {
    const StoredModel model = load_model(path, device);
    require_shape(model, task.shape());
    const auto more = measure_fidelity(model, some, names);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  return rows;
}

}  // namespace moegrad
