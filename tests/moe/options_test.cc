// Options: what a spec says is what is refused, in words; what is set is read back.

#include "moe/options.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

Options some() {
  return {"router mine",
          {option::number("scale", "a").initially("0.5").from(0, 1).tried({"0.2"}),
           option::integer("groups", "b").initially("2").from(1, 8), option::flag("causal", "c"),
           option::flag("forward", "d").initially("true"),
           option::choice("scope", {"sequence", "batch"}, "e"), option::text("name", "f")}};
}

std::string error_of_setting(const std::string& name, const std::string& value) {
  return error_of([&] { some().set(name, value); });
}

}  // namespace

TEST_CASE("options have the defaults of their specs, and what was set") {
  Options options = some();
  CHECK(options.number("scale") == 0.5);
  CHECK(options.integer("groups") == 2);
  CHECK(!options.flag("causal"));
  CHECK(options.flag("forward"));
  CHECK(options.choice("scope") == "sequence");
  CHECK(options.values().at("name").empty());
  options.set("scale", "1e-1");
  options.set("groups", "8");
  options.set("causal", "true");
  options.set("scope", "batch");
  options.set("name", "any, \xff too");
  CHECK(options.number("scale") == 0.1);
  CHECK(options.integer("groups") == 8);
  CHECK(options.flag("causal"));
  CHECK(options.choice("scope") == "batch");
  CHECK(options.values().at("name") == "any, \xff too");
  CHECK(options.knows("scope"));
  CHECK(!options.knows("scop"));
  CHECK(options.specs()[0].examples == std::vector<std::string>{"0.2"});
}

TEST_CASE("a value of the wrong kind or out of range is refused") {
  const std::string number = "Give a number from 0 to 1.";
  for (const char* bad : {"", "1.5", "-0.1", "nan", "inf", "0.5 ", "+0.5", "x", "1e400"}) {
    CAPTURE(bad);
    CHECK(error_of_setting("scale", bad) ==
          fmt::format("[option] 'scale' of router mine is '{}'. {}", bad, number));
  }
  for (const char* bad : {"0", "9", "2.0", "1e0", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK(error_of_setting("groups", bad) ==
          fmt::format("[option] 'groups' of router mine is '{}'. Give a whole number from 1 to 8.",
                      bad));
  }
  CHECK(error_of_setting("causal", "1") ==
        "[option] 'causal' of router mine is '1'. Give true or false.");
  CHECK(error_of_setting("scope", "Batch") ==
        "[option] 'scope' of router mine is 'Batch'. Give one of sequence, batch.");
}

TEST_CASE("an unknown option names the nearest") {
  CHECK(error_of_setting("group", "1") ==
        "[option] router mine has no option 'group'. Did you mean 'groups'?");
  CHECK(error_of([] { Options("router bare", {}).set("x", "1"); }) ==
        "[option] router bare has no option 'x', and no others. Leave it out.");
  CHECK(error_of([] { some().number("scal"); }) ==
        "[option] router mine declares no option 'scal'.");
}

TEST_CASE("a default that its own spec refuses is said where it is declared") {
  CHECK(error_of([] { Options("router mine", {option::number("scale", "a")}); }) ==
        "[option] 'scale' of router mine is ''. Give a number from -inf to inf.");
}
