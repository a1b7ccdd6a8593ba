// `moegrad layer` against plain loops, and what it refuses.

#include "moe/layer.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "moe/registry.h"
#include "tensor/rng.h"
#include "tensor/safetensors.h"
#include "tests/app/program.h"

using moegrad::DType;
using moegrad::read_safetensors;
using moegrad::Rng;
using moegrad::Shape;
using moegrad::Tensor;
using moegrad::TensorFile;
using moegrad::write_safetensors;
using moegrad::test::Outcome;
using moegrad::test::run;
using moegrad::test::TemporaryFolder;

namespace {

constexpr std::int64_t kN = 5, kD = 3, kE = 4, kH = 6, kO = 2;

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{8, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

TensorFile numbers() {
  TensorFile file;
  file.tensors = {{"x", random({kN, kD}, 1)},
                  {"dy", random({kN, kO}, 2)},
                  {"router.weight", random({kD, kE}, 3)},
                  {"router.bias", random({kE}, 4)},
                  {"experts.w1", random({kE, kD, kH}, 5)},
                  {"experts.w2", random({kE, kH, kO}, 6)},
                  {"experts.b2", random({kE, kO}, 7)}};
  return file;
}

struct Layer {
  TemporaryFolder folder;
  std::string in = (folder / "in.safetensors").string();
  std::string out = (folder / "out.safetensors").string();

  Outcome operator()(const TensorFile& file, std::vector<std::string> more) {
    write_safetensors(in, file);
    std::vector<std::string> arguments = {"layer", "--in", in, "--out", out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(folder, arguments);
  }
  // The error, without the program's name and with FILE for the file's.
  std::string refused(const TensorFile& file, std::vector<std::string> more) {
    std::filesystem::remove(out);
    const Outcome outcome = (*this)(file, std::move(more));
    CHECK(outcome.code == 2);
    CHECK_FALSE(std::filesystem::exists(out));
    std::string text = outcome.err;
    if (const auto at = text.find(in); at != std::string::npos) text.replace(at, in.size(), "FILE");
    return text;
  }
};

// Top-k, not renormalised, relu experts: value and router gradient, one token and expert at a time.
struct Plain {
  std::vector<double> y, dweight;
};
Plain plain(const TensorFile& f, std::int64_t k) {
  const auto get = [&](const char* name, std::int64_t i) { return f.at(name).at(i); };
  Plain result{std::vector<double>(kN * kO, 0.0), std::vector<double>(kD * kE, 0.0)};
  for (std::int64_t t = 0; t < kN; ++t) {
    std::vector<double> p(kE);
    double sum = 0.0;
    for (std::int64_t e = 0; e < kE; ++e) {
      double o = get("router.bias", e);
      for (std::int64_t d = 0; d < kD; ++d) {
        o += get("x", t * kD + d) * get("router.weight", d * kE + e);
      }
      p[static_cast<std::size_t>(e)] = std::exp(o);
      sum += std::exp(o);
    }
    for (double& v : p) v /= sum;
    std::vector<double> cotangent(kE, 0.0);
    for (std::int64_t e = 0; e < kE; ++e) {
      int better = 0;
      for (const double v : p) better += v > p[static_cast<std::size_t>(e)] ? 1 : 0;
      if (better >= k) continue;
      for (std::int64_t o = 0; o < kO; ++o) {
        double out = get("experts.b2", e * kO + o);
        for (std::int64_t h = 0; h < kH; ++h) {
          double pre = 0.0;
          for (std::int64_t d = 0; d < kD; ++d) {
            pre += get("x", t * kD + d) * get("experts.w1", (e * kD + d) * kH + h);
          }
          out += std::fmax(pre, 0.0) * get("experts.w2", (e * kH + h) * kO + o);
        }
        result.y[static_cast<std::size_t>(t * kO + o)] += p[static_cast<std::size_t>(e)] * out;
        cotangent[static_cast<std::size_t>(e)] += out * get("dy", t * kO + o);
      }
    }
    double mean = 0.0;
    for (std::size_t e = 0; e < kE; ++e) mean += p[e] * cotangent[e];
    for (std::int64_t d = 0; d < kD; ++d) {
      for (std::size_t e = 0; e < kE; ++e) {
        result.dweight[static_cast<std::size_t>(d) * kE + e] +=
            get("x", t * kD + d) * p[e] * (cotangent[e] - mean);
      }
    }
  }
  return result;
}

}  // namespace

TEST_CASE("top-k, sparse: plain loops give the same") {
  Layer layer;
  const TensorFile in = numbers();
  for (const int k : {1, 2, 4}) {
    CAPTURE(k);
    REQUIRE(layer(in, {"--active", std::to_string(k)}).code == 0);
    const TensorFile out = read_safetensors(layer.out);
    const Plain expected = plain(in, k);
    for (std::int64_t i = 0; i < kN * kO; ++i) {
      CHECK(out.at("y").at(i) ==
            doctest::Approx(expected.y[static_cast<std::size_t>(i)]).epsilon(1e-13));
    }
    for (std::int64_t i = 0; i < kD * kE; ++i) {
      CHECK(out.at("grad.router.weight").at(i) ==
            doctest::Approx(expected.dweight[static_cast<std::size_t>(i)]).epsilon(1e-12));
    }
    CHECK(out.at("scores").shape() == Shape{kN, kE});
    CHECK(out.at("selected").shape() == Shape{kN, k});
    CHECK(out.at("weights").shape() == Shape{kN, k});
    for (const auto& [name, tensor] : in.tensors) {
      if (name != "dy") CHECK(out.at("grad." + name).shape() == tensor.shape());
    }
  }
}

TEST_CASE("f32 in, f32 out") {
  Layer layer;
  TensorFile in = numbers();
  REQUIRE(layer(in, {"--active", "2"}).code == 0);
  const TensorFile wide = read_safetensors(layer.out);
  for (auto& [name, tensor] : in.tensors) tensor = tensor.to(DType::f32);
  REQUIRE(layer(in, {"--active", "2"}).code == 0);
  const TensorFile narrow = read_safetensors(layer.out);
  for (const auto& [name, tensor] : wide.tensors) {
    const Tensor& other = narrow.at(name);
    CHECK(other.dtype() == (name == "selected" ? DType::i32 : DType::f32));
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      CHECK(other.at(i) == doctest::Approx(tensor.at(i)).epsilon(1e-4));
    }
  }
}

TEST_CASE("moesart: given decisions are used, and a seed decides the others") {
  Layer layer;
  TensorFile in = numbers();
  const std::vector<std::string> flags = {"--router", "moesart", "--active", "2"};
  REQUIRE(layer(in, flags).code == 0);
  const TensorFile first = read_safetensors(layer.out);
  REQUIRE(layer(in, flags).code == 0);
  CHECK(read_safetensors(layer.out).at("y").same_bits(first.at("y")));
  auto other = flags;
  other.insert(other.end(), {"--seed", "2"});
  REQUIRE(layer(in, other).code == 0);
  CHECK_FALSE(read_safetensors(layer.out).at("selected").same_bits(first.at("selected")));

  in.tensors["selected"] = Tensor::of<std::int32_t>({kN, 2}, {0, 1, 1, 2, 3, 2, 0, 3, 2, 0});
  in.tensors["unadjusted"] = Tensor::of<std::int32_t>({kN}, {1, 1, 2, 0, 0});
  REQUIRE(layer(in, flags).code == 0);
  const TensorFile out = read_safetensors(layer.out);
  CHECK(out.at("selected").same_bits(in.at("selected")));
  const int place[] = {1, 0, 1, 0, 1};
  for (std::int64_t t = 0; t < kN; ++t) {
    const double g = out.at("scores").at(t * kE + in.at("unadjusted").data<std::int32_t>()[t]);
    CHECK(out.at("weights").at(t * 2 + place[t]) == doctest::Approx(g / (1.0 + g)).epsilon(1e-12));
  }
}

TEST_CASE("auxiliary losses only when asked for") {
  Layer layer;
  REQUIRE(layer(numbers(), {"--active", "2"}).code == 0);
  const TensorFile plain_out = read_safetensors(layer.out);
  CHECK(plain_out.find("auxiliary") == nullptr);
  REQUIRE(
      layer(numbers(), {"--active", "2", "--option", "aux=0.5", "--option", "z-loss=0.1"}).code ==
      0);
  const TensorFile out = read_safetensors(layer.out);
  CHECK(out.find("auxiliary") != nullptr);
  CHECK(out.at("y").same_bits(plain_out.at("y")));
  CHECK_FALSE(out.at("grad.router.weight").same_bits(plain_out.at("grad.router.weight")));
}

TEST_CASE("ids, state, sequences and parameters of the router's own") {
  Layer layer;
  TensorFile f = numbers();
  f.tensors["router.balance"] = Tensor::of<double>({kE}, {5.0, 0.0, 0.0, 4.0});
  REQUIRE(layer(f, {"--router", "loss-free", "--active", "2"}).code == 0);
  const TensorFile balanced = read_safetensors(layer.out);
  for (std::int64_t i = 0; i < 2 * kN; ++i) {
    CHECK(balanced.at("selected").at(i) == (i % 2 == 0 ? 0.0 : 3.0));
  }
  CHECK(balanced.at("new.router.balance").at(0) == doctest::Approx(5.0 - 1e-3));
  CHECK(balanced.at("new.router.balance").at(1) == doctest::Approx(1e-3));
  CHECK(balanced.find("grad.router.balance") == nullptr);

  f = numbers();
  f.tensors.erase("router.weight");
  f.tensors.erase("router.bias");
  const std::vector<std::string> hash = {"--router", "hash", "--active", "1"};
  CHECK(layer.refused(f, hash).find("[hash]") != std::string::npos);
  f.tensors["ids"] = Tensor::of<std::int32_t>({kN}, {7, 9, 7, 9, 7});
  REQUIRE(layer(f, hash).code == 0);
  const Tensor chosen = read_safetensors(layer.out).at("selected");
  CHECK(chosen.at(0) == chosen.at(2));
  CHECK(chosen.at(1) == chosen.at(3));

  f.tensors.erase("ids");
  f.tensors["router.slots"] = random({kD, kE}, 20);
  f.tensors["router.scale"] = Tensor::of<double>({1}, {1.0});
  REQUIRE(layer(f, {"--router", "soft-moe", "--active", "1", "--sequence", "5"}).code == 0);
  CHECK(read_safetensors(layer.out).at("y").shape() == Shape({kN, kO}));
  CHECK(layer.refused(f, {"--router", "soft-moe", "--active", "1", "--sequence", "2"}) ==
        "moegrad: [layer] 5 tokens do not divide into sequences of 2. Give whole sequences.\n");
}

// Rows of `t` [N, ...] at 1, 2, 4, 6, 7 of eight, `fill` in the others.
Tensor spread(const Tensor& t, double fill) {
  constexpr std::int64_t kRows[] = {1, 2, 4, 6, 7};
  const std::int64_t each = t.numel() / kN;
  Tensor out = Tensor::full(each == 1 ? Shape{8} : Shape{8, each}, fill, t.dtype());
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

TEST_CASE("a mask: what is padding counts nowhere") {
  Layer layer;
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
  Layer layer;
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
  CHECK(with(Tensor::zeros({kN}, DType::i32)) ==
        "moegrad: [mask] all 5 rows are padding. Give at least one token.\n");
  CHECK(with(Tensor::of<std::int32_t>({kN}, {1, 1, 3, 1, 1})) ==
        "moegrad: [mask] row 2 has the mask 3. Use 1 for a token, 0 for padding.\n");
  CHECK(with(Tensor::full({kN}, 1.0, DType::f64)) ==
        "moegrad: [mask] the mask is f64 [5] for 5 rows. It must be i32 [5], 1 for a token, 0 for "
        "padding.\n");
  CHECK(with(Tensor::full({4}, 1.0, DType::i32))
            .starts_with("moegrad: [layer] FILE: 'mask' is [4] and should be [N]"));
}

TEST_CASE("a causal layer refuses what sees other tokens, unless forced") {
  Layer layer;
  const TensorFile f = numbers();
  const std::vector<std::string> choice = {"--router", "expert-choice", "--active", "2",
                                           "--causal"};
  CHECK(layer.refused(f, choice) ==
        "moegrad: [layer] router expert-choice looks at other tokens of the batch: a causal model "
        "would see the future. Choose another router, or force it.\n");
  std::vector<std::string> forced = choice;
  forced.push_back("--force");
  CHECK(layer(f, forced).code == 0);
  const std::vector<std::string> group = {"--active", "2", "--estimator", "expert-group",
                                          "--causal"};
  CHECK(layer(f, group).code == 0);
  std::vector<std::string> leaking = group;
  leaking.insert(leaking.end(), {"--option", "forward=true"});
  CHECK(
      layer.refused(f, leaking).starts_with("moegrad: [layer] estimator expert-group with these"));
}

TEST_CASE("router part and expert part of two estimators") {
  Layer layer;
  const TensorFile f = numbers();
  REQUIRE(layer(f, {"--active", "2", "--estimator", "ste-dense"}).code == 0);
  const TensorFile dense = read_safetensors(layer.out);
  REQUIRE(layer(f, {"--active", "2", "--router-gradient", "ste-dense-router", "--expert-gradient",
                    "ste-dense"})
              .code == 0);
  const TensorFile parts = read_safetensors(layer.out);
  for (const auto& [name, tensor] : dense.tensors) {
    const std::string label = name;
    CAPTURE(label);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      CHECK(parts.at(name).at(i) == doctest::Approx(tensor.at(i)).epsilon(1e-12));
    }
  }
  CHECK(layer.refused(f, {"--active", "2", "--router-gradient", "reinmax"}) ==
        "moegrad: [layer] reinmax gives its router gradient and its expert gradient together and "
        "cannot be the router gradient alone. Use it as the estimator.\n");
  CHECK(layer.refused(f, {"--active", "2", "--estimator", "reinmax"}) ==
        "moegrad: [layer] estimator reinmax is for a router that draws one expert with weight 1, "
        "and top-k does not. Use --router categorical.\n");
  CHECK(layer.refused(f, {"--active", "4", "--estimator", "expert-group"})
            .starts_with("moegrad: [expert-group] every token uses all 4 experts"));
}

TEST_CASE("files that are named twice, in a folder that is not there, of a name that is no text") {
  Layer layer;
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
  Layer layer;
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
              f.tensors["x"] = Tensor::zeros({kN, kD}, DType::i32);
            },
            top2) == "moegrad: [layer] FILE: 'x' is i32. Give F32 or F64.\n");
  CHECK(refused(
            [](TensorFile& f) {
              f.tensors["x"] = Tensor::zeros({0, kD}, DType::f64);
              f.tensors["dy"] = Tensor::zeros({0, kO}, DType::f64);
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
  CHECK(refused([](TensorFile& f) { f.tensors["unadjusted"] = Tensor::zeros({kN}, DType::i32); },
                top2) ==
        "moegrad: [layer] FILE: 'unadjusted' is a decision of moesart in training only. Leave it "
        "out.\n");
  CHECK(refused([](TensorFile& f) { f.tensors["unadjusted"] = Tensor::zeros({kN}, DType::i32); },
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

namespace {

// What the layer declares, with the initial values, and what it reads besides.
TensorFile numbers_for(const moegrad::LayerConfig& config, moegrad::Parameters& declared) {
  Rng rng{9, 0, 0};
  moegrad::Layer(config).declare("", declared, rng);
  TensorFile file;
  for (const moegrad::Parameter& p : declared) file.tensors[p.name] = p.value;
  file.tensors["x"] = random({kN, kD}, 1);
  file.tensors["dy"] = random({kN, kO}, 2);
  if (config.router == "hash") {
    file.tensors["ids"] = Tensor::of<std::int32_t>({kN}, {7, 9, 7, 9, 7});
  }
  return file;
}

void check_runs(Layer& layer, const std::string& router, const std::string& estimator) {
  CAPTURE(router);
  CAPTURE(estimator);
  const moegrad::RouterEntry& entry = moegrad::router_entry(router);
  moegrad::LayerConfig config;
  config.router = router;
  config.estimator = estimator;
  const std::int64_t active =
      std::clamp<std::int64_t>(2, entry.least_active, std::min(kE, entry.most_active));
  config.size = {kD, kH, kO, kE, active};
  moegrad::Parameters declared;
  const TensorFile in = numbers_for(config, declared);
  for (const char* mode : {"--train", "--eval"}) {
    CAPTURE(mode);
    std::filesystem::remove(layer.out);
    const Outcome outcome = layer(in, {"--router", router, "--estimator", estimator, "--active",
                                       std::to_string(active), mode});
    const bool learns = moegrad::Layer(config).router_learns();
    CHECK(outcome.err.empty() == learns);
    CHECK(outcome.err.starts_with(learns ? "" : "moegrad: [" + router + "] with k = "));
    REQUIRE(outcome.code == 0);
    CHECK(outcome.out.starts_with(router + " / " + estimator + ", 5 tokens, "));
    const TensorFile out = read_safetensors(layer.out);
    CHECK(out.at("y").shape() == Shape{kN, kO});
    CHECK(out.at("grad.x").shape() == Shape{kN, kD});
    for (const moegrad::Parameter& p : declared) {
      if (p.trained) CHECK(out.at("grad." + p.name).shape() == p.value.shape());
    }
    for (const auto& [name, tensor] : out.tensors) {
      const std::string label = name;
      for (const double v : tensor.to_vector()) CHECK_MESSAGE(std::isfinite(v), label);
    }
  }
}

}  // namespace

TEST_CASE("every router and every estimator runs, in training and at inference") {
  Layer layer;
  for (const moegrad::RouterEntry& entry : moegrad::routers()) {
    check_runs(layer, entry.name, "sparse");
  }
  for (const moegrad::EstimatorEntry& entry : moegrad::estimators()) {
    for (const std::string& router : entry.routers) check_runs(layer, router, entry.name);
  }
}

TEST_CASE("smear: the load is that of the merged experts") {
  Layer layer;
  moegrad::LayerConfig config;
  config.router = "smear";
  config.size = {kD, kH, kO, kE, 1};
  moegrad::Parameters declared;
  const Outcome outcome =
      layer(numbers_for(config, declared), {"--router", "smear", "--active", "1", "--eval"});
  REQUIRE(outcome.code == 0);
  const Tensor scores = read_safetensors(layer.out).at("scores");  // of sequences of one token
  double first = 0.0;
  for (std::int64_t t = 0; t < kN; ++t) first += scores.at(t * kE);
  CHECK(outcome.out.find(fmt::format("load {}", first)) != std::string::npos);
}

TEST_CASE("nothing is written where a number is not finite") {
  Layer layer;
  TensorFile f = numbers();
  f.tensors["x"].write<double>()[0] = 1e300;
  f.tensors["experts.w1"].write<double>()[0] = 1e300;
  CHECK(layer.refused(f, {"--active", "4"}).find(" holds ") != std::string::npos);
}

TEST_CASE("numbers on the command line: decimal, within their bounds, or refused") {
  Layer layer;
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
