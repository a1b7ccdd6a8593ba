#include "operation.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "array.h"
#include "autograd/operation_check.h"
#include "autograd/tape.h"
#include "callback.h"
#include "moe/options.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;

// An operation whose parts are functions of Python's, each of lists of arrays that are read-only:
//   forward(inputs) -> y                        backward(dy, needed, shapes) -> gradients or None
//   cell(inputs) -> (word, distance), or None   surrogate(inputs) -> s of y's shape, or None
// moegrad/operation.py wraps the user's functions so, and checks what they return.
struct Declared {
  std::string name;
  nb::object forward, backward, cell, surrogate;
  Operation operation = {};
  // The first exception of the user's where no input was moved: not an outcome of a check.
  std::exception_ptr raised = nullptr;
};

// Of one call.
struct Attributes {
  Declared* of;
  Tape* tape;
};

const Attributes& attributes_at(const void* place) {
  return *static_cast<const Attributes*>(place);
}

template <class F>
auto asking(Declared& of, bool moved, F&& f) {
  try {
    return calling_python(f);
  } catch (const CallbackError&) {
    if (!moved && !of.raised) of.raised = std::current_exception();
    throw;
  }
}

template <class Tensors>
nb::list arrays_of(const Tensors& tensors) {
  nb::list arrays;
  for (const Tensor& t : tensors) arrays.append(array_of(t, Access::read));
  return arrays;
}

std::vector<Tensor> inputs_of(const Forward& in) {
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < in.size(); ++i) inputs.push_back(in[i]);
  return inputs;
}

// y, with the derivatives of s: y + (s - s at the point), where y and the latter are held.
Tensor held(Decisions& decisions, const Tensor& y, const Tensor& s) {
  const Tensor value = decisions.decide("value", y.dtype(), y.shape(), [&] { return y.clone(); });
  const Tensor at = decisions.decide("surrogate", s.dtype(), s.shape(), [&] { return s.clone(); });
  for (std::int64_t i = 0; i < value.numel(); ++i) {
    const double change = s.at(i) - at.at(i);
    if (change != 0.0) value.write<double>()[i] += change;
  }
  return value;
}

Tensor forward(Forward& in, const void* place) {
  const auto& [of, tape] = attributes_at(place);
  const std::vector<Tensor> inputs = inputs_of(in);
  const bool surrogate = !of->surrogate.is_none() && !tape->decisions().live();
  const bool moved = tape->decisions().mode() == Decisions::Mode::replay;
  const auto [y, s] = asking(*of, moved, [&] {
    const nb::list arrays = arrays_of(inputs);
    return std::pair(tensor_of(of->forward(arrays), "the output"),
                     surrogate ? tensor_of(of->surrogate(arrays), "the surrogate") : Tensor());
  });
  return surrogate ? held(tape->decisions(), y, s) : y;
}

void backward(Backward& b, const void* place) {
  Declared& of = *attributes_at(place).of;
  const Needs needs = of.operation.needs;
  std::vector<Tensor> needed;
  std::vector<std::vector<std::int64_t>> shapes;
  for (int i = 0; i < b.inputs(); ++i) {
    if (needs == Needs::inputs || needs == Needs::inputs_and_output) needed.push_back(b.input(i));
    shapes.emplace_back(b.input_shape(i).begin(), b.input_shape(i).end());
  }
  if (needs == Needs::output || needs == Needs::inputs_and_output) needed.push_back(b.output());
  const std::vector<Tensor> gradients = asking(of, false, [&] {
    const nb::object list =
        of.backward(array_of(b.dy(), Access::read), arrays_of(needed), nb::cast(shapes));
    std::vector<Tensor> all;
    for (const nb::handle g : list)
      all.push_back(g.is_none() ? Tensor() : tensor_of(g, "gradient"));
    return all;
  });
  for (int i = 0; i < b.inputs(); ++i) {
    const Tensor& gradient = gradients.at(static_cast<std::size_t>(i));
    if (gradient.defined()) b.add(i, gradient);
  }
}

void cell(std::span<const Tensor> inputs, const void* place, Cell& c) {
  const auto& [of, tape] = attributes_at(place);
  const bool moved = tape->decisions().mode() == Decisions::Mode::replay;
  const auto [word, distance] = asking(*of, moved, [&] {
    return nb::cast<std::pair<std::uint64_t, double>>(of->cell(arrays_of(inputs)));
  });
  c.signature(word);
  c.distance(distance);
}

Needs needs_of(const std::string& name) {
  if (name == "nothing") return Needs::nothing;
  if (name == "inputs") return Needs::inputs;
  if (name == "output") return Needs::output;
  return Needs::inputs_and_output;
}
Claim claim_of(const std::string& name) {
  for (const Claim claim : {Claim::exact, Claim::exact_on_cell}) {
    if (name == name_of(claim)) return claim;
  }
  return Claim::surrogate;
}

std::vector<std::string> mutations() {
  std::vector<std::string> names;
  for (const Mutation::Kind kind : kMutations) names.emplace_back(name_of(kind));
  return names;
}

Mutation::Kind mutation_of(const std::string& name) {
  for (const Mutation::Kind kind : kMutations) {
    if (name == name_of(kind)) return kind;
  }
  fail("operation", "there is no mutation '{}'. Did you mean '{}'? mutations() lists them.", name,
       nearest(name, mutations()));
}

// shape, low, high of each input
using Case =
    std::pair<std::string, std::vector<std::tuple<std::vector<std::int64_t>, double, double>>>;

OperationCase case_of(const Case& given, Declared& of) {
  OperationCase c;
  c.label = given.first;
  for (const auto& [sizes, low, high] : given.second) {
    if (sizes.size() > Shape::kMaxRank) {
      fail(of.name, "the case {} has an input of {} axes. They may be {}.", c.label, sizes.size(),
           Shape::kMaxRank);
    }
    CaseInput& input = c.inputs.emplace_back(CaseInput{{}, low, high});
    for (const std::int64_t size : sizes) input.shape.push_back(size);
  }
  c.program = [&of](Tape& tape, std::span<const Var> inputs) {
    const Attributes attributes{&of, &tape};
    return tape.record(of.operation, inputs, &attributes, sizeof(attributes));
  };
  return c;
}

CheckRow check(const std::string& name, const std::string& claim, const std::string& needs,
               const std::vector<Case>& given, const std::string& never_empty,
               nb::object on_forward, nb::object on_backward, nb::object on_cell,
               nb::object on_surrogate, const std::string& mutant, int input) {
  Declared of{name, std::move(on_forward), std::move(on_backward), std::move(on_cell),
              std::move(on_surrogate)};
  // What the decisions hold is not known outside of its tape: run apart, it is another function.
  of.operation = {.name = of.name,
                  .needs = needs_of(needs),
                  .required = std::numeric_limits<std::size_t>::max(),
                  .forward = forward,
                  .backward = backward,
                  .cell = of.cell.is_none() ? nullptr : cell,
                  .local = of.surrogate.is_none()};
  std::vector<OperationCase> cases;
  for (const Case& c : given) cases.push_back(case_of(c, of));
  const OperationEntry entry = {.name = of.name,
                                .summary = "",
                                .source = "",
                                .claim = claim_of(claim),
                                .cases = [&] { return cases; },
                                .operation = &of.operation,
                                .never_empty = never_empty};
  bool applied = false;
  Mutation mutation{.operation = of.name, .input = input, .applied = &applied};
  if (!mutant.empty()) mutation.kind = mutation_of(mutant);
  const CheckRow row =
      without_gil([&] { return check_operation(entry, mutant.empty() ? nullptr : &mutation); });
  if (of.raised) std::rethrow_exception(of.raised);
  if (!mutant.empty() && !applied) {
    fail(name,
         "mutation '{}' changes no gradient of input {} in these cases, so that no check could "
         "find it. Add a case where it does: axes of different sizes for 'transposed', say.",
         mutant, input);
  }
  return row;
}

}  // namespace

void bind_operation(nb::module_& m) {
  m.def("mutations", &mutations);
  m.def("check_own_operation", &check, "name"_a, "claim"_a, "needs"_a, "cases"_a, "never_empty"_a,
        "forward"_a, "backward"_a, "cell"_a.none(), "surrogate"_a.none(), "mutation"_a, "input"_a);
}

}  // namespace moegrad::python
