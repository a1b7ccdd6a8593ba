// Sums in f32 over millions of positive numbers keep their digits: every kernel that adds.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/kernels.h"
#include "tensor/rng.h"
#include "tensor/threads.h"

namespace moegrad {
namespace {

constexpr std::int64_t kMany = 4000000;
constexpr double kBound = 1e-6;
const double kTenth = static_cast<double>(0.1F);

Kernels& k() { return kernels(Device::cpu); }
Tensor f32(const Shape& shape) { return Tensor::empty(shape, DType::f32, Device::cpu); }
Tensor tenths(const Shape& shape) { return Tensor::full(shape, 0.1, DType::f32, Device::cpu); }

// The largest relative error of the elements against one number.
double error(const Tensor& t, double want) {
  double worst = 0.0;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    worst = std::fmax(worst, std::abs(t.at(i) - want) / want);
  }
  return worst;
}

// f's result, which has the same bits on one thread.
template <class F>
Tensor both(F&& f) {
  const Tensor result = f();
  const ThreadScope one(1);
  CHECK(result.same_bits(f()));
  return result;
}

TEST_CASE("digits: reductions along each axis") {
  const Tensor x = tenths({kMany});
  for (const AxisView view : {AxisView{1, kMany, 1}, AxisView{1, kMany / 4, 4},
                              AxisView{2, kMany / 2, 1}, AxisView{2, kMany / 4, 2}}) {
    CAPTURE(view.inner);
    const Tensor out = both([&] {
      const Tensor y = f32({view.outer * view.inner});
      k().reduce(Reduction::sum, x, view, y);
      return y;
    });
    CHECK(error(out, kTenth * static_cast<double>(view.n)) < kBound);
    k().reduce(Reduction::logsumexp, x, view, out);
    const double exact = kTenth + std::log(static_cast<double>(view.n));
    CHECK(error(out, exact) < kBound);
  }
  const Tensor out = f32({});
  k().squared_error(x, Tensor::zeros({kMany}, DType::f32, Device::cpu), out);
  CHECK(error(out, kTenth * kTenth * static_cast<double>(kMany)) < kBound);
}

TEST_CASE("digits: softmax and what belongs to it, of long rows and long columns") {
  for (const AxisView view : {AxisView{1, kMany, 1}, AxisView{1, kMany / 4, 4}}) {
    CAPTURE(view.inner);
    const double n = static_cast<double>(view.n);
    const Tensor x = tenths({kMany});
    const Tensor y = f32({kMany});
    k().softmax(x, view, y);
    CHECK(error(y, 1.0 / n) < kBound);
    // dx = y (dy - sum(dy y)), with dy = 1 at one place of each line.
    const Tensor dy = tenths({kMany});
    for (std::int64_t i = 0; i < view.inner; ++i) dy.write<float>()[i] = 1.1F;
    const Tensor dx = f32({kMany});
    k().softmax_backward(Tensor::full({kMany}, 1.0, DType::f32, Device::cpu), dy, view, dx);
    CHECK(-dx.at(kMany - 1) ==
          doctest::Approx(kTenth * (n - 1) + static_cast<double>(1.1F) - kTenth).epsilon(kBound));
    k().log_softmax_backward(Tensor::zeros({kMany}, DType::f32, Device::cpu), dy, view, dx);
    CHECK(-dx.at(kMany - 1) ==
          doctest::Approx(kTenth * (n - 1) + static_cast<double>(1.1F) - kTenth).epsilon(kBound));
    k().log_softmax(x, view, y);
    CHECK(-y.at(0) == doctest::Approx(std::log(n)).epsilon(kBound));
  }
  const Tensor loss = f32({1});
  const Tensor lse = f32({1});
  k().cross_entropy(tenths({1, kMany}), Tensor::of<std::int32_t>({1}, {3}), loss, lse);
  CHECK(error(loss, std::log(static_cast<double>(kMany))) < kBound);
}

TEST_CASE("digits: products with a long inner side, thin and not, however they lie") {
  struct Sizes {
    std::int64_t m, n, k;
  };
  for (const Sizes s : {Sizes{1, 1, kMany}, Sizes{1, 5, kMany / 4}, Sizes{5, 1, kMany / 4},
                        Sizes{1, 70, kMany / 64}, Sizes{70, 1, kMany / 64}, Sizes{3, 4, kMany / 4},
                        Sizes{33, 40, kMany / 64}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(ta);
        CAPTURE(tb);
        const Tensor a = tenths(ta ? Shape{s.k, s.m} : Shape{s.m, s.k});
        const Tensor b =
            Tensor::full(tb ? Shape{s.n, s.k} : Shape{s.k, s.n}, 1.0, DType::f32, Device::cpu);
        const double want = kTenth * static_cast<double>(s.k);
        const Tensor out = both([&] {
          const Tensor c = f32({s.m, s.n});
          k().matmul(a, ta, b, tb, 0.0, c);
          return c;
        });
        CHECK(error(out, want) < kBound);
        k().matmul(a, ta, b, tb, 1.0, out);
        CHECK(error(out, 2.0 * want) < kBound);
      }
    }
  }
}

TEST_CASE("digits: products whose sums are not blocked keep 3e-6") {
  for (const std::int64_t inner : {256, 1024, 4096, 16384}) {
    CAPTURE(inner);
    const Tensor out = f32({33, 40});
    const Tensor ones = Tensor::full({inner, 40}, 1.0, DType::f32, Device::cpu);
    k().matmul(tenths({33, inner}), false, ones, false, 0.0, out);
    CHECK(error(out, kTenth * static_cast<double>(inner)) < 3e-6);
  }
}

TEST_CASE("digits: the thin and the long products against f64, at odd sizes") {
  Rng rng{.seed = 7};
  for (const std::int64_t inner : {257, 1000, 4096, 4097, 5001}) {
    for (const std::int64_t side : {1, 3, 16, 64, 65, 131}) {
      for (int layout = 0; layout < 4; ++layout) {
        const bool ta = layout % 2 == 1;
        const bool tb = layout / 2 == 1;
        for (const bool one_row : {true, false}) {
          const std::int64_t m = one_row ? 1 : side;
          const std::int64_t n = one_row ? side : (side == 131 ? 2 : 1);
          const Tensor a = rng.normal(ta ? Shape{inner, m} : Shape{m, inner}, DType::f32);
          const Tensor b = rng.normal(tb ? Shape{n, inner} : Shape{inner, n}, DType::f32);
          const Tensor c = Tensor::full({m, n}, 0.5, DType::f32, Device::cpu);
          const Tensor exact = Tensor::full({m, n}, 0.5, DType::f64, Device::cpu);
          k().matmul(a, ta, b, tb, 2.0, c);
          k().matmul(a.to(DType::f64), ta, b.to(DType::f64), tb, 2.0, exact);
          double worst = 0.0;
          for (std::int64_t i = 0; i < c.numel(); ++i) {
            worst = std::fmax(worst, std::abs(c.at(i) - exact.at(i)));
          }
          CAPTURE(inner);
          CAPTURE(side);
          CAPTURE(layout);
          CHECK(worst < 2e-4);  // sums of so many products of deviation 1
        }
      }
    }
  }
}

TEST_CASE("digits: many rows for one target, many columns for one place") {
  const std::int64_t rows = kMany / 2;
  for (const std::int64_t targets : {1, 100}) {
    const Tensor index = Tensor::zeros({rows}, DType::i32, Device::cpu);
    index.write<std::int32_t>()[7] = static_cast<std::int32_t>(targets - 1);
    const Tensor out = both([&] {
      const Tensor to = f32({targets, 2});
      k().scatter_add_rows(tenths({rows, 2}), index, to);
      return to;
    });
    const double all = static_cast<double>(targets == 1 ? rows : rows - 1);
    CHECK(error(out.rows(0, 1), kTenth * all) < kBound);
    if (targets > 1) CHECK(out.rows(1, targets).at(2 * targets - 3) == doctest::Approx(0.1));
    if (targets > 1) CHECK(out.at(2) == 0.0);
  }
  // Few elements in all, one after the other on one thread.
  const Tensor few = f32({1, 1});
  k().scatter_add_rows(tenths({30000, 1}), Tensor::zeros({30000}, DType::i32, Device::cpu), few);
  CHECK(error(few, kTenth * 30000) < kBound);
  const Tensor columns = f32({1, 3});
  k().put_columns(tenths({1, kMany}), Tensor::zeros({1, kMany}, DType::i32, Device::cpu), columns);
  CHECK(error(columns.reshape({3}).rows(0, 1), kTenth * static_cast<double>(kMany)) < kBound);
}

TEST_CASE("digits: sums, means and products of groups") {
  const Tensor offsets = Tensor::of<std::int32_t>({3}, {0, 100, static_cast<std::int32_t>(kMany)});
  const double want = kTenth * static_cast<double>(kMany - 100);
  const Tensor x = tenths({kMany, 1});
  const Tensor ones = Tensor::full({kMany, 1}, 1.0, DType::f32, Device::cpu);
  const Tensor sums = both([&] {
    const Tensor out = f32({2, 1});
    k().grouped_sum(x, offsets, out);
    return out;
  });
  CHECK(error(sums.rows(1, 2), want) < kBound);
  const Tensor outer = f32({2, 1, 1});
  k().grouped_outer(x, ones, offsets, outer);
  CHECK(error(outer.rows(1, 2), want) < kBound);

  // Token t, in the group of expert 0 alone, has its one slot at expert 0.
  const std::int64_t tokens = kMany / 2;
  const Tensor order = Tensor::empty({tokens}, DType::i32, Device::cpu);
  for (std::int64_t t = 0; t < tokens; ++t) {
    order.write<std::int32_t>()[t] = static_cast<std::int32_t>(t);
  }
  GroupSets sets;
  sets.ids = Tensor::zeros({tokens, 1}, DType::i32, Device::cpu);
  sets.offsets = Tensor::of<std::int32_t>({2}, {0, static_cast<std::int32_t>(tokens)});
  sets.order = order;
  sets.choices = 1;
  for (const bool weighted : {false, true}) {
    sets.weights = weighted ? tenths({tokens, 1}) : Tensor();
    const Tensor inverse = f32({1, 1});
    const Tensor means = f32({1, 1, 1});
    k().group_means(tenths({tokens, 1}), sets, inverse, means);
    CHECK(error(means, kTenth) < kBound);
    CHECK(error(inverse, 1.0 / (static_cast<double>(tokens) * (weighted ? kTenth : 1.0))) < kBound);
  }
}

TEST_CASE("digits: tokens with thousands of slots, slots in thousands of groups") {
  const std::int64_t slots = 20000;
  const Tensor inverse = Tensor::empty({1, slots}, DType::i32, Device::cpu);
  for (std::int64_t s = 0; s < slots; ++s) {
    inverse.write<std::int32_t>()[s] = static_cast<std::int32_t>(slots - 1 - s);
  }
  inverse.write<std::int32_t>()[7] = -1;
  for (const bool weighted : {false, true}) {
    const Tensor ones = Tensor::full({1, slots}, 1.0, DType::f32, Device::cpu);
    const Tensor out = both([&] {
      const Tensor y = f32({1, 3});
      k().slots_to_tokens(tenths({slots, 3}), weighted ? ones : Tensor(), inverse, y);
      return y;
    });
    CHECK(error(out, kTenth * static_cast<double>(slots - 1)) < kBound);
  }
  // One slot, of expert 0, in the groups of all experts.
  const std::int64_t experts = 1000;
  GroupSets sets;
  sets.ids = Tensor::empty({1, experts}, DType::i32, Device::cpu);
  sets.offsets = Tensor::full({experts + 1}, 1, DType::i32, Device::cpu);
  sets.offsets.write<std::int32_t>()[0] = 0;
  sets.order = Tensor::zeros({1}, DType::i32, Device::cpu);
  sets.choices = 1;
  for (std::int64_t e = 0; e < experts; ++e) {
    sets.ids.write<std::int32_t>()[e] = static_cast<std::int32_t>(e);
  }
  const Tensor ones = Tensor::full({experts, experts}, 1.0, DType::f32, Device::cpu);
  const Tensor dh = Tensor::full({1, 2}, 0.5, DType::f32, Device::cpu);
  k().group_means_backward(tenths({experts, experts, 2}), ones, sets, dh);
  CHECK(error(dh, 0.5 + kTenth * static_cast<double>(experts)) < kBound);
}

// With equal scores token i gives 1/(i+1) to each of its keys.
TEST_CASE("digits: attention over thousands of keys and queries") {
  const std::int64_t length = 12000;
  const std::int64_t half = length / 2;
  const Tensor scores = tenths({1, length, 1});
  // The first half of the values is 1, so that their gradients of scores are positive.
  const Tensor v = Tensor::zeros({1, length, 1}, DType::f32, Device::cpu);
  std::fill_n(v.write<float>(), half, 1.0F);
  const Tensor out = f32({1, length, 1});
  const Tensor lse = f32({1, length});
  k().causal_attention(scores, scores, tenths({1, length, 1}), out, lse);
  CHECK(error(out, kTenth) < kBound);
  k().causal_attention(scores, scores, v, out, lse);
  std::vector<double> of_key(static_cast<std::size_t>(length) + 1, 0.0);  // sum over i >= j
  double dk = 0.0;  // of the first key: dout = 1, dp = 1, delta = out
  double worst_lse = 0.0;
  for (std::int64_t i = length - 1; i >= 0; --i) {
    const double p = 1.0 / static_cast<double>(i + 1);
    const auto place = static_cast<std::size_t>(i);
    of_key[place] = of_key[place + 1] + p;
    dk += kTenth * p * (1.0 - static_cast<double>(std::min(half, i + 1)) * p);
    worst_lse = std::fmax(worst_lse, std::abs(lse.at(i) - kTenth * kTenth + std::log(p)));
  }
  CHECK(worst_lse < 10.0 * kBound);  // of numbers up to 9.4
  const Tensor ones = Tensor::full({1, length, 1}, 1.0, DType::f32, Device::cpu);
  const Tensor dq = f32({1, length, 1});
  const Tensor dkeys = f32({1, length, 1});
  const Tensor dv = f32({1, length, 1});
  k().causal_attention_backward(scores, scores, v, out, lse, ones, dq, dkeys, dv);
  double worst_dv = 0.0;
  for (std::int64_t j = 0; j < length; ++j) {
    const double want = of_key[static_cast<std::size_t>(j)];
    worst_dv = std::fmax(worst_dv, std::abs(dv.at(j) / want - 1.0));
  }
  CHECK(worst_dv < kBound);
  CHECK(std::abs(dkeys.at(0) / dk - 1.0) < kBound);
}

TEST_CASE("digits: products of slots and tokens of great width") {
  const Tensor index = Tensor::zeros({1, 1}, DType::i32, Device::cpu);
  const Tensor out = f32({1, 1});
  k().slot_products(tenths({1, kMany}), Tensor::full({1, kMany}, 1.0, DType::f32, Device::cpu),
                    index, out);
  CHECK(error(out, kTenth * static_cast<double>(kMany)) < kBound);
}

// All rows are equal, and so are all summands: what one row gives, times the rows, is right.
TEST_CASE("digits: gradients of experts with millions of rows") {
  for (const std::int64_t width : {1, 4}) {
    for (const Activation activation : {Activation::relu, Activation::swiglu}) {
      const std::int64_t rows = kMany / 4 / width;
      const bool gated = activation == Activation::swiglu;
      CAPTURE(width);
      CAPTURE(gated);
      const Tensor order = Tensor::empty({rows}, DType::i32, Device::cpu);
      for (std::int64_t t = 0; t < rows; ++t) {
        order.write<std::int32_t>()[t] = static_cast<std::int32_t>(t);
      }
      const auto expert = [&](double weight) {
        const double each = weight / static_cast<double>(width);
        ExpertTensors t;
        for (Tensor* m : {&t.w1, &t.w2})
          *m = Tensor::full({1, width, width}, each, DType::f32, Device::cpu);
        for (Tensor* b : {&t.b1, &t.b2}) *b = Tensor::zeros({1, width}, DType::f32, Device::cpu);
        if (gated) t.w3 = t.w1.clone();
        if (gated) t.b3 = t.b1.clone();
        return t;
      };
      const ExpertTensors w = expert(1.0);
      const ExpertTensors dw = expert(0.0);
      const auto run = [&](std::int64_t n) {
        const Tensor some = order.rows(0, n);
        const Tensor upto = Tensor::of<std::int32_t>({2}, {0, static_cast<std::int32_t>(n)});
        const Tensor a = f32({n, width});
        const Tensor c = gated ? f32({n, width}) : Tensor();
        const Tensor x = tenths({n, width});
        const ExpertSlots slots{some, upto, 1, a, c};
        k().experts(activation, w, x, slots, f32({n, width}));
        const ExpertSlotsBackward back[] = {{slots, {}, f32({n, width}), {}}};
        k().experts_backward(activation, w, x, tenths({n, width}), back, dw);
        std::vector<double> sums;
        for (const Tensor* t : {&dw.w1, &dw.b1, &dw.w2, &dw.b2, &dw.w3, &dw.b3}) {
          if (t->defined()) sums.push_back(t->at(t->numel() - 1));
        }
        return sums;
      };
      const std::vector<double> one = run(1);
      const std::vector<double> all = run(rows);
      for (std::size_t i = 0; i < one.size(); ++i) {
        CAPTURE(i);
        CHECK(std::abs(all[i] / (one[i] * static_cast<double>(rows)) - 1.0) < kBound);
      }
    }
  }
}

TEST_CASE("digits: the gradient of a convolution's weight") {
  for (const std::int64_t channels : {1, 3}) {
    const std::int64_t images = kMany / 64 / 4 / channels;
    const Tensor x = Tensor::full({images, channels, 8, 8}, 1.0, DType::f32, Device::cpu);
    const Tensor dy = tenths({images, channels, 8, 8});
    const Tensor dw = f32({channels, channels, 1, 1});
    k().conv2d_backward_weight(x, dy, {}, dw);
    CHECK(error(dw, kTenth * static_cast<double>(images * 64)) < kBound);
  }
}

TEST_CASE("digits: gradients of a normalisation's scale and shift over many rows") {
  const std::int64_t rows = kMany / 4;
  const Tensor x = f32({rows, 2});
  for (std::int64_t i = 0; i < 2 * rows; ++i) x.write<float>()[i] = i % 2 == 0 ? 1.0F : -1.0F;
  const Tensor scale = Tensor::full({2}, 1.0, DType::f32, Device::cpu);
  const Tensor mean = f32({rows});
  const Tensor rstd = f32({rows});
  const Tensor y = f32({rows, 2});
  k().layer_norm(x, scale, Tensor::zeros({2}, DType::f32, Device::cpu), 0.0, y, mean, rstd);
  const Tensor dscale = f32({2});
  const Tensor dshift = f32({2});
  k().layer_norm_backward(x, scale, mean, rstd, tenths({rows, 2}), f32({rows, 2}), dscale, dshift);
  CHECK(dscale.at(0) == doctest::Approx(kTenth * static_cast<double>(rows)).epsilon(kBound));
  CHECK(error(dshift, kTenth * static_cast<double>(rows)) < kBound);
  k().rms_norm(x, scale, 0.0, y, rstd);
  k().rms_norm_backward(x, scale, rstd, tenths({rows, 2}), f32({rows, 2}), dscale);
  CHECK(dscale.at(0) == doctest::Approx(kTenth * static_cast<double>(rows)).epsilon(kBound));
}

// Layer normalisation of x [1, n] in f32 against f64, forward and backward.
double norm_error(const Tensor& x, bool layer) {
  const std::int64_t cols = x.size(1);
  Rng rng{.seed = 3};
  const Tensor scale = rng.uniform({cols}, DType::f32, 0.5, 1.5);
  const Tensor shift = rng.uniform({cols}, DType::f32);
  const Tensor dy = rng.normal({1, cols}, DType::f32);
  const auto run = [&](DType dtype) {
    const auto is = [dtype](const Tensor& t) { return t.to(dtype); };
    const auto space = [dtype](const Shape& shape) {
      return Tensor::empty(shape, dtype, Device::cpu);
    };
    std::vector<Tensor> out = {space({1, cols}), space({1, cols}), space({cols}), space({cols})};
    const Tensor mean = space({1});
    const Tensor rstd = space({1});
    if (layer) {
      k().layer_norm(is(x), is(scale), is(shift), 1e-5, out[0], mean, rstd);
      k().layer_norm_backward(is(x), is(scale), mean, rstd, is(dy), out[1], out[2], out[3]);
    } else {
      k().rms_norm(is(x), is(scale), 1e-5, out[0], rstd);
      k().rms_norm_backward(is(x), is(scale), rstd, is(dy), out[1], out[2]);
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
    for (std::int64_t i = 0; i < narrow[t].numel(); ++i) {
      size = std::fmax(size, std::abs(wide[t].at(i)));
      const double difference = std::abs(narrow[t].at(i) - wide[t].at(i));
      off =
          difference >= 0.0 ? std::fmax(off, difference) : std::numeric_limits<double>::infinity();
    }
    worst = std::fmax(worst, off / size);
  }
  return worst;
}

TEST_CASE("digits: normalisation of huge, tiny, and nearly equal numbers agrees with f64") {
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
    CHECK(norm_error(huge, true) < 1e-4);
    CHECK(norm_error(huge, false) < 1e-4);
    CHECK(norm_error(normal(1e4, 5e-3), true) < 1e-4);
    CHECK(norm_error(normal(-1e4, 5e-3), true) < 1e-4);
    CHECK(norm_error(normal(1e4, 5e-3), false) < 1e-4);
    CHECK(norm_error(normal(0.0, 1e-22), true) < 1e-4);
    CHECK(norm_error(normal(0.0, 1e-22), false) < 1e-4);
    CHECK(norm_error(normal(0.0, 1e22), true) < 1e-4);
    CHECK(norm_error(normal(0.0, 1.0), true) < 1e-5);
    Tensor outlier = normal(0.0, 1.0);
    outlier.write<float>()[0] = 1e4F;
    CHECK(norm_error(outlier, true) < 1e-4);
  }
}

}  // namespace
}  // namespace moegrad
