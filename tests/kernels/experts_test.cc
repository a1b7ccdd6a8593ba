// The fused experts against the composition of grouped products, element-wise functions and moved
// rows, kernel by kernel.

#include "tests/kernels/rounded.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  const char* label;
  Tensor selected;  // [N, k]
  std::int64_t experts, model, hidden, output;
};

std::vector<Case> cases() {
  // Skewed: nearly all tokens choose expert 1, whose gradients then have several owners.
  Tensor skewed = random_integers({900, 2}, 3, -1, 4);
  for (std::int64_t i = 0; i < 1500; ++i) skewed.write<std::int32_t>()[i] = 1;
  return {{"no tokens", Tensor::empty({0, 2}, DType::i32, Device::cpu), 3, 4, 5, 2},
          {"no choices", Tensor::full({3, 2}, -1, DType::i32, Device::cpu), 3, 4, 5, 2},
          {"no hidden units", random_integers({3, 2}, 1, 0, 3), 3, 4, 0, 2},
          {"one of everything", Tensor::zeros({1, 1}, DType::i32, Device::cpu), 1, 1, 1, 1},
          {"dropped choices", random_integers({7, 3}, 2, -1, 4), 4, 5, 6, 3},
          {"an expert of several tiles", random_integers({300, 1}, 4, 0, 2), 3, 17, 33, 9},
          {"an expert of several owners", skewed, 4, 6, 10, 7}};
}

struct Setting {
  Activation activation;
  bool biases, weighted;
};
const std::vector<Setting> kSettings = {{Activation::relu, true, true},
                                        {Activation::gelu, false, true},
                                        {Activation::silu, true, false},
                                        {Activation::swiglu, false, false},
                                        {Activation::swiglu, true, true}};

int functor_of(Activation a) {
  return a == Activation::relu   ? UnaryFunctors::index_of<functor::Relu>()
         : a == Activation::gelu ? UnaryFunctors::index_of<functor::GeluErf>()
                                 : UnaryFunctors::index_of<functor::Silu>();
}

// A plan, with slots of no expert behind the others where choices are -1.
struct Sorted {
  Sorted(const OnDevice& on, const Tensor& selected, std::int64_t experts)
      : offsets(selected.like({experts + 1})),
        order(selected.like({selected.numel()})),
        inverse(selected.like()) {
    on->plan(selected, experts, offsets, order, inverse);
  }
  std::int64_t slots() const { return order.size(0); }
  Tensor offsets, order, inverse;
};

struct Problem {
  Problem(const OnDevice& of, const Case& c, const Setting& s, DType d)
      : on(of),
        dtype(d),
        k(c.selected.size(1)),
        selected(on(c.selected)),
        plan(on, selected, c.experts) {
    const auto random_of = [&](const Shape& shape) {
      return on(random(shape, d, ++seed, -1.0, 1.0));
    };
    const std::int64_t e = c.experts;
    w.w1 = random_of({e, c.model, c.hidden});
    w.w2 = random_of({e, c.hidden, c.output});
    if (s.activation == Activation::swiglu) w.w3 = random_of({e, c.model, c.hidden});
    if (s.biases) w.b1 = random_of({e, c.hidden});
    if (s.biases) w.b2 = random_of({e, c.output});
    if (s.biases && w.w3.defined()) w.b3 = random_of({e, c.hidden});
    tokens = c.selected.size(0);
    x = random_of({tokens, c.model});
    slots = plan.slots();
    if (s.weighted)
      weights = on(nan_where_none(random_of({tokens, k}).to(Device::cpu), c.selected));
    dy = random_of({s.weighted ? tokens : slots, c.output});
    activation = s.activation;
  }
  Tensor like(const Shape& shape) const { return Tensor::empty(shape, dtype, on.device); }

  OnDevice on;
  std::uint64_t seed = 0;
  DType dtype;
  Activation activation = Activation::relu;
  std::int64_t k, tokens = 0, slots = 0;
  Tensor selected;
  Sorted plan;
  ExpertTensors w;
  Tensor x, weights, dy;
};

// Columns [first, first + count) of x [N, k].
Tensor columns(const OnDevice& on, const Tensor& x, std::int64_t first, std::int64_t count) {
  const Tensor out = x.like({x.size(0), count});
  on->copy_block(x, first, x.size(1), x.size(0), count, 0, count, out);
  return out;
}

// Some of the choices of each token, and what the way there and back makes of them.
struct Some {
  Some(const Problem& of, std::int64_t from, std::int64_t to, bool keep)
      : p(of),
        first(from),
        count(to - from),
        plan(of.on, columns(of.on, of.selected, from, count), experts()) {
    slots.order = plan.order;
    slots.offsets = plan.offsets;
    slots.choices = count;
    if (keep) {
      slots.a = p.like({plan.slots(), p.w.w1.size(2)});
      if (p.w.w3.defined()) slots.c = p.like(slots.a.shape());
    }
    h = p.like({plan.slots(), p.w.w2.size(2)});
    p.on->experts(p.activation, p.w, p.x, slots, h);
    slots.dslots = p.like({plan.slots(), p.x.size(1)});
    if (!p.weights.defined()) return;
    slots.weights = columns(p.on, p.weights, first, count);
    slots.dweights = p.like(slots.weights.shape());
  }
  std::int64_t experts() const { return p.w.w1.size(0); }

  const Problem& p;
  std::int64_t first, count;
  Sorted plan;
  ExpertSlotsBackward slots;
  Tensor h;
};

// The rows of dslots and the dweights of all, where the plan of all choices has them; on the host.
std::vector<Tensor> together(const Problem& p, const std::vector<Some>& parts) {
  const std::int64_t width = p.x.size(1);
  const Tensor slot_of = p.plan.inverse.to(Device::cpu);
  const Tensor dslots = Tensor::zeros({p.slots, width}, p.dtype, Device::cpu);
  Tensor dweights;
  if (p.weights.defined()) dweights = Tensor::empty(p.weights.shape(), p.dtype, Device::cpu);
  Kernels& host = kernels(Device::cpu);
  for (const Some& part : parts) {
    if (dweights.defined()) {
      host.copy_block(part.slots.dweights.to(Device::cpu), 0, part.count, p.tokens, part.count,
                      part.first, p.k, dweights);
    }
    const Tensor slot_of_part = part.plan.inverse.to(Device::cpu);
    const Tensor rows = part.slots.dslots.to(Device::cpu);
    for (std::int64_t i = 0; i < p.tokens * part.count; ++i) {
      const std::int32_t from = slot_of_part.data<std::int32_t>()[i];
      const std::int64_t choice = i / part.count * p.k + part.first + i % part.count;
      const std::int32_t to = slot_of.data<std::int32_t>()[choice];
      if (to < 0) continue;
      host.copy_block(rows, from * width, width, 1, width, to * width, width, dslots);
    }
  }
  return {dslots, dweights};
}

// dslots, dweights, dw1, db1, dw3, db3, dw2, db2, those of them that there are; with the
// pre-activations of `choices` per token kept, and the others worked out once more.
std::vector<Tensor> backward(const Problem& p, std::int64_t choices) {
  const auto gradient = [&](const Tensor& t) { return t.defined() ? p.like(t.shape()) : Tensor(); };
  const ExpertTensors dw = {gradient(p.w.w1), gradient(p.w.b1), gradient(p.w.w3),
                            gradient(p.w.b3), gradient(p.w.w2), gradient(p.w.b2)};
  std::vector<Some> parts;
  if (choices > 0) parts.emplace_back(p, 0, choices, true);
  if (choices < p.k) parts.emplace_back(p, choices, p.k, false);
  std::vector<ExpertSlotsBackward> plans;
  for (const Some& part : parts) plans.push_back(part.slots);
  p.on->experts_backward(p.activation, p.w, p.x, p.dy, plans, dw);
  std::vector<Tensor> out = together(p, parts);
  out.insert(out.end(), {dw.w1, dw.b1, dw.w3, dw.b3, dw.w2, dw.b2});
  std::erase_if(out, [](const Tensor& t) { return !t.defined(); });
  return out;
}

// h, and what backward() gives.
std::vector<Tensor> fused(const Problem& p, std::int64_t choices) {
  const Some all(p, 0, p.k, true);
  const Some again(p, 0, p.k, false);
  // Small products round by their result's alignment.
  check_close(again.h, all.h.to_vector(), 32.0);
  std::vector<Tensor> out = backward(p, choices);
  out.insert(out.begin(), all.h);
  return out;
}

std::vector<Tensor> composed(const Problem& p) {
  const OnDevice& on = p.on;
  const Tensor rows = p.like({p.slots, p.x.size(1)});
  on->tokens_to_slots(p.x, Tensor(), p.plan.order, p.k, rows);
  const auto linear = [&](const Tensor& from, const Tensor& w, const Tensor& b) {
    const Tensor product = p.like({p.slots, w.size(2)});
    on->grouped_matmul(from, w, false, p.plan.offsets, product);
    if (!b.defined()) return product;
    const Tensor sum = p.like(product.shape());
    on->grouped_bias(product, b, p.plan.offsets, sum);
    return sum;
  };
  const auto times = [&](const Tensor& left, const Tensor& right) {
    const Tensor out = p.like(left.shape());
    const Layout each{left.numel(), 1};
    on->binary(BinaryFunctors::index_of<functor::Mul>(), 1, left.numel(), left, each, right, each,
               out);
    return out;
  };
  const int f = functor_of(p.activation);
  const Tensor a = linear(rows, p.w.w1, p.w.b1);
  const Tensor act = p.like(a.shape());
  on->unary(f, {}, a, act);
  const Tensor c = p.w.w3.defined() ? linear(rows, p.w.w3, p.w.b3) : Tensor();
  const Tensor u = c.defined() ? times(act, c) : act;
  const Tensor h = linear(u, p.w.w2, p.w.b2);

  Tensor g = p.dy;
  Tensor dweights;
  if (p.weights.defined()) {
    g = p.like(h.shape());
    on->tokens_to_slots(p.dy, p.weights, p.plan.order, p.k, g);
    dweights = p.like(p.weights.shape());
    on->slot_products(p.dy, h, p.plan.inverse, dweights);
  }
  const auto sum = [&](const Tensor& from, const Tensor& b) {
    if (!b.defined()) return Tensor();
    const Tensor out = p.like(b.shape());
    on->grouped_sum(from, p.plan.offsets, out);
    return out;
  };
  const auto outer = [&](const Tensor& left, const Tensor& right, const Tensor& w) {
    const Tensor out = p.like(w.shape());
    on->grouped_outer(left, right, p.plan.offsets, out);
    return out;
  };
  const Tensor du = p.like(u.shape());
  on->grouped_matmul(g, p.w.w2, true, p.plan.offsets, du);
  const Tensor da = p.like(a.shape());
  on->unary_backward(f, {}, a, Tensor(), c.defined() ? times(du, c) : du, da);
  const Tensor dslots = p.like(rows.shape());
  on->grouped_matmul(da, p.w.w1, true, p.plan.offsets, dslots);
  Tensor dw3;
  Tensor db3;
  if (c.defined()) {
    const Tensor dc = times(du, act);
    const Tensor more = p.like(rows.shape());
    on->grouped_matmul(dc, p.w.w3, true, p.plan.offsets, more);
    on->accumulate(1.0, more, dslots);
    dw3 = outer(rows, dc, p.w.w3);
    db3 = sum(dc, p.w.b3);
  }
  std::vector<Tensor> out = {h, dslots};
  for (const Tensor& t : {dweights, outer(rows, da, p.w.w1), sum(da, p.w.b1), dw3, db3,
                          outer(u, g, p.w.w2), sum(g, p.w.b2)}) {
    if (t.defined()) out.push_back(t);
  }
  return out;
}

}  // namespace

KERNEL_TEST("the fused experts are the composition, at every number of threads") {
  for (const DType dtype : floating()) {
    for (const Case& c : cases()) {
      for (const Setting& s : kSettings) {
        CAPTURE(c.label);
        CAPTURE(static_cast<int>(s.activation));
        const Problem p(on, c, s, dtype);
        const std::vector<Tensor> want = composed(p);
        for (std::int64_t kept = 0; kept <= p.k; ++kept) {
          if (!s.weighted && kept > 0 && kept < p.k) continue;  // dy would be by slot of two plans
          CAPTURE(kept);
          const std::vector<Tensor> got = on.at_all_threads([&] { return fused(p, kept); });
          REQUIRE(got.size() == want.size());
          for (std::size_t i = 0; i < got.size(); ++i) {
            CAPTURE(i);
            check_close(got[i], want[i].to_vector(), 128.0);
          }
        }
      }
    }
  }
}

namespace {

// The length of the difference, in that of what is wanted.
double apart(const Tensor& got, const Tensor& want) {
  const Values x = got.to_vector();
  const Values y = want.to_vector();
  double difference = 0.0;
  double length = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    length += y[i] * y[i];
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / length);
}

}  // namespace

// Whose grouped products are held to plain loops by matmul_grouped_maths_test.cc. Weights are
// multiplied after a product here and before it there: then operands are rounded elsewhere.
MATHS_TEST("maths: the fused experts are the composition with TF32 and bf16, near the exact one") {
  for (const Maths maths : kRounding) {
    for (const Case& c : cases()) {
      for (const Setting& s : kSettings) {
        CAPTURE(std::string(c.label));
        CAPTURE(name_of(maths));
        const Problem p(on, c, s, DType::f32);
        const std::vector<Tensor> exact = composed(p);
        const MathsScope scope(maths);
        const std::vector<Tensor> want = composed(p);
        const std::vector<Tensor> got = on.at_all_threads([&] { return fused(p, p.k); });
        REQUIRE(got.size() == want.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          CAPTURE(i);
          if (!s.weighted) check_close(got[i], want[i].to_vector(), 128.0);
          if (i > 0 && s.activation == Activation::relu) continue;  // rounding crosses its kink
          const double distance = apart(got[i], exact[i]);
          CHECK(distance <= 4 * unit(maths));
          if (i == 0 && p.tokens >= 300) CHECK(distance > unit(maths) / 16);
        }
      }
    }
  }
}

MATHS_TEST("maths: experts of f64 are refused") {
  const Problem p(on, cases()[4], kSettings[0], DType::f64);
  const MathsScope scope(Maths::bf16);
  CHECK(on.error_of([&] { (void)composed(p); }).find("maths is bf16") != std::string::npos);
  CHECK(on.error_of([&] { (void)fused(p, p.k); }) ==
        "[experts] maths is bf16, for products of f32, and these are of f64. Use exact.");
}

KERNEL_TEST("what is not wanted of the experts' backward pass is not worked out") {
  const Problem p(on, cases()[4], kSettings[0], DType::f64);
  const Some kept(p, 0, p.k, true);
  const std::vector<Tensor> all = backward(p, p.k);
  const auto one = [&](const Tensor& dslots, const ExpertTensors& dw) {
    ExpertSlotsBackward slots = kept.slots;
    slots.dslots = dslots;
    slots.dweights = Tensor();
    p.on->experts_backward(p.activation, p.w, p.x, p.dy, {&slots, 1}, dw);
  };
  const Tensor dslots = p.like(all[0].shape());
  one(dslots, {});
  CHECK(dslots.same_bits(all[0]));
  ExpertTensors only;
  only.w2 = p.like(p.w.w2.shape());
  one(Tensor(), only);
  CHECK(only.w2.same_bits(all[4]));
}

KERNEL_TEST("a NaN reaches its own token's outputs and its expert's gradients, and no others") {
  const Problem p(on, cases()[4], kSettings[0], DType::f32);
  on->fill(std::nan(""), p.x.reshape({p.x.numel()}).rows(0, 1));
  const Tensor h = fused(p, p.k)[0].to(Device::cpu);
  const Tensor order = p.plan.order.to(Device::cpu);
  for (std::int64_t s = 0; s < p.slots; ++s) {
    const std::int32_t choice = order.data<std::int32_t>()[s];
    const bool hit = choice >= 0 && choice / p.k == 0;
    for (std::int64_t o = 0; o < h.size(1); ++o) {
      CHECK(std::isnan(h.at(s * h.size(1) + o)) == hit);
    }
  }
}
