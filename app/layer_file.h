#pragma once

#include <map>
#include <string>

#include "autograd/parameters.h"
#include "tensor/safetensors.h"

namespace moegrad {

// What `moegrad layer` reads: the tensors of one file, and whether they form a layer.

// Each letter of the shapes stands for one size: found where it is met first, equal ever after.
class Sizes {
 public:
  explicit Sizes(const std::string& file) : file_(file) {}

  // An Error where the tensor of this name has not its shape.
  void require(const std::string& name, const Tensor& tensor);
  std::int64_t operator[](const std::string& letter) const { return sizes_.at(letter); }
  void set(const std::string& letter, std::int64_t size) { sizes_[letter] = size; }

 private:
  const std::string& file_;
  std::map<std::string, std::int64_t> sizes_;
};

// The tensors of a file, in which `mask` (where it is named) is called "mask" from here on. Errors:
// no x, dy, experts.w1 or experts.w2; x that is not floating; a mask that is another tensor too.
TensorFile read_layer_file(const std::string& path, const std::string& mask);

// Each tensor of the file belongs to the layer, has its shape, and holds finite numbers of the type
// of x; each parameter that is no bias is in the file. Else an Error.
void check_tensors(const std::string& path, const TensorFile& file, const Parameters& declared,
                   Sizes& sizes);

// `selected` i32 [N, k] names experts that are there, and each once for a token unless `repeats`.
void check_selected(const std::string& file, const Tensor& selected, std::int64_t experts,
                    bool repeats);
// From the expert j of each token, `unadjusted` i32 [N], to its place among the selected.
Tensor places(const std::string& file, const Tensor& unadjusted, const Tensor& selected);

}  // namespace moegrad
