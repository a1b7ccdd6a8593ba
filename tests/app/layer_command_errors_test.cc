// What `moegrad layer` refuses.

#include <functional>

#include "tests/app/layer_program.h"

using moegrad::Device;
using moegrad::DType;
using moegrad::Tensor;
using moegrad::TensorFile;
using moegrad::write_safetensors;
using moegrad::test::kD;
using moegrad::test::kN;
using moegrad::test::kO;
using moegrad::test::LayerProgram;
using moegrad::test::numbers;
using moegrad::test::Outcome;
using moegrad::test::random;
using moegrad::test::run;

TEST_CASE("files that are named twice, in a folder that is not there, of a name that is no text") {
  LayerProgram layer;
  const TensorFile file = numbers();
  write_safetensors(layer.in, file);
  const std::string before = moegrad::read_file(layer.in);
  const std::filesystem::path link = layer.folder / "link";
  std::filesystem::create_symlink("in.safetensors", link);
  const auto named_twice = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"layer", "--in", layer.in, "--out", out, "--active", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome o = run(layer.folder, arguments);
    CHECK(o.code == 2);
    CHECK(o.err.starts_with("moegrad: [layer] '"));
    CHECK(o.err.ends_with(", which this command reads or writes. Give another file.\n"));
    CHECK(moegrad::read_file(layer.in) == before);
  };
  named_twice(layer.in, {});
  named_twice(link, {});
  named_twice(layer.out, {"--json", link});
  named_twice(layer.out, {"--json", layer.folder / "./out.safetensors"});
  std::filesystem::create_symlink("new", layer.folder / "dangling");
  named_twice(layer.folder / "new", {"--json", layer.folder / "dangling"});
  const std::filesystem::path deep = layer.folder / "new/folder/out";
  CHECK(run(layer.folder, {"layer", "--in", layer.in, "--out", deep, "--active", "2"}).err ==
        "moegrad: [write] cannot write '" + deep.string() +
            "': No such file or directory. Create its folder first; nothing was changed.\n");
  // A name that is no text, in JSON all the same.
  const Outcome o = run(layer.folder, {"layer", "--in", layer.in, "--out", layer.folder / "\xff",
                                       "--active", "2", "--json"});
  CHECK(o.code == 0);
  CHECK(o.out.find("\"loss\"") != std::string::npos);
}

TEST_CASE("what it refuses") {
  LayerProgram layer;
  const auto changed = [](const std::function<void(TensorFile&)>& change) {
    TensorFile file = numbers();
    change(file);
    return file;
  };
  const std::vector<std::string> top2 = {"--active", "2"};
  const auto refused = [&](const std::function<void(TensorFile&)>& change,
                           const std::vector<std::string>& flags) {
    return layer.refused(changed(change), flags);
  };
  CHECK(
      refused(
          [](TensorFile& f) {
            f.tensors["dy"] = random({kN, 3}, 9);
          },
          top2) ==
      "moegrad: [layer] FILE: 'dy' is [5, 3] and should be [N, Dout], D = 3, Dout = 2, E = 4, H = "
      "6, N = 5. Make the shapes agree.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["experts.b2"] = random({4, 5}, 9);
            },
            top2) ==
        "moegrad: [layer] FILE: 'experts.b2' is [4, 5] and should be [4, 2]. Make the shapes "
        "agree.\n");
  CHECK(refused([](TensorFile& f) { f.tensors["expert.w1"] = random({1}, 9); }, top2) ==
        "moegrad: [layer] FILE: 'expert.w1' is no tensor of this layer. Did you mean "
        "'experts.w1'?\n");
  CHECK(refused([](TensorFile& f) { f.tensors["dy"] = f.tensors["dy"].to(DType::f32); }, top2) ==
        "moegrad: [layer] FILE: 'dy' is f32 and 'x' is f64. Give all floating tensors in one "
        "precision.\n");
  CHECK(refused([](TensorFile& f) { f.tensors["x"].write<double>()[4] = std::nan(""); }, top2) ==
        "moegrad: [layer] FILE: 'x' holds nan at element 4. Give finite numbers.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["x"] = Tensor::zeros({kN, kD}, DType::i32, Device::cpu);
            },
            top2) == "moegrad: [layer] FILE: 'x' is i32. Give F32 or F64.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["x"] = Tensor::zeros({0, kD}, DType::f64, Device::cpu);
              f.tensors["dy"] = Tensor::zeros({0, kO}, DType::f64, Device::cpu);
            },
            top2) == "moegrad: [layer] the batch has 0 tokens. Give at least one.\n");
  const auto same = [](TensorFile&) {};
  CHECK(refused(same, {"--active", "0"}) ==
        "moegrad: [layer] k is 0 with 4 experts. Use 1 <= k <= 4.\n");
  CHECK(refused(same, {"--active", "5"}) ==
        "moegrad: [layer] k is 5 with 4 experts. Use 1 <= k <= 4.\n");
  CHECK(refused(same, {"--active", "2", "--router", "topk"}) ==
        "moegrad: [router] no router 'topk'. Did you mean 'top-k'?\n");
  CHECK(refused(same, {"--active", "2", "--option", "renormalise"}) ==
        "moegrad: [layer] --option is 'renormalise'. Give --option name=value.\n");
  CHECK(refused(same, {"--active", "2", "--train", "--eval"}) ==
        "moegrad: [layer] --train and --eval are both given. Give one.\n");
  CHECK(refused(same, {"--active", "2", "--dropless"}) ==
        "moegrad: [layer] --dropless is for inference. Add --eval.\n");
  CHECK(refused(same, {"--active", "2", "--activation", "swiglu"}) ==
        "moegrad: [safetensors] FILE: no tensor 'experts.w3' among 7. The nearest is "
        "'experts.w1'.\n");
  const auto with_selected = [&](std::vector<std::int32_t> ids) {
    return [ids](TensorFile& f) { f.tensors["selected"] = Tensor::of<std::int32_t>({kN, 2}, ids); };
  };
  CHECK(refused(with_selected({0, 1, 0, 1, 0, 4, 0, 1, 0, 1}), top2) ==
        "moegrad: [layer] FILE: 'selected' names expert 4 for token 2. Use 0 to 3.\n");
  CHECK(refused(with_selected({0, 1, 2, 2, 0, 1, 0, 1, 0, 1}), top2) ==
        "moegrad: [layer] FILE: 'selected' names expert 2 twice for token 1. Name each once.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["unadjusted"] = Tensor::zeros({kN}, DType::i32, Device::cpu);
            },
            top2) ==
        "moegrad: [layer] FILE: 'unadjusted' is a decision of moesart in training only. Leave it "
        "out.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["unadjusted"] = Tensor::zeros({kN}, DType::i32, Device::cpu);
            },
            {"--active", "2", "--router", "moesart"}) ==
        "moegrad: [layer] FILE: 'unadjusted' is given without 'selected'. Give both or neither.\n");
  CHECK(refused(
            [&](TensorFile& f) {
              with_selected({0, 1, 0, 1, 0, 1, 0, 1, 0, 1})(f);
              f.tensors["unadjusted"] = Tensor::of<std::int32_t>({kN}, {0, 1, 3, 0, 0});
            },
            {"--active", "2", "--router", "moesart"}) ==
        "moegrad: [layer] FILE: 'unadjusted' names expert 3 for token 2, which is not among its "
        "selected. Name one of them.\n");
  CHECK(refused(with_selected({0, 1, 0, 1, 0, 1, 0, 1, 0, 1}),
                {"--router", "softmax", "--active", "2"}) ==
        "moegrad: [layer] FILE: router softmax selects experts by itself. Leave 'selected' out.\n");
}

TEST_CASE("nothing is written where a number is not finite") {
  LayerProgram layer;
  TensorFile f = numbers();
  f.tensors["x"].write<double>()[0] = 1e300;
  f.tensors["experts.w1"].write<double>()[0] = 1e300;
  CHECK(layer.refused(f, {"--active", "4"}).find(" holds ") != std::string::npos);
}

TEST_CASE("numbers on the command line: decimal, within their bounds, or refused") {
  LayerProgram layer;
  const TensorFile f = numbers();
  const auto message = [&](const std::string& flag, const std::string& value) {
    return layer.refused(f, {"--active=1", flag + "=" + value});
  };
  for (const char* value :
       {"2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616", "-1",
        "0", "abc", "1e3", "0x10", " 2", "+2", "2 "}) {
    CAPTURE(value);
    CHECK(message("--sequence", value) ==
          fmt::format("moegrad: [layer] --sequence is '{}'. Give a whole number from 1 to "
                      "2147483647.\n",
                      value));
  }
  CHECK(layer(f, {"--active", "010"}).err ==  // ten, not eight
        "moegrad: [layer] k is 10 with 4 experts. Use 1 <= k <= 4.\n");
  CHECK(message("--seed", "18446744073709551616").find("from 0 to 18446744073709551615") !=
        std::string::npos);
  CHECK(layer(f, {"--active", "2", "--seed", "18446744073709551615"}).code == 0);
  CHECK(message("--seed", "-1").find("[layer] --seed is '-1'") != std::string::npos);
}
