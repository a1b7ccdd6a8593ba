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
  CHECK(values(plan.offsets()) == std::vector<double>{0, 3, 3, 5, 6});
  CHECK(values(plan.order()) == std::vector<double>{1, 2, 5, 0, 4, 3});
  CHECK(values(plan.inverse()) == std::vector<double>{3, 0, 1, 5, 4, 2});
  CHECK(plan.slots() == 6);
}

TEST_CASE("a choice of -1 has no slot") {
  const Plan plan = make_plan(Tensor::of<std::int32_t>({3, 2}, {-1, 1, -1, -1, 0, 1}), 2);
  CHECK(plan.slots() == 3);
  CHECK(values(plan.order()) == std::vector<double>{4, 1, 5});
  CHECK(values(plan.inverse()) == std::vector<double>{-1, 1, -1, -1, 0, 2});
}

TEST_CASE("no tokens, no slots") {
  const Plan plan = make_plan(Tensor::empty({0, 2}, DType::i32, Device::cpu), 3);
  CHECK(plan.slots() == 0);
  CHECK(values(plan.offsets()) == std::vector<double>{0, 0, 0, 0});
}

TEST_CASE("slots are as many as there can be choices; on the host as there are") {
  const Tensor selected = Tensor::of<std::int32_t>({3, 2}, {-1, 1, -1, -1, 0, 1});
  const Tensor there = selected.to(Device::guarded);
  CHECK(make_plan(selected, 2, 4).order().same_bits(make_plan(selected, 2).order()));
  const Plan plan = make_plan(there, 2, 4);
  CHECK(plan.slots() == 4);
  CHECK(values(plan.offsets()) == std::vector<double>{0, 1, 3});
  CHECK(values(plan.order()) == std::vector<double>{4, 1, 5, -1});
  CHECK(values(plan.inverse()) == std::vector<double>{-1, 1, -1, -1, 0, 2});
  CHECK(make_plan(there, 2).slots() == 6);
  CHECK(make_plan(there, 2, 100).slots() == 6);  // there are no more than N k

  const std::uint64_t waits = waits_for_devices();
  make_plan(there, 2, 3);
  CHECK(waits_for_devices() == waits);

  for (const Tensor& s : {selected, there}) {
    CHECK(error_of([&] { make_plan(s, 2, 2); }) ==
          "[plan] 3 choices, and room for 2. Make room for the most that there can be.");
  }
}

TEST_CASE("the experts that a token did not choose stand in their own columns") {
  const Tensor rest = complement(Tensor::of<std::int32_t>({3, 2}, {3, 1, 2, 2, -1, 0}), 4);
  CHECK(rest.shape() == Shape{3, 4});
  CHECK(values(rest) == std::vector<double>{0, -1, 2, -1, 0, 1, -1, 3, -1, 1, 2, 3});
  CHECK(values(complement(Tensor::of<std::int32_t>({1, 2}, {1, 0}), 2)) ==
        std::vector<double>{-1, -1});
  CHECK(error_of([] {
          complement(Tensor::of<std::int32_t>({1, 1}, {2}), 2);
        }) == "[complement] an index is 2, outside [-1, 2). Check the indices against the sizes.");
}

TEST_CASE("selections that are none") {
  CHECK(error_of([] {
          make_plan(Tensor::zeros({4, 1}, DType::i32, Device::cpu), 4, -1);
        }) == "[plan] room for -1 choices. Give 0 or more.");
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
          complement(Tensor::of<std::int32_t>({4, 1}, {0, 0, 0, 0}), k31 / 4);
        }).starts_with("[plan] 4 tokens with 536870912 choices"));
}
