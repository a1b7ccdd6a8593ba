// Padding in `moegrad layer`.

#include "tests/app/layer_program.h"

using moegrad::Device;
using moegrad::DType;
using moegrad::read_safetensors;
using moegrad::Shape;
using moegrad::Tensor;
using moegrad::TensorFile;
using moegrad::test::kD;
using moegrad::test::kE;
using moegrad::test::kN;
using moegrad::test::kO;
using moegrad::test::LayerProgram;
using moegrad::test::numbers;
using moegrad::test::Outcome;
using moegrad::test::random;

namespace {

// Rows of `t` [N, ...] at 1, 2, 4, 6, 7 of eight, `fill` in the others.
Tensor spread(const Tensor& t, double fill) {
  constexpr std::int64_t kRows[] = {1, 2, 4, 6, 7};
  const std::int64_t each = t.numel() / kN;
  Tensor out = Tensor::full(each == 1 ? Shape{8} : Shape{8, each}, fill, t.dtype(), Device::cpu);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const std::int64_t at = kRows[i / each] * each + i % each;
    if (t.dtype() == DType::i32) {
      out.write<std::int32_t>()[at] = t.data<std::int32_t>()[i];
    } else {
      out.write<double>()[at] = t.at(i);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("a mask: what is padding counts nowhere") {
  LayerProgram layer;
  const Tensor mask = Tensor::of<std::int32_t>({8}, {0, 1, 1, 0, 1, 0, 1, 1});
  TensorFile alone = numbers();
  TensorFile f = alone;
  f.tensors["x"] = spread(alone.at("x"), 1e30);
  f.tensors["dy"] = spread(alone.at("dy"), 1e30);
  f.tensors["mask"] = mask;
  const std::vector<std::vector<std::string>> systems = {
      {"--active", "2", "--option", "aux=0.5"},
      {"--active", "2", "--estimator", "expert-group", "--eval"},
      {"--active", "2", "--router", "loss-free"},
      {"--active", "2", "--router", "expert-choice"},
      {"--active", "1", "--router", "switch", "--option", "capacity-min=1"},
      {"--active", "1", "--router", "categorical", "--estimator", "reinforce", "--option",
       "samples=2", "--option", "baseline=leave-one-out"}};
  for (const std::vector<std::string>& flags : systems) {
    CAPTURE(flags[3]);
    REQUIRE(layer(alone, flags).code == 0);
    const TensorFile expected = read_safetensors(layer.out);
    const Outcome outcome = layer(f, flags);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(outcome.out.find(", 5 tokens and 3 of padding, ") != std::string::npos);
    const TensorFile out = read_safetensors(layer.out);
    for (const auto& [name, tensor] : expected.tensors) {
      const std::string label = name;
      CAPTURE(label);
      const bool by_copy = tensor.rank() > 0 && tensor.size(0) == 2 * kN;
      const bool by_token = tensor.rank() > 0 && tensor.size(0) == kN;
      if (by_copy) continue;
      CHECK(out.at(name).same_bits(
          by_token ? spread(tensor, name == "selected" ? -1.0 : 0.0).reshape(out.at(name).shape())
                   : tensor));
    }
  }
  // The routing of soft-moe is of its slots.
  TensorFile slots = alone;
  slots.tensors.erase("router.weight");
  slots.tensors.erase("router.bias");
  slots.tensors["router.slots"] = random({kD, kE}, 20);
  slots.tensors["router.scale"] = Tensor::of<double>({1}, {1.0});
  TensorFile spread_slots = slots;
  for (const char* name : {"x", "dy", "mask"}) spread_slots.tensors[name] = f.at(name);
  const std::vector<std::string> soft = {"--router", "soft-moe", "--active", "1", "--sequence"};
  const auto of_length = [&](const char* length) {
    std::vector<std::string> flags = soft;
    flags.emplace_back(length);
    return flags;
  };
  REQUIRE(layer(slots, of_length("5")).code == 0);
  const TensorFile dense = read_safetensors(layer.out);
  REQUIRE(layer(spread_slots, of_length("8")).code == 0);
  const TensorFile sparse = read_safetensors(layer.out);
  CHECK(sparse.at("y").same_bits(spread(dense.at("y"), 0.0)));
  for (const char* name : {"selected", "scores", "grad.router.slots"}) {
    CHECK(sparse.at(name).same_bits(dense.at(name)));
  }
  // Given decisions: those of the tokens are used.
  alone.tensors["selected"] = Tensor::of<std::int32_t>({kN, 2}, {0, 1, 1, 2, 3, 2, 0, 3, 2, 0});
  alone.tensors["unadjusted"] = Tensor::of<std::int32_t>({kN}, {1, 1, 2, 0, 0});
  for (const char* name : {"selected", "unadjusted"}) {
    f.tensors[name] = spread(alone.at(name), 99.0);
  }
  const std::vector<std::string> moesart = {"--router", "moesart", "--active", "2"};
  REQUIRE(layer(alone, moesart).code == 0);
  const TensorFile expected = read_safetensors(layer.out);
  REQUIRE(layer(f, moesart).code == 0);
  const TensorFile out = read_safetensors(layer.out);
  CHECK(out.at("y").same_bits(spread(expected.at("y"), 0.0)));
  CHECK(out.at("selected").same_bits(spread(alone.at("selected"), -1.0)));
  CHECK(out.at("grad.router.weight").same_bits(expected.at("grad.router.weight")));
}

TEST_CASE("a mask by another name, and what is none") {
  LayerProgram layer;
  TensorFile f = numbers();
  const std::vector<std::string> flags = {"--active", "2", "--json"};
  const std::vector<std::string> named = {"--active", "2", "--json", "--mask", "attention_mask"};
  CHECK(layer.refused(f, named).starts_with("moegrad: [safetensors]"));
  f.tensors["attention_mask"] = Tensor::of<std::int32_t>({kN}, {1, 0, 1, 1, 0});
  CHECK(layer.refused(f, flags).find("'attention_mask' is no tensor of this layer") !=
        std::string::npos);
  const Outcome outcome = layer(f, named);
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(outcome.out.find("\"padding\": 2") != std::string::npos);
  CHECK(outcome.out.find("\"tokens\": 3") != std::string::npos);
  const TensorFile out = read_safetensors(layer.out);
  for (const std::int64_t row : {1, 4}) {
    for (std::int64_t i = 0; i < kD; ++i) CHECK(out.at("grad.x").at(row * kD + i) == 0.0);
    for (std::int64_t i = 0; i < kO; ++i) CHECK(out.at("y").at(row * kO + i) == 0.0);
  }
  f.tensors["mask"] = f.at("attention_mask");
  CHECK(layer.refused(f, named) ==
        "moegrad: [layer] FILE: --mask names 'attention_mask', and there is a tensor 'mask' too. "
        "Leave one out.\n");
  f.tensors.erase("attention_mask");
  CHECK(layer.refused(numbers(), {"--active", "2", "--mask", "x"}) ==
        "moegrad: [layer] FILE: --mask names 'x', which is [N, D] itself. Name the mask, i32 "
        "[N].\n");
  const auto with = [&](const Tensor& mask) {
    f.tensors["mask"] = mask;
    return layer.refused(f, {"--active", "2"});
  };
  CHECK(with(Tensor::zeros({kN}, DType::i32, Device::cpu)) ==
        "moegrad: [mask] all 5 rows are padding. Give at least one token.\n");
  CHECK(with(Tensor::of<std::int32_t>({kN}, {1, 1, 3, 1, 1})) ==
        "moegrad: [mask] row 2 has the mask 3. Use 1 for a token, 0 for padding.\n");
  CHECK(with(Tensor::full({kN}, 1.0, DType::f64, Device::cpu)) ==
        "moegrad: [mask] the mask is f64 [5] for 5 rows. It must be i32 [5], 1 for a token, 0 for "
        "padding.\n");
  CHECK(with(Tensor::full({4}, 1.0, DType::i32, Device::cpu))
            .starts_with("moegrad: [layer] FILE: 'mask' is [4] and should be [N]"));
}
