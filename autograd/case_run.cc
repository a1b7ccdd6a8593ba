#include "autograd/case_run.h"

#include <algorithm>
#include <cmath>

#include "autograd/directions.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// How many times the change by last bits a difference may be: of two runs with a different order of
// sums, in f32 and f64.
constexpr double kRoundings = 4.0;
constexpr int kMoves = 4;

double epsilon_of(DType dtype) { return dtype == DType::f32 ? 0x1p-23 : 0x1p-52; }

// x, each element times 1 to 1 + 2 epsilon.
Tensor moved_by_last_bits(const Tensor& x, std::uint64_t stream) {
  const double epsilon = epsilon_of(x.dtype());
  const Tensor by = Rng{19, stream, 0}.uniform(x.shape(), DType::f64, 0.0, 2.0 * epsilon);
  const Tensor moved = Tensor::empty(x.shape(), DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    moved.write<double>()[i] = x.at(i) + x.at(i) * by.at(i);
  }
  return moved.to(x.dtype());
}

}  // namespace

CaseRun run_case(const Program& program, const std::vector<Tensor>& inputs, const Tensor& cotangent,
                 const Mutation* mutation) {
  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.variable(input));
  const Var y = program(tape, leaves);
  const Tensor c = cotangent.defined() ? cotangent : random_like(y.value(), 1);
  CaseRun run{y.value(), {}};
  const auto add = [&](const Tensor& value, const Tensor& gradient) {
    run.terms = std::hypot(run.terms, norm_of_product(gradient, value));
  };
  const Gradients g = tape.backward(y, {c, true, {}, mutation, add});
  for (const Var& leaf : leaves) run.gradients.push_back(g[leaf]);
  return run;
}

Tensor random_like(const Tensor& t, std::uint64_t stream) {
  return Rng{7, stream, 0}.uniform(t.shape(), t.dtype(), -1.0, 1.5);
}

bool Apart::within(double tolerance, const std::function<Rounding()>& rounding) const {
  if (difference <= tolerance * size) return true;
  const Rounding r = rounding();
  return difference <= tolerance * r.terms && difference <= kRoundings * r.change;
}

Apart apart_of(const Tensor& a, const Tensor& b) {
  Apart apart;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double d = std::abs(a.at(i) - b.at(i));
    apart.size = std::fmax(apart.size, std::fmax(std::abs(a.at(i)), std::abs(b.at(i))));
    apart.difference = std::isfinite(d) ? std::max(d, apart.difference) : std::nan("");
    if (!std::isfinite(d)) break;
  }
  return apart;
}

Rounding rounding_floor(double terms, const Tensor& input) {
  const double size = largest_of(input);
  if (size == 0.0) return {};
  const double by = terms / std::fmin(size, 1.0);
  return {kRoundings * epsilon_of(input.dtype()) * by, by};
}

CaseRounding rounding_of(const Program& program, const std::vector<Tensor>& inputs,
                         const Tensor& cotangent, const Mutation* mutation) {
  const CaseRun at = run_case(program, inputs, cotangent, mutation);
  const Tensor c = cotangent.defined() ? cotangent : random_like(at.output, 1);
  CaseRounding rounding{rounding_floor(at.terms, c), {}};
  for (const Tensor& input : inputs) rounding.gradients.push_back(rounding_floor(at.terms, input));
  std::uint64_t stream = 0;
  for (int move = 0; move < kMoves; ++move) {
    std::vector<Tensor> moved;
    for (const Tensor& input : inputs) moved.push_back(moved_by_last_bits(input, ++stream));
    const CaseRun near = run_case(program, moved, moved_by_last_bits(c, ++stream), mutation);
    const double output = apart_of(at.output, near.output).difference;
    rounding.output.change = std::fmax(rounding.output.change, output);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double change = apart_of(at.gradients[i], near.gradients[i]).difference;
      rounding.gradients[i].change = std::fmax(rounding.gradients[i].change, change);
    }
  }
  return rounding;
}

bool is_multiple(const Tensor& a, double factor, const Tensor& b) {
  constexpr double kUnderflow = 1e-280;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    if (a.at(i) == factor * b.at(i)) continue;
    if (!(std::abs(a.at(i)) < kUnderflow && std::abs(b.at(i)) < kUnderflow)) return false;
  }
  return true;
}

std::vector<unsigned> subsets_of(std::size_t n) {
  const unsigned all = (1U << n) - 1U;
  std::vector<unsigned> sets;
  for (unsigned set = 1; n <= 4 && set < all; ++set) sets.push_back(set);
  for (std::size_t i = 0; n > 4 && i < n; ++i) {
    sets.push_back(1U << i);
    sets.push_back(all - (1U << i));
  }
  return sets;
}

Tensor FlatJoin::forward(Forward& in, const NoAttributes&) {
  const std::int64_t n = in[0].numel();
  Tensor out = in[0].like({2 * n});
  Kernels& k = kernels(out.device());
  k.copy_block(in[0], 0, n, 1, n, 0, 2 * n, out);
  k.copy_block(in[1], 0, n, 1, n, n, 2 * n, out);
  return out;
}
void FlatJoin::backward(Backward& b, const NoAttributes&) {
  const std::int64_t n = b.dy().numel() / 2;
  b.add(0, b.dy().rows(0, n).reshape(b.input_shape(0)));
  b.add(1, b.dy().rows(n, 2 * n).reshape(b.input_shape(1)));
}

Tensor InnerProduct::forward(Forward& in, const NoAttributes&) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < in[0].numel(); ++i) sum += in[0].at(i) * in[1].at(i);
  return Tensor::full({}, sum, in[0].dtype(), Device::cpu);
}
void InnerProduct::backward(Backward& b, const NoAttributes&) {
  for (const int i : {0, 1}) {
    Tensor d = Tensor::zeros(b.input_shape(i), b.dy().dtype(), Device::cpu);
    kernels(d.device()).accumulate(b.dy().item(), b.input(1 - i), d);
    b.add(i, d);
  }
}

}  // namespace moegrad
