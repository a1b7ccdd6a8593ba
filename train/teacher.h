#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "autograd/parameters.h"
#include "train/encoder.h"
#include "train/word_pieces.h"

namespace moegrad {

// all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; trained on sentence pairs), a BERT whose mean
// over the tokens of a text, of length 1, is near that of texts of like meaning. Its parameters have
// the names of train/encoder.h, and l.dense.{w1,w2}.{weight,bias} of the networks.
class Teacher {
 public:
  // From data/teacher/{model.safetensors,tokenizer.json}. Errors: files that are missing, or not of
  // a model of this kind.
  Teacher(const std::filesystem::path& data, DType dtype);

  // i32 [B, W]: the ids of texts, W of each at most, zeros behind the end.
  Tensor ids(std::span<const std::string_view> texts, std::int64_t most) const;
  // [B, D]: of ids [B, W], in batches of texts of like length.
  Tensor embeddings(const Tensor& ids) const;

  const EncoderSize& size() const { return size_; }
  const Parameters& parameters() const { return parameters_; }

 private:
  Var forward(Tape& tape, const Tensor& ids) const;

  WordPieces pieces_;
  EncoderSize size_;
  Parameters parameters_;
};

// The folder, and an Error that names the first of the files that is not there.
std::filesystem::path teacher_folder(const std::filesystem::path& data);

}  // namespace moegrad
