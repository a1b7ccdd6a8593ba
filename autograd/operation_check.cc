#include "autograd/operation_check.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <utility>

#include "autograd/case_run.h"
#include "autograd/expectation.h"
#include "autograd/poison.h"
#include "autograd/transfer.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

class CaseChecker {
 public:
  CaseChecker(const OperationCase& c, const Mutation* mutation, CheckRow& row)
      : case_(c), mutation_(mutation), row_(row), inputs_(make_inputs(c, DType::f64)) {}

  void run(Claim claim) {
    GradcheckOptions options;
    options.mutation = mutation_;
    options.linear = false;  // structure() asks for that
    options.hold = held_for(claim);
    row_.count_dead(check(case_.program, options, ""));
    if (caught()) return;
    structure();
    if (caught()) return;
    same_input_twice(options);
    if (caught()) return;
    compare_with_f32();
    if (caught()) return;
    if (claim == Claim::unbiased) check_unbiased();
    if (case_.written_out) compare_with_written_out(options);
  }

 private:
  // A case of size 0 has no numbers to compare.
  GradcheckReport check(const Program& program, const GradcheckOptions& options, const char* what) {
    if (!has_numbers()) return {};
    GradcheckReport report = gradcheck(program, inputs_, options);
    row_.note(report, case_.label + what);
    return report;
  }
  bool has_numbers() const {
    Tape tape({.gradients = false});
    std::vector<Var> leaves;
    bool any = false;
    for (const Tensor& input : inputs_) {
      leaves.push_back(tape.constant(input));
      any = any || input.numel() > 0;
    }
    return any && case_.program(tape, leaves).value().numel() > 0;
  }

  // The mean over all outcomes of the draws, for losses of degree 1 to 4 in the output.
  void check_unbiased() {
    for (int degree = 1; degree <= 4; ++degree) {
      const Program loss = [&](Tape& tape, std::span<const Var> x) {
        const Var y = case_.program(tape, x);
        const Var weighted = apply<InnerProduct>({y, tape.constant(random_like(y.value(), 3))});
        Var power = weighted;
        for (int i = 1; i < degree; ++i) power = apply<InnerProduct>({power, weighted});
        return power;
      };
      const Expectation e = expectation(loss, inputs_);
      if (!e.exact) {
        row_.note(Verdict::fail,
                  case_.label + ": claimed unbiased, and its draws cannot be enumerated");
        return;
      }
      double square = e.total_variance;  // of the estimates of all outcomes, on average
      for (const Tensor& g : e.gradient) {
        for (const double v : g.to_vector()) square += v * v;
      }
      const double size = std::sqrt(square);
      row_.note(
          !e.biased() && e.bias_error <= 1e-5 * e.true_norm + 1e-9 * std::fmin(1.0, size),
          fmt::format("{}: over {} outcomes the mean gradient of a loss of degree {} is {:.3e} "
                      "from that of the expected loss, claimed to be unbiased",
                      case_.label, e.outcomes, degree, e.bias));
    }
  }

  CaseRun run_of(const Program& program, const std::vector<Tensor>& inputs,
                 const Tensor& cotangent = {}) const {
    return run_case(program, inputs, cotangent, mutation_);
  }

  // A mutant that one check has caught needs no other.
  bool caught() const { return mutation_ != nullptr && row_.verdict == Verdict::fail; }

  void expect(bool ok, std::string_view what) {
    if (!ok) row_.note(Verdict::fail, fmt::format("{}: {}", case_.label, what));
  }

  std::vector<Rounding> gradient_rounding(const Program& program, const std::vector<Tensor>& inputs,
                                          const Tensor& cotangent) const {
    return rounding_of(program, inputs, cotangent, mutation_).gradients;
  }

  // `rounding`, by number, is asked for where it decides.
  void expect_close(const std::vector<Tensor>& a, const std::vector<Tensor>& b, double tolerance,
                    std::string_view what, const std::function<std::vector<Rounding>()>& rounding) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      const Apart apart = apart_of(a[i], b[i]);
      if (apart.within(tolerance, [&] { return rounding()[i]; })) continue;
      row_.note(Verdict::fail, fmt::format("{}: {} (number {}, difference {:.3g} at size {:.3g})",
                                           case_.label, what, i, apart.difference, apart.size));
    }
  }

  // Everything a tape holds: inputs, outputs and saved tensors of its nodes.
  static std::vector<Tensor> contents(const Tape& tape) {
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < tape.size(); ++i) {
      const Tape::NodeView node = tape.node(i);
      all.push_back(node.output);
      std::ranges::copy_if(node.inputs, std::back_inserter(all), &Tensor::defined);
      all.insert(all.end(), node.saved.begin(), node.saved.end());
    }
    return all;
  }
  static std::vector<Tensor> clones(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> copies;
    for (const Tensor& t : tensors) copies.push_back(t.clone());
    return copies;
  }

  void structure() {
    Tape tape;
    std::vector<Var> leaves;
    for (const Tensor& input : inputs_) leaves.push_back(tape.variable(input));
    const std::vector<Tensor> inputs_before = clones(inputs_);
    const Var y = case_.program(tape, leaves);
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      expect(inputs_[i].same_bits(inputs_before[i]), "forward wrote an input");
    }
    if (!y.needs_gradient()) {
      expect(false, "no gradient reaches the inputs");
      return;
    }
    const std::vector<Tensor> held = contents(tape);
    const std::vector<Tensor> before = clones(held);
    const auto backward = [&](const Tensor& cotangent) {
      const Gradients g = tape.backward(y, {cotangent, true, {}, mutation_});
      std::vector<Tensor> all;
      for (const Var& leaf : leaves) all.push_back(g[leaf]);
      return all;
    };
    Kernels& k = kernels(Device::cpu);
    const Tensor c1 = random_like(y.value(), 1);
    const Tensor c2 = random_like(y.value(), 2);
    const std::vector<Tensor> g1 = backward(c1);
    const std::vector<Tensor> again = backward(c1);
    for (std::size_t i = 0; i < g1.size(); ++i) {
      expect(g1[i].same_bits(again[i]), "two backward passes differ");
    }
    // Linear: g(2 c1 - 3 c2) = 2 g(c1) - 3 g(c2).
    const std::vector<Tensor> g2 = backward(c2);
    const Tensor mixed = Tensor::zeros(c1.shape(), c1.dtype(), Device::cpu);
    k.accumulate(2.0, c1, mixed);
    k.accumulate(-3.0, c2, mixed);
    std::vector<Tensor> expected;
    for (std::size_t i = 0; i < g1.size(); ++i) {
      expected.push_back(Tensor::zeros(g1[i].shape(), g1[i].dtype(), Device::cpu));
      k.accumulate(2.0, g1[i], expected.back());
      k.accumulate(-3.0, g2[i], expected.back());
    }
    expect_close(backward(mixed), expected, 1e-12, "backward is not linear in its cotangent",
                 [&] { return gradient_rounding(case_.program, inputs_, mixed); });
    for (const Tensor& g : backward(Tensor::zeros(c1.shape(), c1.dtype(), Device::cpu))) {
      for (std::int64_t e = 0; e < g.numel(); ++e) {
        expect(g.at(e) == 0.0, "a zero cotangent gives a gradient");
      }
    }
    // By powers of two bit for bit, so also where |dy| is large or small.
    for (const int power : {30, -30}) {
      const double factor = std::ldexp(1.0, power);
      const Tensor scaled = Tensor::zeros(c1.shape(), c1.dtype(), Device::cpu);
      k.accumulate(factor, c1, scaled);
      const std::vector<Tensor> g = backward(scaled);
      for (std::size_t i = 0; i < g.size(); ++i) {
        expect(is_multiple(g[i], factor, g1[i]),
               fmt::format("backward of 2^{} times a cotangent is not 2^{} times that of the "
                           "cotangent",
                           power, power));
      }
    }
    for (std::size_t i = 0; i < held.size(); ++i) {
      expect(held[i].same_bits(before[i]), "backward wrote an input, output or saved tensor");
    }
    accumulation(g1, c1);
    some_wanted(g1, c1);
  }

  // A gradient is the same whichever others are wanted.
  void some_wanted(const std::vector<Tensor>& all, const Tensor& cotangent) {
    for (const unsigned set : subsets_of(inputs_.size())) {
      const auto wanted = [set](std::size_t i) { return (set >> i & 1U) == 1U; };
      Tape tape;
      std::vector<Var> leaves;
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        leaves.push_back(wanted(i) ? tape.variable(inputs_[i]) : tape.constant(inputs_[i]));
      }
      const Var y = case_.program(tape, leaves);
      Gradients g;
      if (y.needs_gradient()) g = tape.backward(y, {cotangent, true, {}, mutation_});
      std::vector<Tensor> some = all;
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        if (!wanted(i)) continue;
        some[i] = y.needs_gradient() ? g[leaves[i]]
                                     : Tensor::zeros(all[i].shape(), DType::f64, Device::cpu);
      }
      expect_close(some, all, 1e-12, "a gradient is another one where not all are wanted",
                   [&] { return gradient_rounding(case_.program, inputs_, cotangent); });
    }
  }

  // Two uses of the same inputs in one program: the second contribution is added to the first.
  void accumulation(const std::vector<Tensor>& single, const Tensor& cotangent) {
    const std::int64_t n = cotangent.numel();
    const Tensor both = Tensor::empty({2 * n}, DType::f64, Device::cpu);
    Kernels& k = kernels(Device::cpu);
    k.copy_block(cotangent, 0, n, 1, n, 0, 2 * n, both);
    k.copy_block(cotangent, 0, n, 1, n, n, 2 * n, both);
    const CaseRun twice = run_of(
        [&](Tape& tape, std::span<const Var> x) {
          const Rng start = tape.rng();
          const Var first = case_.program(tape, x);
          tape.rng() = start;  // the same draws
          return apply<FlatJoin>({first, case_.program(tape, x)});
        },
        inputs_, both);
    std::vector<Tensor> expected;
    for (const Tensor& g : single) {
      expected.push_back(g.clone());
      k.accumulate(1.0, g, expected.back());
    }
    expect_close(twice.gradients, expected, 1e-12, "a second use of an input is not added",
                 [&] { return gradient_rounding(case_.program, inputs_, cotangent); });
  }

  // f(x, x): the program with its first two inputs of equal shape tied together.
  void same_input_twice(const GradcheckOptions& options) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      for (std::size_t j = i + 1; j < inputs_.size(); ++j) {
        const CaseInput& a = case_.inputs[i];
        const CaseInput& b = case_.inputs[j];
        if (!(a.shape == b.shape) || a.low != b.low || a.high != b.high) continue;
        const Program tied = [&](Tape& tape, std::span<const Var> x) {
          std::vector<Var> all(x.begin(), x.end());
          all[j] = all[i];
          return case_.program(tape, all);
        };
        check(tied, options, ", the same input twice");
        return;
      }
    }
  }

  void compare_with_f32() {
    std::vector<Tensor> rounded;  // f64 inputs that f32 holds exactly
    std::vector<Tensor> narrow;
    for (const Tensor& input : inputs_) {
      narrow.push_back(input.to(DType::f32));
      rounded.push_back(narrow.back().to(DType::f64));
    }
    Tape tape;
    std::vector<Var> leaves;
    for (const Tensor& input : narrow) leaves.push_back(tape.variable(input));
    const Tensor y = case_.program(tape, leaves).value();
    if (y.dtype() != DType::f32) {
      expect(false, "f32 inputs give another type");
      return;
    }
    const Tensor cotangent = random_like(y, 1);
    const CaseRun w = run_of(case_.program, rounded, cotangent.to(DType::f64));
    const CaseRun n = run_of(case_.program, narrow, cotangent);
    expect_close({n.output}, {w.output}, 2e-5, "f32 and f64 values differ", [&] {
      return std::vector{rounding_of(case_.program, narrow, cotangent, mutation_).output};
    });
    expect_close(n.gradients, w.gradients, 5e-5, "f32 and f64 gradients differ",
                 [&] { return gradient_rounding(case_.program, narrow, cotangent); });
  }

  void compare_with_written_out(const GradcheckOptions& options) {
    check(case_.written_out, options, ", written out");
    const CaseRun fused = run_of(case_.program, inputs_);
    const CaseRun plain = run_case(case_.written_out, inputs_, {}, nullptr);
    expect_close({fused.output}, {plain.output}, 1e-12, "differs from its written-out form", [&] {
      return std::vector{rounding_of(case_.written_out, inputs_, {}, nullptr).output};
    });
    expect_close(fused.gradients, plain.gradients, 1e-12,
                 "gradient differs from the written-out form's",
                 [&] { return rounding_of(case_.written_out, inputs_, {}, nullptr).gradients; });
  }

  const OperationCase& case_;
  const Mutation* mutation_;
  CheckRow& row_;
  std::vector<Tensor> inputs_;
};

std::string oracle_of(Claim claim) {
  switch (claim) {
    case Claim::exact:
      return "differences of the forward pass";
    case Claim::exact_on_cell:
      return "differences within the cell";
    case Claim::unbiased:
      return "enumerated mean = the exact one; differences, draws replayed";
    default:
      return "differences with decisions replayed";
  }
}

}  // namespace

// What the differences hold. A derivative that claims to be exact is not helped by what
// stop_gradient hides, nor by a selection that is another one nearby.
Decisions::Hold held_for(Claim claim) {
  const bool exact = claim == Claim::exact || claim == Claim::exact_on_cell;
  return exact ? Decisions::Hold::nothing : Decisions::Hold::all;
}

void CheckRow::note(Verdict result, const std::string& why) {
  if (result == Verdict::pass) return;
  if (worse(verdict, result) != verdict || reason.empty()) reason = why;
  verdict = worse(verdict, result);
}

void CheckRow::note(const GradcheckReport& report, const std::string& label) {
  error(report.max_error);
  note(report.verdict, label + ": " + report.text());
}

void CheckRow::count_dead(const GradcheckReport& report) {
  bool any = false;
  for (const InputReport& input : report.inputs) {
    if (!input.dead) continue;
    any = true;
    if (std::find(dead_inputs.begin(), dead_inputs.end(), input.name) == dead_inputs.end()) {
      dead_inputs.push_back(input.name);
    }
  }
  if (any) ++dead;
}

std::vector<Tensor> make_inputs(const OperationCase& c, DType dtype, std::uint64_t seed) {
  std::vector<Tensor> inputs;
  std::uint64_t stream = 0;
  for (const CaseInput& input : c.inputs) {
    inputs.push_back(Rng{seed, ++stream, 0}.uniform(input.shape, dtype, input.low, input.high));
  }
  return inputs;
}

CheckRow check_operation(const OperationEntry& entry, const Mutation* mutation, Device device) {
  CheckRow row;
  row.name = entry.name;
  row.kind = "operation";
  row.claim = name_of(entry.claim);
  row.oracle = oracle_of(entry.claim);
  if (entry.claim == Claim::biased_order || entry.claim == Claim::documented) {
    row.note(Verdict::fail, fmt::format("an operation cannot claim to be {}: nothing here could "
                                        "show it. Claim exact, exact on the cell, surrogate or "
                                        "unbiased.",
                                        name_of(entry.claim)));
    return row;
  }
  const Poison poison;
  bool empty = false;
  bool single = false;
  for (OperationCase& c : entry.cases()) {
    ++row.cases;
    c.program = on_device(device, c.program);
    if (c.written_out) c.written_out = on_device(device, c.written_out);
    for (const CaseInput& input : c.inputs) {
      empty = empty || input.shape.numel() == 0;
      single = single || input.shape.numel() == 1;
    }
    try {
      CaseChecker(c, mutation, row).run(entry.claim);
    } catch (const Interruption&) {
      throw;
    } catch (const std::exception& e) {
      row.note(Verdict::fail, c.label + ": " + e.what());
    }
    if (mutation != nullptr && row.verdict == Verdict::fail) return row;
  }
  row.note(row.cases > 0, "no cases");
  row.note(empty || !entry.never_empty.empty(), "no case of size 0");
  row.note(single, "no case of size 1");
  return row;
}

}  // namespace moegrad
