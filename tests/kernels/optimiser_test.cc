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
  Model(const OnDevice& of, std::int64_t moments) : on(of) {
    std::uint64_t seed = 0;
    for (const DType dtype : floating()) {
      for (const std::int64_t n : {0, 1, 17, 20001, 40000}) {
        ParameterStep s;
        s.parameter = on(random({n}, dtype, ++seed));
        for (std::int64_t i = 0; i < moments; ++i) {
          s.moments[at(i)] = Tensor::zeros({n}, dtype, on.device);
        }
        s.rate = n == 17 ? 0.5 : 1.0;
        s.decays = n != 1;
        list.push_back(s);
      }
    }
    size.learning_rate = on(Tensor::scalar(0.1));
    size.norm = Tensor::zeros({}, DType::f64, on.device);
    size.steps = Tensor::zeros({}, DType::f64, on.device);
  }
  void new_gradients(std::uint64_t seed) {
    for (ParameterStep& s : list) {
      s.gradient = on(random(s.parameter.shape(), s.parameter.dtype(), ++seed));
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

  OnDevice on;
  std::vector<ParameterStep> list;
  StepSize size;
};

// One element in double precision.
struct Element {
  double p, m = 0.0, v = 0.0;
};
using Rule = std::function<void(Element& x, double g, double rate, double decay, int t)>;
using Step = std::function<void(const Model&)>;

void check_steps(const OnDevice& on, std::int64_t moments, const Rule& rule, const Step& step) {
  const double max_norm = 100.0;
  std::vector<std::vector<Element>> want;
  const Model start(on, moments);
  for (const ParameterStep& s : start.list) {
    std::vector<Element>& elements = want.emplace_back();
    for (const double p : s.parameter.to_vector()) elements.push_back({p});
  }
  for (int t = 1; t <= 3; ++t) {
    Model model(on, moments);
    model.new_gradients(100 * static_cast<std::uint64_t>(t));
    double squares = 0.0;
    for (const ParameterStep& s : model.list) {
      if (!s.gradient.defined()) continue;
      for (const double g : s.gradient.to_vector()) squares += g * g;
    }
    on->gradient_norm(model.list, {}, model.size.norm);
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
  const std::vector<Tensor> got = on.at_all_threads([&] {
    Model model(on, moments);
    model.size.max_norm = max_norm;
    for (int t = 1; t <= 3; ++t) {
      model.new_gradients(100 * static_cast<std::uint64_t>(t));
      on->gradient_norm(model.list, {}, model.size.norm);
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

const AdamWStep kAdamW = {.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-4, .weight_decay = 0.05};

// The norm of one gradient.
double norm_of(const OnDevice& on, const Tensor& gradient, const Tensor& loss = {}) {
  const Tensor norm = Tensor::empty({}, DType::f64, on.device);
  const std::array<ParameterStep, 3> list = {
      ParameterStep{}, {.parameter = {}, .gradient = on(gradient)}, {}};
  on->gradient_norm(list, on(loss), norm);
  return norm.item();
}

}  // namespace

KERNEL_TEST("adamw takes the steps of its formula, of all parameters together") {
  const Rule rule = [](Element& x, double g, double rate, double decay, int t) {
    x.m = 0.8 * x.m + 0.2 * g;
    x.v = 0.9 * x.v + 0.1 * g * g;
    const double m_hat = x.m / (1 - std::pow(0.8, t));
    const double v_hat = x.v / (1 - std::pow(0.9, t));
    x.p -= rate * (m_hat / (std::sqrt(v_hat) + 1e-4) + decay * x.p);
  };
  check_steps(on, 2, rule, [](const Model& m) { m.on->adamw(kAdamW, m.list, m.size); });
}

KERNEL_TEST("sgd takes the steps of its formula, of all parameters together") {
  for (const bool nesterov : {false, true}) {
    const SgdStep o{.momentum = 0.9, .weight_decay = 0.05, .nesterov = nesterov};
    const Rule rule = [=](Element& x, double g, double rate, double decay, int) {
      const double g_i = g + decay * x.p;
      x.m = 0.9 * x.m + g_i;
      x.p -= rate * (nesterov ? g_i + 0.9 * x.m : x.m);
    };
    check_steps(on, 1, rule, [&](const Model& m) { m.on->sgd(o, m.list, m.size); });
  }
}

KERNEL_TEST("gradients are scaled where their norm is above the limit, and only there") {
  for (const auto& [norm, max_norm, scale] : {std::array{8.0, 2.0, 0.25},
                                              {2.0, 2.0, 1.0},
                                              {1.0, 2.0, 1.0},
                                              {8.0, 0.0, 1.0},
                                              {0.0, 2.0, 1.0}}) {
    const ParameterStep s{.parameter = on(Tensor::scalar(1.0)),
                          .gradient = on(Tensor::scalar(8.0)),
                          .moments = {on(Tensor::scalar(0.0))}};
    const StepSize size{.learning_rate = on(Tensor::scalar(1.0)),
                        .norm = on(Tensor::scalar(norm)),
                        .max_norm = max_norm,
                        .steps = on(Tensor::scalar(0.0))};
    on->sgd({}, {&s, 1}, size);
    CHECK(s.parameter.item() == 1.0 - 8.0 * scale);
  }
}

KERNEL_TEST("a step whose norm is not finite changes nothing") {
  for (const double bad : {kNaN, kInfinity}) {
    for (const double max_norm : {0.0, 1.0}) {
      Model model(on, 2);
      model.new_gradients(1);
      model.size.max_norm = max_norm;
      on->fill(1.0, model.size.norm);
      on->adamw(kAdamW, model.list, model.size);
      const std::vector<Tensor> before = model.tensors();
      on->fill(bad, model.size.norm);
      on->adamw(kAdamW, model.list, model.size);
      on->sgd({}, model.list, model.size);
      const std::vector<Tensor> after = model.tensors();
      CHECK(after[0].item() == 1.0);
      for (std::size_t i = 0; i < before.size(); ++i) CHECK(after[i].same_bits(before[i]));
    }
  }
}

KERNEL_TEST("moments without gradient fade to 0, and do not stay subnormal") {
  for (const DType dtype : floating()) {
    const double least = dtype == DType::f64 ? std::numeric_limits<double>::min()
                                             : double{std::numeric_limits<float>::min()};
    const Values moments = {1.5 * least, -1.5 * least, 1.01 * least, -1.01 * least, 3.0 * least};
    const auto stepped = [&](bool by_adamw) {
      const auto tensor = [&](const Values& v) { return on(tensor_of({5}, dtype, v).clone()); };
      const ParameterStep s{.parameter = tensor(Values(5, 1.0)),
                            .gradient = {},
                            .moments = {tensor(moments), tensor(Values(5, 1.05 * least))}};
      const StepSize size{.learning_rate = on(Tensor::scalar(1.0)),
                          .norm = on(Tensor::scalar(1.0)),
                          .steps = on(Tensor::scalar(0.0))};
      if (by_adamw) {
        on->adamw({.beta1 = 0.75, .beta2 = 0.5}, {&s, 1}, size);
        CHECK(s.moments[1].to_vector() == Values(5, 0.0));
      } else {
        on->sgd({.momentum = 0.75}, {&s, 1}, size);
      }
      CHECK(s.parameter.to_vector() == Values(5, 1.0));
      return s.moments[0].to_vector();
    };
    for (const bool by_adamw : {true, false}) {
      const Values after = stepped(by_adamw);
      CHECK(after[0] == 1.125 * least);
      CHECK(after[1] == -1.125 * least);
      CHECK(after[2] == 0.0);
      CHECK(after[3] == 0.0);
      CHECK(after[4] == 2.25 * least);
    }
  }
}

KERNEL_TEST("the norm of gradients: huge, tiny, none, not finite") {
  for (const DType dtype : floating()) {
    for (const double each : {1e20, 1e-25, 1e-38, 1.0, 0.0}) {
      CAPTURE(each);
      const double norm = norm_of(on, Tensor::full({40000}, each, dtype, Device::cpu));
      CHECK(norm == doctest::Approx(200.0 * each).epsilon(1e-6));
    }
    CHECK(norm_of(on, Tensor::zeros({0}, dtype, Device::cpu)) == 0.0);
    for (const double bad : {kNaN, kInfinity}) {
      CHECK(!std::isfinite(norm_of(on, Tensor::full({3}, bad, dtype, Device::cpu))));
      const Tensor one = Tensor::full({1}, 1.0, dtype, Device::cpu);
      CHECK(std::isnan(norm_of(on, one, Tensor::full({}, bad, dtype, Device::cpu))));
      CHECK(norm_of(on, one, one) == 1.0);
    }
  }
  CHECK(norm_of(on, {}) == 0.0);
}
