#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>

#include "autograd/parameters.h"
#include "moe/layer.h"
#include "run.h"

namespace moegrad::python {

namespace nb = nanobind;

// A layer with what it declares, which is found out when it is first asked for.
class Mixture {
 public:
  Mixture(const LayerConfig& config, Device device) : layer_(config), device_(device) {}
  Device device() const { return device_; }
  const Layer& layer() const { return layer_; }
  // f64; those that are trained have no elements.
  const Parameters& declared() const;

 private:
  Layer layer_;
  Device device_;
  mutable std::once_flag once_;
  mutable Parameters declared_;
};

using Named = std::vector<std::pair<std::string, Tensor>>;

// What a pass is given. Read under the GIL, used without.
struct PassInput {
  Tensor x;       // [N, D]
  Named weights;  // as declared
  std::uint64_t seed = 0;
  bool training = true;
  bool dropless = false;
  bool check_finite = false;
  std::int64_t sequence = 1;
  Tensor ids, mask, attention;
  std::vector<std::string> wanted;  // "x" and parameters, of which gradients are wanted
  // The arrays are somebody's who may write them: it is found out before backward reads them.
  bool guard = true;
  std::shared_ptr<Run> run = nullptr;  // whose decisions these are
};

// One pass of a layer on a tape of its own, whose leaves are on the host: what the layer is given is
// moved to its device, and what it gives stays there.
class Pass {
 public:
  Pass(std::shared_ptr<const Mixture> mixture, PassInput input);

  const LayerOutput& out() const { return out_; }
  const Mixture& mixture() const { return *mixture_; }
  Tape& tape() { return tape_; }
  // Whether random numbers were asked for, and of which seed.
  bool random() const { return random_; }
  std::uint64_t seed() const { return in_.seed; }
  // `rows` [N', ...] at the places of the tokens among all rows.
  Tensor for_all(const Tensor& rows, double fill = 0.0) const;

  // Gradients of <dy, y> + auxiliary * the auxiliary loss, by name; with losses [N] of an estimator
  // that needs them, of its objective (times the tokens), where dy is that of each row's loss.
  Named backward(const Tensor& dy, double auxiliary, const Tensor& losses, bool retain);

  // While somebody reads or extends the tape.
  std::mutex& mutex() const { return mutex_; }

 private:
  struct Leaf {
    std::string name;
    Var v;
    std::uint64_t word;  // of its elements
  };
  void forward();
  // On the device.
  Var leaf(const std::string& name, const Tensor& value);
  bool wants(std::string_view name) const;
  Var objective(const Tensor& dy, const Tensor& losses);
  void require_unchanged() const;
  std::int64_t copies() const;

  std::shared_ptr<const Mixture> mixture_;
  PassInput in_;
  Tape tape_;
  Weights weights_;
  std::optional<LayerInput> input_;
  LayerOutput out_;
  std::vector<Leaf> leaves_;  // where there are gradients
  bool random_ = false;
  mutable std::mutex mutex_;
};

}  // namespace moegrad::python
