#include <algorithm>
#include <cmath>

#include "autograd/case_run.h"
#include "autograd/directions.h"
#include "moe/checks/check.h"
#include "moe/padding.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::int64_t kHidden = 6;
constexpr std::int64_t kOutput = 2;

Tensor random(const Shape& shape, std::uint64_t seed, std::uint64_t stream, double size) {
  return Rng{seed, stream, 0}.uniform(shape, DType::f64, -size, size);
}

// The experts' parameters; the rows of w1 (and w3) that read the first `blind` columns are zero.
void add_experts(LayerFixture& f, std::int64_t blind, std::uint64_t seed) {
  const LayerSize& s = f.config.size;
  std::uint64_t stream = 100;
  const auto add = [&](const char* name, const Shape& shape, double size) {
    f.names.emplace_back(name);
    f.values.push_back(random(shape, seed, ++stream, size));
    if (shape.rank() != 3 || shape[1] != s.model) return;
    for (std::int64_t e = 0; e < shape[0]; ++e) {
      double* matrix = f.values.back().write<double>() + e * shape[1] * shape[2];
      std::fill(matrix, matrix + blind * shape[2], 0.0);
    }
  };
  add("experts.w1", {s.experts, s.model, s.hidden}, 1.0);
  add("experts.b1", {s.experts, s.hidden}, 0.5);
  if (f.config.activation == Activation::swiglu) {
    add("experts.w3", {s.experts, s.model, s.hidden}, 1.0);
    add("experts.b3", {s.experts, s.hidden}, 0.5);
  }
  add("experts.w2", {s.experts, s.hidden, s.output}, 1.0);
  add("experts.b2", {s.experts, s.output}, 0.5);
}

// Everything that the layer declares besides its experts: router.weight and router.bias by `make`
// (undefined: left out), the others near their initial values. What stands beside router.weight
// does not read the first `blind` columns of x: they are the logits.
template <class Make>
void add_router(LayerFixture& f, std::int64_t blind, std::uint64_t seed, Make make) {
  Parameters parameters;
  Rng rng{seed, 20, 0};
  Layer(f.config).declare("", parameters, rng);
  std::uint64_t stream = 200;
  for (const Parameter& p : parameters) {
    if (p.name.starts_with("experts.")) continue;
    ++stream;
    if (p.name == "router.weight" || p.name == "router.bias") {
      const Tensor value = make(p.name, p.value.shape());
      if (!value.defined()) continue;
      f.names.push_back(p.name);
      f.values.push_back(value);
      continue;
    }
    const Tensor value = p.value.clone();
    const Tensor move = Rng{seed, stream, 0}.uniform(value.shape(), DType::f64, 0.0, 1.0);
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      value.write<double>()[i] += p.trained ? 0.6 * move.at(i) - 0.3 : 0.1 * move.at(i);
    }
    if (p.trained) {
      if (parameters.find("router.weight") != nullptr && value.rank() == 2 &&
          value.size(0) == f.config.size.model) {
        std::fill_n(value.write<double>(), blind * value.size(1), 0.0);
      }
      f.names.push_back(p.name);
      f.values.push_back(value);
    } else {
      f.state.emplace_back(p.name, value);
    }
  }
}

// Ids, and all tokens in one sequence.
void add_context(LayerFixture& f, std::uint64_t seed) {
  const std::int64_t tokens = f.values[0].size(0);
  f.sequence = tokens;
  f.ids = Tensor::empty({tokens}, DType::i32, Device::cpu);
  for (std::int64_t t = 0; t < tokens; ++t) {
    f.ids.write<std::int32_t>()[t] = static_cast<std::int32_t>(t * 7 + static_cast<int>(seed));
  }
}

struct Edge {
  const char* label;
  std::int64_t tokens, experts, active;
  bool permutable;
  void (*shape_logits)(const Tensor& logits);  // [N, E], random when it is called
  bool zero_row = false;                       // the first token is zero, its logits too
};

void set_column(const Tensor& logits, std::int64_t column, double value) {
  for (std::int64_t t = 0; t < logits.size(0); ++t) {
    logits.write<double>()[t * logits.size(1) + column] = value;
  }
}

constexpr Edge kEdges[] = {
    {"an empty expert", 6, 4, 2, true, [](const Tensor& o) { set_column(o, 3, -1e4); }},
    {"all tokens on one expert", 5, 3, 1, true, [](const Tensor& o) { set_column(o, 1, 1e4); }},
    {"one token", 1, 4, 2, true, [](const Tensor&) {}},
    {"k = E", 4, 3, 3, true, [](const Tensor&) {}},
    {"k = 1", 5, 4, 1, true, [](const Tensor&) {}},
    {"an odd number of choices", 7, 5, 3, true, [](const Tensor&) {}},
    {"ties", 4, 4, 2, false,
     [](const Tensor& o) { std::fill_n(o.write<double>(), o.numel(), 0.25); }},
    {"a token of zeros", 4, 4, 2, false, [](const Tensor&) {}, true},
    {"zero gates", 4, 4, 2, false,
     [](const Tensor& o) {
       std::fill_n(o.write<double>(), o.numel(), -1e4);
       for (std::int64_t t = 0; t < 4; ++t) o.write<double>()[t * 4 + t] = 1e4;
     }},
    {"logits of +-1e4", 5, 4, 2, false,  // scores underflow to equal zeros: ties

     [](const Tensor& o) {
       // Multiples of 1/128: exact in f32 too.
       for (double& v : std::span(o.write<double>(), static_cast<std::size_t>(o.numel()))) {
         v = (v > 0.0 ? 1e4 : -1e4) + std::round(v * 128.0) / 128.0;
       }
     }},
};

}  // namespace

LayerFixture random_fixture(const LayerConfig& config, std::int64_t tokens, bool training,
                            std::uint64_t seed) {
  LayerFixture f;
  f.label = training ? "training" : "inference";
  f.config = config;
  f.training = training;
  const LayerSize& s = f.config.size;
  f.names = {"x"};
  f.values = {random({tokens, s.model}, seed, 1, 1.5)};
  add_router(f, 0, seed, [&](const std::string& name, const Shape& shape) {
    const bool weight = name == "router.weight";
    return random(shape, seed, weight ? 2 : 3, weight ? 1.2 : 0.5);
  });
  add_experts(f, 0, seed);
  add_context(f, seed);
  f.attention = random({1, tokens, tokens}, seed, 5, 1.0);
  return f;
}

LayerFixture padded(const LayerFixture& fixture, const Tensor& mask, std::int64_t sequence,
                    double garbage) {
  LayerFixture f = fixture;
  f.mask = mask;
  f.sequence = sequence;
  f.values[0] = with_padding(fixture.values[0], mask, garbage);
  if (fixture.ids.defined()) f.ids = with_padding(fixture.ids, mask, -7.0);
  if (!fixture.attention.defined()) return f;
  f.attention =
      Tensor::full({mask.numel() / sequence, sequence, sequence}, garbage, DType::f64, Device::cpu);
  // The rows of the tokens.
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < mask.numel(); ++row) {
    if (mask.data<std::int32_t>()[row] == 1) rows.push_back(row);
  }
  const auto length = static_cast<std::size_t>(fixture.sequence);
  for (std::size_t q = 0; q < rows.size(); ++q) {
    for (std::size_t k = q / length * length; k < (q / length + 1) * length; ++k) {
      f.attention.write<double>()[rows[q] * sequence + rows[k] % sequence] =
          fixture.attention.at(static_cast<std::int64_t>(q * length + k % length));
    }
  }
  return f;
}

std::vector<LayerFixture> edge_fixtures(const LayerConfig& config) {
  const RouterEntry& router = router_entry(config.router);
  std::vector<LayerFixture> fixtures;
  for (const Edge& edge : kEdges) {
    for (const bool training : {true, false}) {
      const std::int64_t active =
          std::clamp(edge.active, router.least_active, std::min(router.most_active, edge.experts));
      const std::string_view label = edge.label;
      if (active != edge.active && (label == "k = 1" || label == "k = E")) continue;
      LayerFixture f;
      f.label = std::string(edge.label) + (training ? ", training" : ", inference");
      f.config = config;
      f.config.size = {edge.experts + 3, kHidden, kOutput, edge.experts, active};
      f.training = training;
      f.permutable = edge.permutable;
      const std::int64_t experts = edge.experts;
      const Tensor logits = random({edge.tokens, experts}, 5, 1, 1.5);
      edge.shape_logits(logits);
      const Tensor features = random({edge.tokens, 3}, 5, 2, 1.0);
      const Tensor x = Tensor::empty({edge.tokens, experts + 3}, DType::f64, Device::cpu);
      const Tensor weight = Tensor::zeros({experts + 3, experts}, DType::f64, Device::cpu);
      for (std::int64_t t = 0; t < edge.tokens; ++t) {
        for (std::int64_t e = 0; e < experts + 3; ++e) {
          x.write<double>()[t * (experts + 3) + e] =
              e < experts ? logits.at(t * experts + e) : features.at(t * 3 + e - experts);
        }
      }
      if (edge.zero_row) std::fill_n(x.write<double>(), x.size(1), 0.0);
      for (std::int64_t e = 0; e < experts; ++e) weight.write<double>()[e * experts + e] = 1.0;
      f.names = {"x"};
      f.values = {x};
      add_router(f, experts, 5, [&](const std::string& name, const Shape&) {
        return name == "router.weight" ? weight : Tensor();
      });
      add_experts(f, experts, 5);
      add_context(f, 5);
      fixtures.push_back(std::move(f));
    }
  }
  return fixtures;
}

Tensor random_cotangent(const Shape& shape) {
  return Rng{13, 0, 0}.uniform(shape, DType::f64, -1.0, 1.5);
}

LayerInput LayerFixture::input(std::span<const Var> leaves, Weights& weights) const {
  for (std::size_t i = 1; i < leaves.size(); ++i) weights.set(names[i], to(leaves[i], device));
  for (const auto& [name, value] : state) {
    weights.set(name, leaves[0].tape().constant(value.to(leaves[0].dtype()).to(device)));
  }
  LayerInput in{to(leaves[0], device), weights, training};
  in.ids = ids;
  in.sequence = sequence;
  in.attention = attention;
  in.mask = mask;
  in.dropless = dropless;
  return in;
}

LayerPass run_pass(const LayerFixture& fixture, const PassOptions& options) {
  Layer layer(fixture.config);
  layer.set_form(options.form);
  Decisions live;
  Decisions& decisions = options.decisions != nullptr ? *options.decisions : live;
  for (const auto& [kind, value] : options.given) {
    decisions.give(kind, value.to(fixture.device));
  }
  Tape tape({.rng = Rng{11, 0, 0}, .decisions = &decisions});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) {
    leaves.push_back(tape.variable(value.to(options.dtype)));
  }
  Weights weights;
  const LayerOutput out = layer.forward(fixture.input(leaves, weights));
  const Tensor cotangent =
      options.cotangent.defined() ? options.cotangent : random_cotangent(out.y.shape());
  Var loss = sum(out.y * tape.constant(cotangent.to(options.dtype).to(fixture.device)));
  if (options.auxiliary && out.auxiliary.defined()) loss = loss + out.auxiliary;
  const Var logits = out.routing.logits;
  const auto here = [](const Tensor& t) { return t.to(Device::cpu); };
  LayerPass pass{
      here(out.y.value()), here(out.routing.weights.value()), here(out.routing.selected), {}};
  pass.logits = here(logits.value());
  if (out.auxiliary.defined()) pass.auxiliary = here(out.auxiliary.value());
  for (const auto& [name, value] : out.updates) pass.updates.emplace_back(name, here(value));
  pass.load = out.expert_load().to_vector();
  pass.dropped = dropped_share(out.dropped().item(), pass.load);
  BackwardOptions backward;
  backward.mutation = options.mutation;
  backward.visit = [&](const Tensor& value, const Tensor& gradient) {
    pass.terms = std::hypot(pass.terms, norm_of_product(gradient, value));
  };
  if (logits.needs_gradient()) backward.keep = {logits};
  const Gradients g = tape.backward(loss, backward);
  if (logits.needs_gradient()) pass.logit_gradients = here(g[logits]);
  for (const Var& leaf : leaves) {
    pass.gradients.push_back(g[leaf]);
    pass.rounding.push_back(rounding_floor(pass.terms, leaf.value()).change);
  }
  return pass;
}

std::vector<std::pair<std::string, Tensor>> decisions_of(const LayerFixture& fixture) {
  const Layer layer(fixture.config);
  Decisions decisions = Decisions::recorder();
  Tape tape({.gradients = false, .rng = Rng{11, 0, 0}, .decisions = &decisions});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) leaves.push_back(tape.constant(value));
  Weights weights;
  layer.forward(fixture.input(leaves, weights));
  std::vector<std::pair<std::string, Tensor>> given;
  const auto add = [&](const std::vector<std::string>& kinds) {
    for (const std::string& kind : kinds) {
      for (const Tensor& value : decisions.recorded(kind)) given.emplace_back(kind, value);
    }
  };
  add(router_entry(fixture.config.router).draws);
  add(estimator_entry(fixture.config.estimator).draws);
  return given;
}

bool close(const Tensor& a, const Tensor& b, double tolerance, double rounding) {
  if (!(a.shape() == b.shape())) return false;
  const Apart apart = apart_of(a, b);
  return apart.difference <= std::fmax(tolerance * apart.size, rounding);
}

}  // namespace moegrad
