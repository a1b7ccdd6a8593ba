#include "checks.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "array.h"
#include "autograd/expectation.h"
#include "autograd/foreign.h"
#include "autograd/gradcheck.h"
#include "callback.h"
#include "run.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;

const char* mode_name(Run& run) {
  switch (run.get().mode()) {
    case Decisions::Mode::record:
      return "record";
    case Decisions::Mode::replay:
      return "replay";
    case Decisions::Mode::enumerate:
      return "enumerate";
    default:
      return "live";
  }
}

nb::object decide(Run& run, const std::string& kind, const nb::callable& compute) {
  // Computed in a replay too, as Decisions has it; only the type and shape are needed before.
  const Tensor value = tensor_of(compute(), "the value of decision '" + kind + "'");
  Decisions& decisions = run.get().decisions();
  return array_of(
      decisions.decide(kind, value.dtype(), value.shape(), [&] { return value.clone(); }),
      Access::write);
}

enum class Noise { uniform, normal, gumbel };
nb::object noise(Run& run, Noise kind, const std::vector<std::int64_t>& sizes) {
  static constexpr const char* kNames[] = {"uniform", "normal", "gumbel"};
  Shape shape;
  for (const std::int64_t size : sizes) shape.push_back(size);
  const auto draw = [&] {
    Rng& rng = run.get().rng();
    switch (kind) {
      case Noise::uniform:
        return rng.uniform(shape, DType::f64);
      case Noise::normal:
        return rng.normal(shape, DType::f64);
      default:
        return rng.gumbel(shape, DType::f64, Device::cpu);
    }
  };
  return array_of(
      run.get().decisions().decide(kNames[static_cast<int>(kind)], DType::f64, shape, draw),
      Access::write);
}

ForeignVjp vjp_of(nb::object callable) {
  if (callable.is_none()) return nullptr;
  // Freed with the GIL, wherever the tape lets go of it.
  const auto drop = [](nb::object* o) {
    const nb::gil_scoped_acquire gil;
    delete o;
  };
  const std::shared_ptr<nb::object> held(new nb::object(std::move(callable)), drop);
  return [held](const Tensor& cotangent) {
    return calling_python([&] {
      const nb::object result = (*held)(array_of(cotangent.clone(), Access::write));
      std::vector<Tensor> gradients;
      for (const nb::handle g : nb::borrow<nb::object>(result)) {
        gradients.push_back(
            g.is_none() ? Tensor() : tensor_of(g, fmt::format("gradient {}", gradients.size())));
      }
      return gradients;
    });
  };
}

// callable(run, *arrays) -> (output, vjp or None)
ForeignProgram program_of(const nb::callable& callable) {
  return [&callable](ForeignRun& run, std::span<const Tensor> inputs) {
    return calling_python([&] {
      const auto given = std::make_shared<Run>(run);
      struct End {
        Run& run;
        ~End() { run.end(); }
      } end{*given};
      nb::list arguments;
      arguments.append(nb::cast(given));
      for (const Tensor& input : inputs) arguments.append(array_of(input.clone(), Access::write));
      const nb::object result = callable(*arguments);
      if (!nb::isinstance<nb::tuple>(result) || nb::len(result) != 2) {
        fail("foreign", "the program returned {}. Return a pair: output, vjp.",
             nb::cast<std::string>(nb::str(result.type().attr("__name__"))));
      }
      return ForeignResult{tensor_of(result[0], "the output"), vjp_of(result[1])};
    });
  };
}

std::vector<Tensor> tensors_of(const std::vector<nb::object>& arrays,
                               const std::vector<std::string>& names) {
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    tensors.push_back(
        tensor_of(arrays[i], i < names.size() ? names[i] : fmt::format("input {}", i)));
  }
  return tensors;
}

Decisions::Hold hold_of(const std::string& name) {
  if (name == "all") return Decisions::Hold::all;
  if (name == "nothing") return Decisions::Hold::nothing;
  fail("gradcheck", "hold is '{}'. Use 'all' or 'nothing'.", name);
}

GradcheckReport check(const nb::callable& program, const std::vector<nb::object>& inputs,
                      const std::vector<std::string>& names, const std::string& hold,
                      double relative, double error_factor, std::int64_t elementwise_limit,
                      int directions, int cotangents, std::uint64_t seed) {
  GradcheckOptions options;
  options.relative = relative;
  options.error_factor = error_factor;
  options.elementwise_limit = elementwise_limit;
  options.directions = directions;
  options.cotangents = cotangents;
  options.hold = hold_of(hold);
  options.seed = seed;
  options.rng.seed = seed;
  options.names = names;
  const std::vector<Tensor> tensors = tensors_of(inputs, names);
  return without_gil([&] { return gradcheck(foreign(program_of(program)), tensors, options); });
}

Expectation expect(const nb::callable& program, const std::vector<nb::object>& inputs,
                   const std::optional<nb::callable>& truth, std::int64_t max_outcomes,
                   std::int64_t samples, bool bias, std::uint64_t seed) {
  ExpectationOptions options;
  options.max_outcomes = max_outcomes;
  options.samples = samples;
  options.bias = bias;
  options.rng.seed = seed;
  Program of_truth;
  if (truth) {
    of_truth = foreign(program_of(*truth));
    options.truth = &of_truth;
  }
  const std::vector<Tensor> tensors = tensors_of(inputs, {});
  return without_gil([&] { return expectation(foreign(program_of(program)), tensors, options); });
}

std::vector<nb::object> arrays_of(const std::vector<Tensor>& tensors) {
  std::vector<nb::object> arrays;
  for (const Tensor& t : tensors) arrays.push_back(array_of(t, Access::read));
  return arrays;
}

void bind_reports(nb::module_& m) {
  nb::class_<InputReport>(m, "InputReport",
                          "What gradcheck found for one input, at its worst element or direction.")
      .def_ro("name", &InputReport::name)
      .def_prop_ro("verdict", [](const InputReport& r) { return std::string(name_of(r.verdict)); })
      .def_ro("worst", &InputReport::worst, "element, or number of the direction; -1: none")
      .def_ro("analytic", &InputReport::analytic)
      .def_ro("numeric", &InputReport::numeric)
      .def_ro("error_estimate", &InputReport::error_estimate)
      .def_ro("relative_error", &InputReport::relative_error)
      .def_ro("reason", &InputReport::reason)
      .def_ro("compared", &InputReport::compared)
      .def_ro("excused", &InputReport::excused, "numbers that rounding hides")
      .def_ro("not_moved", &InputReport::not_moved, "elements that are not finite")
      .def_ro("dead", &InputReport::dead, "gradient and differences are zero everywhere")
      .def("__repr__", [](const InputReport& r) {
        return fmt::format("<InputReport '{}': {}, relative error {:.3g}>", r.name,
                           name_of(r.verdict), r.relative_error);
      });
  nb::class_<GradcheckReport>(m, "CoreReport", "What gradcheck found.")
      .def_prop_ro("verdict",
                   [](const GradcheckReport& r) { return std::string(name_of(r.verdict)); })
      .def_ro("max_error", &GradcheckReport::max_error, "the largest relative error of all inputs")
      .def_ro("inputs", &GradcheckReport::inputs)
      .def_ro("wall", &GradcheckReport::wall, "distance to the nearest kink")
      .def_ro("culprit", &GradcheckReport::culprit)
      .def_ro("left_out", &GradcheckReport::left_out,
              "outputs that are the same infinity at all points")
      .def("text", &GradcheckReport::text);
  nb::class_<Expectation>(
      m, "Expectation",
      "Moments of a loss and of its gradient estimate, over all random numbers of the program.")
      .def_ro("loss", &Expectation::loss)
      .def_ro("loss_variance", &Expectation::loss_variance)
      .def_prop_ro(
          "gradient", [](const Expectation& e) { return arrays_of(e.gradient); }, "E[g], by input")
      .def_prop_ro(
          "variance", [](const Expectation& e) { return arrays_of(e.variance); },
          "Var[g], by element")
      .def_prop_ro(
          "true_gradient", [](const Expectation& e) { return arrays_of(e.true_gradient); },
          "d E[L] / d input, by differences; NaN where unknown")
      .def_prop_ro(
          "error", [](const Expectation& e) { return arrays_of(e.error); },
          "how far the bias may be from gradient - true_gradient")
      .def_ro("bias", &Expectation::bias, "||E[g] - true gradient||")
      .def_ro("bias_error", &Expectation::bias_error,
              "a bias up to this is not distinguishable from 0")
      .def_ro("true_norm", &Expectation::true_norm)
      .def_ro("total_variance", &Expectation::total_variance)
      .def_ro("exact", &Expectation::exact, "every random number was enumerated")
      .def_ro("noise", &Expectation::noise)
      .def_ro("outcomes", &Expectation::outcomes)
      .def_ro("loss_confidence", &Expectation::loss_confidence)
      .def_ro("largest_z", &Expectation::largest_z)
      .def_ro("differing", &Expectation::differing)
      .def_ro("unknown", &Expectation::unknown)
      .def_prop_ro("biased", &Expectation::biased)
      .def("text", &Expectation::text)
      .def("__str__", &Expectation::text)
      .def("__repr__", &Expectation::text);
}

void bind_run(nb::module_& m) {
  nb::class_<Run>(
      m, "Run",
      "One run of a program: what it may ask for. Valid within the call that it was given to.")
      .def_prop_ro("mode", &mode_name, "record, replay, enumerate or live")
      .def_prop_ro(
          "saves", [](Run& r) { return r.get().saves(); }, "a vjp is wanted")
      .def("decide", &decide, "kind"_a, "compute"_a,
           "compute() when recording; what was kept when replaying")
      .def(
          "categorical",
          [](Run& r, const std::string& kind, nb::handle p) {
            ForeignRun& run = r.get();
            const Tensor rows = tensor_of(p, "the probabilities of '" + kind + "'");
            return array_of(run.decisions().categorical(kind, rows, run.rng()), Access::write);
          },
          "kind"_a, "probabilities"_a, "one draw for each row of [N, E]: int32 [N]")
      .def(
          "bernoulli",
          [](Run& r, const std::string& kind, nb::handle p) {
            ForeignRun& run = r.get();
            const Tensor rows = tensor_of(p, "the probabilities of '" + kind + "'");
            return array_of(run.decisions().bernoulli(kind, rows, run.rng()), Access::write);
          },
          "kind"_a, "probabilities"_a, "one draw for each element p: int32, 1 with probability p")
      .def(
          "uniform",
          [](Run& r, const std::vector<std::int64_t>& s) { return noise(r, Noise::uniform, s); },
          "shape"_a)
      .def(
          "normal",
          [](Run& r, const std::vector<std::int64_t>& s) { return noise(r, Noise::normal, s); },
          "shape"_a)
      .def(
          "gumbel",
          [](Run& r, const std::vector<std::int64_t>& s) { return noise(r, Noise::gumbel, s); },
          "shape"_a)
      .def(
          "seed", [](Run& r) { return r.get().rng().take(1).bits(0); },
          "64 bits for a generator of another system: noise that is not enumerated")
      .def(
          "signature", [](Run& r, std::uint64_t word) { r.get().cell().signature(word); }, "word"_a,
          "a word that is another in another cell")
      .def(
          "distance", [](Run& r, double d) { r.get().cell().distance(d); }, "distance"_a,
          "to a wall of the cell");
}

}  // namespace

void bind_checks(nb::module_& m) {
  bind_reports(m);
  bind_run(m);
  m.def("gradcheck", &check, "program"_a, "inputs"_a, "names"_a, "hold"_a, "relative"_a,
        "error_factor"_a, "elementwise_limit"_a, "directions"_a, "cotangents"_a, "seed"_a);
  m.def("expectation", &expect, "program"_a, "inputs"_a, "truth"_a.none(), "max_outcomes"_a,
        "samples"_a, "bias"_a, "seed"_a);
}

}  // namespace moegrad::python
