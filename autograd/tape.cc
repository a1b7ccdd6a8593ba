#include "autograd/tape.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "tensor/kernels.h"
#include "tensor/stop.h"

namespace moegrad {
namespace {

constexpr Operation leaf_kind(std::string_view name) {
  return {name, Needs::nothing, 0, nullptr, nullptr, nullptr};
}
constexpr Operation kConstant = leaf_kind("constant");
constexpr Operation kVariable = leaf_kind("variable");
constexpr Operation kParameter = leaf_kind("parameter");
const Tensor kNoInput;  // an optional input

}  // namespace

void Var::undefined() {
  fail("tape", "a Var without a value is used. Make one with tape.constant() or variable().");
}
const Tensor Var::value() const {  // NOLINT(readability-const-return-type)
  const Tape::Node& node = tape().at(*this);
  if (!node.value.defined()) tape_->released("value", static_cast<std::size_t>(index_));
  return node.value;
}
Shape Var::shape() const { return tape().at(*this).shape(); }
DType Var::dtype() const { return tape().at(*this).dtype(); }
bool Var::needs_gradient() const { return tape().at(*this).needs_gradient; }

const Tape::Node& Tape::at(const Var& v) const {
  const auto index = static_cast<std::size_t>(v.index_);
  if (v.tape_ != this || index >= nodes_.size() || nodes_[index].epoch != v.epoch_) {
    fail("tape", "node {} is not on this tape (any more). Values end with clear() and rewind().",
         v.index_);
  }
  return nodes_[index];
}

void Tape::released(std::string_view operation, std::size_t index) const {
  fail(operation,
       "node {} ('{}') was released by an earlier backward pass. Read it before, or pass retain.",
       index, nodes_[index].label());
}

void Tape::require_finite(std::string_view label, std::size_t index, const Tensor& value) {
  if (!is_floating(value.dtype()) || kernels(value.device()).all_finite(value)) return;
  const Tensor host = value.to(Device::cpu);
  std::int64_t i = 0;
  while (std::isfinite(host.at(i))) ++i;
  fail(label, "node {} holds {} at element {} of shape {}. Look at its inputs.", index, host.at(i),
       i, value.shape());
}

Var Tape::leaf(const Operation& kind, const Tensor& value, bool needs_gradient) {
  if (!value.defined()) {
    fail(kind.name, "no tensor given. Pass a tensor with elements or of size 0.");
  }
  if (options_.check_finite) require_finite(kind.name, nodes_.size(), value);
  Node& node = nodes_.emplace_back(kind, epoch_);
  node.value = value;
  node.needs_gradient = needs_gradient && options_.gradients && is_floating(value.dtype());
  return last();
}

Var Tape::constant(const Tensor& value) { return leaf(kConstant, value, false); }
Var Tape::variable(const Tensor& value) { return leaf(kVariable, value, true); }

Var Tape::parameter(const Parameter& parameter) {
  const auto place =
      std::ranges::lower_bound(parameters_, &parameter, std::less<>(), &ParameterLeaf::parameter);
  if (place != parameters_.end() && place->parameter == &parameter) {
    return {this, place->index, nodes_[static_cast<std::size_t>(place->index)].epoch};
  }
  const Var v = leaf(kParameter, parameter.value, true);
  parameters_.insert(place, {&parameter, v.index()});
  return v;
}

Var Tape::record(const Operation& operation, std::span<const Var> inputs, const void* attributes,
                 std::size_t attribute_bytes) {
  StopScope::look();
  Node& node = nodes_.emplace_back(operation, epoch_);
  const std::size_t first_saved = saved_.size();
  const std::size_t first_input = inputs_.size();
  try {
    run(node, inputs, attributes);
  } catch (...) {
    nodes_.pop_back();
    saved_.resize(first_saved);
    inputs_.resize(first_input);
    throw;
  }
  if (node.needs_gradient) {
    node.version = node.value.version();
    node.first_saved = static_cast<std::uint32_t>(first_saved);
    node.saved = static_cast<std::uint32_t>(saved_.size() - first_saved);
    for (std::uint32_t s = 0; s < node.saved; ++s) {
      versions_.push_back(saved_[first_saved + s].version());
    }
    node.first_input = static_cast<std::uint32_t>(first_input);
    node.inputs = static_cast<std::uint32_t>(inputs.size());
    node.attributes = static_cast<std::uint32_t>(attributes_.size());
    const std::size_t unit = sizeof(attributes_[0]);
    attributes_.resize(attributes_.size() + (attribute_bytes + unit - 1) / unit);
    std::memcpy(attributes_.data() + node.attributes, attributes, attribute_bytes);
  } else {
    saved_.resize(first_saved);
    inputs_.resize(first_input);
  }
  return last();
}

// The value of a new node, and whether it needs a gradient. No node is added meanwhile: the inputs
// stay where they are.
void Tape::run(Node& node, std::span<const Var> inputs, const void* attributes) {
  const Operation& operation = *node.operation;
  gathered_.clear();
  for (const Var& v : inputs) {
    if (!v.defined()) {
      if (gathered_.size() < operation.required) {
        fail(operation.name, "an input is no value of a tape. Pass every input.");
      }
      gathered_.push_back(&kNoInput);
      inputs_.push_back({-1, 0});
      continue;
    }
    const Node& source = at(v);
    if (!source.value.defined()) released(operation.name, static_cast<std::size_t>(v.index_));
    node.needs_gradient = node.needs_gradient || source.needs_gradient;
    gathered_.push_back(&source.value);
    inputs_.push_back({v.index_, source.value.version()});
  }
  Forward forward(gathered_, node.needs_gradient ? &saved_ : nullptr);
  node.value = operation.forward(forward, attributes);
  if (options_.check_finite) require_finite(operation.name, nodes_.size() - 1, node.value);
  if (!is_floating(node.dtype())) node.needs_gradient = false;
  if (options_.track_cell && operation.cell != nullptr) {
    std::vector<Tensor> values;  // on the host, an input that is used twice once
    for (std::size_t i = 0; i < gathered_.size(); ++i) {
      const auto first = std::ranges::find(gathered_, gathered_[i]) - gathered_.begin();
      const bool again = first < static_cast<std::ptrdiff_t>(i);
      values.push_back(again ? values[static_cast<std::size_t>(first)]
                             : gathered_[i]->to(Device::cpu));
    }
    operation.cell(values, attributes, cell_);
  }
}

void Tape::rewind(const Mark& mark) {
  if (mark.nodes > nodes_.size()) {
    fail("rewind", "the mark is at node {} and the tape ends at {}. Use marks in order.",
         mark.nodes, nodes_.size());
  }
  nodes_.erase(nodes_.begin() + static_cast<std::ptrdiff_t>(mark.nodes), nodes_.end());
  inputs_.resize(mark.inputs);
  saved_.resize(mark.saved);
  versions_.resize(mark.saved);
  attributes_.resize(mark.attributes);
  std::erase_if(parameters_, [&](const ParameterLeaf& leaf) {
    return static_cast<std::size_t>(leaf.index) >= mark.nodes;
  });
  if (mark.nodes == 0) cell_ = Cell();
  ++epoch_;
}

std::vector<std::size_t> Tape::bytes_saved_by_node() const {
  std::vector<bool> needed(nodes_.size(), false);
  std::vector<std::size_t> bytes(nodes_.size(), 0);
  std::set<std::uintptr_t> counted;  // some operations hand on what they are given
  const auto count = [&](std::size_t i, const Tensor& t) {
    if (t.defined() && counted.insert(t.place()).second) bytes[i] += t.bytes();
  };
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.needs_gradient || node.leaf()) continue;
    for (std::uint32_t s = 0; s < node.saved; ++s) {
      count(i, saved_[node.first_saved + s]);
    }
    const Needs needs = node.operation->needs;
    if (needs == Needs::output || needs == Needs::inputs_and_output) needed[i] = true;
    if (needs == Needs::inputs || needs == Needs::inputs_and_output) {
      for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
        const std::int32_t source = input_index(node, k);
        if (source >= 0) needed[static_cast<std::size_t>(source)] = true;
      }
    }
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (needed[i]) count(i, nodes_[i].value);
  }
  return bytes;
}

std::size_t Tape::bytes_saved() const {
  std::size_t sum = 0;
  for (const std::size_t bytes : bytes_saved_by_node()) sum += bytes;
  return sum;
}

Var Tape::var(std::size_t index) {
  if (index >= nodes_.size()) {
    fail("tape", "there is no node {}: the tape has {}. Nodes are counted from 0.", index,
         nodes_.size());
  }
  return {this, static_cast<std::int32_t>(index), nodes_[index].epoch};
}

Tape::NodeView Tape::node(std::size_t index) const {
  const Node& node = nodes_.at(index);
  NodeView view;
  view.operation = node.leaf() ? nullptr : node.operation;
  view.label = node.label();
  const auto leaf =
      std::ranges::find(parameters_, static_cast<std::int32_t>(index), &ParameterLeaf::index);
  view.parameter = leaf == parameters_.end() ? nullptr : leaf->parameter;
  view.output = node.value;
  view.attributes = attributes_.data() + node.attributes;
  view.needs_gradient = node.needs_gradient;
  for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
    const std::int32_t source = input_index(node, k);
    view.sources.push_back(source);
    view.inputs.push_back(source < 0 ? Tensor() : nodes_[static_cast<std::size_t>(source)].value);
  }
  for (std::uint32_t k = 0; k < node.saved; ++k) {
    view.saved.push_back(saved_[node.first_saved + k]);
  }
  return view;
}

}  // namespace moegrad
