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

TEST_CASE("layer normalisation and its backward pass") {
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
      const auto forward = at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, Device::cpu),
                                   Tensor::empty({rows}, dtype, Device::cpu),
                                   Tensor::empty({rows}, dtype, Device::cpu)};
        cpu_kernels().layer_norm(x, scale, shift, kEpsilon, out[0], out[1], out[2]);
        return out;
      });
      check_close(forward[0], y, 16.0);
      check_close(forward[1], means);
      check_close(forward[2], rstds, 16.0);
      const auto backward = at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, Device::cpu),
                                   Tensor::empty({cols}, dtype, Device::cpu),
                                   Tensor::empty({cols}, dtype, Device::cpu)};
        cpu_kernels().layer_norm_backward(x, scale, forward[1], forward[2], dy, out[0], out[1],
                                          out[2]);
        return out;
      });
      check_close(backward[0], dx, 64.0);
      check_close(backward[1], dscale, 64.0);
      check_close(backward[2], dshift, 16.0);
    }
  }
}

TEST_CASE("root-mean-square normalisation and its backward pass") {
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
      const auto forward = at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, Device::cpu),
                                   Tensor::empty({rows}, dtype, Device::cpu)};
        cpu_kernels().rms_norm(x, scale, kEpsilon, out[0], out[1]);
        return out;
      });
      check_close(forward[0], y, 16.0);
      check_close(forward[1], rstds, 16.0);
      const auto backward = at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows, cols}, dtype, Device::cpu),
                                   Tensor::empty({cols}, dtype, Device::cpu)};
        cpu_kernels().rms_norm_backward(x, scale, forward[1], dy, out[0], out[1]);
        return out;
      });
      check_close(backward[0], dx, 64.0);
      check_close(backward[1], dscale, 64.0);
    }
  }
}

TEST_CASE("normalisation far from zero keeps its digits") {
  // The variance of 1e4 + {0, 1, 2, 3}, which a sum of squares in f32 would lose.
  const Tensor x = Tensor::of<float>({1, 4}, {10000, 10001, 10002, 10003});
  const Tensor y = Tensor::empty({1, 4}, DType::f32, Device::cpu);
  const Tensor mean = Tensor::empty({1}, DType::f32, Device::cpu);
  const Tensor rstd = Tensor::empty({1}, DType::f32, Device::cpu);
  cpu_kernels().layer_norm(x, Tensor::full({4}, 1.0, DType::f32, Device::cpu),
                           Tensor::zeros({4}, DType::f32, Device::cpu), 0.0, y, mean, rstd);
  check_close(mean, {1.5});  // of x - x[0]
  check_close(rstd, {1.0 / std::sqrt(1.25)});
}
