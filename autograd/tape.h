#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/decisions.h"
#include "autograd/mutation.h"
#include "autograd/operation.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace moegrad {

class Tape;

// A named tensor that training changes, or (not trained) state that goes into checkpoints with the
// parameters. Its address is its identity: it must not move while a tape or Gradients know it.
struct Parameter {
  std::string name;
  Tensor value;
  bool trained = true;
  // What optimisers and training go by.
  bool decays = false;  // weight decay applies: to matrices, not to biases and norms
  bool router = false;  // of a router
  double rate = 1.0;    // factor of the learning rate
};

// A value on a tape: {tape, place}. Trivially copyable; valid until the tape is cleared or rewound
// past it (using it later is an Error, as is using one that was never made).
class Var {
 public:
  Var() = default;

  bool defined() const { return tape_ != nullptr; }
  Tape& tape() const {
    if (tape_ == nullptr) undefined();
    return *tape_;
  }
  std::int32_t index() const { return index_; }
  // The value, to read; an Error after a backward pass has released it (BackwardOptions::retain
  // keeps it).
  const Tensor value()
      const;            // NOLINT(readability-const-return-type): its elements are not written
  Shape shape() const;  // a copy: the tape may grow while it is used
  std::int64_t size(int axis) const { return shape()[axis < 0 ? axis + shape().rank() : axis]; }
  int rank() const { return shape().rank(); }
  DType dtype() const;
  // True when a leaf that gradients are wanted of is reached from here.
  bool needs_gradient() const;

 private:
  friend class Tape;
  friend class Gradients;
  [[noreturn]] static void undefined();
  Var(Tape* tape, std::int32_t index, std::uint32_t epoch)
      : tape_(tape), index_(index), epoch_(epoch) {}

  Tape* tape_ = nullptr;
  std::int32_t index_ = -1;
  std::uint32_t epoch_ = 0;
};

// The place on a tape of a parameter's leaf. Lists of them are sorted by the parameter's address.
struct ParameterLeaf {
  const Parameter* parameter;
  std::int32_t index;
};

// The result of a backward pass, by leaf or parameter. The tensors share no storage, with each
// other or with anything else.
class Gradients {
 public:
  // The gradient of a leaf or of a kept Var; zeros where the loss does not depend on it. An Error
  // for any other Var.
  Tensor operator[](const Var& v) const;
  // Zeros where the loss does not depend on it, or where the tape never saw it.
  Tensor operator[](const Parameter& p) const;
  // Undefined in both cases: what is zero everywhere needs no elements.
  Tensor find(const Parameter& p) const;
  // Adds the gradients of parameters of another pass of the same program; an Error where that pass
  // used a parameter that this one did not.
  void add(const Gradients& other);

 private:
  friend class Tape;
  struct Entry {
    std::int32_t index;
    std::uint32_t epoch;
    Tensor value;  // without elements: zeros
    Tensor get() const;
  };
  // Null where there is none.
  const Entry* find(std::int32_t index) const;

  const Tape* tape_ = nullptr;
  PoolVector<Entry> entries_;  // the last node first
  PoolVector<ParameterLeaf> parameters_;
};

struct BackwardOptions {
  // dL/dy for an output y that is not a scalar; ones where not given and y has one element.
  Tensor cotangent = {};
  // Keeps values and saved tensors, so that they can be read and backward can run again. Else those
  // that the pass went through are released, except the value of the loss.
  bool retain = false;
  // Further Vars whose gradients are wanted; each is reached by a leaf with a gradient.
  std::vector<Var> keep = {};
  const Mutation* mutation = nullptr;
  // Called with the value and the gradient of each result of an operation on the way.
  std::function<void(const Tensor& value, const Tensor& gradient)> visit = {};
};

// What an operation's backward is given.
class Backward {
 public:
  const Tensor& dy() const { return dy_; }
  // True when the gradient of input i is wanted; never that of an optional one that was left out.
  inline bool wants(int i) const;
  inline int inputs() const;
  inline const Shape& input_shape(int i) const;
  // Inputs (undefined: left out) and output of the forward pass, as far as the operation declares
  // that it needs them. An Error where one was written since (Tensor::version).
  inline const Tensor& input(int i) const;
  const Tensor& output() const;
  const Tensor& saved(int i) const;
  // A place for a gradient of dy's shape: dy itself where nobody else holds it, which is then gone
  // once the gradient is written, or a new tensor.
  inline Tensor place_of_dy() const;
  // The sum of the gradients of input i so far, for an operation that adds its own to it in place
  // and then leaves add() out; undefined where there is none yet, and where it must not be written:
  // somebody else holds it, or a mutation has to see what this operation adds.
  Tensor sum_so_far(int i) const;
  // Adds a gradient of input i, of the input's shape; of one that was left out it is dropped. It
  // may share the storage of dy.
  void add(int i, Tensor gradient);

 private:
  friend class Tape;
  Backward(Tape& tape, std::size_t node, Tensor dy, const Mutation* mutation,
           std::vector<Tensor>& adjoints)
      : tape_(tape), node_(node), dy_(std::move(dy)), mutation_(mutation), adjoints_(adjoints) {}

  Tape& tape_;
  std::size_t node_;
  Tensor dy_;
  const Mutation* mutation_;
  std::vector<Tensor>& adjoints_;  // by node

  // The place on the tape of input i; -1 where it was left out.
  inline std::int32_t place_of(int i) const;
  std::size_t source(int i) const {
    const std::int32_t place = place_of(i);
    if (place < 0) undeclared("input that was left out");
    return static_cast<std::size_t>(place);
  }
  // Refuses a tensor that was written after this operation was recorded.
  void require_unchanged(const Tensor& t, std::uint32_t version, const char* what, int i) const {
    if (t.version() != version) changed(t, version, what, i);
  }
  [[noreturn]] void changed(const Tensor& t, std::uint32_t version, std::string_view what,
                            int i) const;
  [[noreturn]] void undeclared(std::string_view what) const;
};

// The record of a computation: nodes in the order of execution. Backward is a reverse loop.
class Tape {
 public:
  struct Options {
    // An Error at the operation that makes the first NaN or infinity.
    bool check_finite = false;
    // False: nothing is recorded for a backward pass.
    bool gradients = true;
    // True: operations with kinks report their cells.
    bool track_cell = false;
    // Random numbers of the program's draws and noise.
    Rng rng = {};
    // Decisions of a check; null: live ones of the tape's own.
    Decisions* decisions = nullptr;
  };
  struct Mark {
    std::size_t nodes = 0, inputs = 0, saved = 0, attributes = 0;
  };

  Tape() = default;
  explicit Tape(const Options& options) : options_(options), rng_(options.rng) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Leaves: no gradient; a gradient; the gradient of a parameter (one leaf, however often asked).
  Var constant(const Tensor& value);
  Var variable(const Tensor& value);
  Var parameter(const Parameter& parameter);

  Decisions& decisions() {
    if (options_.decisions == nullptr) return own_;
    options_.decisions->in_program_ = true;
    return *options_.decisions;
  }
  Rng& rng() {
    ++rng_asked_;
    return rng_;
  }
  // How often it was asked for: who asks may take numbers from a copy.
  std::uint64_t rng_asked() const { return rng_asked_; }
  const Options& options() const { return options_; }

  // Runs an operation and records it; see apply<Op>().
  Var record(const Operation& operation, std::span<const Var> inputs, const void* attributes,
             std::size_t attribute_bytes);

  // Reverse pass from `loss` (one element, or a cotangent of its shape is given).
  Gradients backward(Var loss, const BackwardOptions& options = {});

  Mark mark() const { return {nodes_.size(), inputs_.size(), saved_.size(), attributes_.size()}; }
  // Forgets everything recorded since the mark; Vars of it become invalid.
  void rewind(const Mark& mark);
  void clear() { rewind({}); }

  std::size_t size() const { return nodes_.size(); }
  // Where track_cell is set: the cell of everything recorded so far. A decision with a margin (the
  // gap behind the k-th largest) reports it here.
  Cell& cell() { return cell_; }
  // Bytes that a later backward pass needs: saved tensors, and values declared as needed, each
  // once.
  std::size_t bytes_saved() const;
  // Of each node: its saved tensors, and its value where some backward pass reads it.
  std::vector<std::size_t> bytes_saved_by_node() const;

  // A table: node, operation, inputs, shape, bytes saved, finite or not; its head is a row too.
  using Row = std::array<std::string, 6>;
  std::vector<Row> rows() const;
  std::string table() const;
  // Graphviz.
  std::string dot() const;

  // The value in a place, as the operation that made it returned it.
  Var var(std::size_t index);

  // For the checker: each node's operation in isolation.
  struct NodeView {
    const Operation* operation;  // null for leaves
    std::string_view label;      // its name, or the kind of leaf
    const Parameter* parameter;  // of such a leaf; else null
    std::vector<Tensor> inputs;
    std::vector<std::int32_t> sources;  // the nodes that the inputs come from; -1: left out
    Tensor output;
    std::vector<Tensor> saved;
    const void* attributes;
    bool needs_gradient;
  };
  NodeView node(std::size_t index) const;
  // The contributions of one recorded node to its inputs for a cotangent (undefined: none); those
  // to one source are added up, and stand at each input that comes from it.
  std::vector<Tensor> local_backward(std::size_t index, const Tensor& cotangent,
                                     const Mutation* mutation);

 private:
  friend class Var;
  friend class Backward;

  struct Node {
    Node(const Operation& o, std::uint32_t e) : operation(&o), epoch(e) {}

    const Operation* operation;  // or the kind of leaf
    Tensor value;                // without elements once released
    bool needs_gradient = false;
    bool released = false;  // a backward pass went through it and did not retain
    std::uint32_t epoch;
    std::uint32_t version = 0;  // of the value, when it was recorded
    std::uint32_t first_input = 0, inputs = 0;
    std::uint32_t first_saved = 0, saved = 0;
    std::uint32_t attributes = 0;

    bool leaf() const { return operation->backward == nullptr; }
    std::string_view label() const { return operation->name; }
    const Shape& shape() const { return value.shape(); }
    DType dtype() const { return value.dtype(); }
  };

  // A node that an operation read, and the version of its value then; -1: an optional input that
  // was left out.
  struct Input {
    std::int32_t index;
    std::uint32_t version;
  };

  Var leaf(const Operation& kind, const Tensor& value, bool needs_gradient);
  void run(Node& node, std::span<const Var> inputs, const void* attributes);
  Var last() { return {this, static_cast<std::int32_t>(nodes_.size() - 1), epoch_}; }
  const Node& at(const Var& v) const;
  const Input& input(const Node& node, int i) const {
    return inputs_[node.first_input + static_cast<std::size_t>(i)];
  }
  std::int32_t input_index(const Node& node, int i) const { return input(node, i).index; }
  static void require_finite(std::string_view label, std::size_t index, const Tensor& value);
  [[noreturn]] void released(std::string_view operation, std::size_t index) const;
  void release(Node& node, bool value);
  void reverse_pass(std::size_t start, const BackwardOptions& options, Gradients& gradients);

  Options options_;
  Decisions own_;
  Rng rng_;
  std::uint64_t rng_asked_ = 0;
  std::vector<Node> nodes_;
  std::vector<Input> inputs_;              // of all nodes, one after the other
  std::vector<Tensor> saved_;              // likewise
  std::vector<std::uint32_t> versions_;    // of saved_, when they were recorded
  std::vector<std::uint64_t> attributes_;  // likewise
  std::vector<ParameterLeaf> parameters_;
  std::vector<const Tensor*> gathered_;  // the inputs of the operation being recorded
  std::vector<Tensor> adjoints_;         // by node, while a reverse pass runs; else all undefined
  Cell cell_;
  std::uint32_t epoch_ = 0;
};

inline int Backward::inputs() const { return static_cast<int>(tape_.nodes_[node_].inputs); }
inline std::int32_t Backward::place_of(int i) const {
  const Tape::Node& node = tape_.nodes_[node_];
  if (i < 0 || i >= static_cast<int>(node.inputs)) undeclared("further inputs");
  return tape_.input_index(node, i);
}
inline bool Backward::wants(int i) const {
  const std::int32_t place = place_of(i);
  return place >= 0 && tape_.nodes_[static_cast<std::size_t>(place)].needs_gradient;
}
inline Tensor Backward::place_of_dy() const {
  return dy_.unique() ? dy_ : Tensor::empty(dy_.shape(), dy_.dtype(), dy_.device());
}
inline const Shape& Backward::input_shape(int i) const { return tape_.nodes_[source(i)].shape(); }
inline const Tensor& Backward::input(int i) const {
  static const Tensor left_out;
  const std::int32_t place = place_of(i);
  if (place < 0) return left_out;
  const Tape::Node& node = tape_.nodes_[node_];
  const Tape::Node& from = tape_.nodes_[static_cast<std::size_t>(place)];
  const Needs needs = node.operation->needs;
  // Integer inputs (indices, labels) are not differentiated: they are always there.
  if (needs != Needs::inputs && needs != Needs::inputs_and_output && is_floating(from.dtype())) {
    undeclared("inputs");
  }
  if (!from.value.defined()) tape_.released("backward", source(i));
  require_unchanged(from.value, tape_.input(node, i).version, "input", i);
  return from.value;
}

// Records Op on the tape of its inputs (at least one).
template <Declared Op>
Var apply(std::span<const Var> inputs, const typename Op::Attributes& attributes = {}) {
  if (inputs.empty() || !inputs[0].defined()) {
    fail(Op::name, "the first input is no value of a tape. Make one with tape.constant().");
  }
  return inputs[0].tape().record(operation<Op>(), inputs, &attributes, sizeof(attributes));
}
template <Declared Op>
Var apply(std::initializer_list<Var> inputs, const typename Op::Attributes& attributes = {}) {
  return apply<Op>(std::span<const Var>(inputs.begin(), inputs.size()), attributes);
}

}  // namespace moegrad
