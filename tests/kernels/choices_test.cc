#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t tokens, k, experts;
};
const std::vector<Case> kCases = {{0, 2, 3}, {1, 1, 1}, {5, 0, 4}, {7, 3, 4}, {40000, 2, 64}};

}  // namespace

KERNEL_TEST("how many choices fell on each expert, of all tokens and of groups of them") {
  for (const auto& [tokens, k, experts] : kCases) {
    const Tensor selected = random_integers({tokens, k}, 5, -1, experts);
    const Tensor group = random_integers({tokens}, 6, 0, 3);
    Values all(at(experts), 0.0);
    Values each(at(3 * experts), 0.0);
    for (std::int64_t i = 0; i < tokens * k; ++i) {
      if (selected.at(i) < 0.0) continue;
      const auto e = static_cast<std::int64_t>(selected.at(i));
      all[at(e)] += 1.0;
      each[at(static_cast<std::int64_t>(group.at(i / k)) * experts + e)] += 1.0;
    }
    const Tensor ids = on(selected);
    const Tensor group_of = on(group);
    check_close(
        on.run({1, experts}, DType::i32, [&](const Tensor& out) { on->count(ids, {}, out); }), all,
        0.0);
    check_close(
        on.run({3, experts}, DType::i32, [&](const Tensor& out) { on->count(ids, group_of, out); }),
        each, 0.0);
  }
  const Tensor out = Tensor::empty({1, 2}, DType::i32, on.device);
  const Tensor token = on(Tensor::of<std::int32_t>({1, 1}, {0}));
  const Tensor bad = on(Tensor::of<std::int32_t>({1, 1}, {2}));
  const Tensor group = on(Tensor::of<std::int32_t>({1}, {1}));
  CHECK(on.error_of([&] { on->count(bad, {}, out); }) != "");
  CHECK(on.error_of([&] { on->count(token, group, out); }) != "");
}

KERNEL_TEST("an expert keeps the first choices of its slots") {
  for (const auto& [tokens, k, experts] : kCases) {
    const Tensor selected = random_integers({tokens, k}, 7, -1, experts);
    for (const std::int64_t capacity : {1, 3, 500}) {
      Values want;
      std::vector<std::int64_t> load(at(experts), 0);
      for (std::int64_t i = 0; i < tokens * k; ++i) {
        const double e = selected.at(i);
        const bool kept = e >= 0.0 && load[at(static_cast<std::int64_t>(e))]++ < capacity;
        want.push_back(kept ? e : -1.0);
      }
      const Tensor ids = on(selected);
      const Tensor offsets = Tensor::empty({experts + 1}, DType::i32, on.device);
      const Tensor order = Tensor::empty({tokens * k}, DType::i32, on.device);
      const Tensor inverse = Tensor::empty({tokens, k}, DType::i32, on.device);
      on->plan(ids, experts, offsets, order, inverse);
      check_close(
          on.run({tokens, k}, DType::i32,
                 [&](const Tensor& out) { on->keep_first(ids, offsets, inverse, capacity, out); }),
          want, 0.0);
    }
  }
}
