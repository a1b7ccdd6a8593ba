// mg.Layer and the result of its passes.

#include "layer.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "array.h"
#include "callback.h"
#include "device.h"
#include "moe/registry.h"
#include "pass.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;

DType floating_type(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "float64") return DType::f64;
  fail("layer", "dtype is '{}'. Use 'float32' or 'float64'.", name);
}

// Names that are no option of the layer's parts, before the engine looks at values. The arguments
// of mg.Layer are keywords like these: a misspelt one ends here too.
void require_known(const LayerConfig& config, const std::vector<std::string>& arguments) {
  std::vector<std::string> names = arguments;
  const auto add = [&](const std::vector<OptionSpec>& specs) {
    for (const OptionSpec& spec : specs) names.push_back(spec.name);
  };
  add(router_entry(config.router).options);
  for (const std::string& name :
       {config.estimator, config.router_gradient, config.expert_gradient}) {
    if (!name.empty()) add(estimator_entry(name).options);
  }
  add(layer_options());
  for (const auto& [name, value] : config.options) {
    if (std::find(names.begin() + static_cast<std::ptrdiff_t>(arguments.size()), names.end(),
                  name) != names.end()) {
      continue;
    }
    fail("layer",
         "neither router {}, estimator {} nor the layer has an option '{}'. Did you mean "
         "'{}'?",
         config.router, config.estimator, name, nearest(name, names));
  }
}

std::shared_ptr<Mixture> make(std::int64_t model, std::int64_t hidden, std::int64_t output,
                              std::int64_t experts, std::int64_t active, const std::string& router,
                              const std::string& estimator, const std::string& router_gradient,
                              const std::string& expert_gradient, const std::string& activation,
                              bool biases, bool causal, bool force, const std::string& device,
                              const std::map<std::string, std::string>& options,
                              const std::vector<std::string>& arguments) {
  LayerConfig config;
  config.size = {model, hidden, output, experts, active};
  config.router = router;
  config.estimator = estimator;
  config.router_gradient = router_gradient;
  config.expert_gradient = expert_gradient;
  config.activation = activation_of(activation);
  config.biases = biases;
  config.causal = causal;
  config.force = force;
  config.options = options;
  require_known(config, arguments);
  return std::make_shared<Mixture>(config, device_of(device));
}

nb::dict init(const Mixture& mixture, std::uint64_t seed, const std::string& dtype) {
  const DType type = floating_type(dtype);
  Named values;
  without_gil([&] {
    Parameters parameters;
    Rng rng{seed, 0, 0};
    mixture.layer().declare("", parameters, rng);
    for (Parameter& p : parameters) {
      values.emplace_back(p.name, p.value.to(type));
      p.value.release();
    }
  });
  nb::dict found;
  for (const auto& [name, value] : values) {
    found[name.c_str()] = array_of(value, Access::write);
  }
  return found;
}

bool may_be_left_out(const Parameter& p) {
  return !p.trained || p.name == "router.bias" || p.name.starts_with("experts.b") ||
         p.name.starts_with("shared.b");
}

const Parameter& parameter_of(const Parameters& declared, const std::string& name) {
  std::vector<std::string> names;
  for (const Parameter& p : declared) {
    if (p.name == name) return p;
    names.push_back(p.name);
  }
  fail("layer", "'{}' is no parameter of this layer. Did you mean '{}'?", name,
       nearest(name, names));
}

void require_type(const std::string& name, const Tensor& value, DType dtype) {
  if (value.dtype() == dtype) return;
  fail("layer", "'{}' is {} and x is {}. Give all floating arrays in one precision: .astype().",
       name, name_of(value.dtype()), name_of(dtype));
}

// In the order in which the layer declares them; what is left out of the state is as at first.
Named read_weights(const Parameters& declared, const nb::dict& given, DType dtype) {
  for (const auto& [key, value] : given) {
    static_cast<void>(parameter_of(declared, nb::cast<std::string>(key)));
  }
  Named weights;
  for (const Parameter& p : declared) {
    const nb::str key(p.name.c_str());
    if (!given.contains(key)) {
      if (!may_be_left_out(p)) {
        fail("layer", "no parameter '{}'. Give it with the others: layer.init() makes all.",
             p.name);
      }
      if (!p.trained) weights.emplace_back(p.name, p.value.to(dtype));
      continue;
    }
    // State is written between passes, so it is copied.
    Tensor value = p.trained ? view_of(given[key], p.name) : tensor_of(given[key], p.name);
    if (!(value.shape() == p.value.shape())) {
      fail("layer", "'{}' is {} and should be {}. Make the shapes agree.", p.name, value.shape(),
           p.value.shape());
    }
    require_type(p.name, value, dtype);
    weights.emplace_back(p.name, std::move(value));
  }
  return weights;
}

std::vector<std::string> trained_of(const Parameters& declared) {
  std::vector<std::string> names = {"x"};
  for (const Parameter& p : declared) {
    if (p.trained) names.push_back(p.name);
  }
  return names;
}

Tensor optional_of(const nb::object& array, const char* what, DType dtype) {
  if (array.is_none()) return {};
  const Tensor value = view_of(array, what);
  if (value.dtype() != dtype) {
    fail("layer", "{} is {}. Give {}.", what, name_of(value.dtype()), name_of(dtype));
  }
  return value;
}

std::shared_ptr<Pass> forward(const std::shared_ptr<Mixture>& mixture, const nb::object& x,
                              const nb::dict& weights, std::uint64_t seed, bool training,
                              const nb::object& ids, const nb::object& mask, std::int64_t sequence,
                              const nb::object& attention, bool dropless, bool check_finite,
                              const std::optional<std::vector<std::string>>& wanted, bool guard,
                              const std::shared_ptr<Run>& run, int threads) {
  const Parameters& declared = mixture->declared();
  PassInput in;
  in.x = view_of(x, "x");
  if (!is_floating(in.x.dtype())) {
    fail("layer", "x is {}. Give float32 or float64.", name_of(in.x.dtype()));
  }
  if (in.x.rank() != 2) {
    fail("layer", "x is {}. It must be [tokens, {}].", in.x.shape(),
         mixture->layer().config().size.model);
  }
  const DType dtype = in.x.dtype();
  in.weights = read_weights(declared, weights, dtype);
  in.seed = seed;
  in.training = training;
  in.dropless = dropless;
  in.check_finite = check_finite;
  in.sequence = sequence;
  in.ids = optional_of(ids, "ids", DType::i32);
  in.mask = optional_of(mask, "mask", DType::i32);
  in.attention = optional_of(attention, "attention", dtype);
  in.wanted = wanted ? *wanted : trained_of(declared);
  in.guard = guard;
  in.run = run;
  const std::int64_t rows = in.x.size(0);
  if (in.ids.defined() && !(in.ids.shape() == Shape{rows})) {
    fail("layer", "ids are {} for {} rows of x. Give one for each.", in.ids.shape(), rows);
  }
  return without_gil([&] {
    const ThreadScope scope(threads);
    return std::make_shared<Pass>(mixture, std::move(in));
  });
}

nb::dict backward(Pass& pass, const nb::object& dy, double auxiliary, const nb::object& losses,
                  bool retain, int threads) {
  const auto read = [](const nb::object& array, const char* what) {
    return array.is_none() ? Tensor() : view_of(array, what);
  };
  const Tensor of_y = read(dy, "dy");
  const Tensor of_rows = read(losses, "losses");
  const Named gradients = without_gil([&] {
    const ThreadScope scope(threads);
    return pass.backward(of_y, auxiliary, of_rows, retain);
  });
  nb::dict found;
  for (const auto& [name, value] : gradients) {
    found[name.c_str()] = array_of(value, Access::write);
  }
  return found;
}

nb::list declared(const Mixture& mixture) {
  nb::list all;
  for (const Parameter& p : mixture.declared()) {
    nb::dict entry;
    nb::list shape;
    for (int i = 0; i < p.value.rank(); ++i) shape.append(p.value.size(i));
    entry["name"] = p.name;
    entry["shape"] = nb::tuple(shape);
    entry["trained"] = p.trained;
    entry["router"] = p.router;
    entry["decays"] = p.decays;
    entry["rate"] = p.rate;
    all.append(entry);
  }
  return all;
}

// What moegrad.torch makes tensors of, which their owner may write: y, the auxiliary loss (0 where
// there is none), selected, load, updates.
nb::tuple copies(const Pass& p) {
  const LayerOutput& out = p.out();
  Tensor y, auxiliary, selected, load;
  without_gil([&] {
    auxiliary = out.auxiliary.defined() ? out.auxiliary.value().clone()
                                        : Tensor::zeros({}, out.y.dtype(), Device::cpu);
    y = out.y.value().clone();
    selected = p.for_all(out.routing.selected, -1.0).clone();
    load = out.expert_load();
  });
  nb::dict updates;
  for (const auto& [name, value] : out.updates) {
    updates[name.c_str()] = array_of(value.clone(), Access::write);
  }
  return nb::make_tuple(array_of(y, Access::write), array_of(auxiliary, Access::write),
                        array_of(selected, Access::write), array_of(load, Access::write), updates);
}

// A pass as seen by its tape.
struct PassTape {
  std::shared_ptr<Pass> pass;
};

template <class F>
auto read_tape(const PassTape& t, F&& f) {
  return without_gil([&] {
    const std::scoped_lock lock(t.pass->mutex());
    return f(t.pass->tape());
  });
}

void bind_output(nb::module_& m) {
  const auto array = [](const Tensor& t) { return array_of(t, Access::read); };
  nb::class_<PassTape>(m, "PassTape", "What a pass recorded, in order.")
      .def("__len__", [](const PassTape& t) { return t.pass->tape().size(); })
      .def(
          "rows", [](const PassTape& t) { return read_tape(t, [](Tape& x) { return x.rows(); }); },
          "the table: its head, and a row for each node")
      .def("__str__",
           [](const PassTape& t) { return read_tape(t, [](Tape& x) { return x.table(); }); })
      .def("_repr_html_",
           [](const PassTape& t) {
             std::vector<Tape::Row> rows = read_tape(t, [](Tape& x) { return x.rows(); });
             const Tape::Row head = rows.front();
             rows.erase(rows.begin());
             return nb::module_::import_("moegrad.notebook").attr("table")(head, rows);
           })
      .def(
          "dot", [](const PassTape& t) { return read_tape(t, [](Tape& x) { return x.dot(); }); },
          "the graph, for Graphviz")
      .def_prop_ro(
          "bytes_saved",
          [](const PassTape& t) { return read_tape(t, [](Tape& x) { return x.bytes_saved(); }); },
          "bytes that a backward pass needs");
  nb::class_<Pass>(m, "LayerOutput",
                   "What one pass of a layer gave. Arrays are read-only: its tape holds them.")
      .def_prop_ro(
          "y", [=](const Pass& p) { return array(p.out().y.value()); }, "[N, Dout]")
      .def_prop_ro(
          "selected",
          [=](const Pass& p) { return array(p.for_all(p.out().routing.selected, -1.0)); },
          "int32 [N, k]: the experts of each token; -1: none")
      .def_prop_ro(
          "weights",
          [=](const Pass& p) { return array(p.for_all(p.out().routing.weights.value())); },
          "[N, k]: their combine weights")
      .def_prop_ro(
          "scores", [=](const Pass& p) { return array(p.for_all(p.out().routing.scores.value())); },
          "[N, E]: the full scores")
      .def_prop_ro(
          "load", [=](const Pass& p) { return array(p.out().expert_load()); },
          "float64 [E]: the slots of each expert; of merged experts their weights")
      .def_prop_ro(
          "dropped", [](const Pass& p) { return p.out().dropped().item(); },
          "choices that a capacity dropped")
      .def_prop_ro(
          "auxiliary",
          [](const Pass& p) -> std::optional<double> {
            if (!p.out().auxiliary.defined()) return std::nullopt;
            return p.out().auxiliary.value().item();
          },
          "what the balance losses add to the loss; None where there are none")
      .def_prop_ro(
          "losses",
          [](const Pass& p) {
            nb::dict found;
            for (const AuxiliaryLoss& loss : p.out().losses) {
              found[loss.name] = loss.value.value().item();
            }
            return found;
          },
          "the balance losses by name, before their coefficients")
      .def_prop_ro(
          "updates",
          [=](const Pass& p) {
            nb::dict found;
            for (const auto& [name, value] : p.out().updates) {
              found[name.c_str()] = array(value);
            }
            return found;
          },
          "new values of the layer's state, for the next step")
      .def_prop_ro("random", &Pass::random, "random numbers were asked for")
      .def_prop_ro("tape", [](std::shared_ptr<Pass> p) { return PassTape{std::move(p)}; })
      .def_prop_ro("seed", &Pass::seed, "of its draws")
      .def(
          "backward",
          [](Pass& p, const nb::object& dy, double auxiliary, const nb::object& losses) {
            return backward(p, dy, auxiliary, losses, true, 0);
          },
          "dy"_a.none() = nb::none(), "auxiliary"_a = 1.0, "losses"_a.none() = nb::none(),
          "Gradients of <dy, y> + auxiliary * the auxiliary loss: of \"x\" and of the trained "
          "parameters, by name. It can be called again. losses: for an estimator that needs them "
          "(Layer.needs_losses), what each row of y adds to the loss, of several samples of a "
          "token their mean; dy is then the derivative of each row's loss by its y.")
      .def("_copies", &copies)
      .def("_backward", &backward, "dy"_a.none(), "auxiliary"_a, "losses"_a.none(), "retain"_a,
           "threads"_a)
      .def("__repr__", [](const Pass& p) {
        const LayerConfig& config = p.mixture().layer().config();
        return fmt::format("<LayerOutput: y {}, router {}, estimator {}>", p.out().y.shape(),
                           config.router, config.estimator);
      });
}

}  // namespace

void bind_layer(nb::module_& m) {
  bind_output(m);
  nb::class_<Mixture>(m, "Mixture", "One mixture layer; see moegrad.Layer.")
      .def_prop_ro("router_learns", [](const Mixture& x) { return x.layer().router_learns(); })
      .def_prop_ro("losses", [](const Mixture& x) { return x.layer().losses(); })
      .def_prop_ro("samples", [](const Mixture& x) { return x.layer().estimator().samples(); })
      .def_prop_ro("needs_losses",
                   [](const Mixture& x) { return x.layer().estimator().needs_losses(); })
      .def("declared", &declared)
      .def("init", &init, "seed"_a, "dtype"_a)
      .def("forward", &forward, "x"_a.none(), "weights"_a, "seed"_a, "training"_a, "ids"_a.none(),
           "mask"_a.none(), "sequence"_a, "attention"_a.none(), "dropless"_a, "check_finite"_a,
           "wanted"_a.none(), "guard"_a, "run"_a.none(), "threads"_a);
  m.def("make_mixture", &make, "model"_a, "hidden"_a, "output"_a, "experts"_a, "active"_a,
        "router"_a, "estimator"_a, "router_gradient"_a, "expert_gradient"_a, "activation"_a,
        "biases"_a, "causal"_a, "force"_a, "device"_a, "options"_a, "arguments"_a);
  m.def("threads", [] {
    const int chosen = chosen_threads.load();
    return chosen > 0 ? chosen : threads();
  });
  m.def(
      "choose_threads", [](int n) { return chosen_threads.exchange(n); }, "n"_a);
  m.def("processors", &processors,
        "How many processors this process may keep busy, by its affinity and its quotas.");
}

}  // namespace moegrad::python
