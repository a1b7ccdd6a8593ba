#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moe/layer.h"
#include "tensor/safetensors.h"
#include "train/config.h"
#include "train/model.h"
#include "train/optimiser.h"

// The programs that the report and the comparison with others time. All in f32, inputs drawn from
// fixed seeds.
namespace moegrad::bench {

// One layer: N tokens, D -> H -> D, k of E experts.
struct Size {
  std::int64_t tokens, model, hidden, experts, active;

  std::string name() const;  // "N1024-D64-H128-E8-k2"
  LayerSize layer() const { return {model, hidden, model, experts, active}; }
  // Operations of the experts: 4 N k D H forward, 8 N k D H backward.
  double operations() const {
    return 12.0 * static_cast<double>(tokens * active) * static_cast<double>(model * hidden);
  }
};
// Small to large.
std::span<const Size> sizes();
// Those that the first two targets name: two large, a small and a fine-grained one.
Size large_size();   // D=256, H=1024
Size larger_size();  // D=512, H=1024
Size small_size();   // D=64
Size fine_size();    // H=128, 64 experts
Size widest_size();  // D=1024, H=2048

// The layer without a router: y = sum_j gates[t, j] E_i(x_t), i = selected[t, j], with relu and no
// biases. Each token's experts are drawn, all different.
class BareLayer {
 public:
  explicit BareLayer(const Size& size);
  // Forward, and backward from dy to x, gates and both matrices. The plan is made once, or with
  // `plan_too` at each step.
  void step(bool plan_too = false);
  void forward();
  // Inputs, y and all gradients.
  TensorFile file();
  // Bytes kept between forward and backward, parameters not counted; and the most that the pool
  // held above what was there before: in the forward pass, and in the whole step.
  struct Memory {
    std::size_t saved = 0, forward_peak = 0, step_peak = 0;
  };
  Memory memory();

 private:
  Var record(Tape& tape, const Plan& plan);

  Size size_;
  Tensor x_, gates_, w1_, w2_, dy_, selected_;
  Plan plan_;
  Tape tape_;
  Var leaves_[4];
};

// A whole mixture layer with its router and the loss mse(y, target).
class WholeLayer {
 public:
  WholeLayer(const Size& size, const std::string& router, const std::string& estimator);
  void step();

 private:
  Layer layer_;
  Parameters parameters_;
  Tensor x_, target_;
  Tape tape_;
};

// A dense layer of as many operations: N k rows through one D -> H -> D network.
class DenseLayer {
 public:
  explicit DenseLayer(const Size& size);
  void step();

 private:
  Tensor x_, w1_, w2_, dy_;
  Tape tape_;
};

// The layers of a language model, each by itself, forward and backward from a given derivative of
// its output: attention with its positions and four matrices, the dense network of the first layer,
// the mixtures of the others with given gates and choices, the product with the tied embedding. A
// step has besides: norms, the residual stream, routers, the loss, clipping, the optimiser.
class LanguageLayers {
 public:
  explicit LanguageLayers(const TrainConfig& config);
  void step();
  // Of the matrix products.
  double operations() const;

 private:
  void back(Var y, const Tensor& dy);
  void attend();
  void run_dense();
  void run_mixture();
  void run_head();

  TrainConfig config_;
  Tensor x_, dy_, cos_, sin_, gates_, embedding_, dlogits_;
  std::vector<Tensor> projections_;      // of queries, keys, values and the output
  std::vector<Tensor> dense_, experts_;  // w1, w3, w2
  Plan plan_;
  Tape tape_;
};

// A model with parameters and a loss on one fixed batch. `step` is that of training: backward,
// clipping to norm 1, AdamW with learning rate 2e-3 and decay 0.01.
class Model {
 public:
  virtual ~Model() = default;
  // The loss without a backward pass, on a tape that records none.
  void forward();
  // Loss and gradients.
  void gradient();
  void step();
  // Batch, parameters, the loss, all gradients, and the losses before each of three steps.
  // Changes the parameters.
  TensorFile file();

 protected:
  virtual Var loss(Tape& tape) const = 0;
  // Everything but parameters.
  virtual void add_batch(TensorFile& file) const = 0;
  void start(Parameters parameters);
  Parameters parameters_;

 private:
  double training_step();
  std::unique_ptr<Optimiser> optimiser_;
  Tape tape_;
};

// `layers` dense layers of one width with relu between, cross-entropy over the width's classes.
std::unique_ptr<Model> make_mlp(std::int64_t rows, std::int64_t width, int layers);
// What `moegrad train vision` trains with its defaults, on a batch of 128 random images.
std::unique_ptr<Model> make_vision();
// One block, h = x + attention(norm(x)) W; y = h + mixture(norm(h)), with mse(y, target): 8
// sequences of 128 tokens, width 128, one head, 2 of 8 experts of hidden width 256.
std::unique_ptr<Model> make_transformer();
// The language models of examples/configs/language-{xs,m}.json, on 16 windows of 128 random bytes, with
// 2 of 8 SwiGLU experts in all layers but the first. XS: width 64, 3 layers, hidden width 88; M: 128, 4, 176.
TrainConfig language_xs();
TrainConfig language_m();
std::unique_ptr<Model> make_language(const TrainConfig& config);

// A chain of operations on tensors of one element: seconds for each recorded and for each replayed.
struct TapeTimes {
  double record = 0.0, backward = 0.0;
};
TapeTimes time_tape(int calls);

}  // namespace moegrad::bench
