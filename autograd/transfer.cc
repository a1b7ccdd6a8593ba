#include "autograd/transfer.h"

#include <vector>

namespace moegrad {

Tensor Transfer::forward(Forward& in, const Attributes& p) { return in[0].to(p.to); }
void Transfer::backward(Backward& b, const Attributes& p) { b.add(0, b.dy().to(p.from)); }

std::vector<OperationCase> Transfer::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape : {Shape{3, 4}, Shape{}, Shape{1}, Shape{0, 2}}) {
    cases.push_back(
        {fmt::format("{} there and back", shape), {{shape}}, [](Tape&, std::span<const Var> x) {
           return to(to(x[0], Device::guarded), Device::cpu);
         }});
  }
  return cases;
}

Var to(Var x, Device device) {
  const Device from = x.value().device();
  return from == device ? x : apply<Transfer>({x}, {from, device});
}

Program on_device(Device device, const Program& program) {
  if (device == Device::cpu) return program;
  return [device, program](Tape& tape, std::span<const Var> inputs) {
    std::vector<Var> there;
    for (const Var& x : inputs) there.push_back(to(x, device));
    return to(program(tape, there), Device::cpu);
  };
}

}  // namespace moegrad
