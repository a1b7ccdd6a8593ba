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

// Tokens in groups, with places left empty; a plan of choices, likewise.
GroupSets sets_of(const Case& c, bool weighted, bool members_only, DType dtype) {
  const Tensor selected = random_integers({c.tokens, c.k}, 1, -1, c.experts);
  GroupSets s;
  s.ids = random_integers({c.tokens, c.groups}, 2, -1, c.experts);
  if (weighted) s.weights = random({c.tokens, c.groups}, dtype, 3, 0.0, 1.0);
  s.offsets = Tensor::empty({c.experts + 1}, DType::i32, Device::cpu);
  const Tensor order = Tensor::empty({c.tokens * c.k}, DType::i32, Device::cpu);
  const Tensor inverse = Tensor::empty({c.tokens, c.k}, DType::i32, Device::cpu);
  cpu_kernels().plan(selected, c.experts, s.offsets, order, inverse);
  s.order = order;  // slots of none among them
  s.choices = c.k;
  s.members_only = members_only;
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

TEST_CASE("group means, and the gradient that reaches the rows through them") {
  for (const DType dtype : floating()) {
    for (const Case& c : kCases) {
      for (const bool weighted : {false, true}) {
        for (const bool members_only : {false, true}) {
          CAPTURE(c.tokens);
          CAPTURE(weighted);
          CAPTURE(members_only);
          const GroupSets s = sets_of(c, weighted, members_only, dtype);
          const std::int64_t slots = s.order.numel();
          const Tensor h = random({slots, c.cols}, dtype, 4);
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
          const std::vector<Tensor> got = at_all_threads([&] {
            std::vector<Tensor> out = {
                Tensor::empty({c.experts, c.experts}, dtype, Device::cpu),
                Tensor::empty({c.experts, c.experts, c.cols}, dtype, Device::cpu)};
            cpu_kernels().group_means(h, s, out[0], out[1]);
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
          check_close(run_on(h.shape(), dtype,
                             [&](const Tensor& out) {
                               cpu_kernels().copy(before, out);
                               cpu_kernels().group_means_backward(dmeans, got[0], s, out);
                             }),
                      dh, 16.0);
        }
      }
    }
  }
}

TEST_CASE("a group that is none is an error") {
  GroupSets s = sets_of({4, 2, 1, 1, 1}, false, false, DType::f64);
  s.ids = Tensor::of<std::int32_t>({4, 1}, {0, 2, 0, 0});
  const Tensor h = random({s.order.numel(), 1}, DType::f64, 1);
  CHECK_THROWS_AS(cpu_kernels().group_means(h, s, Tensor::empty({2, 2}, DType::f64, Device::cpu),
                                            Tensor::empty({2, 2, 1}, DType::f64, Device::cpu)),
                  Error);
}
