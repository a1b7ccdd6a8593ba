#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "autograd/ridders.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.at(i) * b.at(i);
  return sum;
}

double dot_of_sizes(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += std::abs(a.at(i) * b.at(i));
  return sum;
}

// x + h u, as new storage.
Tensor moved(const Tensor& x, double h, const Tensor& direction) {
  Tensor out = x.clone();
  kernels(Device::cpu).accumulate(h, direction, out);
  return out;
}

double typical_step(const Tensor& x) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < x.numel(); ++i) largest = std::fmax(largest, std::abs(x.at(i)));
  return 0.02 * std::fmax(1.0, largest);
}

// Keeps the worst of the comparisons of one input.
class Comparison {
 public:
  Comparison(const GradcheckOptions& options, InputReport& report)
      : options_(options), report_(report) {}

  void compare(std::int64_t place, double analytic, double numeric, double error, double rounding) {
    const double size = std::fmax(std::abs(analytic), std::abs(numeric));
    const double difference = std::abs(analytic - numeric);
    const double relative = options_.relative * size;
    // Written so that NaN fails.
    const bool close = difference <= relative + options_.error_factor * error + rounding;
    const bool certain = options_.error_factor * error <= relative + rounding;
    Verdict verdict = Verdict::fail;
    if (close) verdict = certain ? Verdict::pass : Verdict::inconclusive;
    if (close && difference <= relative && size > 0.0) certified_ = true;
    if (!close || rounding < relative) all_excused_ = false;
    const double relative_error =
        difference == 0.0 ? 0.0 : difference / std::fmax(size, rounding / options_.relative);
    const bool worst = report_.worst < 0 || verdict > report_.verdict ||
                       (verdict == report_.verdict && !(relative_error <= report_.relative_error));
    if (!worst) return;
    report_.worst = place;
    report_.analytic = analytic;
    report_.numeric = numeric;
    report_.error_estimate = error;
    report_.relative_error = relative_error;
    report_.verdict = worse(report_.verdict, verdict);
    if (verdict == Verdict::fail) report_.reason = "analytic and numeric differ";
    if (verdict == Verdict::inconclusive) report_.reason = "the error estimate is too large";
  }

  // A gradient that is all rounding was excused everywhere and certified nowhere.
  void finish() {
    if (report_.verdict == Verdict::pass && report_.worst >= 0 && !certified_ && all_excused_ &&
        (report_.analytic != 0.0)) {
      report_.verdict = Verdict::inconclusive;
      report_.reason = "the gradient is smaller than the rounding of the differences";
    }
  }

 private:
  const GradcheckOptions& options_;
  InputReport& report_;
  bool certified_ = false;
  bool all_excused_ = true;
};

class Checker {
 public:
  Checker(const Program& program, std::span<const Tensor> inputs, const GradcheckOptions& options)
      : program_(program),
        inputs_(inputs.begin(), inputs.end()),
        options_(options),
        tape_(tape_options()) {}

  GradcheckReport run() {
    GradcheckReport report;
    report.inputs.resize(inputs_.size());
    const Var y = run_on(tape_, inputs_);
    output_ = y.value();
    if (output_.dtype() != DType::f64) {
      fail("gradcheck", "the program gives {}. Run it on f64 inputs.", name_of(output_.dtype()));
    }
    report.wall = tape_.cell().distance();
    signature_ = tape_.cell().signature();
    Rng rng{options_.seed, 0x636f74616e67ULL, 0};
    for (int c = 0; c < options_.cotangents; ++c) {
      cotangents_.push_back(rng.uniform(output_.shape(), DType::f64, -1.0, 1.5));
      scales_.push_back(dot_of_sizes(cotangents_.back(), output_));
      const BackwardOptions backward{cotangents_.back(), true, {}, options_.mutation};
      const Gradients gradients = tape_.backward(y, backward);
      analytic_.emplace_back();
      for (const Var& leaf : leaves_) {
        analytic_.back().push_back(leaf.needs_gradient() ? gradients[leaf] : Tensor());
      }
    }
    decisions_.replay();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].dtype() != DType::f64) continue;
      check_input(i, rng, report.inputs[i]);
      report.verdict = worse(report.verdict, report.inputs[i].verdict);
      const double error = report.inputs[i].relative_error;
      if (!(error <= report.max_error)) report.max_error = error;
    }
    if (report.verdict == Verdict::fail) report.culprit = find_culprit(rng);
    return report;
  }

 private:
  Tape::Options tape_options() {
    Tape::Options tape;
    tape.track_cell = true;
    tape.rng = options_.rng;
    tape.decisions = &decisions_;
    return tape;
  }

  Var run_on(Tape& tape, const std::vector<Tensor>& inputs) {
    leaves_.clear();
    for (const Tensor& input : inputs) {
      leaves_.push_back(is_floating(input.dtype()) ? tape.variable(input) : tape.constant(input));
    }
    return program_(tape, leaves_);
  }

  // The program at inputs with one of them replaced, decisions replayed: <cotangent, y> for each.
  std::optional<std::vector<double>> replayed(std::size_t which, const Tensor& value) {
    std::vector<Tensor> inputs = inputs_;
    inputs[which] = value;
    decisions_.replay();
    Tape::Options options = tape_options();
    options.gradients = false;
    Tape tape(options);
    const Tensor y = run_on(tape, inputs).value();
    decisions_.finish_replay();
    if (tape.cell().signature() != signature_) return std::nullopt;
    std::vector<double> products;
    products.reserve(cotangents_.size());
    for (const Tensor& c : cotangents_) products.push_back(dot(c, y));
    return products;
  }

  void check_input(std::size_t i, Rng& rng, InputReport& report) {
    Comparison comparison(options_, report);
    const Tensor& x = inputs_[i];
    if (x.numel() == 0) return;
    const bool elementwise = x.numel() <= options_.elementwise_limit;
    const std::int64_t places = elementwise ? x.numel() : options_.directions;
    for (std::int64_t place = 0; place < places; ++place) {
      Tensor direction;
      if (elementwise) {
        direction = Tensor::zeros(x.shape(), DType::f64);
        direction.data<double>()[place] = 1.0;
      } else {
        direction = rng.normal(x.shape(), DType::f64);
      }
      const Derivative numeric = ridders(
          [&](double h) { return replayed(i, moved(x, h, direction)); }, typical_step(x), scales_);
      if (!numeric.inside) {
        report.verdict = worse(report.verdict, Verdict::inconclusive);
        report.worst = place;
        report.reason = "every step crosses a wall of the cell";
        continue;
      }
      for (std::size_t c = 0; c < cotangents_.size(); ++c) {
        comparison.compare(place, dot(analytic_[c][i], direction), numeric.value[c],
                           numeric.error[c], numeric.rounding[c]);
      }
    }
    comparison.finish();
  }

  // <c, forward(x + h u)> of one node against <u, backward(c)>, within the node's own cell.
  bool node_passes(std::size_t index, Rng& rng) {
    const Tape::NodeView node = tape_.node(index);
    const auto cell_of = [&](std::span<const Tensor> inputs) {
      Cell cell;
      if (node.operation->cell != nullptr) node.operation->cell(inputs, node.attributes, cell);
      return cell.signature();
    };
    const std::uint64_t cell = cell_of(node.inputs);
    const Tensor cotangent = rng.uniform(node.output.shape(), DType::f64, -1.0, 1.5);
    const std::vector<Tensor> gradients = tape_.local_backward(index, cotangent, options_.mutation);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (!gradients[i].defined() || node.inputs[i].numel() == 0) continue;
      const Tensor direction = rng.normal(node.inputs[i].shape(), DType::f64);
      const Derivative numeric = ridders(
          [&](double h) -> std::optional<std::vector<double>> {
            std::vector<Tensor> inputs = node.inputs;
            for (std::size_t k = 0; k < inputs.size(); ++k) {
              if (node.sources[k] == node.sources[i]) inputs[k] = moved(inputs[k], h, direction);
            }
            if (cell_of(inputs) != cell) return std::nullopt;
            std::vector<const Tensor*> places;
            for (const Tensor& input : inputs) places.push_back(&input);
            Forward forward(places, nullptr);
            const Tensor y = node.operation->forward(forward, node.attributes);
            return std::vector<double>{dot(cotangent, y)};
          },
          typical_step(node.inputs[i]) * 1e-2, {dot_of_sizes(cotangent, node.output)});
      if (!numeric.inside) continue;
      const double analytic = dot(gradients[i], direction);
      const double size = std::fmax(std::abs(analytic), std::abs(numeric.value[0]));
      const double allowed = 1e-5 * size + 10.0 * numeric.error[0] + numeric.rounding[0];
      if (!(std::abs(analytic - numeric.value[0]) <= allowed)) return false;
    }
    return true;
  }

  std::string find_culprit(Rng& rng) {
    for (std::size_t i = 0; i < tape_.size(); ++i) {
      const Tape::NodeView node = tape_.node(i);
      if (node.operation == nullptr || !node.needs_gradient) continue;
      if (!node_passes(i, rng)) return fmt::format("node {} ({})", i, node.operation->name);
    }
    return "no single node (the program as a whole; does it depend on hidden state?)";
  }

  const Program& program_;
  std::vector<Tensor> inputs_;
  const GradcheckOptions& options_;
  Decisions decisions_ = Decisions::recorder();
  Tape tape_;
  std::vector<Var> leaves_;
  Tensor output_;
  std::uint64_t signature_ = 0;
  std::vector<Tensor> cotangents_;
  std::vector<double> scales_;
  std::vector<std::vector<Tensor>> analytic_;  // by cotangent, by input
};

}  // namespace

std::string_view name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::pass:
      return "pass";
    case Verdict::inconclusive:
      return "inconclusive";
    default:
      return "fail";
  }
}

std::string GradcheckReport::text() const {
  std::string text =
      fmt::format("gradcheck: {}, largest relative error {:.3g}\n", name_of(verdict), max_error);
  if (std::isfinite(wall)) text += fmt::format("  distance to the nearest kink {:.3g}\n", wall);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const InputReport& r = inputs[i];
    text += fmt::format("  input {}: {}", i, name_of(r.verdict));
    if (r.worst >= 0) {
      text += fmt::format(", worst at {}: analytic {:.12g}, numeric {:.12g} +- {:.1e}", r.worst,
                          r.analytic, r.numeric, r.error_estimate);
    }
    if (!r.reason.empty()) text += " (" + r.reason + ")";
    text += "\n";
  }
  if (!culprit.empty()) text += "  first node whose own check fails: " + culprit + "\n";
  return text;
}

GradcheckReport gradcheck(const Program& program, std::span<const Tensor> inputs,
                          const GradcheckOptions& options) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].dtype() == DType::f32) {
      fail("gradcheck", "input {} is f32. Differences need f64: convert it with to().", i);
    }
  }
  return Checker(program, inputs, options).run();
}

}  // namespace moegrad
