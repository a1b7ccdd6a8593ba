#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "moe/router.h"

namespace moegrad {

// The parts of a BERT (Devlin et al. 2019, arXiv:1810.04805), an encoder of texts of word pieces, for
// whoever puts them together: the teacher, whose networks are dense, and its student.

// The tokens of B texts x, i32 [B, W], each with zeros behind its end. What is computed of them lies
// in rows [N, D], one for each of the N tokens, text behind text, without padding.
struct Tokens {
  // x is read on the host. Errors: no text, a text without a token, a zero before its last one.
  explicit Tokens(const Tensor& x);

  std::int64_t texts = 0;
  std::int64_t length = 0;  // L: of the longest
  Tensor ids;               // i32 [N], from here on the device of x
  Tensor places;            // i32 [N]: in its text
  Tensor text_of;           // i32 [N]
  Tensor cells;             // i32 [N]: text L + place
  Tensor rows;              // i32 [B L]: the token of each cell, -1 for none
  Tensor mask;              // i32 [B L]: 1 for a token, 0 for none
  Tensor lengths;           // i32 [B], on the host

  // [N, D] as [B L, D], zeros where there is no token, and back.
  Var padded(Var x) const;
  Var packed(Var x) const;
};

struct EncoderSize {
  std::int64_t pieces = 0;  // of the vocabulary
  std::int64_t places = 0;  // that a text may have
  std::int64_t width = 0;   // D
  std::int64_t heads = 0;
  std::int64_t layers = 0;
};

// Adds the parameters of the embedding and of each layer but its network, normal with deviation 0.02:
//   embedding.piece [V, D], embedding.place [places, D], embedding.{scale,shift},
//   l.attention.{q,k,v,o}.{weight,bias}, l.norm1.{scale,shift}, l.norm2.{scale,shift}
void declare_encoder(const EncoderSize& size, Parameters& parameters, const Rng& rng);

// h [N, D] = layer_norm(piece + place)
//   for each layer l:  h = layer_norm(h + attention(h)),  h = layer_norm(h + network(l, h))
// with packed_attention among the tokens of a text. The norms' epsilon is BERT's 1e-12.
using EncoderNetwork = std::function<Var(std::int64_t layer, Var h)>;
Var encoded(const Tokens& tokens, const EncoderSize& size, const Weights& w,
            const EncoderNetwork& network);

// [B, D]: of each text the mean of its tokens h [N, D], divided by its length (Reimers & Gurevych
// 2019, arXiv:1908.10084).
Var sentence_embedding(const Tokens& tokens, Var h);

}  // namespace moegrad
