#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "autograd/comparison.h"
#include "autograd/culprit.h"
#include "autograd/differences.h"
#include "autograd/directions.h"

namespace moegrad {
namespace {

constexpr double kFactorOfClass = 1e6;  // outputs of one class are no further apart
constexpr int kMostClasses = 8;

double largest_of(const Tensor& x) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < x.numel(); ++i) largest = std::fmax(largest, std::abs(x.at(i)));
  return largest;
}

// The same search by other steps.
Steps others_than(const Steps& steps) {
  return {.first = 0.37 * steps.first, .factor = 1.45, .smallest = steps.smallest};
}

// For each output the number of its class of size, 0 for the largest; -1 for an infinite one.
std::vector<int> classes_of(const Tensor& y) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < y.numel(); ++i) {
    if (std::isfinite(y.at(i))) largest = std::fmax(largest, std::abs(y.at(i)));
  }
  std::vector<int> classes;
  for (std::int64_t i = 0; i < y.numel(); ++i) {
    const double size = std::abs(y.at(i));
    const double as = size > 0.0 ? size : std::fmin(1.0, largest);
    const int number =
        as > 0.0 ? static_cast<int>(std::fmin(std::log(largest / as) / std::log(kFactorOfClass),
                                              kMostClasses - 1))
                 : 0;
    classes.push_back(std::isfinite(size) ? number : -1);
  }
  return classes;
}

class Checker {
 public:
  Checker(const Program& program, std::span<const Tensor> inputs, const GradcheckOptions& options)
      : program_(program),
        inputs_(inputs.begin(), inputs.end()),
        options_(options),
        tape_(tape_options()) {}

  GradcheckReport run() {
    report_.inputs.resize(inputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      report_.inputs[i].name =
          i < options_.names.size() ? options_.names[i] : fmt::format("input {}", i);
    }
    const Var y = run_on(tape_, inputs_);
    output_ = y.value();
    if (output_.dtype() != DType::f64) {
      fail("gradcheck", "the program gives {}. Run it on f64 inputs.", name_of(output_.dtype()));
    }
    report_.wall = tape_.cell().distance();
    signature_ = tape_.cell().signature();
    for (std::int64_t i = 0; i < output_.numel(); ++i) {
      if (std::isnan(output_.at(i))) {
        return all_inputs(Verdict::fail, fmt::format("output {} is NaN", i));
      }
    }
    Rng rng{options_.seed, 0x636f74616e67ULL, 0};
    make_cotangents(rng);
    if (cotangents_.empty()) {
      fail("gradcheck",
           "the output has shape {}, and {} of its elements are infinite: nothing is "
           "left to compare. Choose another point.",
           output_.shape(), report_.left_out);
    }
    backward(y);
    if (!runs_alike()) {
      return all_inputs(Verdict::inconclusive,
                        "run again at the same point, the program gave another output; does it "
                        "depend on hidden state?");
    }
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].dtype() != DType::f64 || inputs_[i].numel() == 0) continue;
      check_input(i, rng, report_.inputs[i]);
      report_.verdict = worse(report_.verdict, report_.inputs[i].verdict);
      const double error = report_.inputs[i].relative_error;
      if (!(error <= report_.max_error)) report_.max_error = error;
    }
    if (report_.verdict == Verdict::fail) {
      report_.culprit = find_culprit(tape_, options_.mutation, rng);
    }
    return report_;
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

  GradcheckReport all_inputs(Verdict verdict, const std::string& reason) {
    report_.verdict = verdict;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].dtype() != DType::f64) continue;
      report_.inputs[i].verdict = verdict;
      report_.inputs[i].reason = reason;
    }
    return report_;
  }

  // Of each cotangent, a part for each class of outputs; zero at outputs of other classes.
  void make_cotangents(Rng& rng) {
    const std::vector<int> classes = classes_of(output_);
    for (const int c : classes) report_.left_out += c < 0 ? 1 : 0;
    for (int c = 0; c < options_.cotangents; ++c) {
      const Tensor whole = rng.uniform(output_.shape(), DType::f64, -1.0, 1.5);
      for (int number = 0; number < kMostClasses; ++number) {
        if (std::find(classes.begin(), classes.end(), number) == classes.end()) continue;
        cotangents_.push_back(Tensor::zeros(output_.shape(), DType::f64));
        class_of_cotangent_.push_back(number);
        for (std::size_t i = 0; i < classes.size(); ++i) {
          if (classes[i] != number) continue;
          cotangents_.back().write<double>()[i] = whole.at(static_cast<std::int64_t>(i));
        }
      }
    }
  }

  void backward(Var y) {
    for (const Tensor& cotangent : cotangents_) {
      analytic_.emplace_back();
      if (!y.needs_gradient()) {
        for (const Tensor& input : inputs_) {
          analytic_.back().push_back(Tensor::zeros(input.shape(), DType::f64));
        }
        continue;
      }
      const Gradients gradients = tape_.backward(y, {cotangent, true, {}, options_.mutation});
      for (const Var& leaf : leaves_) {
        analytic_.back().push_back(leaf.needs_gradient() ? gradients[leaf] : Tensor());
      }
    }
  }

  // The program once more, decisions replayed; `signature` of its cell.
  Tensor replay(const std::vector<Tensor>& inputs, std::uint64_t& signature) {
    decisions_.replay(options_.hold);
    Tape::Options options = tape_options();
    options.gradients = false;
    Tape tape(options);
    const Tensor y = run_on(tape, inputs).value();
    decisions_.finish_replay();
    signature = tape.cell().signature();
    return y;
  }

  bool runs_alike() {
    std::uint64_t signature = 0;
    try {
      return replay(inputs_, signature).same_bits(output_) && signature == signature_;
    } catch (const ReplayMismatch&) {
      return false;
    }
  }

  // <cotangent, y> for each, with one of the inputs replaced.
  std::optional<Sample> sample(std::size_t which, const Tensor& value, double h) {
    std::vector<Tensor> inputs = inputs_;
    inputs[which] = value;
    Tensor y;
    std::uint64_t signature = 0;
    try {
      y = replay(inputs, signature);
    } catch (const ReplayMismatch&) {
      outside_ = "every step asks for other decisions";
      return std::nullopt;
    } catch (const Error& e) {
      outside_ = fmt::format("every step ends in an error: {}", e.what());
      return std::nullopt;
    }
    if (signature != signature_) {
      outside_ = "every step crosses a wall of the cell";
      return std::nullopt;
    }
    Sample result{h, {}, {}};
    for (const Tensor& c : cotangents_) {
      result.value.push_back(dot(c, y));
      result.size.push_back(dot_of_sizes(c, y));
    }
    bool same = y.shape() == output_.shape();
    for (std::int64_t i = 0; same && i < y.numel(); ++i) {
      same = std::isfinite(output_.at(i)) ? std::isfinite(y.at(i)) : y.at(i) == output_.at(i);
    }
    for (const double size : result.size) same = same && std::isfinite(size);
    if (!same) {
      outside_ = "at every step other outputs are finite than at the point itself";
      return std::nullopt;
    }
    return result;
  }

  void check_input(std::size_t i, Rng& rng, InputReport& report) {
    const Tensor& x = inputs_[i];
    const bool elementwise = x.numel() <= options_.elementwise_limit;
    const std::int64_t places = elementwise ? x.numel() : options_.directions;
    Comparison comparison(options_, class_of_cotangent_, report);
    for (std::int64_t place = 0; place < places; ++place) {
      Tensor direction;
      if (elementwise) {
        direction = Tensor::zeros(x.shape(), DType::f64);
        direction.write<double>()[place] = 1.0;
      } else {
        direction = random_direction(x, rng);
      }
      const Curve curve = [&](double h) {
        const Tensor to = moved(x, h, direction);
        return sample(i, to, elementwise ? to.at(place) - x.at(place) : h);
      };
      const Steps steps = elementwise ? steps_at(x.at(place)) : Steps{};
      const Derivative numeric = derivative_of(curve, cotangents_.size(), steps);
      if (!numeric.found) {
        comparison.outside(place, outside_);
        continue;
      }
      std::optional<Derivative> by_other_steps;
      const auto again = [&] {
        if (!by_other_steps) {
          by_other_steps = derivative_of(curve, cotangents_.size(), others_than(steps));
        }
        return *by_other_steps;
      };
      for (std::size_t c = 0; c < cotangents_.size(); ++c) {
        comparison.add({place, c, dot(analytic_[c][i], direction), numeric.value[c],
                        numeric.error[c], numeric.rounding[c], largest_of(analytic_[c][i])},
                       again);
      }
    }
    comparison.finish();
  }

  const Program& program_;
  std::vector<Tensor> inputs_;
  const GradcheckOptions& options_;
  Decisions decisions_ = Decisions::recorder();
  Tape tape_;
  std::vector<Var> leaves_;
  GradcheckReport report_;
  Tensor output_;
  std::uint64_t signature_ = 0;
  std::string outside_;  // why the last step without a value had none
  std::vector<Tensor> cotangents_;
  std::vector<int> class_of_cotangent_;
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
  for (const InputReport& r : inputs) {
    text += fmt::format("  {}: {}", r.name, name_of(r.verdict));
    if (r.worst >= 0) {
      text += fmt::format(", worst at {}: analytic {:.12g}, numeric {:.12g} +- {:.1e}", r.worst,
                          r.analytic, r.numeric, r.error_estimate);
    }
    if (!r.reason.empty()) text += " (" + r.reason + ")";
    if (r.dead) text += " (dead: gradient and differences are zero everywhere)";
    if (r.excused > 0) {
      text += fmt::format("; {} of {} numbers are hidden by rounding", r.excused, r.compared);
    }
    text += "\n";
  }
  if (left_out > 0) {
    text += fmt::format("  left out: outputs that are infinite at every point ({})\n", left_out);
  }
  if (!culprit.empty()) text += "  first node whose own check fails: " + culprit + "\n";
  return text;
}

GradcheckReport gradcheck(const Program& program, std::span<const Tensor> inputs,
                          const GradcheckOptions& options) {
  bool floating = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].dtype() == DType::f32) {
      fail("gradcheck", "input {} is f32. Differences need f64: convert it with to().", i);
    }
    floating = floating || (inputs[i].dtype() == DType::f64 && inputs[i].numel() > 0);
  }
  if (!floating) {
    fail("gradcheck",
         "none of the {} inputs is floating and has elements: nothing to compare. Give "
         "one of f64.",
         inputs.size());
  }
  if (options.cotangents < 1 || options.directions < 1) {
    fail("gradcheck", "{} cotangents and {} directions. Use at least one of each.",
         options.cotangents, options.directions);
  }
  return Checker(program, inputs, options).run();
}

}  // namespace moegrad
