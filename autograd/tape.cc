#include "autograd/tape.h"

#include <cmath>
#include <cstring>

#include "tensor/kernels.h"

namespace moegrad {

std::string_view name_of(Claim claim) {
  switch (claim) {
    case Claim::exact:
      return "exact";
    case Claim::exact_on_cell:
      return "exact on the cell";
    case Claim::surrogate:
      return "surrogate";
    case Claim::unbiased:
      return "unbiased";
    case Claim::biased_order:
      return "biased, with a stated order";
    default:
      return "biased, as documented";
  }
}

void Var::undefined() {
  fail("tape", "a Var without a value is used. Make one with tape.constant() or variable().");
}
Tensor Var::value() const {
  const Tape::Node& node = tape().at(*this);
  if (!node.value.defined()) tape_->released("value", static_cast<std::size_t>(index_));
  return node.value;
}
Shape Var::shape() const { return tape().at(*this).shape; }
DType Var::dtype() const { return tape().at(*this).dtype; }
bool Var::needs_gradient() const { return tape().at(*this).needs_gradient; }

const Tape::Node& Tape::at(const Var& v) const {
  const auto index = static_cast<std::size_t>(v.index_);
  if (v.tape_ != this || index >= nodes_.size() || nodes_[index].epoch != v.epoch_) {
    fail("tape", "node {} is not on this tape (any more). Values end with clear() and rewind().",
         v.index_);
  }
  return nodes_[index];
}

Var Tape::push(Node node) {
  node.epoch = epoch_;
  nodes_.push_back(std::move(node));
  return {this, static_cast<std::int32_t>(nodes_.size() - 1), epoch_};
}

void Tape::released(std::string_view operation, std::size_t index) const {
  fail(operation,
       "node {} ('{}') was released by an earlier backward pass. Read it before, or pass retain.",
       index, nodes_[index].label);
}

void Tape::require_finite(std::string_view label, const Tensor& value) const {
  if (!is_floating(value.dtype()) || kernels(value.device()).all_finite(value)) return;
  std::int64_t i = 0;
  while (std::isfinite(value.at(i))) ++i;
  fail(label, "node {} holds {} at element {} of shape {}. Look at its inputs.", nodes_.size(),
       value.at(i), i, value.shape());
}

Var Tape::leaf(std::string_view label, const Tensor& value, bool needs_gradient) {
  if (!value.defined()) fail(label, "no tensor given. Pass a tensor with elements or of size 0.");
  if (options_.check_finite) require_finite(label, value);
  Node node;
  node.label = label;
  node.value = value;
  node.shape = value.shape();
  node.dtype = value.dtype();
  node.device = value.device();
  node.needs_gradient = needs_gradient && options_.gradients && is_floating(value.dtype());
  return push(std::move(node));
}

Var Tape::constant(const Tensor& value) { return leaf("constant", value, false); }
Var Tape::variable(const Tensor& value) { return leaf("variable", value, true); }

Var Tape::parameter(const Parameter& parameter) {
  const auto found = parameters_.find(&parameter);
  if (found != parameters_.end()) {
    return {this, found->second, nodes_[static_cast<std::size_t>(found->second)].epoch};
  }
  const Var v = leaf("parameter", parameter.value, true);
  parameters_.emplace(&parameter, v.index());
  return v;
}

Var Tape::record(const Operation& operation, std::span<const Var> inputs, const void* attributes,
                 std::size_t attribute_bytes) {
  Node node;
  node.operation = &operation;
  node.label = operation.name;
  gathered_.clear();
  for (const Var& v : inputs) {
    if (!v.defined()) fail(operation.name, "an input is no value of a tape. Pass every input.");
    const Node& source = at(v);
    if (!source.value.defined()) released(operation.name, static_cast<std::size_t>(v.index_));
    node.needs_gradient = node.needs_gradient || source.needs_gradient;
    gathered_.push_back(source.value);
  }
  node.first_saved = static_cast<std::uint32_t>(saved_.size());
  Forward forward(gathered_, node.needs_gradient ? &saved_ : nullptr);
  try {
    node.value = operation.forward(forward, attributes);
    if (options_.check_finite) require_finite(operation.name, node.value);
  } catch (...) {
    saved_.resize(node.first_saved);
    gathered_.clear();
    throw;
  }
  node.shape = node.value.shape();
  node.dtype = node.value.dtype();
  node.device = node.value.device();
  if (!is_floating(node.dtype)) {
    node.needs_gradient = false;
    saved_.resize(node.first_saved);
  }
  if (options_.track_cell && operation.cell != nullptr) {
    operation.cell(gathered_, attributes, cell_);
  }
  if (node.needs_gradient) {
    node.saved = static_cast<std::uint32_t>(saved_.size()) - node.first_saved;
    node.first_input = static_cast<std::uint32_t>(input_indices_.size());
    node.inputs = static_cast<std::uint32_t>(inputs.size());
    for (const Var& v : inputs) input_indices_.push_back(v.index());
    node.attributes = static_cast<std::uint32_t>(attributes_.size());
    const std::size_t unit = sizeof(std::max_align_t);
    attributes_.resize(attributes_.size() + (attribute_bytes + unit - 1) / unit);
    std::memcpy(attributes_.data() + node.attributes, attributes, attribute_bytes);
  }
  gathered_.clear();
  return push(std::move(node));
}

void Tape::rewind(const Mark& mark) {
  if (mark.nodes > nodes_.size()) {
    fail("rewind", "the mark is at node {} and the tape ends at {}. Use marks in order.",
         mark.nodes, nodes_.size());
  }
  nodes_.resize(mark.nodes);
  input_indices_.resize(mark.inputs);
  saved_.resize(mark.saved);
  attributes_.resize(mark.attributes);
  std::erase_if(parameters_, [&](const auto& entry) {
    return static_cast<std::size_t>(entry.second) >= mark.nodes;
  });
  if (mark.nodes == 0) cell_ = Cell();
  ++epoch_;
}

std::vector<std::size_t> Tape::bytes_saved_by_node() const {
  std::vector<bool> needed(nodes_.size(), false);
  std::vector<std::size_t> bytes(nodes_.size(), 0);
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.needs_gradient || node.operation == nullptr) continue;
    for (std::uint32_t s = 0; s < node.saved; ++s) bytes[i] += saved_[node.first_saved + s].bytes();
    const Needs needs = node.operation->needs;
    if (needs == Needs::output || needs == Needs::inputs_and_output) needed[i] = true;
    if (needs == Needs::inputs || needs == Needs::inputs_and_output) {
      for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
        needed[static_cast<std::size_t>(input_index(node, k))] = true;
      }
    }
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (needed[i]) bytes[i] += nodes_[i].value.bytes();
  }
  return bytes;
}

std::size_t Tape::bytes_saved() const {
  std::size_t sum = 0;
  for (const std::size_t bytes : bytes_saved_by_node()) sum += bytes;
  return sum;
}

Tape::NodeView Tape::node(std::size_t index) const {
  const Node& node = nodes_.at(index);
  NodeView view;
  view.operation = node.operation;
  view.output = node.value;
  view.attributes = attributes_.data() + node.attributes;
  view.needs_gradient = node.needs_gradient;
  for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
    view.sources.push_back(input_index(node, k));
    view.inputs.push_back(nodes_[static_cast<std::size_t>(view.sources.back())].value);
  }
  for (std::uint32_t k = 0; k < node.saved; ++k) {
    view.saved.push_back(saved_[node.first_saved + k]);
  }
  return view;
}

}  // namespace moegrad
