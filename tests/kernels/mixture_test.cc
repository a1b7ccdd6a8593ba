#include <algorithm>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t tokens, experts, k, cols;
};
const std::vector<Case> kCases = {
    {0, 3, 2, 4}, {3, 2, 0, 4},    {1, 1, 1, 1},    {5, 3, 2, 0},      {7, 4, 2, 5},
    {9, 1, 1, 3}, {301, 8, 3, 65}, {9001, 5, 2, 3}, {1000, 300, 4, 1}, {700, 1500, 4, 1}};

// Choices with some slots left empty.
Tensor choices(const Case& c) { return random_integers({c.tokens, c.k}, 1, -1, c.experts); }

struct Plan {
  Tensor offsets, order, inverse;
  std::int64_t slots = 0;
};

Plan plan(const OnDevice& on, const Case& c) {
  const auto parts = on.at_all_threads([&] {
    std::vector<Tensor> out = {Tensor::empty({c.experts + 1}, DType::i32, on.device),
                               Tensor::full({c.tokens * c.k}, -7, DType::i32, on.device),
                               Tensor::empty({c.tokens, c.k}, DType::i32, on.device)};
    on->plan(on(choices(c)), c.experts, out[0], out[1], out[2]);
    return out;
  });
  return {parts[0], parts[1], parts[2], static_cast<std::int64_t>(parts[0].at(c.experts))};
}

}  // namespace

KERNEL_TEST("a plan sorts the choices by expert and keeps their order") {
  for (const Case& c : kCases) {
    const Values expert = choices(c).to_vector();
    Values offsets = {0};
    Values order;
    Values inverse(expert.size(), -1.0);
    for (std::int64_t e = 0; e < c.experts; ++e) {
      for (std::size_t i = 0; i < expert.size(); ++i) {
        if (expert[i] != static_cast<double>(e)) continue;
        inverse[i] = static_cast<double>(order.size());
        order.push_back(static_cast<double>(i));
      }
      offsets.push_back(static_cast<double>(order.size()));
    }
    order.resize(expert.size(), -1.0);
    const Plan p = plan(on, c);
    check_close(p.offsets, offsets, 0.0);
    check_close(p.order, order, 0.0);
    check_close(p.inverse, inverse, 0.0);
  }
}

KERNEL_TEST("a choice that is no expert is an error") {
  for (const std::int32_t bad : {-2, 2}) {
    const Tensor selected = on(Tensor::of<std::int32_t>({1, 1}, {bad}));
    const Tensor offsets = Tensor::empty({3}, DType::i32, on.device);
    const Tensor order = Tensor::empty({1}, DType::i32, on.device);
    CHECK(on.error_of([&] { on->plan(selected, 2, offsets, order, selected.like()); }) != "");
  }
}

KERNEL_TEST("more choices than there is room for are an error, and no plan is written") {
  const Tensor offsets = Tensor::full({3}, -7, DType::i32, on.device);
  const Tensor order = Tensor::full({2}, -7, DType::i32, on.device);
  const Tensor inverse = Tensor::full({3, 1}, -7, DType::i32, on.device);
  const Tensor selected = Tensor::of<std::int32_t>({3, 1}, {1, 0, 1});
  CHECK(on.error_of([&] { on->plan(on(selected), 2, offsets, order, inverse); }) != "");
  // A device that finds it when the kernel has begun leaves a plan without slots.
  const bool late = on.device == Device::cuda;
  CHECK(offsets.to_vector() == Values(3, late ? 0.0 : -7.0));
  CHECK(order.to_vector() == Values(2, late ? -1.0 : -7.0));
  CHECK(inverse.to_vector() == Values(3, late ? -1.0 : -7.0));
}

KERNEL_TEST("the complement of a selection") {
  for (const Case& c : kCases) {
    const Values chosen = choices(c).to_vector();
    Values want;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const auto row = chosen.begin() + t * c.k;
      for (std::int64_t e = 0; e < c.experts; ++e) {
        const bool is = std::find(row, row + c.k, static_cast<double>(e)) != row + c.k;
        want.push_back(is ? -1.0 : static_cast<double>(e));
      }
    }
    check_close(on.run({c.tokens, c.experts}, DType::i32,
                       [&](const Tensor& out) { on->complement(on(choices(c)), out); }),
                want, 0.0);
  }
}

KERNEL_TEST("rows to slots, rows to tokens, and the products of both") {
  for (const DType dtype : floating()) {
    for (const Case& c : kCases) {
      CAPTURE(c.tokens);
      CAPTURE(c.cols);
      const Plan p = plan(on, c);
      const Tensor x = random({c.tokens, c.cols}, dtype, 2);
      const Tensor h = random({p.slots, c.cols}, dtype, 3);
      const Tensor w = nan_where_none(random({c.tokens, c.k}, dtype, 4), p.inverse);
      for (const bool weighted : {false, true}) {
        Values slots(at(c.tokens * c.k * c.cols), 0.0);  // those of none are 0
        Values tokens(at(c.tokens * c.cols), 0.0);
        Values products(at(c.tokens * c.k), 0.0);
        for (std::int64_t i = 0; i < c.tokens * c.k; ++i) {
          const auto slot = static_cast<std::int64_t>(p.inverse.at(i));
          if (slot < 0) continue;
          const double w_i = weighted ? w.at(i) : 1.0;
          for (std::int64_t col = 0; col < c.cols; ++col) {
            const double x_i = x.at(i / c.k * c.cols + col);
            const double h_i = h.at(slot * c.cols + col);
            slots[at(slot * c.cols + col)] = x_i * w_i;
            tokens[at(i / c.k * c.cols + col)] += h_i * w_i;
            products[at(i)] += x_i * h_i;
          }
        }
        const Tensor weights = weighted ? w : Tensor();
        check_close(on.run({c.tokens * c.k, c.cols}, dtype,
                           [&](const Tensor& out) {
                             on->tokens_to_slots(on(x), on(weights), on(p.order), c.k, out);
                           }),
                    slots);
        check_close(on.run({c.tokens, c.cols}, dtype,
                           [&](const Tensor& out) {
                             on->slots_to_tokens(on(h), on(weights), on(p.inverse), out);
                           }),
                    tokens);
        check_close(
            on.run({c.tokens, c.k}, dtype,
                   [&](const Tensor& out) { on->slot_products(on(x), on(h), on(p.inverse), out); }),
            products, 16.0);
      }
    }
  }
}

KERNEL_TEST("an expert without tokens and a token without experts") {
  const Tensor selected = Tensor::of<std::int32_t>({3, 2}, {2, 0, -1, -1, -1, 2});
  const Tensor offsets = Tensor::empty({4}, DType::i32, on.device);
  const Tensor order = Tensor::zeros({6}, DType::i32, on.device);
  const Tensor inverse = Tensor::empty({3, 2}, DType::i32, on.device);
  on->plan(on(selected), 3, offsets, order, inverse);
  check_close(offsets, {0, 1, 1, 3}, 0.0);
  check_close(order.rows(0, 3), {1, 0, 5}, 0.0);
  check_close(inverse, {1, 0, -1, -1, -1, 2}, 0.0);
  const Tensor y = Tensor::empty({3, 1}, DType::f64, on.device);
  on->slots_to_tokens(on(Tensor::of<double>({3, 1}, {10, 20, 30})), Tensor(), inverse, y);
  check_close(y, {30, 0, 30}, 0.0);
}
