#include "train/encoder.h"

#include <algorithm>
#include <vector>

#include "ops/ops.h"
#include "train/modules.h"

namespace moegrad {
namespace {

constexpr double kEncoderEpsilon = 1e-12;
constexpr double kEncoderDeviation = 0.02;

Tensor i32_on(const std::vector<std::int32_t>& values, Device device) {
  return Tensor::of({std::ssize(values)}, values).to(device);
}

Var normed(Var x, const Weights& w, const std::string& prefix) {
  return layer_norm(x, w.at(prefix + "scale"), w.at(prefix + "shift"), kEncoderEpsilon);
}

Var projected(Var x, const Weights& w, const std::string& prefix) {
  return matmul(x, w.at(prefix + "weight")) + w.at(prefix + "bias");
}

}  // namespace

Tokens::Tokens(const Tensor& x) {
  if (x.dtype() != DType::i32 || x.rank() != 2 || x.size(0) == 0) {
    fail("encoder",
         "texts are {} {}. Give i32 [B, W] of one or more, zeros behind the end of each.",
         name_of(x.dtype()), x.shape());
  }
  const Tensor there = x.to(Device::cpu);
  const std::int64_t width = x.size(1);
  texts = x.size(0);
  std::vector<std::int32_t> counts;
  for (std::int64_t b = 0; b < texts; ++b) {
    const std::int32_t* const text = there.data<std::int32_t>() + b * width;
    const std::int64_t n = std::find(text, text + width, 0) - text;
    if (n == 0 || std::any_of(text + n, text + width, [](std::int32_t id) { return id != 0; })) {
      fail("encoder", "text {} has {}. Give its ids, none of them 0, and zeros behind.", b,
           n == 0 ? "no token" : "a 0 before its end");
    }
    counts.push_back(static_cast<std::int32_t>(n));
    length = std::max(length, n);
  }
  std::vector<std::int32_t> id, place, text, cell;
  std::vector<std::int32_t> row(static_cast<std::size_t>(texts * length), -1);
  std::vector<std::int32_t> is_token(row.size(), 0);
  for (std::int64_t b = 0; b < texts; ++b) {
    for (std::int64_t t = 0; t < counts[static_cast<std::size_t>(b)]; ++t) {
      const std::int64_t at = b * length + t;
      row[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(id.size());
      is_token[static_cast<std::size_t>(at)] = 1;
      id.push_back(there.data<std::int32_t>()[b * width + t]);
      place.push_back(static_cast<std::int32_t>(t));
      text.push_back(static_cast<std::int32_t>(b));
      cell.push_back(static_cast<std::int32_t>(at));
    }
  }
  ids = i32_on(id, x.device());
  places = i32_on(place, x.device());
  text_of = i32_on(text, x.device());
  cells = i32_on(cell, x.device());
  rows = i32_on(row, x.device());
  mask = i32_on(is_token, x.device());
  lengths = i32_on(counts, Device::cpu);
}

Var Tokens::padded(Var x) const { return gather_rows(x, rows); }
Var Tokens::packed(Var x) const { return gather_rows(x, cells); }

void declare_encoder(const EncoderSize& size, Parameters& parameters, const Rng& rng) {
  if (size.heads < 1 || size.width % size.heads != 0) {
    fail("encoder", "width {} in {} heads. Give a width that is a multiple of the heads.",
         size.width, size.heads);
  }
  const auto matrix = [&](const std::string& name, std::int64_t in,
                          std::int64_t out) -> Parameter& {
    return parameters.add(name,
                          rng.named(name).normal({in, out}, DType::f64, 0.0, kEncoderDeviation));
  };
  const auto norm = [&](const std::string& prefix) {
    LayerNormModule{size.width}.declare(prefix, parameters);
  };
  matrix("embedding.piece", size.pieces, size.width);
  matrix("embedding.place", size.places, size.width);
  norm("embedding.");
  for (std::int64_t l = 0; l < size.layers; ++l) {
    const std::string layer = std::to_string(l) + ".";
    for (const char* which : {"q", "k", "v", "o"}) {
      const std::string name = layer + "attention." + which;
      matrix(name + ".weight", size.width, size.width).decays = true;
      parameters.add(name + ".bias", Tensor::zeros({size.width}, DType::f64, Device::cpu));
    }
    norm(layer + "norm1.");
    norm(layer + "norm2.");
  }
}

Var encoded(const Tokens& tokens, const EncoderSize& size, const Weights& w,
            const EncoderNetwork& network) {
  if (tokens.length > size.places) {
    fail("encoder", "a text has {} tokens, and there are {} places. Cut it.", tokens.length,
         size.places);
  }
  Var h = normed(embedding(w.at("embedding.piece"), tokens.ids) +
                     embedding(w.at("embedding.place"), tokens.places),
                 w, "embedding.");
  for (std::int64_t l = 0; l < size.layers; ++l) {
    const std::string layer = std::to_string(l) + ".";
    const auto heads = [&](const char* which) {
      const Var x = projected(h, w, layer + "attention." + which + ".");
      return split_heads(x, x.size(0), size.heads);
    };
    const Var seen = join_heads(
        packed_attention(heads("q"), heads("k"), heads("v"), tokens.lengths), size.heads);
    h = normed(h + projected(seen, w, layer + "attention.o."), w, layer + "norm1.");
    h = normed(h + network(l, h), w, layer + "norm2.");
  }
  return h;
}

Var sentence_embedding(const Tokens& tokens, Var h) {
  // The mean is the sum, but for its length.
  const Var sums = scatter_add_rows(h, tokens.text_of, tokens.texts);
  return sums / norm(sums, 1, true);
}

}  // namespace moegrad
