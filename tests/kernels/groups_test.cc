#include <algorithm>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t tokens, experts, k, groups, cols;
};
const std::vector<Case> kCases = {{0, 3, 2, 2, 4}, {3, 2, 0, 1, 4},     {1, 1, 1, 1, 1},
                                  {5, 3, 2, 2, 0}, {4, 3, 2, 0, 2},     {7, 4, 2, 2, 5},
                                  {9, 5, 1, 3, 3}, {301, 8, 3, 2, 130}, {2003, 5, 2, 4, 9}};

// Tokens in groups, with places left empty; a plan of choices, likewise. On the host.
GroupSets sets_of(const OnDevice& on, const Case& c, bool weighted, bool members_only,
                  DType dtype) {
  const Tensor selected = random_integers({c.tokens, c.k}, 1, -1, c.experts);
  GroupSets s;
  s.ids = random_integers({c.tokens, c.groups}, 2, -1, c.experts);
  if (weighted) {
    s.weights = nan_where_none(random({c.tokens, c.groups}, dtype, 3, 0.0, 1.0), s.ids);
  }
  const Tensor offsets = Tensor::empty({c.experts + 1}, DType::i32, on.device);
  const Tensor order = Tensor::empty({c.tokens * c.k}, DType::i32, on.device);
  const Tensor inverse = Tensor::empty({c.tokens, c.k}, DType::i32, on.device);
  on->plan(on(selected), c.experts, offsets, order, inverse);
  s.offsets = offsets.to(Device::cpu);
  s.order = order.to(Device::cpu);  // slots of none among them
  s.choices = c.k;
  s.members_only = members_only;
  return s;
}

GroupSets there(const OnDevice& on, GroupSets s) {
  for (Tensor* t : {&s.ids, &s.weights, &s.offsets, &s.order}) *t = on(*t);
  return s;
}

// Calls f(slot, i, j, weight) for every pair of a slot and a set C_ij that holds it.
template <class F>
void for_each_pair(const Case& c, const GroupSets& s, F&& f) {
  for (std::int64_t j = 0; j < c.experts; ++j) {
    const auto begin = static_cast<std::int64_t>(s.offsets.at(j));
    const auto end = static_cast<std::int64_t>(s.offsets.at(j + 1));
    for (std::int64_t slot = begin; slot < end; ++slot) {
      const std::int64_t t = static_cast<std::int64_t>(s.order.at(slot)) / c.k;
      const Values ids = s.ids.rows(t, t + 1).to_vector();
      const bool member = std::count(ids.begin(), ids.end(), static_cast<double>(j)) > 0;
      if (s.members_only && !member) continue;
      for (std::int64_t m = 0; m < c.groups; ++m) {
        const double w = s.weights.defined() ? s.weights.at(t * c.groups + m) : 1.0;
        const auto i = static_cast<std::int64_t>(ids[at(m)]);
        if (i >= 0) f(slot, i, j, w);
      }
    }
  }
}

}  // namespace

KERNEL_TEST("group means, and the gradient that reaches the rows through them") {
  for (const DType dtype : floating()) {
    for (const Case& c : kCases) {
      for (const bool weighted : {false, true}) {
        for (const bool members_only : {false, true}) {
          CAPTURE(c.tokens);
          CAPTURE(weighted);
          CAPTURE(members_only);
          const GroupSets s = sets_of(on, c, weighted, members_only, dtype);
          const std::int64_t slots = s.order.numel();
          const Tensor h = nan_where_none(random({slots, c.cols}, dtype, 4), s.order);
          Values inverse(at(c.experts * c.experts), 0.0);
          Values means(at(c.experts * c.experts * c.cols), 0.0);
          for_each_pair(c, s, [&](std::int64_t slot, std::int64_t i, std::int64_t j, double w) {
            const std::int64_t set = i * c.experts + j;
            inverse[at(set)] += w;
            for (std::int64_t col = 0; col < c.cols; ++col) {
              means[at(set * c.cols + col)] += w * h.at(slot * c.cols + col);
            }
          });
          for (double& v : inverse) v = v > 0.0 ? 1.0 / v : weighted ? 0.0 : 1.0;
          for (std::size_t i = 0; i < means.size(); ++i) means[i] *= inverse[i / at(c.cols)];
          const std::vector<Tensor> got = on.at_all_threads([&] {
            std::vector<Tensor> out = {
                Tensor::empty({c.experts, c.experts}, dtype, on.device),
                Tensor::empty({c.experts, c.experts, c.cols}, dtype, on.device)};
            on->group_means(on(h), there(on, s), out[0], out[1]);
            return out;
          });
          check_close(got[0], inverse, 64.0);
          check_close(got[1], means, 64.0);

          const Tensor dmeans = random(got[1].shape(), dtype, 5);
          const Tensor before = random(h.shape(), dtype, 6);
          Values dh = before.to_vector();
          for_each_pair(c, s, [&](std::int64_t slot, std::int64_t i, std::int64_t j, double w) {
            const std::int64_t set = i * c.experts + j;
            for (std::int64_t col = 0; col < c.cols; ++col) {
              dh[at(slot * c.cols + col)] += w * got[0].at(set) * dmeans.at(set * c.cols + col);
            }
          });
          check_close(on.run(h.shape(), dtype,
                             [&](const Tensor& out) {
                               on->copy(on(before), out);
                               on->group_means_backward(on(dmeans), on(got[0]), there(on, s), out);
                             }),
                      dh, 16.0);
        }
      }
    }
  }
}

KERNEL_TEST("a group that is none is an error") {
  GroupSets s = sets_of(on, {4, 2, 1, 1, 1}, false, false, DType::f64);
  s.ids = Tensor::of<std::int32_t>({4, 1}, {0, 2, 0, 0});
  const Tensor h = random({s.order.numel(), 1}, DType::f64, 1);
  const Tensor inverse = Tensor::empty({2, 2}, DType::f64, on.device);
  const Tensor means = Tensor::empty({2, 2, 1}, DType::f64, on.device);
  CHECK(on.error_of([&] { on->group_means(on(h), there(on, s), inverse, means); }) != "");
}
