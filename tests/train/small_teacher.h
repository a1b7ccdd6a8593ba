// A teacher of a few numbers, and sentences, as scripts/data would put them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tensor/files.h"
#include "tensor/rng.h"
#include "tensor/safetensors.h"
#include "tests/temporary_files.h"

namespace moegrad::test {

// Two layers of width 32, with 8 hidden units; 16 places; 12 pieces.
class SmallTeacher {
 public:
  static constexpr std::int64_t kWidth = 32;
  static constexpr std::int64_t kHidden = 8;
  static constexpr std::int64_t kLayers = 2;

  SmallTeacher() {
    std::filesystem::create_directory(data() / "teacher");
    std::filesystem::create_directory(data() / "sentiment");
    write_file_atomic(
        data() / "teacher" / "tokenizer.json",
        R"({"normalizer":{"type":"BertNormalizer","lowercase":true},"model":{"type":"WordPiece",)"
        R"("continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[PAD]":0,)"
        R"("[UNK]":1,"[CLS]":2,"[SEP]":3,"good":4,"bad":5,"so":6,"film":7,".":8,"a":9,"b":10,"c":11}}})");
    write_model();
    // Twelve sentences: two documents of three, six alone, one of them said before.
    sentences("film", "1\t2.5\tGood film.\n2\t-3\tBad film.\n3\t0.1\tA film.\n");
    sentences("editorial",
              "1_1\t3\tSo good.\n1_2\t-0.5\tSo.\n1_3\t0.5\tA b c.\n"
              "2_1\t-2\tSo bad.\n2_2\t1\tGood.\n2_3\t-1\tBad.\n");
    sentences("product", "1_1\t-4\tBad bad bad bad bad bad bad.\r\n");
    sentences("tweets", "1\t4\tGood good good.\n2\t2.5\tGood film.\n");
  }

  const std::filesystem::path& data() const { return folder_.path(); }
  void sentences(const std::string& domain, const std::string& lines) const {
    write_file_atomic(data() / "sentiment" / (domain + ".txt"), lines);
  }
  // The file of the model, without the tensors of this name.
  void write_model(const std::string& without = "none") const {
    TensorFile file;
    const auto add = [&](const std::string& name, const Shape& shape, double deviation = 0.3) {
      if (name.find(without) != std::string::npos) return;
      file.tensors[name] = Rng{5, 0, 0}.named(name).normal(shape, DType::f32, 0.0, deviation);
    };
    const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
      add(name + ".weight", {out, in});
      add(name + ".bias", {out});
    };
    const auto norm = [&](const std::string& name) {
      add(name + ".weight", {kWidth}, 1.0);
      add(name + ".bias", {kWidth});
    };
    add("embeddings.word_embeddings.weight", {12, kWidth}, 1.0);
    add("embeddings.position_embeddings.weight", {16, kWidth});
    add("embeddings.token_type_embeddings.weight", {2, kWidth});
    norm("embeddings.LayerNorm");
    for (std::int64_t l = 0; l < kLayers; ++l) {
      const std::string layer = "encoder.layer." + std::to_string(l) + ".";
      for (const char* which : {"self.query", "self.key", "self.value", "output.dense"}) {
        linear(layer + "attention." + which, kWidth, kWidth);
      }
      norm(layer + "attention.output.LayerNorm");
      linear(layer + "intermediate.dense", kWidth, kHidden);
      linear(layer + "output.dense", kHidden, kWidth);
      norm(layer + "output.LayerNorm");
    }
    write_safetensors(data() / "teacher" / "model.safetensors", file);
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace moegrad::test
