#include <array>
#include <functional>
#include <limits>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Parameters of several sizes and both types, stepped together: each with a learning rate and a
// decay of its own, one without gradient.
struct Model {
  Model(Device on, std::int64_t moments) : device(on) {
    std::uint64_t seed = 0;
    for (const DType dtype : floating()) {
      for (const std::int64_t n : {0, 1, 17, 20001, 40000}) {
        ParameterStep s;
        s.parameter = random({n}, dtype, ++seed).to(device);
        for (std::int64_t i = 0; i < moments; ++i) {
          s.moments[at(i)] = Tensor::zeros({n}, dtype, device);
        }
        s.rate = n == 17 ? 0.5 : 1.0;
        s.decays = n != 1;
        list.push_back(s);
      }
    }
    size.norm = Tensor::zeros({}, DType::f64, device);
    size.steps = Tensor::zeros({}, DType::f64, device);
  }
  void new_gradients(std::uint64_t seed) {
    for (ParameterStep& s : list) {
      s.gradient = random(s.parameter.shape(), s.parameter.dtype(), ++seed).to(device);
    }
    list[2].gradient = {};
  }
  // Everything that a step may change.
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> all = {size.steps.to(Device::cpu)};
    for (const ParameterStep& s : list) {
      for (const Tensor& t : {s.parameter, s.moments[0], s.moments[1]}) {
        all.push_back(t.defined() ? t.to(Device::cpu).clone() : Tensor::scalar(0.0));
      }
    }
    return all;
  }
  Kernels& kernel() const { return kernels(device); }

  Device device;
  std::vector<ParameterStep> list;
  StepSize size;
};

// One element in double precision.
struct Element {
  double p, m = 0.0, v = 0.0;
};
using Rule = std::function<void(Element& x, double g, double rate, double decay, int t)>;
using Step = std::function<void(const Model&)>;

void check_steps(Device device, std::int64_t moments, const Rule& rule, const Step& step) {
  const double max_norm = 100.0;
  std::vector<std::vector<Element>> want;
  const Model start(device, moments);
  for (const ParameterStep& s : start.list) {
    std::vector<Element>& elements = want.emplace_back();
    for (const double p : s.parameter.to_vector()) elements.push_back({p});
  }
  for (int t = 1; t <= 3; ++t) {
    Model model(device, moments);
    model.new_gradients(100 * static_cast<std::uint64_t>(t));
    double squares = 0.0;
    for (const ParameterStep& s : model.list) {
      if (!s.gradient.defined()) continue;
      for (const double g : s.gradient.to_vector()) squares += g * g;
    }
    model.kernel().gradient_norm(model.list, {}, model.size.norm);
    const double norm = model.size.norm.item();
    CHECK(norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-7));
    const double scale = max_norm / norm;
    REQUIRE(scale < 1.0);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const ParameterStep& s = model.list[i];
      const Values g = s.gradient.defined() ? s.gradient.to_vector() : Values(want[i].size(), 0.0);
      for (std::size_t j = 0; j < g.size(); ++j) {
        rule(want[i][j], scale * g[j], 0.1 * s.rate, s.decays ? 0.05 : 0.0, t);
      }
    }
  }
  const std::vector<Tensor> got = at_all_threads([&] {
    Model model(device, moments);
    model.size.max_norm = max_norm;
    for (int t = 1; t <= 3; ++t) {
      model.new_gradients(100 * static_cast<std::uint64_t>(t));
      model.kernel().gradient_norm(model.list, {}, model.size.norm);
      step(model);
    }
    return model.tensors();
  });
  CHECK(got[0].item() == 3.0);
  for (std::size_t i = 0; i < want.size(); ++i) {
    Values p, m, v;
    for (const Element& x : want[i]) {
      p.push_back(x.p);
      m.push_back(x.m);
      v.push_back(x.v);
    }
    CAPTURE(i);
    check_close(got[1 + 3 * i], p, 16.0);
    check_close(got[2 + 3 * i], m);
    if (moments == 2) check_close(got[3 + 3 * i], v);
  }
}

const AdamWStep kAdamW = {
    .learning_rate = 0.1, .beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-4, .weight_decay = 0.05};

// The norm of one gradient.
double norm_of(const Tensor& gradient, Device device, const Tensor& loss = {}) {
  const Tensor norm = Tensor::empty({}, DType::f64, device);
  const std::array<ParameterStep, 3> list = {
      ParameterStep{}, {.parameter = {}, .gradient = gradient.to(device)}, {}};
  kernels(device).gradient_norm(list, loss.to(device), norm);
  return norm.item();
}

}  // namespace

TEST_CASE("adamw takes the steps of its formula, of all parameters together") {
  const Rule rule = [](Element& x, double g, double rate, double decay, int t) {
    x.m = 0.8 * x.m + 0.2 * g;
    x.v = 0.9 * x.v + 0.1 * g * g;
    const double m_hat = x.m / (1 - std::pow(0.8, t));
    const double v_hat = x.v / (1 - std::pow(0.9, t));
    x.p -= rate * (m_hat / (std::sqrt(v_hat) + 1e-4) + decay * x.p);
  };
  for (const Device device : {Device::cpu, Device::guarded}) {
    check_steps(device, 2, rule, [](const Model& m) { m.kernel().adamw(kAdamW, m.list, m.size); });
  }
}

TEST_CASE("sgd takes the steps of its formula, of all parameters together") {
  for (const bool nesterov : {false, true}) {
    const SgdStep o{
        .learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05, .nesterov = nesterov};
    const Rule rule = [=](Element& x, double g, double rate, double decay, int) {
      const double g_i = g + decay * x.p;
      x.m = 0.9 * x.m + g_i;
      x.p -= rate * (nesterov ? g_i + 0.9 * x.m : x.m);
    };
    for (const Device device : {Device::cpu, Device::guarded}) {
      check_steps(device, 1, rule, [&](const Model& m) { m.kernel().sgd(o, m.list, m.size); });
    }
  }
}

TEST_CASE("gradients are scaled where their norm is above the limit, and only there") {
  for (const Device device : {Device::cpu, Device::guarded}) {
    for (const auto& [norm, max_norm, scale] : {std::array{8.0, 2.0, 0.25},
                                                {2.0, 2.0, 1.0},
                                                {1.0, 2.0, 1.0},
                                                {8.0, 0.0, 1.0},
                                                {0.0, 2.0, 1.0}}) {
      const ParameterStep s{.parameter = Tensor::scalar(1.0).to(device),
                            .gradient = Tensor::scalar(8.0).to(device),
                            .moments = {Tensor::scalar(0.0).to(device)}};
      const StepSize size{.norm = Tensor::scalar(norm).to(device),
                          .max_norm = max_norm,
                          .steps = Tensor::scalar(0.0).to(device)};
      kernels(device).sgd({.learning_rate = 1.0}, {&s, 1}, size);
      CHECK(s.parameter.item() == 1.0 - 8.0 * scale);
    }
  }
}

TEST_CASE("a step whose norm is not finite changes nothing") {
  for (const Device device : {Device::cpu, Device::guarded}) {
    for (const double bad : {kNaN, kInfinity}) {
      for (const double max_norm : {0.0, 1.0}) {
        Model model(device, 2);
        model.new_gradients(1);
        model.size.max_norm = max_norm;
        kernels(device).fill(1.0, model.size.norm);
        model.kernel().adamw(kAdamW, model.list, model.size);
        const std::vector<Tensor> before = model.tensors();
        kernels(device).fill(bad, model.size.norm);
        model.kernel().adamw(kAdamW, model.list, model.size);
        model.kernel().sgd({}, model.list, model.size);
        const std::vector<Tensor> after = model.tensors();
        CHECK(after[0].item() == 1.0);
        for (std::size_t i = 0; i < before.size(); ++i) CHECK(after[i].same_bits(before[i]));
      }
    }
  }
}

TEST_CASE("the norm of gradients: huge, tiny, none, not finite") {
  for (const Device device : {Device::cpu, Device::guarded}) {
    for (const DType dtype : floating()) {
      for (const double each : {1e20, 1e-25, 1e-38, 1.0, 0.0}) {
        CAPTURE(each);
        const double norm = norm_of(Tensor::full({40000}, each, dtype, Device::cpu), device);
        CHECK(norm == doctest::Approx(200.0 * each).epsilon(1e-6));
      }
      CHECK(norm_of(Tensor::zeros({0}, dtype, Device::cpu), device) == 0.0);
      for (const double bad : {kNaN, kInfinity}) {
        CHECK(!std::isfinite(norm_of(Tensor::full({3}, bad, dtype, Device::cpu), device)));
        const Tensor one = Tensor::full({1}, 1.0, dtype, Device::cpu);
        CHECK(std::isnan(norm_of(one, device, Tensor::full({}, bad, dtype, Device::cpu))));
        CHECK(norm_of(one, device, one) == 1.0);
      }
    }
    CHECK(norm_of({}, device) == 0.0);
  }
}
