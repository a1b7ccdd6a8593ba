#include "train/teacher.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "ops/ops.h"
#include "tensor/folders.h"
#include "tensor/safetensors.h"
#include "train/modules.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTeacherHeadWidth = 32;  // of MiniLM-L6: 12 heads; its file does not say
constexpr std::int64_t kTeacherTexts = 64;      // in a pass

// A tensor of the file; an Error for another rank than `shape` has, or another size where that is
// not 0.
Tensor read_tensor(const TensorFile& file, const std::string& name, const Shape& shape) {
  const Tensor& t = file.at(name);
  bool fits = t.rank() == shape.rank() && is_floating(t.dtype());
  for (int i = 0; fits && i < t.rank(); ++i) fits = shape[i] == 0 || shape[i] == t.size(i);
  if (!fits) {
    fail("teacher", "{}: '{}' is {} {}, and {} was expected. Run scripts/data teacher again.",
         file.path.string(), name, name_of(t.dtype()), t.shape(), shape);
  }
  return t;
}

// x [R, C] as [C, R]: a file has the matrices of linear maps by outputs.
Tensor transposed_matrix(const Tensor& x) {
  Tensor out = x.like({x.size(1), x.size(0)});
  with_floating(x.dtype(), "teacher", [&]<class T>(T) {
    for (std::int64_t r = 0; r < x.size(0); ++r) {
      for (std::int64_t c = 0; c < x.size(1); ++c) {
        out.write<T>()[c * x.size(0) + r] = x.data<T>()[r * x.size(1) + c];
      }
    }
  });
  return out;
}

// All texts have type 0 of the two: its row belongs to every place.
Tensor with_type(const Tensor& places, const Tensor& types) {
  Tensor out = places.to(DType::f64).clone();
  const Tensor type = types.to(DType::f64);
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    out.write<double>()[i] += type.data<double>()[i % type.size(1)];
  }
  return out;
}

}  // namespace

std::filesystem::path teacher_folder(const std::filesystem::path& data) {
  const std::filesystem::path folder = data / "teacher";
  for (const char* name : {"model.safetensors", "tokenizer.json"}) {
    if (!path_exists(folder / name)) {
      fail("teacher", "'{}' is missing. Run scripts/data teacher.", (folder / name).string());
    }
  }
  return folder;
}

Teacher::Teacher(const std::filesystem::path& data, DType dtype)
    : pieces_(teacher_folder(data) / "tokenizer.json") {
  const TensorFile file = read_safetensors(teacher_folder(data) / "model.safetensors");
  const Tensor table = read_tensor(file, "embeddings.word_embeddings.weight", {pieces_.size(), 0});
  const std::int64_t width = table.size(1);
  const auto add = [&](const std::string& name, const Tensor& value) {
    parameters_.add(name, value.to(dtype), false);
  };
  const auto add_norm = [&](const std::string& name, const std::string& there) {
    add(name + "scale", read_tensor(file, there + ".weight", {width}));
    add(name + "shift", read_tensor(file, there + ".bias", {width}));
  };
  const auto add_linear = [&](const std::string& name, const std::string& there, std::int64_t in,
                              std::int64_t out) {
    const Tensor weight = transposed_matrix(read_tensor(file, there + ".weight", {out, in}));
    add(name + ".weight", weight);
    add(name + ".bias", read_tensor(file, there + ".bias", {weight.size(1)}));
  };
  const Tensor places = read_tensor(file, "embeddings.position_embeddings.weight", {0, width});
  add("embedding.piece", table);
  add("embedding.place",
      with_type(places, read_tensor(file, "embeddings.token_type_embeddings.weight", {0, width})));
  add_norm("embedding.", "embeddings.LayerNorm");
  size_ = {.pieces = table.size(0),
           .places = places.size(0),
           .width = width,
           .heads = width / kTeacherHeadWidth};
  const auto there = [](std::int64_t l) { return "encoder.layer." + std::to_string(l) + "."; };
  while (file.find(there(size_.layers) + "output.dense.weight") != nullptr) {
    const std::string from = there(size_.layers);
    const std::string to = std::to_string(size_.layers) + ".";
    add_linear(to + "attention.q", from + "attention.self.query", width, width);
    add_linear(to + "attention.k", from + "attention.self.key", width, width);
    add_linear(to + "attention.v", from + "attention.self.value", width, width);
    add_linear(to + "attention.o", from + "attention.output.dense", width, width);
    add_norm(to + "norm1.", from + "attention.output.LayerNorm");
    add_linear(to + "dense.w1", from + "intermediate.dense", width, 0);
    add_linear(to + "dense.w2", from + "output.dense",
               parameters_.find(to + "dense.w1.bias")->value.numel(), width);
    add_norm(to + "norm2.", from + "output.LayerNorm");
    ++size_.layers;
  }
  if (size_.layers == 0 || size_.width % kTeacherHeadWidth != 0) {
    fail("teacher", "{}: {} layers of width {}. Run scripts/data teacher again.",
         file.path.string(), size_.layers, size_.width);
  }
}

Tensor Teacher::ids(std::span<const std::string_view> texts, std::int64_t most) const {
  Tensor all = Tensor::zeros({std::ssize(texts), most}, DType::i32, Device::cpu);
  std::int32_t* row = all.write<std::int32_t>();
  for (const std::string_view text : texts) {
    std::ranges::copy(pieces_.ids(text, static_cast<std::size_t>(most)), row);
    row += most;
  }
  return all;
}

Var Teacher::forward(Tape& tape, const Tensor& ids) const {
  const Weights w = moegrad::bind(tape, parameters_, "");
  const Tokens tokens(ids);
  const Var h = encoded(tokens, size_, w, [&](std::int64_t l, Var x) {
    const std::string dense = std::to_string(l) + ".dense.";
    const Var hidden = gelu(matmul(x, w.at(dense + "w1.weight")) + w.at(dense + "w1.bias"));
    return matmul(hidden, w.at(dense + "w2.weight")) + w.at(dense + "w2.bias");
  });
  return sentence_embedding(tokens, h);
}

Tensor Teacher::embeddings(const Tensor& ids) const {
  const std::int64_t width = ids.size(1);
  const auto text = [&](std::int64_t i) { return ids.data<std::int32_t>() + i * width; };
  std::vector<std::int64_t> order(static_cast<std::size_t>(ids.size(0)));
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::int64_t> lengths;
  for (const std::int64_t i : order) {
    lengths.push_back(std::find(text(i), text(i) + width, 0) - text(i));
  }
  std::ranges::stable_sort(order, {},
                           [&](std::int64_t i) { return lengths[static_cast<std::size_t>(i)]; });
  const DType dtype = parameters_.begin()->value.dtype();
  Tensor all = Tensor::empty({ids.size(0), size_.width}, dtype, Device::cpu);
  const std::size_t row_bytes = static_cast<std::size_t>(size_.width) * size_of(dtype);
  for (std::int64_t begin = 0; begin < ids.size(0); begin += kTeacherTexts) {
    const std::int64_t count = std::min(kTeacherTexts, ids.size(0) - begin);
    const Tensor batch = ids.like({count, width});
    const auto place = [&](std::int64_t i) { return order[static_cast<std::size_t>(begin + i)]; };
    for (std::int64_t i = 0; i < count; ++i) {
      std::copy_n(text(place(i)), width, batch.write<std::int32_t>() + i * width);
    }
    Tape tape(Tape::Options{.gradients = false});
    const Tensor rows = forward(tape, batch).value();
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(all.write_raw() + static_cast<std::size_t>(place(i)) * row_bytes,
                  rows.raw() + static_cast<std::size_t>(i) * row_bytes, row_bytes);
    }
  }
  return all;
}

}  // namespace moegrad
