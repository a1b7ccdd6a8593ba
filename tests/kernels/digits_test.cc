// Sums in f32 over millions of positive numbers keep their digits: every kernel that adds.

#include <algorithm>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// Numbers of one sum. Threads of an emulated device are slow: of fewer a plain sum in f32 would still
// be off by two hundred times the bound.
std::int64_t many(const OnDevice& on) { return on.device == Device::cuda ? 30000 : 4000000; }
constexpr double kBound = 1e-6;
const double kTenth = static_cast<double>(0.1F);

Tensor f32(const OnDevice& on, const Shape& shape) {
  return Tensor::empty(shape, DType::f32, on.device);
}
Tensor all_of(const OnDevice& on, const Shape& shape, double value) {
  return Tensor::full(shape, value, DType::f32, on.device);
}
Tensor tenths(const OnDevice& on, const Shape& shape) { return all_of(on, shape, 0.1); }
Tensor ones(const OnDevice& on, const Shape& shape) { return all_of(on, shape, 1.0); }
Tensor no_integers(const OnDevice& on, const Shape& shape) {
  return Tensor::zeros(shape, DType::i32, on.device);
}
// 0, 1, .., n - 1
Tensor counting(const OnDevice& on, std::int64_t n) {
  const Tensor t = Tensor::empty({n}, DType::i32, on.device);
  on->cycle(1, n, t);
  return t;
}

// The largest relative error of the elements against one number.
double error(const Tensor& t, double want) {
  double worst = 0.0;
  for (const double v : t.to_vector()) worst = std::fmax(worst, std::abs(v - want) / want);
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

}  // namespace

OWN_KERNEL_TEST("digits: reductions along each axis") {
  const Tensor x = tenths(on, {many(on)});
  for (const AxisView view : {AxisView{1, many(on), 1}, AxisView{1, many(on) / 4, 4},
                              AxisView{2, many(on) / 2, 1}, AxisView{2, many(on) / 4, 2}}) {
    CAPTURE(view.inner);
    const Tensor out = both([&] {
      const Tensor y = f32(on, {view.outer * view.inner});
      on->reduce(Reduction::sum, x, view, y);
      return y;
    });
    CHECK(error(out, kTenth * static_cast<double>(view.n)) < kBound);
    on->reduce(Reduction::logsumexp, x, view, out);
    const double exact = kTenth + std::log(static_cast<double>(view.n));
    CHECK(error(out, exact) < kBound);
  }
  const Tensor out = f32(on, {});
  on->squared_error(x, all_of(on, {many(on)}, 0.0), out);
  CHECK(error(out, kTenth * kTenth * static_cast<double>(many(on))) < kBound);
}

OWN_KERNEL_TEST("digits: softmax and what belongs to it, of long rows and long columns") {
  for (const AxisView view : {AxisView{1, many(on), 1}, AxisView{1, many(on) / 4, 4}}) {
    CAPTURE(view.inner);
    const double n = static_cast<double>(view.n);
    const Tensor x = tenths(on, {many(on)});
    const Tensor y = f32(on, {many(on)});
    on->softmax(x, view, y);
    CHECK(error(y, 1.0 / n) < kBound);
    // dx = y (dy - sum(dy y)), with dy = 1 at one place of each line.
    const Tensor dy = tenths(on, {many(on)});
    on->fill(static_cast<double>(1.1F), dy.rows(0, view.inner));
    const Tensor dx = f32(on, {many(on)});
    on->softmax_backward(ones(on, {many(on)}), dy, view, dx);
    CHECK(-dx.rows(many(on) - 1, many(on)).item() ==
          doctest::Approx(kTenth * (n - 1) + static_cast<double>(1.1F) - kTenth).epsilon(kBound));
    on->log_softmax_backward(all_of(on, {many(on)}, 0.0), dy, view, dx);
    CHECK(-dx.rows(many(on) - 1, many(on)).item() ==
          doctest::Approx(kTenth * (n - 1) + static_cast<double>(1.1F) - kTenth).epsilon(kBound));
    on->log_softmax(x, view, y);
    CHECK(-y.rows(0, 1).item() == doctest::Approx(std::log(n)).epsilon(kBound));
  }
  const Tensor loss = f32(on, {1});
  const Tensor lse = f32(on, {1});
  on->cross_entropy(tenths(on, {1, many(on)}), on(Tensor::of<std::int32_t>({1}, {3})), loss, lse);
  CHECK(error(loss, std::log(static_cast<double>(many(on)))) < kBound);
}

OWN_KERNEL_TEST("digits: products with a long inner side, thin and not, however they lie") {
  struct Sizes {
    std::int64_t m, n, k;
  };
  for (const Sizes s : {Sizes{1, 1, many(on)}, Sizes{1, 5, many(on) / 4}, Sizes{5, 1, many(on) / 4},
                        Sizes{1, 70, many(on) / 64}, Sizes{70, 1, many(on) / 64},
                        Sizes{3, 4, many(on) / 4}, Sizes{33, 40, many(on) / 64}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(ta);
        CAPTURE(tb);
        const Tensor a = tenths(on, ta ? Shape{s.k, s.m} : Shape{s.m, s.k});
        const Tensor b = ones(on, tb ? Shape{s.n, s.k} : Shape{s.k, s.n});
        const double want = kTenth * static_cast<double>(s.k);
        const Tensor out = both([&] {
          const Tensor c = f32(on, {s.m, s.n});
          on->matmul(a, ta, b, tb, 0.0, c);
          return c;
        });
        CHECK(error(out, want) < kBound);
        on->matmul(a, ta, b, tb, 1.0, out);
        CHECK(error(out, 2.0 * want) < kBound);
      }
    }
  }
}

OWN_KERNEL_TEST("digits: products whose sums are not blocked keep 3e-6") {
  for (const std::int64_t inner : {256, 1024, 4096, 16384}) {
    CAPTURE(inner);
    const Tensor out = f32(on, {33, 40});
    on->matmul(tenths(on, {33, inner}), false, ones(on, {inner, 40}), false, 0.0, out);
    CHECK(error(out, kTenth * static_cast<double>(inner)) < 3e-6);
  }
}

OWN_KERNEL_TEST("digits: the thin and the long products against f64, at odd sizes") {
  Rng rng{.seed = 7};
  for (const std::int64_t inner : {257, 1000, 4096, 4097, 5001}) {
    for (const std::int64_t side : {1, 3, 16, 64, 65, 131}) {
      for (int layout = 0; layout < 4; ++layout) {
        const bool ta = layout % 2 == 1;
        const bool tb = layout / 2 == 1;
        for (const bool one_row : {true, false}) {
          const std::int64_t m = one_row ? 1 : side;
          const std::int64_t n = one_row ? side : (side == 131 ? 2 : 1);
          const Tensor a = on(rng.normal(ta ? Shape{inner, m} : Shape{m, inner}, DType::f32));
          const Tensor b = on(rng.normal(tb ? Shape{n, inner} : Shape{inner, n}, DType::f32));
          const Tensor c = all_of(on, {m, n}, 0.5);
          const Tensor exact = Tensor::full({m, n}, 0.5, DType::f64, on.device);
          on->matmul(a, ta, b, tb, 2.0, c);
          on->matmul(a.to(DType::f64), ta, b.to(DType::f64), tb, 2.0, exact);
          double worst = 0.0;
          const Values got = c.to_vector();
          const Values want = exact.to_vector();
          for (std::size_t i = 0; i < got.size(); ++i) {
            worst = std::fmax(worst, std::abs(got[i] - want[i]));
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

OWN_KERNEL_TEST("digits: many rows for one target, many columns for one place") {
  const std::int64_t rows = many(on) / 2;
  for (const std::int64_t targets : {1, 100}) {
    const Tensor index = no_integers(on, {rows});
    on->fill(static_cast<double>(targets - 1), index.rows(7, 8));
    const Tensor out = both([&] {
      const Tensor to = f32(on, {targets, 2});
      on->scatter_add_rows(tenths(on, {rows, 2}), index, to);
      return to;
    });
    const double all = static_cast<double>(targets == 1 ? rows : rows - 1);
    CHECK(error(out.rows(0, 1), kTenth * all) < kBound);
    if (targets == 1) continue;
    const Values sums = out.to_vector();
    CHECK(sums.back() == doctest::Approx(0.1));
    CHECK(sums[2] == 0.0);
  }
  // Few elements in all, one after the other on one thread.
  const Tensor few = f32(on, {1, 1});
  on->scatter_add_rows(tenths(on, {30000, 1}), no_integers(on, {30000}), few);
  CHECK(error(few, kTenth * 30000) < kBound);
  const Tensor columns = f32(on, {1, 3});
  on->put_columns(tenths(on, {1, many(on)}), no_integers(on, {1, many(on)}), columns);
  CHECK(error(columns.reshape({3}).rows(0, 1), kTenth * static_cast<double>(many(on))) < kBound);
}

OWN_KERNEL_TEST("digits: sums, means and products of groups") {
  const Tensor offsets =
      on(Tensor::of<std::int32_t>({3}, {0, 100, static_cast<std::int32_t>(many(on))}));
  const double want = kTenth * static_cast<double>(many(on) - 100);
  const Tensor x = tenths(on, {many(on), 1});
  const Tensor sums = both([&] {
    const Tensor out = f32(on, {2, 1});
    on->grouped_sum(x, offsets, out);
    return out;
  });
  CHECK(error(sums.rows(1, 2), want) < kBound);
  const Tensor outer = f32(on, {2, 1, 1});
  on->grouped_outer(x, ones(on, {many(on), 1}), offsets, outer);
  CHECK(error(outer.rows(1, 2), want) < kBound);

  // Token t, in the group of expert 0 alone, has its one slot at expert 0.
  const std::int64_t tokens = many(on) / 2;
  GroupSets sets;
  sets.ids = no_integers(on, {tokens, 1});
  sets.offsets = on(Tensor::of<std::int32_t>({2}, {0, static_cast<std::int32_t>(tokens)}));
  sets.order = counting(on, tokens);
  sets.choices = 1;
  for (const bool weighted : {false, true}) {
    sets.weights = weighted ? tenths(on, {tokens, 1}) : Tensor();
    const Tensor inverse = f32(on, {1, 1});
    const Tensor means = f32(on, {1, 1, 1});
    on->group_means(tenths(on, {tokens, 1}), sets, inverse, means);
    CHECK(error(means, kTenth) < kBound);
    CHECK(error(inverse, 1.0 / (static_cast<double>(tokens) * (weighted ? kTenth : 1.0))) < kBound);
  }
}

OWN_KERNEL_TEST("digits: tokens with thousands of slots, slots in thousands of groups") {
  const std::int64_t slots = 20000;
  std::vector<std::int32_t> slot_of;
  for (std::int64_t s = 0; s < slots; ++s) {
    slot_of.push_back(static_cast<std::int32_t>(s == 7 ? -1 : slots - 1 - s));
  }
  const Tensor inverse = on(Tensor::of({1, slots}, slot_of));
  for (const bool weighted : {false, true}) {
    const Tensor out = both([&] {
      const Tensor y = f32(on, {1, 3});
      on->slots_to_tokens(tenths(on, {slots, 3}), weighted ? ones(on, {1, slots}) : Tensor(),
                          inverse, y);
      return y;
    });
    CHECK(error(out, kTenth * static_cast<double>(slots - 1)) < kBound);
  }
  // One slot, of expert 0, in the groups of all experts.
  const std::int64_t experts = 1000;
  GroupSets sets;
  sets.ids = counting(on, experts).reshape({1, experts});
  sets.offsets = Tensor::full({experts + 1}, 1, DType::i32, on.device);
  on->fill(0.0, sets.offsets.rows(0, 1));
  sets.order = no_integers(on, {1});
  sets.choices = 1;
  const Tensor dh = all_of(on, {1, 2}, 0.5);
  on->group_means_backward(tenths(on, {experts, experts, 2}), ones(on, {experts, experts}), sets,
                           dh);
  CHECK(error(dh, 0.5 + kTenth * static_cast<double>(experts)) < kBound);
}

// With equal scores token i gives 1/(i+1) to each of its keys.
OWN_KERNEL_TEST("digits: attention over thousands of keys and queries") {
  const std::int64_t length = on.device == Device::cuda ? 4000 : 12000;  // pairs are many
  const std::int64_t half = length / 2;
  const Tensor scores = tenths(on, {1, length, 1});
  // The first half of the values is 1, so that their gradients of scores are positive.
  const Tensor v = all_of(on, {1, length, 1}, 0.0);
  on->fill(1.0, v.reshape({length}).rows(0, half));
  const Tensor out = f32(on, {1, length, 1});
  const Tensor lse = f32(on, {1, length});
  on->causal_attention(scores, scores, tenths(on, {1, length, 1}), out, lse);
  CHECK(error(out, kTenth) < kBound);
  on->causal_attention(scores, scores, v, out, lse);
  std::vector<double> of_key(static_cast<std::size_t>(length) + 1, 0.0);  // sum over i >= j
  double dk = 0.0;  // of the first key: dout = 1, dp = 1, delta = out
  double worst_lse = 0.0;
  const Values lses = lse.to_vector();
  for (std::int64_t i = length - 1; i >= 0; --i) {
    const double p = 1.0 / static_cast<double>(i + 1);
    const auto place = static_cast<std::size_t>(i);
    of_key[place] = of_key[place + 1] + p;
    dk += kTenth * p * (1.0 - static_cast<double>(std::min(half, i + 1)) * p);
    worst_lse = std::fmax(worst_lse, std::abs(lses[place] - kTenth * kTenth + std::log(p)));
  }
  CHECK(worst_lse < 10.0 * kBound);  // of numbers up to 9.4
  const Tensor dout = ones(on, {1, length, 1});
  const Tensor dq = f32(on, {1, length, 1});
  const Tensor dkeys = f32(on, {1, length, 1});
  const Tensor dv = f32(on, {1, length, 1});
  on->causal_attention_backward(scores, scores, v, out, lse, dout, dq, dkeys, dv);
  double worst_dv = 0.0;
  const Values dvs = dv.to_vector();
  for (std::size_t j = 0; j < dvs.size(); ++j) {
    worst_dv = std::fmax(worst_dv, std::abs(dvs[j] / of_key[j] - 1.0));
  }
  CHECK(worst_dv < kBound);
  CHECK(std::abs(dkeys.to_vector()[0] / dk - 1.0) < kBound);
}

OWN_KERNEL_TEST("digits: products of slots and tokens of great width") {
  const Tensor index = no_integers(on, {1, 1});
  const Tensor out = f32(on, {1, 1});
  on->slot_products(tenths(on, {1, many(on)}), ones(on, {1, many(on)}), index, out);
  CHECK(error(out, kTenth * static_cast<double>(many(on))) < kBound);
}

// All rows are equal, and so are all summands: what one row gives, times the rows, is right.
OWN_KERNEL_TEST("digits: gradients of experts with millions of rows") {
  for (const std::int64_t width : {1, 4}) {
    for (const Activation activation : {Activation::relu, Activation::swiglu}) {
      const std::int64_t rows = many(on) / 4 / width;
      const bool gated = activation == Activation::swiglu;
      CAPTURE(width);
      CAPTURE(gated);
      const Tensor order = counting(on, rows);
      const auto expert = [&](double weight) {
        const double each = weight / static_cast<double>(width);
        ExpertTensors t;
        for (Tensor* m : {&t.w1, &t.w2}) *m = all_of(on, {1, width, width}, each);
        for (Tensor* b : {&t.b1, &t.b2}) *b = all_of(on, {1, width}, 0.0);
        if (gated) t.w3 = t.w1.clone();
        if (gated) t.b3 = t.b1.clone();
        return t;
      };
      const ExpertTensors w = expert(1.0);
      const ExpertTensors dw = expert(0.0);
      const auto run = [&](std::int64_t n) {
        const Tensor some = order.rows(0, n);
        const Tensor upto = on(Tensor::of<std::int32_t>({2}, {0, static_cast<std::int32_t>(n)}));
        const Tensor a = f32(on, {n, width});
        const Tensor c = gated ? f32(on, {n, width}) : Tensor();
        const Tensor x = tenths(on, {n, width});
        const ExpertSlots slots{some, upto, 1, a, c};
        on->experts(activation, w, x, slots, f32(on, {n, width}));
        const ExpertSlotsBackward back[] = {{slots, {}, f32(on, {n, width}), {}}};
        on->experts_backward(activation, w, x, tenths(on, {n, width}), back, dw);
        std::vector<double> sums;
        for (const Tensor* t : {&dw.w1, &dw.b1, &dw.w2, &dw.b2, &dw.w3, &dw.b3}) {
          if (t->defined()) sums.push_back(t->to_vector().back());
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

OWN_KERNEL_TEST("digits: the gradient of a convolution's weight") {
  for (const std::int64_t channels : {1, 3}) {
    const std::int64_t images = many(on) / 64 / 4 / channels;
    const Tensor x = ones(on, {images, channels, 8, 8});
    const Tensor dy = tenths(on, {images, channels, 8, 8});
    const Tensor dw = f32(on, {channels, channels, 1, 1});
    on->conv2d_backward_weight(x, dy, {}, dw);
    CHECK(error(dw, kTenth * static_cast<double>(images * 64)) < kBound);
  }
}

OWN_KERNEL_TEST("digits: gradients of a normalisation's scale and shift over many rows") {
  const std::int64_t rows = many(on) / 4;
  const Tensor x = f32(on, {rows, 2});
  const Tensor row = on(Tensor::of<float>({2}, {1.0F, -1.0F}));
  on->copy_block(row, 0, 0, rows, 2, 0, 2, x);
  const Tensor scale = ones(on, {2});
  const Tensor mean = f32(on, {rows});
  const Tensor rstd = f32(on, {rows});
  const Tensor y = f32(on, {rows, 2});
  on->layer_norm(x, scale, all_of(on, {2}, 0.0), 0.0, y, mean, rstd);
  const Tensor dscale = f32(on, {2});
  const Tensor dshift = f32(on, {2});
  on->layer_norm_backward(x, scale, mean, rstd, tenths(on, {rows, 2}), f32(on, {rows, 2}), dscale,
                          dshift);
  CHECK(dscale.rows(0, 1).item() ==
        doctest::Approx(kTenth * static_cast<double>(rows)).epsilon(kBound));
  CHECK(error(dshift, kTenth * static_cast<double>(rows)) < kBound);
  on->rms_norm(x, scale, 0.0, y, rstd);
  on->rms_norm_backward(x, scale, rstd, tenths(on, {rows, 2}), f32(on, {rows, 2}), dscale);
  CHECK(dscale.rows(0, 1).item() ==
        doctest::Approx(kTenth * static_cast<double>(rows)).epsilon(kBound));
}
