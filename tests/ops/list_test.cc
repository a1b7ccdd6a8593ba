// Every operation passes its own check.

#include "ops/list.h"

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("every operation passes its check on all of its cases") {
  for (const OperationEntry& entry : all_operations()) {
    SUBCASE(std::string(entry.name).c_str()) {
      const CheckRow row = check_operation(entry);
      INFO(entry.name << ": " << row.reason);
      CHECK(row.verdict == Verdict::pass);
      CHECK(row.cases > 0);
      CHECK(row.max_error < 1e-7);
    }
  }
}

TEST_CASE("the list of operations") {
  const std::vector<OperationEntry> entries = all_operations();
  CHECK(entries.size() == AllOps::size + ComposedFunctions::size);

  SUBCASE("names are unique: mutants and reports go by name") {
    for (std::size_t i = 0; i < entries.size(); ++i) {
      for (std::size_t j = i + 1; j < entries.size(); ++j)
        CHECK(entries[i].name != entries[j].name);
    }
  }
  SUBCASE("every entry says what it is") {
    for (const OperationEntry& entry : entries) {
      INFO(entry.name);
      CHECK(!entry.summary.empty());
      CHECK(!entry.source.empty());
      CHECK(!entry.cases().empty());
    }
  }
  SUBCASE("every functor is in it") {
    CHECK(AllOps::size > UnaryFunctors::size + BinaryFunctors::size);
  }
}

namespace {

// A declaration that is complete, and the same without one part.
struct Complete {
  static constexpr std::string_view name = "complete", summary = "x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) { return in[0]; }
  static void backward(Backward& b, const NoAttributes&) { b.add(0, b.dy()); }
  static std::vector<OperationCase> cases() { return {}; }
};
struct WithoutCases {
  static constexpr std::string_view name = "without cases", summary = "x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) { return in[0]; }
  static void backward(Backward& b, const NoAttributes&) { b.add(0, b.dy()); }
};
struct WithoutClaim {
  static constexpr std::string_view name = "without claim", summary = "x";
  [[maybe_unused]] static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) { return in[0]; }
  static void backward(Backward& b, const NoAttributes&) { b.add(0, b.dy()); }
  static std::vector<OperationCase> cases() { return {}; }
};
struct WithoutBackward {
  static constexpr std::string_view name = "without backward", summary = "x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) { return in[0]; }
  static std::vector<OperationCase> cases() { return {}; }
};
struct HoldsATensor {
  struct Attributes {
    Tensor tensor;  // tensors are inputs: this could not be kept on the tape
  };
  static constexpr std::string_view name = "holds a tensor", summary = "x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  static Tensor forward(Forward& in, const Attributes&) { return in[0]; }
  static void backward(Backward& b, const Attributes&) { b.add(0, b.dy()); }
  static std::vector<OperationCase> cases() { return {}; }
};

static_assert(Declared<Complete>);
static_assert(!Declared<WithoutCases>);
static_assert(!Declared<WithoutClaim>);
static_assert(!Declared<WithoutBackward>);
static_assert(!Declared<HoldsATensor>);
static_assert(Documented<WithoutBackward>);
static_assert(!Documented<WithoutCases>);
static_assert(!Documented<WithoutClaim>);

}  // namespace
