#pragma once

#include <vector>

#include "train/model.h"

namespace moegrad {

// Targets of examples that are ids: of fields f (train/dataset.h), for x [B, W]:
//
//   e_f = table_f[id], or of several values the mean of theirs     [B, D/4]   embedding.FIELD
//   h = layer_norm(relu(concat(e) W + b))                          [B, D]     input.*, norm1.*
//   v_t = layer_norm(h + mixture_t(h)) W_t + b_t                   TARGET.norm2.*, TARGET.head.*
//
// The mixtures are one set of experts, experts.*, with a gate for each target, TARGET.router.* (MMoE,
// Ma et al. 2018, whose experts are dense and have no residual). Routers that read ids get the first
// column of x: the user.
class Recommender : public Model {
 public:
  // Errors: no field; a target with the name of another part.
  Recommender(std::vector<Field> fields, std::vector<Target> targets, LayerConfig config);

  Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
               PassMode mode = {}) const override;

 protected:
  void declare(Parameters& parameters, const Rng& rng) const override;

 private:
  // [B, D/4 fields]
  Var embedded(Tape& tape, const Tensor& x, const Parameters& parameters) const;
  Linear head(const Target& target) const;

  std::vector<Field> fields_;
  std::int64_t columns_ = 0;  // of x
  std::int64_t embedding_;    // D/4
  Linear input_;
  LayerNormModule norm_;
};

}  // namespace moegrad
