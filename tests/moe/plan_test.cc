#include "moe/plan.h"

#include <algorithm>

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
  const Plan plan = make_plan(Tensor::empty({0, 2}, DType::i32, Device::cpu), 3);
  CHECK(plan.slots() == 0);
  CHECK(values(plan.offsets) == std::vector<double>{0, 0, 0, 0});
}

TEST_CASE("the unselected experts, ascending, padded with -1") {
  const Tensor rest = unselected(Tensor::of<std::int32_t>({2, 2}, {3, 1, 2, 2}), 4);
  CHECK(rest.shape() == Shape{2, 3});
  CHECK(values(rest) == std::vector<double>{0, 2, -1, 0, 1, 3});
  CHECK(unselected(Tensor::of<std::int32_t>({1, 2}, {1, 0}), 2).shape() == Shape{1, 0});
}

TEST_CASE("the unselected experts where they are counted in words of 64") {
  for (const std::int64_t experts : {1, 63, 64, 65, 128, 200}) {
    CAPTURE(experts);
    const std::int64_t tokens = 2000;  // several pieces
    Tensor selected = Tensor::empty({tokens, 3}, DType::i32, Device::cpu);
    std::int32_t* const ids = selected.write<std::int32_t>();
    for (std::int64_t i = 0; i < 3 * tokens; ++i) {
      ids[i] = static_cast<std::int32_t>(i * 7 % (experts + 1)) - 1;
    }
    const Tensor rest = unselected(selected, experts);
    std::size_t width = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<std::int32_t> want;
      for (std::int32_t e = 0; e < experts; ++e) {
        if (std::find(ids + 3 * t, ids + 3 * t + 3, e) == ids + 3 * t + 3) want.push_back(e);
      }
      width = std::max(width, want.size());
      REQUIRE(static_cast<std::int64_t>(width) <= rest.size(1));
      want.resize(static_cast<std::size_t>(rest.size(1)), -1);
      REQUIRE(std::ranges::equal(want, rest.rows(t, t + 1).values<std::int32_t>()));
    }
    CHECK(static_cast<std::int64_t>(width) == rest.size(1));
  }
}

TEST_CASE("two plans joined: the slots of each expert one behind the other") {
  const Plan first = make_plan(Tensor::of<std::int32_t>({3, 1}, {1, 0, -1}), 3);
  const Plan second = make_plan(Tensor::of<std::int32_t>({3, 2}, {0, 2, -1, 1, 1, 0}), 3);
  const Plan both = joined(first, second);
  CHECK(both.experts == 3);
  CHECK(both.choices == 3);
  CHECK(values(both.offsets) == std::vector<double>{0, 3, 6, 7});
  CHECK(values(both.order) == std::vector<double>{3, 1, 8, 0, 5, 7, 2});
  CHECK(values(both.inverse) == std::vector<double>{3, 1, 6, 0, -1, 4, -1, 5, 2});

  const Plan none = make_plan(Tensor::empty({3, 0}, DType::i32, Device::cpu), 3);
  CHECK(joined(first, none).order.same_bits(first.order));
  CHECK(joined(none, first).inverse.same_bits(first.inverse));
  CHECK(error_of([&] {
          joined(first, make_plan(Tensor::zeros({2, 1}, DType::i32, Device::cpu), 4));
        }) ==
        "[plan] plans of 3 and 2 tokens and 3 and 4 experts cannot be joined. They must agree.");
}

TEST_CASE("selections that are none") {
  CHECK(error_of([] {
          make_plan(Tensor::of<std::int32_t>({2, 1}, {0, 4}), 4);
        }) == "[plan] token 1 chooses expert 4 of 4. Use 0 to 3, or -1 for none.");
  CHECK(error_of([] { make_plan(Tensor::zeros({4}, DType::i32, Device::cpu), 4); }) ==
        "[plan] selected is i32 [4]. It must be i32 [tokens, k].");
  CHECK(error_of([] {
          make_plan(Tensor::zeros({4, 1}, DType::f32, Device::cpu), 4);
        }) == "[plan] selected is f32 [4, 1]. It must be i32 [tokens, k].");
}

TEST_CASE("a plan that i32 cannot number is refused") {
  constexpr std::int64_t k31 = std::int64_t{1} << 31;
  const auto message = [](std::int64_t tokens, std::int64_t choices, std::int64_t experts) {
    return error_of([&] { require_plan_size(tokens, choices, experts); });
  };
  CHECK(message(k31 / 2 - 1, 2, 64) == "no error");
  CHECK(message(1, k31 - 1, 64) == "no error");
  CHECK(message(k31 / 2, 2, 64) ==
        "[plan] 1073741824 tokens with 2 choices each among 64 experts. A plan numbers choices and "
        "experts by i32, up to 2147483647; use smaller batches.");
  CHECK(message(k31, k31, 64) != "no error");
  CHECK(message(INT64_MAX, 2, 64) != "no error");
  CHECK(message(1, 1, k31 - 1) != "no error");  // offsets has one more
  CHECK(message(1, 1, k31 - 2) == "no error");
  CHECK(error_of([&] {
          make_plan(Tensor::of<std::int32_t>({1, 1}, {0}), k31);
        }).starts_with("[plan] 1 tokens with 1 choices"));
  CHECK(error_of([&] {
          unselected(Tensor::of<std::int32_t>({4, 1}, {0, 0, 0, 0}), k31 / 4);
        }).starts_with("[plan] 4 tokens with 536870912 choices"));
  Plan half = make_plan(Tensor::of<std::int32_t>({2, 1}, {0, 1}), 2);
  half.choices = k31 / 4;  // as if there were so many
  CHECK(
      error_of([&] { joined(half, half); }).starts_with("[plan] 2 tokens with 1073741824 choices"));
}
