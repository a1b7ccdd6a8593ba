// Small mixtures whose numbers are derived by hand, through `moegrad layer`.

#include <cmath>

#include "tensor/safetensors.h"
#include "tests/app/program.h"

using moegrad::Device;
using moegrad::DType;
using moegrad::read_safetensors;
using moegrad::Tensor;
using moegrad::TensorFile;
using moegrad::test::Outcome;
using moegrad::test::run;
using moegrad::test::TemporaryFolder;

namespace {

Tensor numbers(const moegrad::Shape& shape, const std::vector<double>& values,
               DType dtype = DType::f64) {
  return Tensor::of<double>(shape, values).to(dtype);
}

// Experts E_i(x) = out_i relu(x_0 + ... ), dy = `cotangent` for each token.
TensorFile mixture(const Tensor& x, const std::vector<double>& outs, double cotangent) {
  const DType dtype = x.dtype();
  const auto experts = static_cast<std::int64_t>(outs.size());
  TensorFile file;
  file.tensors = {
      {"x", x},
      {"dy", Tensor::full({x.size(0), 1}, cotangent, dtype, Device::cpu)},
      {"experts.w1", Tensor::full({experts, x.size(1), 1}, 1.0, dtype, Device::cpu)},
      {"experts.w2", numbers({experts, 1, 1}, outs, dtype)},
  };
  return file;
}

struct Layer {
  TemporaryFolder folder;
  std::string in = (folder / "in.safetensors").string();
  std::string out = (folder / "out.safetensors").string();
  Outcome outcome;

  TensorFile operator()(const TensorFile& file, std::vector<std::string> more) {
    moegrad::write_safetensors(in, file);
    std::vector<std::string> arguments = {"layer", "--in", in, "--out", out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    outcome = run(folder, arguments);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    return read_safetensors(out);
  }
};

int times(const std::string& text, const std::string& part) {
  int count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("deepseek-v3's balance loss, with sequences and a bias") {
  Layer layer;
  TensorFile file = mixture(numbers({2, 1}, {1, 1}), {1, 1}, 0.0);
  file.tensors["router.weight"] = numbers({1, 2}, {2, 0});
  file.tensors["router.balance"] = numbers({2}, {0, 1});
  const TensorFile out = layer(file, {"--router", "deepseek-v3", "--active", "1", "--sequence", "2",
                                      "--option", "balance=1", "--option", "shared=0"});
  // 2 P_0, P_0 = s_0/(s_0 + s_1): both tokens have the larger s at expert 0, whatever the bias.
  const double s0 = 1.0 / (1.0 + std::exp(-2.0));
  const double s1 = 0.5;
  const double all = (s0 + s1) * (s0 + s1);
  CHECK(out.at("auxiliary").item() == doctest::Approx(2.0 * s0 / (s0 + s1)).epsilon(1e-12));
  CHECK(out.at("grad.router.weight").at(0) ==
        doctest::Approx(2.0 * s0 * (1.0 - s0) * s1 / all).epsilon(1e-12));
  CHECK(out.at("grad.router.weight").at(1) ==
        doctest::Approx(-2.0 * s0 * s1 * (1.0 - s1) / all).epsilon(1e-12));
}

TEST_CASE("a sigmoid router in f32 selects by its logits") {
  Layer layer;
  TensorFile file = mixture(numbers({1, 1}, {1}, DType::f32), {1, 1, 1}, 0.0);
  file.tensors["router.weight"] = numbers({1, 3}, {17.5, 18.5, 19.5}, DType::f32);
  const TensorFile out =
      layer(file, {"--router", "deepseek-v3", "--active", "1", "--eval", "--option", "shared=0"});
  CHECK(out.at("selected").at(0) == 2.0);
}

// dL/do_j = (p_j/S) (1 - s_j) dy E_j for the expert left out: its p_j/S is
// 1/(e^0.2 + e^0.1) however small the scores are. In f32 those at -110 are 0.
TEST_CASE("ste-dense-router on a sigmoid router: no epsilon beside a small normaliser") {
  for (const auto& [dtype, low] : {std::pair(DType::f64, -60.0), {DType::f32, -110.0}}) {
    Layer layer;
    TensorFile file = mixture(numbers({1, 1}, {1}, dtype), {1, 2, 5}, 1.0);
    file.tensors["router.weight"] = numbers({1, 3}, {0.2, 0.1, 0.0}, dtype);
    file.tensors["router.bias"] = numbers({3}, {low, low, low}, dtype);
    const TensorFile out =
        layer(file, {"--router", "deepseek-v3", "--estimator", "ste-dense-router", "--active", "2",
                     "--option", "balance=0", "--option", "scale=1", "--option", "shared=0"});
    const double expected = 5.0 / (std::exp(0.2) + std::exp(0.1));
    CHECK(expected == doctest::Approx(2.1491).epsilon(1e-4));
    CHECK(out.at("grad.router.bias").at(2) ==
          doctest::Approx(expected).epsilon(dtype == DType::f64 ? 1e-12 : 1e-4));
  }
}

TEST_CASE("a router that the task gives no gradient: said once") {
  Layer layer;
  TensorFile file = mixture(numbers({2, 2}, {1, 0, 0, 1}), {1, 2}, 1.0);
  file.tensors["router.weight"] = numbers({2, 2}, {1, 0, 0, 1});
  const std::vector<std::string> command = {"--router", "deepseek-v3", "--active", "1",
                                            "--option", "balance=0",   "--option", "shared=0"};
  const TensorFile out = layer(file, command);
  for (const double v : out.at("grad.router.weight").to_vector()) CHECK(v == 0.0);
  CHECK(layer.outcome.err ==
        "moegrad: [deepseek-v3] with k = 1 and these options the weights are constants, and "
        "estimator sparse gives the router no gradient of the task.\n");
  std::vector<std::string> other = command;
  other.insert(other.end(), {"--estimator", "ste-dense-router"});
  layer(file, other);
  CHECK(layer.outcome.err.empty());
  // Where no gradient is asked for, nothing is said.
  other = command;
  other.emplace_back("--eval");
  layer(file, other);
  CHECK(layer.outcome.err.empty());
  CHECK(run(layer.folder, {"gradcheck", "deepseek-v3", "sparse", "categorical"}).err.empty());
  // A training says it once.
  const Outcome training =
      run(layer.folder, {"train", "synthetic", "--router", "deepseek-v3", "--active", "1",
                         "--epochs", "1", "--out", (layer.folder / "run").string()});
  CHECK(training.code == 0);
  CHECK(times(training.err, "the weights are constants") == 1);
  // Many layers of one router say it once.
  const Outcome study = run(
      layer.folder, {"study", "bias", "--routers", "noisy-top-k", "--active", "1", "--experts", "4",
                     "--scale", "1", "--draws", "2", "--out", (layer.folder / "bias").string()});
  CHECK(times(study.err, "the weights are constants") == 1);
}

// One token, two experts with y = 1 and 4, dy = 3: the losses of the draws are 3 and 12, the
// expected loss 3 p + 12 (1 - p) with p = sigmoid(o_0 - o_1).
TEST_CASE("reinforce: the gradient of its objective for the losses <dy, y>") {
  const double p = 1.0 / (1.0 + std::exp(-0.5));
  double mean_slope = 0.0;
  for (const std::int32_t drawn : {0, 1}) {
    Layer layer;
    TensorFile file = mixture(numbers({1, 1}, {1}), {1, 4}, 3.0);
    file.tensors["router.weight"] = numbers({1, 2}, {0.5, 0.0});
    file.tensors["selected"] = Tensor::of<std::int32_t>({1, 1}, {drawn});
    const TensorFile out =
        layer(file, {"--router", "categorical", "--estimator", "reinforce", "--active", "1"});
    const double loss = drawn == 0 ? 3.0 : 12.0;
    const double slope = loss * (drawn == 0 ? 1.0 - p : -p);  // loss d log p_D / do_0
    CHECK(out.at("y").item() == loss / 3.0);
    CHECK(out.at("grad.router.weight").at(0) == doctest::Approx(slope).epsilon(1e-12));
    CHECK(out.at("grad.router.weight").at(1) == doctest::Approx(-slope).epsilon(1e-12));
    CHECK(layer.outcome.out.find("loss " + std::string(drawn == 0 ? "3," : "12,")) !=
          std::string::npos);
    mean_slope += (drawn == 0 ? p : 1.0 - p) * slope;
  }
  CHECK(mean_slope == doctest::Approx((3.0 - 12.0) * p * (1.0 - p)).epsilon(1e-12));
}

// Two copies of each of two tokens: the rows of y, and their mean in loss and gradient.
TEST_CASE("reinforce with samples runs copies of each token") {
  Layer layer;
  TensorFile file = mixture(numbers({2, 1}, {1, 2}), {1, 4}, 3.0);
  file.tensors["router.weight"] = numbers({1, 2}, {0.5, 0.0});
  const TensorFile out =
      layer(file, {"--router", "categorical", "--estimator", "reinforce", "--active", "1",
                   "--option", "samples=2", "--option", "baseline=leave-one-out", "--seed", "3"});
  REQUIRE(out.at("y").shape() == moegrad::Shape{4, 1});
  REQUIRE(out.at("grad.x").shape() == moegrad::Shape{2, 1});
  double slope = 0.0;
  for (std::int64_t row = 0; row < 4; ++row) {
    const double x = row < 2 ? 1.0 : 2.0;
    const double p = 1.0 / (1.0 + std::exp(-0.5 * x));
    const bool first = out.at("selected").at(row) == 0.0;
    CHECK(out.at("y").at(row) == (first ? x : 4.0 * x));
    const double advantage = 3.0 * (out.at("y").at(row) - out.at("y").at(row ^ 1));
    slope += 0.5 * advantage * x * (first ? 1.0 - p : -p);
  }
  CHECK(out.at("grad.router.weight").at(0) == doctest::Approx(slope).epsilon(1e-12));
}

TEST_CASE("aux where it would be a constant") {
  Layer layer;
  TensorFile file = mixture(numbers({2, 1}, {1, 2}), {1, 4}, 3.0);
  file.tensors["router.weight"] = numbers({1, 2}, {0.5, 0.0});
  moegrad::write_safetensors(layer.in, file);
  const Outcome refused =
      run(layer.folder, {"layer", "--in", layer.in, "--out", layer.out, "--router", "expert-choice",
                         "--active", "1", "--option", "aux=1"});
  CHECK(refused.code == 2);
  CHECK(refused.err ==
        "moegrad: [layer] aux is 1, and router expert-choice gives every expert the same load: the "
        "loss would be a constant. Leave it out, or choose another router.\n");
}
