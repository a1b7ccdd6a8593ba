#include "lab/tape_page.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "lab/page.h"
#include "tensor/error.h"

namespace moegrad {
namespace {

using Json = nlohmann::ordered_json;
using Numbers = std::vector<double>;

Json short_number(double x) {
  if (!std::isfinite(x)) return fmt::format("{}", x);
  const double rounded = std::strtod(fmt::format("{:.6g}", x).c_str(), nullptr);
  const bool whole = std::abs(rounded) < 1e15 && rounded == std::floor(rounded);
  return whole ? Json(static_cast<std::int64_t>(rounded)) : Json(rounded);
}

Json first_numbers(const Numbers& numbers) {
  Json list = Json::array();
  const std::size_t most = std::min(numbers.size(), static_cast<std::size_t>(kMostElements));
  for (std::size_t i = 0; i < most; ++i) list.push_back(short_number(numbers[i]));
  return {{"numbers", list},
          {"of", numbers.size()},
          {"finite", std::ranges::all_of(numbers, [](double x) { return std::isfinite(x); })}};
}

Numbers numbers_on_host(const Tensor& t) { return t.to(Device::cpu).to_vector(); }

// The adjoints of a tape, by node, and what each operation adds to those of its inputs.
class Adjoints {
 public:
  Adjoints(Tape& tape, Var output, const Tensor& cotangent)
      : output_(static_cast<std::size_t>(output.index())) {
    BackwardOptions options{.cotangent = cotangent, .retain = true};
    for (std::size_t i = 0; i < tape.size(); ++i) {
      if (tape.var(i).needs_gradient()) options.keep.push_back(tape.var(i));
    }
    const Gradients gradients = tape.backward(output, options);
    // Only what a gradient comes to has an adjoint: Gradients has zeros elsewhere.
    std::vector<bool> reached(tape.size(), false);
    reached[output_] = tape.var(output_).needs_gradient();
    adjoint_.resize(tape.size());
    gives_.resize(tape.size());
    for (std::size_t i = output_ + 1; i-- > 0;) {
      if (!reached[i]) continue;
      const Tensor adjoint = gradients[tape.var(i)];
      adjoint_[i] = numbers_on_host(adjoint);
      const Tape::NodeView node = tape.node(i);
      if (node.operation == nullptr) continue;
      const std::vector<Tensor> parts = tape.local_backward(i, adjoint, nullptr);
      for (std::size_t k = 0; k < parts.size(); ++k) {
        if (!parts[k].defined() || given(i, node.sources[k])) continue;
        reached[static_cast<std::size_t>(node.sources[k])] = true;
        add(i, node.sources[k], numbers_on_host(parts[k]));
      }
    }
  }

  // Null where no gradient comes to the node.
  Json adjoint(std::size_t node) const {
    return adjoint_[node].has_value() ? first_numbers(*adjoint_[node]) : Json(nullptr);
  }
  Json gives(std::size_t node) const {
    Json list = Json::array();
    for (const Given& g : gives_[node]) {
      list.push_back(
          {{"to", g.to}, {"part", first_numbers(g.part)}, {"sum", first_numbers(g.sum)}});
    }
    return list;
  }

 private:
  struct Given {
    std::int32_t to;
    Numbers part, sum;
  };

  bool given(std::size_t node, std::int32_t to) const {
    return std::ranges::any_of(gives_[node], [to](const Given& g) { return g.to == to; });
  }
  void add(std::size_t node, std::int32_t to, Numbers part) {
    Numbers& sum = sums_[to];
    sum.resize(part.size(), 0.0);
    for (std::size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
    gives_[node].push_back({to, std::move(part), sum});
  }

  std::size_t output_;
  std::vector<std::optional<Numbers>> adjoint_;
  std::vector<std::vector<Given>> gives_;
  std::map<std::int32_t, Numbers> sums_;
};

// The node whose value a constant is: what stop_gradient and its like put on a tape.
std::int32_t stopped_of(const std::vector<Tape::NodeView>& nodes, std::size_t i) {
  if (nodes[i].label != "constant") return -1;
  for (std::size_t j = 0; j < i; ++j) {
    if (nodes[j].needs_gradient && nodes[j].output.numel() > 0 &&
        nodes[j].output.place() == nodes[i].output.place() &&
        nodes[j].output.shape() == nodes[i].output.shape()) {
      return static_cast<std::int32_t>(j);
    }
  }
  return -1;
}

}  // namespace

std::string tape_page_data(Tape& tape, Var output, const TapePage& page) {
  if (tape.size() > kMostNodes) {
    fail("tape",
         "the tape has {} nodes, and a page shows at most {}. Record a part of the program, or "
         "print Tape::table().",
         tape.size(), kMostNodes);
  }
  const Adjoints adjoints(tape, output, page.cotangent);
  const std::vector<std::size_t> saved = tape.bytes_saved_by_node();
  std::map<std::int32_t, std::string> names;
  for (const auto& [v, name] : page.names) {
    if (&v.tape() != &tape) fail("tape", "'{}' is on another tape. Name values of this one.", name);
    names.emplace(v.index(), name);
  }
  std::vector<Tape::NodeView> nodes;
  for (std::size_t i = 0; i < tape.size(); ++i) nodes.push_back(tape.node(i));
  Json list = Json::array();
  for (std::size_t i = 0; i < tape.size(); ++i) {
    const Tape::NodeView& node = nodes[i];
    const auto name = names.find(static_cast<std::int32_t>(i));
    const bool leaf = node.operation == nullptr;
    list.push_back(
        {{"operation", node.label},
         {"name", name != names.end()         ? name->second
                  : node.parameter != nullptr ? node.parameter->name
                                              : ""},
         {"claim",
          leaf || !node.operation->claim ? Json(nullptr) : Json(name_of(*node.operation->claim))},
         {"type", name_of(node.output.dtype())},
         {"shape",
          std::vector<std::int64_t>(node.output.shape().begin(), node.output.shape().end())},
         {"saved", saved[i]},
         {"learns", node.needs_gradient},
         {"inputs", node.sources},
         {"stopped", stopped_of(nodes, i)},
         {"value", first_numbers(numbers_on_host(node.output))},
         {"adjoint", adjoints.adjoint(i)},
         {"gives", adjoints.gives(i)}});
  }
  const Json data = {{"text", page.text}, {"output", output.index()}, {"nodes", list}};
  return data.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string tape_page(Tape& tape, Var output, const TapePage& page) {
  return page_of(PageOf::tape, page.title, tape_page_data(tape, output, page));
}

}  // namespace moegrad
