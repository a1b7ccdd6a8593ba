#include "autograd/tape.h"

#include <cstring>
#include <stdexcept>

#include "tensor/kernels.h"

namespace moegrad {
namespace {

[[noreturn]] void undeclared(std::string_view operation, std::string_view what) {
  throw std::logic_error("backward of " + std::string(operation) + " reads its " +
                         std::string(what) + " without declaring the need");
}

void accumulate(Tensor& adjoint, Tensor contribution) {
  if (!adjoint.defined()) {
    adjoint = std::move(contribution);
    return;
  }
  // A shared adjoint (a view of somebody's dy) must not be written.
  if (!adjoint.unique()) adjoint = adjoint.clone();
  kernels(adjoint.device()).accumulate(1.0, contribution, adjoint);
}

Tensor mutated(Mutation::Kind kind, const Tensor& gradient) {
  Kernels& k = kernels(gradient.device());
  const std::int64_t n = gradient.numel();
  Tensor out = Tensor::zeros(gradient.shape(), gradient.dtype());
  switch (kind) {
    case Mutation::Kind::sign:
      k.accumulate(-1.0, gradient, out);
      break;
    case Mutation::Kind::twice:
      k.accumulate(2.0, gradient, out);
      break;
    case Mutation::Kind::transposed: {
      const std::int64_t cols = gradient.shape().back();
      const std::int64_t rows = cols == 0 ? 0 : n / cols;
      k.swap_axes(gradient, 1, rows, 1, cols, 1, out);
      break;
    }
    case Mutation::Kind::rotated: {
      const std::int64_t cols = n == gradient.shape().back() ? 1 : gradient.shape().back();
      if (n == 0) break;
      k.copy_block(gradient, 0, n, 1, n - cols, cols, n, out);
      k.copy_block(gradient, n - cols, n, 1, cols, 0, n, out);
      break;
    }
    default:  // dropped: zeros
      break;
  }
  return out;
}

}  // namespace

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

std::string_view name_of(Mutation::Kind kind) {
  switch (kind) {
    case Mutation::Kind::sign:
      return "sign";
    case Mutation::Kind::twice:
      return "factor 2";
    case Mutation::Kind::dropped:
      return "dropped";
    case Mutation::Kind::transposed:
      return "transposed";
    case Mutation::Kind::rotated:
      return "stale permutation";
    default:
      return "= for +=";
  }
}

// --- Var

Tensor Var::value() const {
  const Tape::Node& node = tape_->at(*this);
  if (!node.value.defined()) {
    fail("value",
         "the value of node {} ('{}') was released by backward. Read it before, or pass "
         "retain.",
         index_, node.label);
  }
  return node.value;
}
const Shape& Var::shape() const { return tape_->at(*this).shape; }
DType Var::dtype() const { return tape_->at(*this).dtype; }
bool Var::needs_gradient() const { return tape_->at(*this).needs_gradient; }

// --- Gradients

Tensor Gradients::operator[](const Var& v) const {
  const auto found = by_index_.find(v.index());
  if (found == by_index_.end()) {
    fail("gradients",
         "node {} is neither a leaf with a gradient nor kept. Make it with "
         "tape.variable(), or name it in BackwardOptions::keep.",
         v.index());
  }
  if (!found->second.defined()) return Tensor::zeros(v.shape(), v.dtype());
  return found->second;
}

Tensor Gradients::operator[](const Parameter& p) const {
  const auto found = parameters_.find(&p);
  const Tensor gradient = found == parameters_.end() ? Tensor() : by_index_.at(found->second);
  return gradient.defined() ? gradient : Tensor::zeros(p.value.shape(), p.value.dtype());
}

// --- Backward

int Backward::inputs() const {
  return static_cast<int>(tape_.nodes_[static_cast<std::size_t>(node_)].inputs);
}
bool Backward::wants(int i) const {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  return tape_.nodes_[static_cast<std::size_t>(tape_.input_index(node, i))].needs_gradient;
}
const Shape& Backward::input_shape(int i) const {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  return tape_.nodes_[static_cast<std::size_t>(tape_.input_index(node, i))].shape;
}
const Tensor& Backward::input(int i) const {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  const Tape::Node& source = tape_.nodes_[static_cast<std::size_t>(tape_.input_index(node, i))];
  const Needs needs = node.operation->needs;
  // Integer inputs (indices, labels) are not differentiated: they are always there.
  if (needs != Needs::inputs && needs != Needs::inputs_and_output && is_floating(source.dtype)) {
    undeclared(node.label, "inputs");
  }
  return source.value;
}
const Tensor& Backward::output() const {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  const Needs needs = node.operation->needs;
  if (needs != Needs::output && needs != Needs::inputs_and_output) {
    undeclared(node.label, "output");
  }
  return node.value;
}
const Tensor& Backward::saved(int i) const {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  if (i < 0 || i >= static_cast<int>(node.saved)) undeclared(node.label, "saved tensor");
  return tape_.saved_[node.first_saved + static_cast<std::size_t>(i)];
}

void Backward::add(int i, Tensor gradient) {
  const Tape::Node& node = tape_.nodes_[static_cast<std::size_t>(node_)];
  const auto source = static_cast<std::size_t>(tape_.input_index(node, i));
  if (!tape_.nodes_[source].needs_gradient) return;
  if (!(gradient.shape() == tape_.nodes_[source].shape)) {
    throw std::logic_error(
        fmt::format("backward of {} gives input {} a gradient {}, its shape is {}", node.label, i,
                    gradient.shape(), tape_.nodes_[source].shape));
  }
  Tensor& adjoint = (*adjoints_)[source];
  if (mutation_ != nullptr && mutation_->operation == node.label && mutation_->input == i) {
    if (mutation_->kind == Mutation::Kind::overwrites) {
      if (mutation_->applied != nullptr && adjoint.defined()) *mutation_->applied = true;
      adjoint = Tensor();
    } else {
      Tensor changed = mutated(mutation_->kind, gradient);
      if (mutation_->applied != nullptr && !changed.same_bits(gradient)) *mutation_->applied = true;
      gradient = std::move(changed);
    }
  }
  accumulate(adjoint, std::move(gradient));
}

// --- Tape

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
  node.needs_gradient = needs_gradient && options_.gradients && is_floating(value.dtype());
  return push(std::move(node));
}

Var Tape::constant(const Tensor& value) { return leaf("constant", value, false); }
Var Tape::variable(const Tensor& value) { return leaf("variable", value, true); }

Var Tape::parameter(const Parameter& parameter) {
  const auto [place, fresh] = parameters_.try_emplace(&parameter, 0);
  if (!fresh) {
    return {this, place->second, nodes_[static_cast<std::size_t>(place->second)].epoch};
  }
  const Var v = leaf("parameter", parameter.value, true);
  place->second = v.index();
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
    if (!source.value.defined()) v.value();  // throws
    node.needs_gradient = node.needs_gradient || source.needs_gradient;
    gathered_.push_back(source.value);
  }
  node.first_saved = static_cast<std::uint32_t>(saved_.size());
  Forward forward(gathered_, node.needs_gradient ? &saved_ : nullptr);
  try {
    node.value = operation.forward(forward, attributes);
  } catch (...) {
    saved_.resize(node.first_saved);
    throw;
  }
  node.shape = node.value.shape();
  node.dtype = node.value.dtype();
  if (options_.check_finite) require_finite(operation.name, node.value);
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

Gradients Tape::backward(Var loss, const BackwardOptions& options) {
  const Node& root = at(loss);
  Gradients gradients;
  std::vector<Tensor> adjoints(nodes_.size());
  std::vector<bool> kept(nodes_.size(), false);
  for (const Var& v : options.keep) {
    at(v);
    kept[static_cast<std::size_t>(v.index())] = true;
  }
  const auto start = static_cast<std::size_t>(loss.index());
  if (options.cotangent.defined()) {
    if (!(options.cotangent.shape() == root.shape) || options.cotangent.dtype() != root.dtype) {
      fail("backward", "the cotangent is {} {} and the output {} {}. They must agree.",
           name_of(options.cotangent.dtype()), options.cotangent.shape(), name_of(root.dtype),
           root.shape);
    }
    adjoints[start] = options.cotangent;
  } else {
    if (root.shape.numel() != 1 || !is_floating(root.dtype)) {
      fail("backward", "the loss is {} {}. Reduce it to one floating number, or give a cotangent.",
           name_of(root.dtype), root.shape);
    }
    adjoints[start] = Tensor::full(root.shape, 1.0, root.dtype);
  }
  for (std::size_t i = start + 1; i-- > 0;) {
    Node& node = nodes_[i];
    const bool wanted = kept[i] || (node.operation == nullptr && node.needs_gradient);
    if (adjoints[i].defined() && node.operation != nullptr && node.needs_gradient) {
      if (!node.value.defined()) {
        fail("backward",
             "node {} ('{}') was released by an earlier backward pass. Pass retain to "
             "the first.",
             i, node.label);
      }
      Tensor dy = kept[i] ? adjoints[i] : std::exchange(adjoints[i], Tensor());
      Backward context(*this, static_cast<std::int32_t>(i), std::move(dy), options.mutation);
      context.adjoints_ = &adjoints;
      node.operation->backward(context, attributes_.data() + node.attributes);
    }
    if (wanted) {
      gradients.by_index_.emplace(static_cast<std::int32_t>(i), std::move(adjoints[i]));
    }
    adjoints[i] = Tensor();
    if (!options.retain && node.operation != nullptr && i != start) release(node);
  }
  for (std::size_t i = start + 1; i < nodes_.size(); ++i) {
    if (kept[i] || (nodes_[i].operation == nullptr && nodes_[i].needs_gradient)) {
      gradients.by_index_.emplace(static_cast<std::int32_t>(i), Tensor());
    }
  }
  gradients.parameters_ = parameters_;
  return gradients;
}

void Tape::release(Node& node) {
  if (!node.needs_gradient) return;
  node.value = Tensor();
  for (std::uint32_t s = 0; s < node.saved; ++s) saved_[node.first_saved + s] = Tensor();
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

std::size_t Tape::bytes_saved(const Node& node) const {
  if (!node.needs_gradient || node.operation == nullptr) return 0;
  std::size_t bytes = 0;
  for (std::uint32_t s = 0; s < node.saved; ++s) bytes += saved_[node.first_saved + s].bytes();
  return bytes;
}

std::size_t Tape::bytes_saved() const {
  std::vector<bool> needed(nodes_.size(), false);
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.needs_gradient || node.operation == nullptr) continue;
    bytes += bytes_saved(node);
    const Needs needs = node.operation->needs;
    if (needs == Needs::output || needs == Needs::inputs_and_output) needed[i] = true;
    if (needs == Needs::inputs || needs == Needs::inputs_and_output) {
      for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
        needed[static_cast<std::size_t>(input_index(node, k))] = true;
      }
    }
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (needed[i]) bytes += nodes_[i].value.bytes();
  }
  return bytes;
}

Tape::NodeView Tape::node(std::size_t index) const {
  const Node& node = nodes_.at(index);
  NodeView view{node.operation, {}, attributes_.data() + node.attributes, node.needs_gradient};
  for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
    view.inputs.push_back(nodes_[static_cast<std::size_t>(input_index(node, k))].value);
  }
  return view;
}

std::vector<Tensor> Tape::local_backward(std::size_t index, const Tensor& cotangent,
                                         const Mutation* mutation) {
  const Node& node = nodes_.at(index);
  std::vector<Tensor> adjoints(nodes_.size());
  Backward context(*this, static_cast<std::int32_t>(index), cotangent, mutation);
  context.adjoints_ = &adjoints;
  node.operation->backward(context, attributes_.data() + node.attributes);
  std::vector<Tensor> contributions;
  for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
    contributions.push_back(adjoints[static_cast<std::size_t>(input_index(node, k))]);
  }
  return contributions;
}

}  // namespace moegrad
