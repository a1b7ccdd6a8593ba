// Proof that the checks bite: the backward pass of every operation is broken in every way, for
// every input, and its check has to fail.

#include <algorithm>

#include <doctest/doctest.h>

#include "ops/list.h"

using namespace moegrad;

namespace {

// The most floating inputs that the operation has in any of its cases.
int inputs_of(const OperationEntry& entry) {
  int most = 0;
  for (const OperationCase& c : entry.cases()) {
    Tape tape;
    std::vector<Var> leaves;
    for (const Tensor& input : make_inputs(c, DType::f64)) leaves.push_back(tape.variable(input));
    c.program(tape, leaves);
    for (std::size_t i = 0; i < tape.size(); ++i) {
      const Tape::NodeView node = tape.node(i);
      if (node.operation != entry.operation) continue;
      for (std::size_t k = 0; k < node.inputs.size(); ++k) {
        if (node.inputs[k].defined() && is_floating(node.inputs[k].dtype()))
          most = std::max(most, static_cast<int>(k) + 1);
      }
    }
  }
  return most;
}

}  // namespace

TEST_CASE("no mutant of a backward pass survives the check of its operation") {
  int killed = 0;
  std::string equivalent;
  std::vector<std::string> survivors;
  for (const OperationEntry& entry : all_operations()) {
    if (entry.operation == nullptr) continue;
    const int inputs = inputs_of(entry);
    INFO(entry.name);
    REQUIRE(inputs > 0);
    for (int input = 0; input < inputs; ++input) {
      for (const Mutation::Kind kind : kMutations) {
        const std::string mutant =
            fmt::format("{}, input {}: {}", entry.name, input, name_of(kind));
        bool applied = false;
        const Mutation mutation{entry.name, kind, input, &applied};
        const CheckRow row = check_operation(entry, &mutation);
        if (!applied) {
          equivalent += fmt::format("\n  {}", mutant);
          CHECK(row.verdict == Verdict::pass);
        } else if (row.verdict == Verdict::fail) {
          ++killed;
        } else if (entry.name == Transfer::name && kind == Mutation::Kind::sign) {
          equivalent += fmt::format("\n  {}, twice: there and back", mutant);
        } else {
          survivors.push_back(mutant);
        }
      }
    }
  }
  MESSAGE(killed << " mutants killed, " << survivors.size() << " survived");
  MESSAGE("equivalent, for they change no gradient:" << equivalent);
  for (const std::string& survivor : survivors) MESSAGE("survived: " << survivor);
  CHECK(survivors.empty());
  CHECK(killed > 200);
}
