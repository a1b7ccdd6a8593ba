// The reverse pass over a tape.

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>

#include "autograd/tape.h"
#include "tensor/kernels.h"
#include "tensor/stop.h"

namespace moegrad {
namespace {

void accumulate(Tensor& adjoint, Tensor&& contribution) {
  if (!adjoint.defined()) {
    adjoint = std::move(contribution);
    return;
  }
  // A shared adjoint (a view of somebody's dy) must not be written.
  if (!adjoint.unique()) adjoint = adjoint.clone();
  kernels(adjoint.device()).accumulate(1.0, contribution, adjoint);
}

}  // namespace

// --- Gradients

Tensor Gradients::Entry::get() const {
  return value.defined() ? value : Tensor::zeros(value.shape(), value.dtype(), value.device());
}

const Gradients::Entry* Gradients::find(std::int32_t index) const {
  const auto place = std::ranges::lower_bound(entries_, index, std::greater<>(), &Entry::index);
  return place == entries_.end() || place->index != index ? nullptr : &*place;
}

Tensor Gradients::operator[](const Var& v) const {
  const Entry* const entry = find(v.index_);
  if (entry == nullptr || v.tape_ != tape_ || v.epoch_ != entry->epoch) {
    fail("gradients",
         "node {} is neither a leaf with a gradient nor kept. Make it with tape.variable(), or "
         "name it in BackwardOptions::keep.",
         v.index_);
  }
  return entry->get();
}

Tensor Gradients::operator[](const Parameter& p) const {
  const Tensor g = find(p);
  return g.defined() ? g : Tensor::zeros(p.value.shape(), p.value.dtype(), p.value.device());
}

Tensor Gradients::find(const Parameter& p) const {
  const auto leaf =
      std::ranges::lower_bound(parameters_, &p, std::less<>(), &ParameterLeaf::parameter);
  if (leaf == parameters_.end() || leaf->parameter != &p) return {};
  const Entry* const entry = find(leaf->index);
  return entry == nullptr ? Tensor() : entry->value;
}

void Gradients::add(const Gradients& other) {
  for (const auto& [parameter, index] : other.parameters_) {
    const Entry* const more = other.find(index);
    if (more == nullptr || !more->value.defined()) continue;
    const auto leaf =
        std::ranges::lower_bound(parameters_, parameter, std::less<>(), &ParameterLeaf::parameter);
    if (leaf == parameters_.end() || leaf->parameter != parameter) {
      fail("gradients", "'{}' has a gradient in the other pass alone. Add passes of one program.",
           parameter->name);
    }
    const auto place =
        std::ranges::lower_bound(entries_, leaf->index, std::greater<>(), &Entry::index);
    accumulate(place->value, Tensor(more->value));
  }
}

// --- Backward

void Backward::undeclared(std::string_view what) const {
  throw std::logic_error("backward of " + std::string(tape_.nodes_[node_].label()) + " reads its " +
                         std::string(what) + " without declaring the need");
}
const Tensor& Backward::output() const {
  const Tape::Node& node = tape_.nodes_[node_];
  const Needs needs = node.operation->needs;
  if (needs != Needs::output && needs != Needs::inputs_and_output) {
    undeclared("output");
  }
  require_unchanged(node.value, node.version, "output", -1);
  return node.value;
}
const Tensor& Backward::saved(int i) const {
  const Tape::Node& node = tape_.nodes_[node_];
  if (i < 0 || i >= static_cast<int>(node.saved)) undeclared("saved tensor");
  const std::size_t place = node.first_saved + static_cast<std::size_t>(i);
  require_unchanged(tape_.saved_[place], tape_.versions_[place], "saved tensor", i);
  return tape_.saved_[place];
}

void Backward::changed(const Tensor& t, std::uint32_t version, std::string_view what, int i) const {
  std::string tensor(what);
  if (i >= 0) tensor += fmt::format(" {}", i);
  if (what == "input") {
    const auto& leaves = tape_.parameters_;
    const auto leaf =
        std::ranges::find(leaves, static_cast<std::int32_t>(source(i)), &ParameterLeaf::index);
    tensor += leaf != leaves.end()
                  ? fmt::format(" (the parameter '{}')", leaf->parameter->name)
                  : fmt::format(" (node {}, '{}')", source(i), tape_.nodes_[source(i)].label());
  }
  fail("backward",
       "node {} ('{}') needs its {}, {} {}, at version {}; it was written since and is at version "
       "{}. Run backward before the tensor changes, or record the program again.",
       node_, tape_.nodes_[node_].label(), tensor, name_of(t.dtype()), t.shape(), version,
       t.version());
}

Tensor Backward::sum_so_far(int i) const {
  const Tensor& adjoint = adjoints_[source(i)];
  const bool broken = mutation_ != nullptr && mutation_->operation == tape_.nodes_[node_].label();
  return adjoint.defined() && adjoint.unique() && !broken ? adjoint : Tensor();
}

void Backward::add(int i, Tensor gradient) {
  if (!wants(i)) return;
  const Tape::Node& node = tape_.nodes_[node_];
  const std::size_t place = source(i);
  const Tape::Node& from = tape_.nodes_[place];
  if (!(gradient.shape() == from.shape()) || gradient.dtype() != from.dtype()) {
    throw std::logic_error(fmt::format(
        "backward of {} gives input {} a gradient {} {}, the input is {} {}", node.label(), i,
        name_of(gradient.dtype()), gradient.shape(), name_of(from.dtype()), from.shape()));
  }
  Tensor& adjoint = adjoints_[place];
  if (mutation_ != nullptr && mutation_->operation == node.label() && mutation_->input == i) {
    mutation_->apply(adjoint, gradient);
  }
  accumulate(adjoint, std::move(gradient));
}

// --- Tape

Gradients Tape::backward(Var loss, const BackwardOptions& options) {
  StopScope::look();
  const Node& root = at(loss);
  if (!options_.gradients) {
    fail("backward", "this tape records no gradients. Set Tape::Options::gradients.");
  }
  for (const Var& v : options.keep) {
    if (!at(v).needs_gradient) {
      fail("backward", "node {} ('{}') is to be kept and has no gradient. Use a tape.variable().",
           v.index_, at(v).label());
    }
  }
  const auto start = static_cast<std::size_t>(loss.index());
  Tensor cotangent = options.cotangent;
  if (cotangent.defined()) {
    if (!(cotangent.shape() == root.shape()) || cotangent.dtype() != root.dtype()) {
      fail("backward", "the cotangent is {} {} and the output {} {}. They must agree.",
           name_of(cotangent.dtype()), cotangent.shape(), name_of(root.dtype()), root.shape());
    }
  } else {
    if (root.shape().numel() != 1 || !is_floating(root.dtype())) {
      fail("backward", "the loss is {} {}. Reduce it to one floating number, or give a cotangent.",
           name_of(root.dtype()), root.shape());
    }
    cotangent = Tensor::full(root.shape(), 1.0, root.dtype(), root.value.device());
  }
  Gradients gradients;
  gradients.tape_ = this;
  gradients.parameters_.assign(parameters_.begin(), parameters_.end());
  adjoints_.resize(nodes_.size());
  if (root.needs_gradient) adjoints_[start] = std::move(cotangent);
  try {
    reverse_pass(start, options, gradients);
  } catch (...) {
    adjoints_.clear();
    throw;
  }
  return gradients;
}

// Leaves every adjoint undefined: those of operations are consumed, those of leaves become results.
void Tape::reverse_pass(std::size_t start, const BackwardOptions& options, Gradients& gradients) {
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    Node& node = nodes_[i];
    if (!node.needs_gradient) continue;
    const bool wanted = node.leaf() || std::ranges::any_of(options.keep, [i](const Var& v) {
                          return static_cast<std::size_t>(v.index()) == i;
                        });
    if (adjoints_[i].defined() && !node.leaf()) {
      if (node.released) released("backward", i);
      if (options.visit) options.visit(node.value, adjoints_[i]);
      Backward context(*this, i, wanted ? Tensor(adjoints_[i]) : std::move(adjoints_[i]),
                       options.mutation, adjoints_);
      node.operation->backward(context, attributes_.data() + node.attributes);
      if (!options.retain) release(node, i != start);
    }
    if (!wanted) continue;
    Tensor adjoint = std::move(adjoints_[i]);
    if (!adjoint.defined()) {
      adjoint = node.value;
      adjoint.release();
    } else if (!adjoint.unique()) {
      adjoint = adjoint.clone();
    }
    gradients.entries_.push_back({static_cast<std::int32_t>(i), node.epoch, std::move(adjoint)});
  }
}

void Tape::release(Node& node, bool value) {
  node.released = true;
  if (value) node.value.release();
  for (std::uint32_t s = 0; s < node.saved; ++s) saved_[node.first_saved + s].release();
}

std::vector<Tensor> Tape::local_backward(std::size_t index, const Tensor& cotangent,
                                         const Mutation* mutation) {
  const Node& node = nodes_.at(index);
  std::vector<Tensor> adjoints(nodes_.size());
  Backward context(*this, index, cotangent, mutation, adjoints);
  node.operation->backward(context, attributes_.data() + node.attributes);
  std::vector<Tensor> contributions;
  for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
    const std::int32_t source = input_index(node, k);
    contributions.push_back(source < 0 ? Tensor() : adjoints[static_cast<std::size_t>(source)]);
  }
  return contributions;
}

}  // namespace moegrad
