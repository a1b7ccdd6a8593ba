#pragma once

#include <vector>

#include "train/encoder.h"
#include "train/model.h"

namespace moegrad {

// Classes of texts of word pieces, x i32 [B, W] with zeros behind each: an encoder (train/encoder.h)
// whose networks are mixtures, and a linear head on the embedding of the text.
//
//   network(l, h) = mixture_l(h)                      l.mixture.*
//   logits = sentence_embedding(h) W + b              head.{weight,bias}
//
// It learns from the labels and, where a batch has a guide [B, C + D], a teacher's logits and its
// embedding of the text, from that teacher t (Hinton, Vinyals & Dean 2015, arXiv:1503.02531; features:
// Jiao et al. 2020, TinyBERT, arXiv:1909.10351):
//
//   loss = cross_entropy + kl T^2 mean KL(softmax(logits_t / T) || softmax(logits / T))
//        + features mean |embedding - embedding_t|^2
//
// The embeddings of pieces are not trained: of 30,522 a batch has some hundred.
class Student : public Model {
 public:
  struct Guidance {
    double kl = 1.0;
    double features = 1.0;
    double temperature = 2.0;
  };
  // Of one target, of classes; the width of `size` is the mixture's.
  Student(EncoderSize size, const Guidance& guidance, std::vector<Target> targets,
          const LayerConfig& mixture);

  Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
               PassMode mode = {}) const override;
  std::int64_t tokens() const override { return size_.places; }

 protected:
  void declare(Parameters& parameters, const Rng& rng) const override;

 private:
  Var guided(Var logits, Var embedding, const Tensor& guide) const;

  EncoderSize size_;
  Guidance guidance_;
  Linear head_;
};

}  // namespace moegrad
