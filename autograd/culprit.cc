#include "autograd/culprit.h"

#include <cmath>
#include <optional>

#include "autograd/differences.h"
#include "autograd/directions.h"

namespace moegrad {
namespace {

// <c, forward(x + h u)> of one node against <u, backward(c)>, within the node's own cell.
bool node_passes(Tape& tape, std::size_t index, const Mutation* mutation, Rng& rng) {
  const Tape::NodeView node = tape.node(index);
  std::vector<Tensor> here;  // the inputs, on the host
  for (const Tensor& input : node.inputs) here.push_back(input.to(Device::cpu));
  const Tensor output = node.output.to(Device::cpu);
  const auto cell_of = [&](std::span<const Tensor> inputs) {
    Cell cell;
    if (node.operation->cell != nullptr) node.operation->cell(inputs, node.attributes, cell);
    return cell.signature();
  };
  const std::uint64_t cell = cell_of(here);
  const Tensor cotangent = rng.uniform(output.shape(), DType::f64, -1.0, 1.5);
  for (std::int64_t k = 0; k < cotangent.numel(); ++k) {
    if (!std::isfinite(output.at(k))) cotangent.write<double>()[k] = 0.0;
  }
  const std::vector<Tensor> gradients =
      tape.local_backward(index, cotangent.to(node.output.device()), mutation);
  for (std::size_t i = 0; i < here.size(); ++i) {
    if (!gradients[i].defined() || here[i].numel() == 0) continue;
    const Tensor direction = random_direction(here[i], rng);
    const Derivative numeric = derivative_of(
        [&](double h) -> std::optional<Sample> {
          std::vector<Tensor> inputs = here;
          for (std::size_t k = 0; k < inputs.size(); ++k) {
            if (node.sources[k] == node.sources[i]) inputs[k] = moved(inputs[k], h, direction);
          }
          if (cell_of(inputs) != cell) return std::nullopt;
          std::vector<const Tensor*> places;
          for (std::size_t k = 0; k < inputs.size(); ++k) {
            inputs[k] = inputs[k].to(node.inputs[k].device());
            places.push_back(&inputs[k]);
          }
          Forward forward(places, nullptr);
          const Tensor y = node.operation->forward(forward, node.attributes).to(Device::cpu);
          const double size = dot_of_sizes(cotangent, y);
          if (!std::isfinite(size)) return std::nullopt;
          return Sample{h, {dot(cotangent, y)}, {size}};
        },
        1, {.first = 2e-4});
    if (!numeric.found) continue;
    const double analytic = dot(gradients[i].to(Device::cpu), direction);
    const double size = std::fmax(std::abs(analytic), std::abs(numeric.value[0]));
    const double allowed = 1e-5 * size + 10.0 * numeric.error[0] + numeric.rounding[0];
    if (!(std::abs(analytic - numeric.value[0]) <= allowed)) return false;
  }
  return true;
}

}  // namespace

std::string find_culprit(Tape& tape, const Mutation* mutation, Rng& rng) {
  bool any = false;
  for (std::size_t i = 0; i < tape.size(); ++i) {
    const Tape::NodeView node = tape.node(i);
    if (node.operation == nullptr || !node.needs_gradient || !node.operation->local) continue;
    any = true;
    if (!node_passes(tape, i, mutation, rng))
      return fmt::format("node {} ({})", i, node.operation->name);
  }
  return any ? "no single node (the program as a whole)" : "";
}

}  // namespace moegrad
