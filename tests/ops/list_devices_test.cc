// Every case of every operation on the other devices. On the guarded one no element is touched
// outside of kernels and transfers, and its numbers have the bits of the CPU's; CUDA's are those
// within rounding.
#include <doctest/doctest.h>

#include "autograd/operation_check.h"
#include "ops/list.h"
#include "tests/devices.h"

using namespace moegrad;
using test::agrees;
using test::other_devices;

namespace {

struct Numbers {
  Device device;
  Tensor output;
  std::vector<Tensor> gradients;
};

Numbers run_on(Device device, const OperationCase& c, DType dtype) {
  Decisions decisions = Decisions::recorder();
  Tape tape({.track_cell = true, .decisions = &decisions});
  std::vector<Var> leaves;
  for (const Tensor& input : make_inputs(c, dtype)) {
    leaves.push_back(tape.variable(input.to(device)));
  }
  const Var y = c.program(tape, leaves);
  Numbers numbers{y.value().device(), y.value().to(Device::cpu), {}};
  if (!y.needs_gradient()) return numbers;
  const Tensor cotangent = Rng{7, 1, 0}.uniform(y.shape(), y.dtype(), -1.0, 1.5);
  const Gradients g = tape.backward(y, {cotangent.to(device)});
  for (const Var& leaf : leaves) {
    CHECK(g[leaf].device() == device);
    numbers.gradients.push_back(g[leaf].to(Device::cpu));
  }
  return numbers;
}

}  // namespace

TEST_CASE("every operation runs on the other devices, with the CPU's numbers") {
  for (const OperationEntry& entry : all_operations()) {
    CAPTURE(entry.name);
    for (const OperationCase& c : entry.cases()) {
      CAPTURE(c.label);
      for (const DType dtype : {DType::f64, DType::f32}) {
        const Numbers here = run_on(Device::cpu, c, dtype);
        for (const Device device : other_devices()) {
          CAPTURE(name_of(device));
          CAPTURE(name_of(dtype));
          Numbers there;
          try {
            there = run_on(device, c, dtype);
          } catch (const Error& e) {
            FAIL_CHECK(e.what());
            continue;
          }
          CHECK((there.device == device || entry.name == Transfer::name));
          CHECK(agrees(there.output, here.output, device));
          REQUIRE(there.gradients.size() == here.gradients.size());
          for (std::size_t i = 0; i < here.gradients.size(); ++i) {
            CHECK(agrees(there.gradients[i], here.gradients[i], device));
          }
        }
      }
    }
  }
}

// Of the others too, by their bits: each call of a kernel there costs two of the system.
TEST_CASE("operations of each kind pass their check there") {
  for (const OperationEntry& entry :
       {entry_of<Softmax>(), entry_of<Dropout>(), entry_of<MaxPool2d>(), entry_of<TopKValues>(),
        entry_of<ScatterAddRows>()}) {
    for (const Device device : other_devices()) {
      const CheckRow row = check_operation(entry, nullptr, device);
      CHECK_MESSAGE(row.verdict == Verdict::pass, name_of(device), ", ", entry.name, ": ",
                    row.reason);
    }
  }
}
