#include "moe/plan.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {
std::vector<double> values(const Tensor& t) { return t.to_vector(); }
}  // namespace

TEST_CASE("slots are sorted by expert, tokens in order within an expert") {
  const Plan plan = make_plan(Tensor::of<std::int32_t>({3, 2}, {2, 0, 0, 3, 2, 0}), 4);
  CHECK(values(plan.offsets) == std::vector<double>{0, 3, 3, 5, 6});
  CHECK(values(plan.order) == std::vector<double>{1, 2, 5, 0, 4, 3});
  CHECK(values(plan.inverse) == std::vector<double>{3, 0, 1, 5, 4, 2});
  CHECK(plan.slots() == 6);
  CHECK(plan.load(0) == 3);
  CHECK(plan.load(1) == 0);
}

TEST_CASE("a choice of -1 has no slot") {
  const Plan plan = make_plan(Tensor::of<std::int32_t>({3, 2}, {-1, 1, -1, -1, 0, 1}), 2);
  CHECK(plan.slots() == 3);
  CHECK(values(plan.order) == std::vector<double>{4, 1, 5});
  CHECK(values(plan.inverse) == std::vector<double>{-1, 1, -1, -1, 0, 2});
}

TEST_CASE("no tokens, no slots") {
  const Plan plan = make_plan(Tensor::empty({0, 2}, DType::i32), 3);
  CHECK(plan.slots() == 0);
  CHECK(values(plan.offsets) == std::vector<double>{0, 0, 0, 0});
}

TEST_CASE("the unselected experts, ascending, padded with -1") {
  const Tensor rest = unselected(Tensor::of<std::int32_t>({2, 2}, {3, 1, 2, 2}), 4);
  CHECK(rest.shape() == Shape{2, 3});
  CHECK(values(rest) == std::vector<double>{0, 2, -1, 0, 1, 3});
  CHECK(unselected(Tensor::of<std::int32_t>({1, 2}, {1, 0}), 2).shape() == Shape{1, 0});
}

TEST_CASE("selections that are none") {
  CHECK(error_of([] {
          make_plan(Tensor::of<std::int32_t>({2, 1}, {0, 4}), 4);
        }) == "[plan] token 1 chooses expert 4 of 4. Use 0 to 3, or -1 for none.");
  CHECK(error_of([] { make_plan(Tensor::zeros({4}, DType::i32), 4); }) ==
        "[plan] selected is i32 [4]. It must be i32 [tokens, k].");
  CHECK(error_of([] {
          make_plan(Tensor::zeros({4, 1}, DType::f32), 4);
        }) == "[plan] selected is f32 [4, 1]. It must be i32 [tokens, k].");
}
