#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "moe/checks/check.h"
#include "moe/padding.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// Rows of t in another order: row r of the result is row order[r]; t as [rows, rest].
Tensor permuted_rows(const Tensor& t, const std::vector<std::int32_t>& order) {
  const Tensor out = Tensor::empty(t.shape(), t.dtype(), Device::cpu);
  const std::int64_t rest = t.numel() / static_cast<std::int64_t>(order.size());
  for (std::size_t r = 0; r < order.size(); ++r) {
    kernels(Device::cpu)
        .copy_block(t, order[r] * rest, rest, 1, rest, static_cast<std::int64_t>(r) * rest, rest,
                    out);
  }
  return out;
}

Tensor permuted_columns(const Tensor& t, const std::vector<std::int32_t>& order) {
  const Tensor out = Tensor::empty(t.shape(), t.dtype(), Device::cpu);
  const auto columns = static_cast<std::int64_t>(order.size());
  for (std::int64_t c = 0; c < columns; ++c) {
    kernels(Device::cpu)
        .copy_block(t, order[static_cast<std::size_t>(c)], columns, t.numel() / columns, 1, c,
                    columns, out);
  }
  return out;
}

// A tensor whose first or last axis is the experts' (the last where both are), in another order of
// the experts; any other as it is.
Tensor permuted_by_expert(const Tensor& t, const std::vector<std::int32_t>& order) {
  const auto experts = static_cast<std::int64_t>(order.size());
  if (t.rank() == 0) return t;
  if (t.rank() < 3 && t.size(-1) == experts) return permuted_columns(t, order);
  return t.size(0) == experts ? permuted_rows(t, order) : t;
}

// Some permutation of n things that moves all of them.
std::vector<std::int32_t> rotation(std::int64_t n) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::rotate(order.begin(), order.begin() + (n > 1 ? 1 : 0), order.end());
  return order;
}

// The draws and noise of a fixture. Where its logits are +-1e4 in multiples of 1/128, so that f32
// holds them exactly, the factors that multiply them are too.
std::vector<std::pair<std::string, Tensor>> given_decisions(const LayerFixture& fixture) {
  std::vector<std::pair<std::string, Tensor>> given = decisions_of(fixture);
  for (auto& [kind, value] : given) {
    if (kind != "jitter" || !fixture.label.starts_with("logits of +-1e4")) continue;
    value = value.clone();
    for (double& v : value.write_values<double>()) v = std::round(v * 128.0) / 128.0;
  }
  return given;
}

// What the suite saw break, of that which a router need not keep.
struct Broken {
  bool order = false;      // of tokens
  bool numbering = false;  // of experts
  bool sums = false;       // of the gradients of a token's logits
  bool gradients = false;  // there were any
};

class EdgeCheck {
 public:
  EdgeCheck(const LayerFixture& fixture, const RouterTraits& router,
            const EstimatorTraits& estimator, CheckRow& row, const Mutation* mutation,
            Broken& broken)
      : f_(fixture),
        broken_(broken),
        router_(router),
        estimator_(estimator),
        row_(row),
        given_(given_decisions(fixture)) {
    options_.given = given_;
    options_.mutation = mutation;
    base_ = run_pass(f_, options_);
  }

  void run() {
    finite();
    zero_cotangent();
    empty_experts();
    logit_gradients_sum_to_zero();
    fused_equals_written();
    f32_equals_f64();
    if (!f_.training && router_.picks_largest) ties();
    if (f_.permutable && !causal()) permuted_tokens();
    if (f_.permutable) permuted_experts();
    padding();
  }

 private:
  void note(bool ok, const std::string& what) { row_.note(ok, f_.label + ": " + what); }
  // What the traits promise, or else may break.
  void note(bool ok, bool promised, bool& broken, const std::string& what) {
    if (promised) note(ok, what);
    broken = broken || !ok;
  }

  // The estimator lets no token see later ones: their order matters.
  bool causal() const {
    const auto option = f_.config.options.find("causal");
    return option != f_.config.options.end() && option->second == "true";
  }

  void finite() {
    const auto is_finite = [](const Tensor& t) { return kernels(Device::cpu).all_finite(t); };
    note(is_finite(base_.y), "the output is not finite");
    for (std::size_t i = 0; i < f_.names.size(); ++i) {
      note(is_finite(base_.gradients[i]), "the gradient of " + f_.names[i] + " is not finite");
    }
  }

  void zero_cotangent() {
    PassOptions options = options_;
    options.cotangent = Tensor::zeros(base_.y.shape(), DType::f64, Device::cpu);
    options.auxiliary = false;
    for (const Tensor& g : run_pass(f_, options).gradients) {
      bool zero = true;
      for (std::int64_t i = 0; i < g.numel(); ++i) zero = zero && g.at(i) == 0.0;
      note(zero, "a zero cotangent gives a gradient");
    }
  }

  void empty_experts() {
    if (estimator_.dense) return;
    if (!(f_.training ? router_.sparse_training : router_.sparse_inference)) return;
    std::vector<bool> used(static_cast<std::size_t>(f_.config.size.experts), false);
    for (const std::int32_t e : base_.selected.values<const std::int32_t>()) {
      if (e >= 0) used[static_cast<std::size_t>(e)] = true;
    }
    for (std::size_t i = 0; i < f_.names.size(); ++i) {
      if (!f_.names[i].starts_with("experts.")) continue;
      const Tensor& g = base_.gradients[i];
      const std::int64_t each = g.numel() / f_.config.size.experts;
      for (std::int64_t j = 0; j < g.numel(); ++j) {
        const bool zero = g.at(j) == 0.0;
        note(zero || used[static_cast<std::size_t>(j / each)],
             "an empty expert has a gradient in " + f_.names[i]);
      }
    }
  }

  void logit_gradients_sum_to_zero() {
    const Tensor& d = base_.logit_gradients;
    if (!d.defined()) return;
    const std::int64_t experts = d.size(-1);
    for (std::int64_t t = 0; t < d.numel() / experts; ++t) {
      double total = 0.0;
      double size = 0.0;
      for (std::int64_t e = 0; e < experts; ++e) {
        total += d.at(t * experts + e);
        size += std::abs(d.at(t * experts + e));
      }
      broken_.gradients = broken_.gradients || size > 0.0;
      note(std::abs(total) <= std::fmax(1e-12 * size, 1e-15 * base_.terms), router_.softmax,
           broken_.sums, "the gradients of a token's logits do not sum to zero");
    }
  }

  void compare(const LayerPass& other, double tolerance, const std::string& what) {
    note(close(base_.y, other.y.to(DType::f64), tolerance), what + " changes the output");
    for (std::size_t i = 0; i < f_.names.size(); ++i) {
      const double rounding = std::fmax(base_.rounding[i], other.rounding[i]);
      note(close(base_.gradients[i], other.gradients[i].to(DType::f64), tolerance, rounding),
           what + " changes the gradient of " + f_.names[i]);
    }
  }

  void fused_equals_written() {
    PassOptions options = options_;
    options.mutation = nullptr;
    options.form = Form::written;
    compare(run_pass(f_, options), 1e-12, "writing it out");
  }

  void f32_equals_f64() {
    PassOptions options = options_;
    options.dtype = DType::f32;
    compare(run_pass(f_, options), 1e-4, "f32");
  }

  void ties() {
    if (!f_.label.starts_with("ties")) return;
    const std::int64_t k = base_.selected.size(1);
    for (std::int64_t i = 0; i < base_.logits.numel(); ++i) {
      if (base_.logits.at(i) != base_.logits.at(0)) return;  // not x W: the logits are not tied
    }
    for (std::int64_t i = 0; i < base_.selected.numel(); ++i) {
      note(base_.selected.at(i) == static_cast<double>(i % k),
           "of equal scores the lowest expert does not win");
    }
  }

  void permuted_tokens() {
    const std::vector<std::int32_t> order = rotation(base_.y.size(0));
    LayerFixture f = f_;
    f.values[0] = permuted_rows(f.values[0], order);
    f.ids = permuted_rows(f.ids, order);
    PassOptions options = options_;
    options.given.clear();
    for (const auto& [kind, value] : given_) {
      const bool by_token = value.rank() > 0 && value.size(0) == f.values[0].size(0);
      options.given.emplace_back(kind, by_token ? permuted_rows(value, order) : value);
    }
    options.cotangent = permuted_rows(random_cotangent(base_.y.shape()), order);
    const LayerPass other = run_pass(f, options);
    const bool promised = !router_.in_order;
    note(close(other.y, permuted_rows(base_.y, order), 1e-12), promised, broken_.order,
         "permuting the tokens does not permute the output");
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      const Tensor& g = base_.gradients[i];
      const Tensor expected = i == 0 ? permuted_rows(g, order) : g;
      note(close(other.gradients[i], expected, 1e-11, base_.rounding[i]), promised, broken_.order,
           "permuting the tokens changes the gradient of " + f.names[i]);
    }
  }

  // A row at the front, one in the middle and one at the end.
  void padding() {
    const std::int64_t tokens = base_.y.size(0);
    Tensor mask = Tensor::full({tokens + 3}, 1.0, DType::i32, Device::cpu);
    for (const std::int64_t row : {std::int64_t{0}, 1 + (tokens + 1) / 2, tokens + 2}) {
      mask.write<std::int32_t>()[row] = 0;
    }
    const LayerFixture f = padded(f_, mask, tokens + 3, std::numeric_limits<double>::quiet_NaN());
    PassOptions options = options_;
    options.cotangent = with_padding(random_cotangent(base_.y.shape()), mask, 1e30);
    const LayerPass other = run_pass(f, options);
    note(close(other.y, with_padding(base_.y, mask), 0.0), "padding changes the output");
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      const Tensor& g = base_.gradients[i];
      note(close(other.gradients[i], i == 0 ? with_padding(g, mask) : g, 0.0),
           "padding changes the gradient of " + f.names[i]);
    }
    for (std::size_t i = 0; i < base_.updates.size(); ++i) {
      note(close(other.updates[i].second, base_.updates[i].second, 0.0),
           "padding changes the new " + base_.updates[i].first);
    }
  }

  void permuted_experts() {
    const std::int64_t experts = f_.config.size.experts;
    const std::vector<std::int32_t> order = rotation(experts);
    std::vector<std::int32_t> place(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      place[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(i);
    }
    LayerFixture f = f_;
    for (std::size_t i = 1; i < f.names.size(); ++i) {
      f.values[i] = permuted_by_expert(f.values[i], order);
    }
    for (auto& [name, value] : f.state) value = permuted_by_expert(value, order);
    PassOptions options = options_;
    options.given.clear();
    for (const auto& [kind, value] : given_) {
      const bool ids = kind == "selected" || kind == "probe";
      Tensor changed = ids ? value.clone() : permuted_by_expert(value, order);
      if (ids) {
        for (std::int32_t& e : changed.write_values<std::int32_t>()) {
          if (e >= 0) e = place[static_cast<std::size_t>(e)];
        }
      }
      options.given.emplace_back(kind, changed);
    }
    const LayerPass other = run_pass(f, options);
    const bool promised = router_.exchangeable;
    note(close(other.y, base_.y, 1e-12), promised, broken_.numbering,
         "permuting the experts changes the output");
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      const Tensor& g = base_.gradients[i];
      const Tensor expected = i == 0 ? g : permuted_by_expert(g, order);
      note(close(other.gradients[i], expected, 1e-11, base_.rounding[i]), promised,
           broken_.numbering,
           "permuting the experts does not permute the gradient of " + f.names[i]);
    }
  }

  const LayerFixture& f_;
  Broken& broken_;
  const RouterTraits& router_;
  const EstimatorTraits& estimator_;
  CheckRow& row_;
  std::vector<std::pair<std::string, Tensor>> given_;
  PassOptions options_;
  LayerPass base_;
};

}  // namespace

void check_edges(const LayerConfig& config, const RouterTraits& router,
                 const EstimatorTraits& estimator, CheckRow& row, const Mutation* mutation,
                 Device device) {
  Broken broken;
  for (const LayerFixture& edge : edge_fixtures(config)) {
    const LayerFixture fixture = on(device, edge);
    ++row.cases;
    try {
      EdgeCheck(fixture, router, estimator, row, mutation, broken).run();
    } catch (const Interruption&) {
      throw;
    } catch (const std::exception& e) {
      row.note(Verdict::fail, fixture.label + ": " + e.what());
    }
  }
  // What a router says it does not keep is left out above: it must be so.
  if (config.estimator != "sparse" || !config.options.empty()) return;
  row.note(broken.order || !router.in_order,
           "traits: in_order is stated, and the order of tokens never matters");
  row.note(broken.numbering || router.exchangeable,
           "traits: exchangeable is stated to be false, and the order of experts never matters");
  row.note(broken.sums || router.softmax || !broken.gradients,
           "traits: softmax is stated to be false, and the gradients of all logits sum to zero");
}

}  // namespace moegrad
