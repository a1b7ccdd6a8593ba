#include "app/layer_file.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "moe/options.h"

namespace moegrad {
namespace {

// The tensors of a layer's file that its sizes are read from, with their shapes in words.
const std::map<std::string, std::string> kShapes = {
    {"x", "[N, D]"},        {"dy", "[N, Dout]"},        {"experts.w1", "[E, D, H]"},
    {"selected", "[N, k]"}, {"unadjusted", "[N]"},      {"experts.w2", "[E, H, Dout]"},
    {"ids", "[N]"},         {"attention", "[B, L, L]"}, {"mask", "[N]"}};

bool is_whole(const std::string& name) {
  return name == "selected" || name == "unadjusted" || name == "ids" || name == "mask";
}

void require_numbers(const std::string& file, const std::string& name, const Tensor& tensor,
                     DType dtype) {
  if (tensor.dtype() != dtype) {
    fail("layer", "{}: '{}' is {} and 'x' is {}. Give all floating tensors in one precision.", file,
         name, name_of(tensor.dtype()), name_of(dtype));
  }
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    if (!std::isfinite(tensor.at(i))) {
      fail("layer", "{}: '{}' holds {} at element {}. Give finite numbers.", file, name,
           tensor.at(i), i);
    }
  }
}

}  // namespace

void Sizes::require(const std::string& name, const Tensor& tensor) {
  const std::string& pattern = kShapes.at(name);
  std::vector<std::string> letters;
  std::string letter;
  for (const char c : pattern.substr(1)) {
    if (c == ',' || c == ']') {
      letters.push_back(std::exchange(letter, ""));
    } else if (c != ' ') {
      letter += c;
    }
  }
  bool ok = static_cast<std::size_t>(tensor.rank()) == letters.size();
  for (std::size_t axis = 0; ok && axis < letters.size(); ++axis) {
    const std::int64_t size = tensor.size(static_cast<int>(axis));
    ok = sizes_.try_emplace(letters[axis], size).first->second == size;
  }
  if (ok) return;
  std::string known;
  for (const auto& [key, size] : sizes_) known += fmt::format(", {} = {}", key, size);
  fail("layer", "{}: '{}' is {} and should be {}{}. Make the shapes agree.", file_, name,
       tensor.shape(), pattern, known);
}

TensorFile read_layer_file(const std::string& path, const std::string& mask) {
  TensorFile file = read_safetensors(path);
  if (!mask.empty()) file.at(mask);
  if (!mask.empty() && mask != "mask") {
    if (file.find("mask") != nullptr) {
      fail("layer", "{}: --mask names '{}', and there is a tensor 'mask' too. Leave one out.", path,
           mask);
    }
    if (kShapes.contains(mask)) {
      fail("layer", "{}: --mask names '{}', which is {} itself. Name the mask, i32 [N].", path,
           mask, kShapes.at(mask));
    }
    auto node = file.tensors.extract(mask);
    node.key() = "mask";
    file.tensors.insert(std::move(node));
  }
  for (const char* name : {"x", "dy", "experts.w1", "experts.w2"}) file.at(name);
  if (!is_floating(file.at("x").dtype())) {
    fail("layer", "{}: 'x' is {}. Give F32 or F64.", path, name_of(file.at("x").dtype()));
  }
  return file;
}

void check_tensors(const std::string& path, const TensorFile& file, const Parameters& declared,
                   Sizes& sizes) {
  std::vector<std::string> names;
  for (const auto& [name, shape] : kShapes) names.push_back(name);
  for (const Parameter& p : declared) {
    names.push_back(p.name);
    const Tensor* there = file.find(p.name);
    const bool optional = !p.trained || p.name == "router.bias" ||
                          p.name.starts_with("experts.b") || p.name.starts_with("shared.b");
    if (there == nullptr) {
      if (!optional) file.at(p.name);
    } else if (!(there->shape() == p.value.shape())) {
      fail("layer", "{}: '{}' is {} and should be {}. Make the shapes agree.", path, p.name,
           there->shape(), p.value.shape());
    }
  }
  for (const auto& [name, tensor] : file.tensors) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      fail("layer", "{}: '{}' is no tensor of this layer. Did you mean '{}'?", path, name,
           nearest(name, names));
    }
    if (kShapes.contains(name)) sizes.require(name, tensor);
  }
  const DType dtype = file.at("x").dtype();
  for (const auto& [name, tensor] : file.tensors) {
    if (!is_whole(name)) require_numbers(path, name, tensor, dtype);
  }
}

void check_selected(const std::string& file, const Tensor& selected, std::int64_t experts,
                    bool repeats) {
  const std::int64_t k = selected.size(1);
  for (std::int64_t t = 0; t < selected.size(0); ++t) {
    std::set<std::int32_t> seen;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int32_t e = selected.data<std::int32_t>()[t * k + j];
      if (e < 0 || e >= experts) {
        fail("layer", "{}: 'selected' names expert {} for token {}. Use 0 to {}.", file, e, t,
             experts - 1);
      }
      if (!seen.insert(e).second && !repeats) {
        fail("layer", "{}: 'selected' names expert {} twice for token {}. Name each once.", file, e,
             t);
      }
    }
  }
}

Tensor places(const std::string& file, const Tensor& unadjusted, const Tensor& selected) {
  if (!selected.defined()) {
    fail("layer", "{}: 'unadjusted' is given without 'selected'. Give both or neither.", file);
  }
  Tensor out = Tensor::empty(unadjusted.shape(), DType::i32, Device::cpu);
  const std::int64_t k = selected.size(1);
  for (std::int64_t t = 0; t < out.numel(); ++t) {
    const std::int32_t wanted = unadjusted.data<std::int32_t>()[t];
    std::int32_t place = -1;
    for (std::int64_t j = k; j-- > 0;) {
      if (selected.data<std::int32_t>()[t * k + j] == wanted) place = static_cast<std::int32_t>(j);
    }
    if (place < 0) {
      fail("layer",
           "{}: 'unadjusted' names expert {} for token {}, which is not among its "
           "selected. Name one of them.",
           file, wanted, t);
    }
    out.write<std::int32_t>()[t] = place;
  }
  return out;
}

}  // namespace moegrad
