#include <limits>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t rows, cols;
};
const std::vector<Case> kCases = {{0, 3}, {3, 0}, {1, 1}, {1, 2}, {2, 5}, {65, 7}, {301, 129}};
constexpr double kEpsilon = 1e-3;

}  // namespace

KERNEL_TEST("layer normalisation and its backward pass") {
  for (const DType dtype : floating()) {
    for (const auto& sizes : kCases) {
      const auto& rows = sizes.rows;
      const auto& cols = sizes.cols;
      CAPTURE(rows);
      CAPTURE(cols);
      const Tensor x = random({rows, cols}, dtype, 1, -1, 3);
      const Tensor scale = random({cols}, dtype, 2);
      const Tensor shift = random({cols}, dtype, 3);
      const Tensor dy = random({rows, cols}, dtype, 4);
      Values y, means, rstds, dx;
      Values dscale(at(cols), 0.0);
      Values dshift(at(cols), 0.0);
      for (std::int64_t r = 0; r < rows; ++r) {
        const double n = std::max<double>(1.0, static_cast<double>(cols));
        double mean = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) mean += x.at(r * cols + c) / n;
        double variance = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) {
          variance += std::pow(x.at(r * cols + c) - mean, 2) / n;
        }
        const double rstd = 1.0 / std::sqrt(variance + kEpsilon);
        means.push_back(cols == 0 ? 0.0 : mean - x.at(r * cols));
        rstds.push_back(rstd);
        double mean_g = 0.0;
        double mean_gh = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) {
          const double h = (x.at(r * cols + c) - mean) * rstd;
          const double g = dy.at(r * cols + c) * scale.at(c);
          y.push_back(h * scale.at(c) + shift.at(c));
          mean_g += g / n;
          mean_gh += g * h / n;
          dscale[at(c)] += dy.at(r * cols + c) * h;
          dshift[at(c)] += dy.at(r * cols + c);
        }
        for (std::int64_t c = 0; c < cols; ++c) {
          const double h = (x.at(r * cols + c) - mean) * rstd;
          dx.push_back(rstd * (dy.at(r * cols + c) * scale.at(c) - mean_g - h * mean_gh));
        }
      }
      const auto forward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, on.device),
                                   Tensor::empty({rows}, dtype, on.device),
                                   Tensor::empty({rows}, dtype, on.device)};
        on->layer_norm(on(x), on(scale), on(shift), kEpsilon, out[0], out[1], out[2]);
        return out;
      });
      check_close(forward[0], y, 16.0);
      check_close(forward[1], means);
      check_close(forward[2], rstds, 16.0);
      const auto backward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, on.device),
                                   Tensor::empty({cols}, dtype, on.device),
                                   Tensor::empty({cols}, dtype, on.device)};
        on->layer_norm_backward(on(x), on(scale), on(forward[1]), on(forward[2]), on(dy), out[0],
                                out[1], out[2]);
        return out;
      });
      check_close(backward[0], dx, 64.0);
      check_close(backward[1], dscale, 64.0);
      check_close(backward[2], dshift, 16.0);
    }
  }
}

KERNEL_TEST("root-mean-square normalisation and its backward pass") {
  for (const DType dtype : floating()) {
    for (const auto& sizes : kCases) {
      const auto& rows = sizes.rows;
      const auto& cols = sizes.cols;
      CAPTURE(rows);
      CAPTURE(cols);
      const Tensor x = random({rows, cols}, dtype, 1, -1, 3);
      const Tensor scale = random({cols}, dtype, 2);
      const Tensor dy = random({rows, cols}, dtype, 4);
      Values y, rstds, dx;
      Values dscale(at(cols), 0.0);
      for (std::int64_t r = 0; r < rows; ++r) {
        const double n = std::max<double>(1.0, static_cast<double>(cols));
        double mean_square = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) mean_square += std::pow(x.at(r * cols + c), 2) / n;
        const double rstd = 1.0 / std::sqrt(mean_square + kEpsilon);
        rstds.push_back(rstd);
        double mean_gh = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) {
          const double h = x.at(r * cols + c) * rstd;
          y.push_back(h * scale.at(c));
          mean_gh += dy.at(r * cols + c) * scale.at(c) * h / n;
          dscale[at(c)] += dy.at(r * cols + c) * h;
        }
        for (std::int64_t c = 0; c < cols; ++c) {
          const double h = x.at(r * cols + c) * rstd;
          dx.push_back(rstd * (dy.at(r * cols + c) * scale.at(c) - h * mean_gh));
        }
      }
      const auto forward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, on.device),
                                   Tensor::empty({rows}, dtype, on.device)};
        on->rms_norm(on(x), on(scale), kEpsilon, out[0], out[1]);
        return out;
      });
      check_close(forward[0], y, 16.0);
      check_close(forward[1], rstds, 16.0);
      const auto backward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, on.device),
                                   Tensor::empty({cols}, dtype, on.device)};
        on->rms_norm_backward(on(x), on(scale), on(forward[1]), on(dy), out[0], out[1]);
        return out;
      });
      check_close(backward[0], dx, 64.0);
      check_close(backward[1], dscale, 64.0);
    }
  }
}

KERNEL_TEST("normalisation far from zero keeps its digits") {
  // The variance of 1e4 + {0, 1, 2, 3}, which a sum of squares in f32 would lose.
  const Tensor x = Tensor::of<float>({1, 4}, {10000, 10001, 10002, 10003});
  const Tensor y = Tensor::empty({1, 4}, DType::f32, on.device);
  const Tensor mean = Tensor::empty({1}, DType::f32, on.device);
  const Tensor rstd = Tensor::empty({1}, DType::f32, on.device);
  on->layer_norm(on(x), Tensor::full({4}, 1.0, DType::f32, on.device),
                 Tensor::zeros({4}, DType::f32, on.device), 0.0, y, mean, rstd);
  check_close(mean, {1.5});  // of x - x[0]
  check_close(rstd, {1.0 / std::sqrt(1.25)});
}

namespace {

// Layer normalisation of x [1, n] in f32 against f64, forward and backward.
double norm_error(const OnDevice& on, const Tensor& x, bool layer) {
  const std::int64_t cols = x.size(1);
  Rng rng{.seed = 3};
  const Tensor scale = rng.uniform({cols}, DType::f32, 0.5, 1.5);
  const Tensor shift = rng.uniform({cols}, DType::f32);
  const Tensor dy = rng.normal({1, cols}, DType::f32);
  const auto run = [&](DType dtype) {
    const auto is = [&](const Tensor& t) { return on(t).to(dtype); };
    const auto space = [&](const Shape& shape) { return Tensor::empty(shape, dtype, on.device); };
    std::vector<Tensor> out = {space({1, cols}), space({1, cols}), space({cols}), space({cols})};
    const Tensor mean = space({1});
    const Tensor rstd = space({1});
    if (layer) {
      on->layer_norm(is(x), is(scale), is(shift), 1e-5, out[0], mean, rstd);
      on->layer_norm_backward(is(x), is(scale), mean, rstd, is(dy), out[1], out[2], out[3]);
    } else {
      on->rms_norm(is(x), is(scale), 1e-5, out[0], rstd);
      on->rms_norm_backward(is(x), is(scale), rstd, is(dy), out[1], out[2]);
      out.pop_back();
    }
    return out;
  };
  const std::vector<Tensor> narrow = run(DType::f32);
  const std::vector<Tensor> wide = run(DType::f64);
  double worst = 0.0;
  for (std::size_t t = 0; t < narrow.size(); ++t) {
    double size = 0.0;
    double off = 0.0;
    const Values got = narrow[t].to_vector();
    const Values want = wide[t].to_vector();
    for (std::size_t i = 0; i < got.size(); ++i) {
      size = std::fmax(size, std::abs(want[i]));
      const double difference = std::abs(got[i] - want[i]);
      off =
          difference >= 0.0 ? std::fmax(off, difference) : std::numeric_limits<double>::infinity();
    }
    worst = std::fmax(worst, off / size);
  }
  return worst;
}

}  // namespace

KERNEL_TEST("normalisation of huge, tiny, and nearly equal numbers agrees with f64") {
  Rng rng{.seed = 11};
  for (const std::int64_t cols : {3, 64, 1000, 3000}) {
    CAPTURE(cols);
    const auto normal = [&](double mean, double deviation) {
      return rng.normal({1, cols}, DType::f32, mean, deviation);
    };
    const Tensor huge = normal(0.0, 1.0);
    for (float& v : Tensor(huge).write_values<float>()) v = v > 0 ? 1e30F : -1e30F;
    huge.write<float>()[0] = 1e30F;
    huge.write<float>()[1] = -1e30F;
    CHECK(norm_error(on, huge, true) < 1e-4);
    CHECK(norm_error(on, huge, false) < 1e-4);
    CHECK(norm_error(on, normal(1e4, 5e-3), true) < 1e-4);
    CHECK(norm_error(on, normal(-1e4, 5e-3), true) < 1e-4);
    CHECK(norm_error(on, normal(1e4, 5e-3), false) < 1e-4);
    CHECK(norm_error(on, normal(0.0, 1e-22), true) < 1e-4);
    CHECK(norm_error(on, normal(0.0, 1e-22), false) < 1e-4);
    CHECK(norm_error(on, normal(0.0, 1e22), true) < 1e-4);
    CHECK(norm_error(on, normal(0.0, 1.0), true) < 1e-5);
    Tensor outlier = normal(0.0, 1.0);
    outlier.write<float>()[0] = 1e4F;
    CHECK(norm_error(on, outlier, true) < 1e-4);
  }
}
