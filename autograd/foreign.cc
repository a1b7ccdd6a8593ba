#include "autograd/foreign.h"

#include <memory>
#include <utility>

namespace moegrad {
namespace {

struct ForeignAttributes {
  const ForeignProgram* program;
  Tape* tape;
};

// A tensor that owns the vjp: saved on the tape, it lives as long as a backward pass may come.
Tensor holding(std::shared_ptr<ForeignVjp> vjp) {
  void* const place = vjp.get();
  return Tensor::view({0}, DType::i32, Device::cpu, place, std::move(vjp));
}
const ForeignVjp& held_by(const Tensor& tensor) {
  return *reinterpret_cast<const ForeignVjp*>(tensor.raw());
}

Tensor foreign_forward(Forward& in, const void* attributes) {
  const auto& [program, tape] = *static_cast<const ForeignAttributes*>(attributes);
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < in.size(); ++i) inputs.push_back(in[i]);
  ForeignRun run(*tape, in.saves());
  ForeignResult result = (*program)(run, inputs);
  if (!result.output.defined()) {
    fail("foreign", "the program returned no output. Return a tensor of f64.");
  }
  if (in.saves()) in.save(holding(std::make_shared<ForeignVjp>(std::move(result.vjp))));
  return result.output;
}

void foreign_backward(Backward& b, const void*) {
  const ForeignVjp& vjp = held_by(b.saved(0));
  if (!vjp) return;
  const std::vector<Tensor> gradients = vjp(b.dy());
  if (gradients.size() != static_cast<std::size_t>(b.inputs())) {
    fail("foreign", "the vjp returned {} gradients for {} inputs. Return one for each input.",
         gradients.size(), b.inputs());
  }
  for (int i = 0; i < b.inputs(); ++i) {
    const Tensor& gradient = gradients[static_cast<std::size_t>(i)];
    if (!b.wants(i) || !gradient.defined()) continue;
    if (!(gradient.shape() == b.input_shape(i)) || gradient.dtype() != DType::f64) {
      fail("foreign",
           "the gradient of input {} is {} {}, the input {}. Return one of its shape in "
           "f64.",
           i, name_of(gradient.dtype()), gradient.shape(), b.input_shape(i));
    }
    b.add(i, gradient);
  }
}

const Operation kForeign = {.name = "foreign",
                            .needs = Needs::nothing,
                            .required = std::numeric_limits<std::size_t>::max(),
                            .forward = foreign_forward,
                            .backward = foreign_backward,
                            .cell = nullptr,
                            .local = false};

}  // namespace

Program foreign(ForeignProgram program) {
  return [program = std::move(program)](Tape& tape, std::span<const Var> inputs) {
    const ForeignAttributes attributes{&program, &tape};
    return tape.record(kForeign, inputs, &attributes, sizeof(attributes));
  };
}

}  // namespace moegrad
