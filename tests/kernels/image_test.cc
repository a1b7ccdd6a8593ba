#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t images, channels, height, width, filters;
  Window window;

  std::int64_t out_height() const {
    return (height + 2 * window.padding - window.height) / window.stride + 1;
  }
  std::int64_t out_width() const {
    return (width + 2 * window.padding - window.width) / window.stride + 1;
  }
  Shape x() const { return {images, channels, height, width}; }
  Shape weight() const { return {filters, channels, window.height, window.width}; }
  Shape y() const { return {images, filters, out_height(), out_width()}; }
};

const std::vector<Case> kCases = {
    {0, 2, 4, 4, 3, {3, 3, 1, 1}},   {1, 1, 1, 1, 1, {1, 1, 1, 0}},
    {2, 0, 3, 3, 2, {2, 2, 1, 0}},   {2, 3, 3, 3, 0, {2, 2, 1, 0}},
    {1, 1, 4, 5, 1, {2, 3, 1, 0}},   {2, 3, 7, 6, 4, {3, 2, 2, 1}},
    {3, 2, 5, 5, 2, {5, 5, 1, 2}},   {37, 2, 6, 6, 5, {3, 3, 1, 1}},
    {2, 1, 3, 3, 2, {2, 2, 1, 2}},   {70, 8, 12, 12, 16, {3, 3, 1, 1}},
    {2, 9, 41, 40, 3, {3, 3, 1, 1}}, {1, 20, 63, 60, 2, {5, 5, 2, 3}}};

// Calls f(element of x, element of the weight, element of y) for every product of the convolution.
template <class F>
void for_products(const Case& c, F&& f) {
  const auto [h, w, stride, padding] = c.window;
  std::int64_t y = 0;
  for (std::int64_t n = 0; n < c.images; ++n) {
    for (std::int64_t o = 0; o < c.filters; ++o) {
      for (std::int64_t oy = 0; oy < c.out_height(); ++oy) {
        for (std::int64_t ox = 0; ox < c.out_width(); ++ox, ++y) {
          for (std::int64_t ch = 0; ch < c.channels; ++ch) {
            for (std::int64_t i = 0; i < h; ++i) {
              for (std::int64_t j = 0; j < w; ++j) {
                const std::int64_t iy = oy * stride + i - padding;
                const std::int64_t ix = ox * stride + j - padding;
                if (iy < 0 || iy >= c.height || ix < 0 || ix >= c.width) continue;
                f(((n * c.channels + ch) * c.height + iy) * c.width + ix,
                  ((o * c.channels + ch) * h + i) * w + j, y);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace

KERNEL_TEST("convolution and both of its gradients") {
  for (const DType dtype : floating()) {
    for (const Case& c : kCases) {
      CAPTURE(c.images);
      CAPTURE(c.height);
      const Values x = random(c.x(), dtype, 1).to_vector();
      const Values w = random(c.weight(), dtype, 2).to_vector();
      const Values dy = random(c.y(), dtype, 3).to_vector();
      Values y(at(c.y().numel()), 0.0);
      Values dx(x.size(), 0.0);
      Values dw(w.size(), 0.0);
      for_products(c, [&](std::int64_t i_x, std::int64_t i_w, std::int64_t i_y) {
        y[at(i_y)] += x[at(i_x)] * w[at(i_w)];
        dx[at(i_x)] += dy[at(i_y)] * w[at(i_w)];
        dw[at(i_w)] += dy[at(i_y)] * x[at(i_x)];
      });
      const Tensor tx = tensor_of(c.x(), dtype, x);
      const Tensor tw = tensor_of(c.weight(), dtype, w);
      const Tensor tdy = tensor_of(c.y(), dtype, dy);
      check_close(on.run(c.y(), dtype,
                         [&](const Tensor& out) { on->conv2d(on(tx), on(tw), c.window, out); }),
                  y, 32.0);
      check_close(on.run(c.x(), dtype,
                         [&](const Tensor& out) {
                           on->conv2d_backward_input(on(tw), on(tdy), c.window, out);
                         }),
                  dx, 32.0);
      check_close(on.run(c.weight(), dtype,
                         [&](const Tensor& out) {
                           on->conv2d_backward_weight(on(tx), on(tdy), c.window, out);
                         }),
                  dw, 64.0);
    }
  }
}

KERNEL_TEST("the largest of each window and its gradient") {
  for (const DType dtype : floating()) {
    for (Case c : kCases) {
      c.filters = c.channels;
      if (c.window.padding >= c.window.height || c.window.padding >= c.window.width) continue;
      // Few values, so that there are ties; the first place wins.
      const Tensor x = random_integers(c.x(), 4, -3, 3).to(dtype);
      const Tensor dy = random(c.y(), dtype, 5);
      Values y, place;
      Values dx(at(c.x().numel()), 0.0);
      const std::int64_t plane = c.height * c.width;
      for (std::int64_t o = 0; o < c.y().numel(); ++o) {
        const std::int64_t p = c.out_height() * c.out_width();
        const std::int64_t top = o % p / c.out_width() * c.window.stride - c.window.padding;
        const std::int64_t left = o % c.out_width() * c.window.stride - c.window.padding;
        std::int64_t best = -1;
        for (std::int64_t e = 0; e < plane; ++e) {
          const std::int64_t row = e / c.width - top;
          const std::int64_t col = e % c.width - left;
          if (row < 0 || row >= c.window.height || col < 0 || col >= c.window.width) continue;
          if (best < 0 || x.at(o / p * plane + e) > x.at(o / p * plane + best)) best = e;
        }
        y.push_back(x.at(o / p * plane + best));
        place.push_back(static_cast<double>(best));
        dx[at(o / p * plane + best)] += dy.at(o);
      }
      const auto forward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty(c.y(), dtype, on.device),
                                   Tensor::empty(c.y(), DType::i32, on.device)};
        on->max_pool2d(on(x), c.window, out[0], out[1]);
        return out;
      });
      check_close(forward[0], y, 0.0);
      check_close(forward[1], place, 0.0);
      check_close(
          on.run(c.x(), dtype,
                 [&](const Tensor& out) { on->max_pool2d_backward(on(dy), on(forward[1]), out); }),
          dx);
    }
  }
}

KERNEL_TEST("a NaN wins its windows; -infinity is still an element") {
  const double nan = std::nan("");
  for (const DType dtype : floating()) {
    const Tensor x = tensor_of({1, 1, 2, 4}, dtype,
                               {1, nan, -HUGE_VAL, -HUGE_VAL, nan, 2, -HUGE_VAL, -HUGE_VAL});
    const Tensor y = Tensor::empty({1, 1, 1, 2}, dtype, on.device);
    const Tensor index = Tensor::empty({1, 1, 1, 2}, DType::i32, on.device);
    on->max_pool2d(on(x), {2, 2, 2, 0}, y, index);
    check_close(y, {nan, -HUGE_VAL}, 0.0);
    check_close(index, {1, 2}, 0.0);
  }
}

KERNEL_TEST("a window of nothing but padding has no place and no gradient") {
  const Tensor x = Tensor::full({1, 1, 1, 1}, 5.0, DType::f64, on.device);
  const Tensor y = Tensor::empty({1, 1, 3, 3}, DType::f64, on.device);
  const Tensor index = Tensor::empty({1, 1, 3, 3}, DType::i32, on.device);
  on->max_pool2d(x, {1, 1, 1, 1}, y, index);
  check_close(index, {-1, -1, -1, -1, 0, -1, -1, -1, -1}, 0.0);
  const Tensor dx = Tensor::empty({1, 1, 1, 1}, DType::f64, on.device);
  on->max_pool2d_backward(Tensor::full({1, 1, 3, 3}, 2.0, DType::f64, on.device), index, dx);
  check_close(dx, {2}, 0.0);
}

KERNEL_TEST("gradients that meet in a pixel are added in the order of their windows") {
  for (const DType dtype : floating()) {
    // Of two planes of 9 x 9 windows; three pixels are the largest of nearly all.
    const Tensor index = random_integers({1, 2, 9, 9}, 8, -1, 3);
    const Tensor dy = random({1, 2, 9, 9}, dtype, 9, -1e8, 1e8);
    Values want(2 * 5, 0.0);
    for (std::int64_t o = 0; o < 2 * 81; ++o) {
      const auto pixel = static_cast<std::int64_t>(index.at(o));
      if (pixel < 0) continue;
      double& sum = want[at(o / 81 * 5 + pixel)];
      sum += dy.at(o);
      if (dtype == DType::f32) sum = static_cast<double>(static_cast<float>(sum));
    }
    check_close(on.run({1, 2, 1, 5}, dtype,
                       [&](const Tensor& out) { on->max_pool2d_backward(on(dy), on(index), out); }),
                want, 0.0);
  }
}

KERNEL_TEST("a place that is none is an error of the gradient of pooling") {
  for (const std::int32_t bad : {-2, 4}) {
    const Tensor index = Tensor::of<std::int32_t>({1, 1, 1, 2}, {0, bad});
    const Tensor dy = random({1, 1, 1, 2}, DType::f32, 1);
    const Tensor dx = Tensor::empty({1, 1, 2, 2}, DType::f32, on.device);
    CHECK(on.error_of([&] { on->max_pool2d_backward(on(dy), on(index), dx); }) != "");
  }
}

KERNEL_TEST("convolution: what a window does not show leaves bits alone") {
  for (const DType dtype : floating()) {
    for (const Case& c : {Case{2, 2, 5, 6, 3, {3, 3, 1, 1}}, Case{3, 1, 7, 6, 2, {3, 2, 2, 1}},
                          Case{1, 1, 2, 2, 1, {3, 3, 1, 1}}, Case{2, 8, 6, 6, 8, {3, 3, 1, 1}}}) {
      enum Input { kX, kWeight, kDy };
      const Shape shapes[] = {c.x(), c.weight(), c.y()};
      std::vector<Tensor> inputs;
      for (const Shape& s : shapes) inputs.push_back(random(s, dtype, inputs.size() + 1));
      const auto results = [&](const std::vector<Tensor>& in) {
        return on.at_all_threads([&] {
          std::vector<Tensor> r;
          for (const Shape& s : shapes) r.push_back(Tensor::empty(s, dtype, on.device));
          on->conv2d(on(in[kX]), on(in[kWeight]), c.window, r[kDy]);
          on->conv2d_backward_input(on(in[kWeight]), on(in[kDy]), c.window, r[kX]);
          on->conv2d_backward_weight(on(in[kX]), on(in[kDy]), c.window, r[kWeight]);
          return r;
        });
      };
      const std::vector<Tensor> want = results(inputs);
      for (const Input poisoned : {kX, kWeight, kDy}) {
        for (const double poison : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
          for (const std::int64_t part :
               {0, 1, 2}) {  // the first element, one of the middle, the last
            CAPTURE(c.height);
            CAPTURE(static_cast<int>(poisoned));
            CAPTURE(poison);
            CAPTURE(part);
            const std::int64_t place = part * (inputs[poisoned].numel() - 1) / 2;
            std::vector<Tensor> in = inputs;
            Values x = in[poisoned].to_vector();
            x[at(place)] = poison;
            in[poisoned] = tensor_of(shapes[poisoned], dtype, x);
            std::vector<bool> reached[3];
            for (int i = 0; i < 3; ++i) reached[i].resize(at(shapes[i].numel()));
            for_products(c, [&](std::int64_t i_x, std::int64_t i_w, std::int64_t i_y) {
              const std::int64_t factors[] = {i_x, i_w, i_y};
              if (factors[poisoned] != place) return;
              for (int i = 0; i < 3; ++i) reached[i][at(factors[i])] = i != poisoned;
            });
            const std::vector<Tensor> got = results(in);
            for (int i = 0; i < 3; ++i) {
              CAPTURE(i);
              const Tensor now = got[at(i)].reshape({shapes[i].numel(), 1});
              const Tensor before = want[at(i)].reshape(now.shape());
              std::int64_t wrong = -1;
              for (std::int64_t e = 0; e < now.numel(); ++e) {
                const bool right = reached[i][at(e)]
                                       ? !std::isfinite(now.at(e))
                                       : now.rows(e, e + 1).same_bits(before.rows(e, e + 1));
                if (!right) wrong = e;
              }
              CHECK(wrong == -1);
            }
          }
        }
      }
    }
  }
}
