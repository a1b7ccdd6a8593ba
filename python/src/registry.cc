// What the engine knows by name (`moegrad list`), its own checks (`moegrad gradcheck`), and files.

#include "registry.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "array.h"
#include "callback.h"
#include "device.h"
#include "interruptible.h"
#include "moe/checks/check.h"
#include "moe/layer.h"
#include "moe/registry.h"
#include "tensor/safetensors.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;

const char* kind_name(OptionSpec::Kind kind) {
  switch (kind) {
    case OptionSpec::Kind::number:
      return "number";
    case OptionSpec::Kind::integer:
      return "integer";
    case OptionSpec::Kind::flag:
      return "flag";
    case OptionSpec::Kind::choice:
      return "choice";
    default:
      return "text";
  }
}

nb::list options_list(const std::vector<OptionSpec>& specs) {
  nb::list list;
  for (const OptionSpec& spec : specs) {
    nb::dict option;
    option["name"] = spec.name;
    option["kind"] = kind_name(spec.kind);
    option["default"] = spec.default_value;
    option["summary"] = spec.help;
    if (spec.kind == OptionSpec::Kind::number || spec.kind == OptionSpec::Kind::integer) {
      option["lowest"] = spec.lowest;
      option["highest"] = spec.highest;
    }
    if (!spec.choices.empty()) option["choices"] = spec.choices;
    list.append(option);
  }
  return list;
}

template <class Entry>
nb::dict named(const Entry& e) {
  nb::dict entry;
  entry["name"] = std::string(e.name);
  entry["summary"] = std::string(e.summary);
  entry["source"] = std::string(e.source);
  entry["claim"] = std::string(name_of(e.claim));
  return entry;
}

nb::list list_operations() {
  nb::list list;
  for (const OperationEntry& e : all_declared_operations()) list.append(named(e));
  return list;
}

nb::list list_routers() {
  nb::list list;
  for (const RouterEntry& e : routers()) {
    const RouterTraits& t = e.traits;
    nb::dict entry = named(e);
    entry["formula"] = e.formula;
    entry["options"] = options_list(e.options);
    nb::dict traits;
    traits["samples"] = t.samples;
    traits["continuous"] = t.continuous;
    traits["categorical"] = t.categorical;
    traits["causal"] = t.causal;
    traits["sparse_training"] = t.sparse_training;
    traits["sparse_inference"] = t.sparse_inference;
    traits["state"] = t.state;
    traits["auxiliary"] = t.auxiliary;
    traits["on_host"] = t.on_host;
    traits["least_active"] = e.least_active;
    traits["most_active"] = e.most_active == RouterEntry().most_active ? nb::object(nb::none())
                                                                       : nb::cast(e.most_active);
    // None: refused, it would be a constant.
    traits["aux"] = t.constant_aux[0] == '\0' ? nb::cast(default_aux(e)) : nb::object(nb::none());
    entry["traits"] = traits;
    list.append(entry);
  }
  return list;
}

nb::list list_estimators() {
  nb::list list;
  for (const EstimatorEntry& e : estimators()) {
    const EstimatorTraits& t = e.traits;
    nb::dict entry = named(e);
    entry["formula"] = e.formula;
    entry["options"] = options_list(e.options);
    entry["routers"] = e.routers;
    nb::dict traits;
    traits["dense"] = t.dense;
    traits["categorical"] = t.categorical;
    traits["by_parts"] = t.by_parts;
    traits["continuous"] = t.continuous;
    traits["causal"] = !e.make(Options("estimator " + e.name, e.options))->leaks();
    traits["sparse_training"] = !t.dense;
    traits["sparse_inference"] = t.sparse_inference;
    traits["state"] = t.state;
    traits["on_host"] = t.on_host;
    entry["traits"] = traits;
    list.append(entry);
  }
  return list;
}

CheckRow check_operation_named(const std::string& name, const std::string& device) {
  const Device on = device_of(device);
  const std::vector<OperationEntry> all = all_declared_operations();
  std::vector<std::string> names;
  for (const OperationEntry& e : all) {
    if (e.name == name) return interruptible([&] { return check_operation(e, nullptr, on); });
    names.emplace_back(e.name);
  }
  fail("operation", "no operation '{}'. Did you mean '{}'?", name, nearest(name, names));
}

std::string row_text(const CheckRow& r) {
  std::string text =
      fmt::format("{} {}: {}, {} cases, max error {:.1e}; claim: {}; oracle: {}", r.kind, r.name,
                  name_of(r.verdict), r.cases, r.max_error, r.claim, r.oracle);
  if (r.dead > 0) {
    text += fmt::format("; dead in {} of {} cases: {}", r.dead, r.cases,
                        fmt::join(r.dead_inputs, ", "));
  }
  return r.reason.empty() ? text : text + "\n" + r.reason;
}

void bind_checks_by_name(nb::module_& m) {
  nb::class_<CheckRow>(m, "CheckRow",
                       "What one of the engine's own checks found: a row of `moegrad gradcheck`. "
                       "True in a condition where it passed.")
      .def_ro("name", &CheckRow::name)
      .def_ro("kind", &CheckRow::kind)
      .def_ro("claim", &CheckRow::claim)
      .def_ro("oracle", &CheckRow::oracle)
      .def_ro("dtype", &CheckRow::dtype)
      .def_ro("cases", &CheckRow::cases)
      .def_ro("max_error", &CheckRow::max_error)
      .def_prop_ro("verdict", [](const CheckRow& r) { return std::string(name_of(r.verdict)); })
      .def_ro("reason", &CheckRow::reason, "of a verdict other than pass")
      .def_ro("dead", &CheckRow::dead, "cases where a gradient is zero everywhere")
      .def_ro("dead_inputs", &CheckRow::dead_inputs)
      .def("__bool__", [](const CheckRow& r) { return r.verdict == Verdict::pass; })
      .def("_repr_html_",
           [](nb::handle row) {
             return nb::module_::import_("moegrad.notebook").attr("check_row")(row);
           })
      .def("__str__", &row_text)
      .def("__repr__", [](const CheckRow& r) {
        return fmt::format("<CheckRow {} {}: {}>", r.kind, r.name, name_of(r.verdict));
      });
  m.def("check_operation", &check_operation_named, "name"_a, "device"_a = "cpu",
        "Checks an operation on all of its cases, as `moegrad gradcheck` does.");
  m.def(
      "check_router",
      [](const std::string& name, const std::string& device) {
        const RouterEntry& entry = router_entry(name);
        const Device on = device_of(device);
        return interruptible([&] { return check_router(entry, nullptr, on); });
      },
      "name"_a, "device"_a = "cpu",
      "Checks a router's claim for every value of its options, and the edge cases.");
  m.def(
      "check_estimator",
      [](const std::string& name, const std::string& device) {
        const EstimatorEntry& entry = estimator_entry(name);
        const Device on = device_of(device);
        return interruptible([&] { return check_estimator(entry, nullptr, on); });
      },
      "name"_a, "device"_a = "cpu",
      "Checks an estimator's claim for every value of its options, and the edge cases.");
}

void save(const std::filesystem::path& path, const nb::dict& arrays) {
  TensorFile file;
  for (const auto& [key, value] : arrays) {
    if (!nb::isinstance<nb::str>(key)) {
      fail("save", "a name is {}. Names are texts.", nb::cast<std::string>(nb::repr(key)));
    }
    const auto name = nb::cast<std::string>(key);
    file.tensors[name] = view_of(value, "'" + name + "'");
  }
  without_gil([&] { write_safetensors(path, file); });
}

nb::dict load(const std::filesystem::path& path) {
  const TensorFile file = without_gil([&] { return read_safetensors(path); });
  nb::dict arrays;
  for (const auto& [name, tensor] : file.tensors) {
    arrays[name.c_str()] = array_of(tensor, Access::write);
  }
  return arrays;
}

}  // namespace

void bind_registry(nb::module_& m) {
  m.def("devices", &devices,
        "What the engine can compute on here, for the argument `device`: \"cpu\", and \"cuda\" "
        "where the package is built for it and a GPU is there.");
  m.def("list_operations", &list_operations);
  m.def("list_routers", &list_routers);
  m.def("list_estimators", &list_estimators);
  m.def("list_layer_options", [] { return options_list(layer_options()); });
  bind_checks_by_name(m);
  m.def("save", &save, "path"_a, "arrays"_a,
        "Writes arrays of float64, float32 and int32 by name into a .safetensors file, at once or "
        "not at all.");
  m.def("load", &load, "path"_a,
        "The arrays of a .safetensors file, by name: F64, F32, I32; I64 as int32 where every value "
        "fits, U8 as int32, BF16 and F16 as float32.");
}

}  // namespace moegrad::python
