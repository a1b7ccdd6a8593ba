#pragma once

#include <string>
#include <vector>

#include "train/model.h"

namespace moegrad {

// A decoder (Vaswani et al. 2017) of text in V pieces; for windows of T + 1, of which it sees T
// and tells each next one:
//
//   h = embedding[piece]                                   [N, D], N = B T
//   for each layer l:
//     h = h + attention(rms_norm(h)) Wo                    l.norm1, l.attention.{q,k,v,o}
//     h = h + feed_forward(rms_norm(h))                    l.norm2, l.dense.{w1,w3,w2}, l.mixture.*
//   logits = rms_norm(h) embedding^T                       norm; tied: Press & Wolf 2017
//
// Attention is causal, in heads of D / heads columns, with rotary positions (Su et al. 2021): of
// each head columns i and i + d/2 are turned by t / 10000^(2i/d) at place t. The feed-forward network
// of layer 0 is dense, (silu(x w1) * (x w3)) w2 with as many hidden columns as the experts that a
// token uses have together (as DeepSeek's); that of each other layer is a mixture.
class LanguageModel : public Model {
 public:
  struct Size {
    std::int64_t layers = 3;
    std::int64_t heads = 4;
    std::int64_t context = 128;
  };
  // Errors: heads that do not divide the width into even parts.
  LanguageModel(const Size& size, const LayerConfig& mixture, BytePairs pairs = {});

  Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
               PassMode mode = {}) const override;
  std::int64_t tokens() const override { return size_.context; }

  // The keys and values of what has been read, layer by layer, for one sequence.
  struct Memory {
    std::vector<Tensor> keys;  // [heads, T, d]
    std::vector<Tensor> values;
    std::int64_t place = 0;  // T
  };
  // The logits [V] behind one more piece, at inference; an Error beyond the context.
  Tensor next(std::int32_t piece, const Parameters& parameters, Memory& memory) const;

  const Size& size() const { return size_; }
  const BytePairs& pairs() const { return pairs_; }

 protected:
  void declare(Parameters& parameters, const Rng& rng) const override;

 private:
  // Of h [N, D], sequences of T places from `begin` on; with a memory they are the only ones.
  Var attention(Var h, const Weights& w, std::int64_t length, Memory* memory,
                std::size_t layer) const;
  Var layers(Var h, const Tensor& ids, std::int64_t length, const Parameters& parameters,
             PassMode mode, Pass& pass, Memory* memory) const;

  Size size_;
  BytePairs pairs_;
};

}  // namespace moegrad
