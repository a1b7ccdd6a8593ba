#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "autograd/comparison.h"
#include "autograd/culprit.h"
#include "autograd/differences.h"
#include "autograd/directions.h"
#include "autograd/transfer.h"

namespace moegrad {
namespace {

// Bounds of options: with more than these a check would let anything pass.
constexpr double kLargestRelative = 0.01;
constexpr double kLargestErrorFactor = 100.0;

constexpr const char* kHiddenState =
    "run again at the same point, the program gave another output; does it depend on hidden state?";
constexpr const char* kGradientFree =
    "run without gradients, the program gave another output; does it ask for options().gradients, "
    "or "
    "Forward::saves()?";

class Checker {
 public:
  Checker(const Program& program, std::span<const Tensor> inputs, const GradcheckOptions& options)
      : program_(on_device(options.device, program)),
        inputs_(inputs.begin(), inputs.end()),
        options_(options),
        tape_(tape_options()) {}

  GradcheckReport run() {
    report_.inputs.resize(inputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      report_.inputs[i].name =
          i < options_.names.size() ? options_.names[i] : fmt::format("input {}", i);
    }
    const Var y = run_on(tape_, inputs_, leaves_);
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
    if (const char* why = unlike()) return all_inputs(Verdict::inconclusive, why);
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].dtype() != DType::f64 || inputs_[i].numel() == 0) continue;
      check_input(i, rng, report_.inputs[i]);
      report_.verdict = worse(report_.verdict, report_.inputs[i].verdict);
      const double error = report_.inputs[i].relative_error;
      if (!(error <= report_.max_error)) report_.max_error = error;
    }
    check_linear(y);
    // State that began to act during the check is not the gradient's fault.
    if (report_.verdict == Verdict::fail) {
      if (const char* why = unlike()) return all_inputs(Verdict::inconclusive, why);
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

  Var run_on(Tape& tape, const std::vector<Tensor>& inputs, std::vector<Var>& leaves) const {
    for (const Tensor& input : inputs) {
      leaves.push_back(is_floating(input.dtype()) ? tape.variable(input) : tape.constant(input));
    }
    return program_(tape, leaves);
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
    const std::vector<int> classes = classes_of(output_, slopes(rng));
    for (const int c : classes) report_.left_out += c < 0 ? 1 : 0;
    for (int c = 0; c < options_.cotangents; ++c) {
      const Tensor whole = rng.uniform(output_.shape(), DType::f64, -1.0, 1.5);
      for (int number = 0; number < kMostClasses; ++number) {
        if (std::find(classes.begin(), classes.end(), number) == classes.end()) continue;
        cotangents_.push_back(Tensor::zeros(output_.shape(), DType::f64, Device::cpu));
        class_of_cotangent_.push_back(number);
        for (std::size_t i = 0; i < classes.size(); ++i) {
          if (classes[i] != number) continue;
          cotangents_.back().write<double>()[i] = whole.at(static_cast<std::int64_t>(i));
        }
      }
    }
  }

  // How fast each output changes, by one step of each input: only the order of magnitude counts.
  // There a run with gradients must give the same as one without.
  std::vector<double> slopes(Rng& rng) {
    constexpr double kStep = 1e-4;
    std::vector<double> slope(static_cast<std::size_t>(output_.numel()), 0.0);
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].dtype() != DType::f64 || inputs_[i].numel() == 0) continue;
      std::vector<Tensor> inputs = inputs_;
      inputs[i] = moved(inputs_[i], kStep, random_direction(inputs_[i], rng));
      std::uint64_t signature = 0;
      try {
        const Tensor y = replay(inputs, signature);
        moves_alike_ = moves_alike_ && replay(inputs, signature, true).same_bits(y);
        if (!(y.shape() == output_.shape())) continue;
        for (std::int64_t o = 0; o < y.numel(); ++o) {
          const double s = std::abs(y.at(o) - output_.at(o)) / kStep;
          if (std::isfinite(s))
            slope[static_cast<std::size_t>(o)] = std::fmax(slope[static_cast<std::size_t>(o)], s);
        }
      } catch (const Interruption&) {
        throw;
      } catch (...) {  // outside of the domain: nothing is learned
      }
    }
    return slope;
  }

  void backward(Var y) {
    for (const Tensor& cotangent : cotangents_) {
      analytic_.emplace_back();
      if (!y.needs_gradient()) {
        inner_size_.push_back(0.0);
        inner_scale_.push_back(0.0);
        for (const Tensor& input : inputs_) {
          analytic_.back().push_back(Tensor::zeros(input.shape(), DType::f64, Device::cpu));
        }
        continue;
      }
      double inner = 0.0;
      double scale = 0.0;
      const auto add = [&](const Tensor& value, const Tensor& gradient) {
        inner = std::hypot(inner, norm_of_product(gradient, value));
        scale = std::hypot(scale, norm_of_product(gradient, value, 1.0));
      };
      const Gradients gradients = tape_.backward(y, {cotangent, true, {}, options_.mutation, add});
      inner_size_.push_back(inner);
      inner_scale_.push_back(scale);
      for (const Var& leaf : leaves_) {
        analytic_.back().push_back(leaf.needs_gradient() ? gradients[leaf] : Tensor());
      }
    }
  }

  // What clips its cotangent, or drops small ones, shows where that is larger or smaller.
  void check_linear(Var y) {
    if (!options_.linear || !y.needs_gradient()) return;
    const std::size_t classes = cotangents_.size() / static_cast<std::size_t>(options_.cotangents);
    for (std::size_t c = 0; c < classes; ++c) {
      for (const double scale : {0x1p10, 0x1p-10}) {
        const Tensor scaled = cotangents_[c].clone();
        for (double& v : scaled.write_values<double>()) v *= scale;
        const Gradients gradients = tape_.backward(y, {scaled, true, {}, options_.mutation, {}});
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
          if (inputs_[i].dtype() != DType::f64 || !leaves_[i].needs_gradient()) continue;
          require_linear(analytic_[c][i], gradients[leaves_[i]], scale, options_.relative,
                         report_.inputs[i]);
          report_.verdict = worse(report_.verdict, report_.inputs[i].verdict);
        }
      }
    }
  }

  // The program once more, decisions replayed; `signature` of its cell.
  Tensor replay(const std::vector<Tensor>& inputs, std::uint64_t& signature,
                bool gradients = false) {
    decisions_.replay(options_.hold);
    Tape::Options options = tape_options();
    options.gradients = gradients;
    Tape tape(options);
    std::vector<Var> leaves;
    const Tensor y = run_on(tape, inputs, leaves).value();
    decisions_.finish_replay();
    signature = tape.cell().signature();
    return y;
  }

  bool runs_alike(bool gradients) {
    std::uint64_t signature = 0;
    try {
      return replay(inputs_, signature, gradients).same_bits(output_) && signature == signature_;
    } catch (const ReplayMismatch&) {
      return false;
    }
  }
  // Why runs at one point are not the same; null where they are.
  const char* unlike() {
    if (moves_alike_ && runs_alike(false)) return nullptr;
    return runs_alike(true) ? kGradientFree : kHiddenState;
  }

  Sample sample_of(const Tensor& y, double h, std::span<const double> rounded) const {
    Sample result{h, {}, {}, inner_scale_};
    for (std::size_t c = 0; c < cotangents_.size(); ++c) {
      result.value.push_back(dot(cotangents_[c], y));
      result.size.push_back(dot_of_sizes(cotangents_[c], y) +
                            std::hypot(inner_size_[c], rounded.empty() ? 0.0 : rounded[c]));
    }
    return result;
  }

  // <cotangent, y> for each, with one of the inputs replaced; `rounded`, by cotangent, is the size
  // of what the rounding of that input itself acts on.
  std::optional<Sample> sample(std::size_t which, const Tensor& value, double h,
                               std::span<const double> rounded) {
    std::vector<Tensor> inputs = inputs_;
    inputs[which] = value;
    Tensor y;
    std::uint64_t signature = 0;
    try {
      y = replay(inputs, signature);
    } catch (const ReplayMismatch&) {
      outside_ = "every step asks for other decisions";
      left_cell_ = true;
      return std::nullopt;
    } catch (const Interruption&) {
      throw;
    } catch (const std::exception& e) {
      outside_ = fmt::format("every step ends in an error: {}", e.what());
      return std::nullopt;
    } catch (...) {
      outside_ = "every step ends in an exception";
      return std::nullopt;
    }
    if (signature != signature_) {
      outside_ = "every step crosses a wall of the cell";
      left_cell_ = true;
      return std::nullopt;
    }
    if (!(y.shape() == output_.shape())) {
      outside_ = "at every step the output has another shape";
      return std::nullopt;
    }
    Sample result = sample_of(y, h, rounded);
    bool same = true;
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

  // Random ones, along all elements and along those alone whose part in the others is small: a
  // large element, or a large gradient, would hide theirs.
  std::vector<Tensor> directions_of(std::size_t i, Rng& rng) {
    const Tensor& x = inputs_[i];
    std::vector<double> part(static_cast<std::size_t>(x.numel()), 0.0);
    double largest = 0.0;
    for (std::size_t e = 0; e < part.size(); ++e) {
      for (const std::vector<Tensor>& analytic : analytic_) {
        const double g = analytic[i].at(static_cast<std::int64_t>(e));
        part[e] = std::fmax(part[e], std::abs(g * scale_of(x.at(static_cast<std::int64_t>(e)))));
      }
      largest = std::fmax(largest, part[e]);
    }
    std::vector<Tensor> directions;
    for (int d = 0; d < options_.directions; ++d) directions.push_back(random_direction(x, rng));
    std::size_t before = part.size();
    for (const double below : {1e-2, 1e-4, 1e-6, 1e-9, 1e-12}) {
      Tensor direction = random_direction(x, rng);
      std::size_t left = 0;
      for (std::size_t e = 0; e < part.size(); ++e) {
        if (part[e] <= below * largest) {
          ++left;
        } else {
          direction.write<double>()[e] = 0.0;
        }
      }
      if (left > 0 && left < before) directions.push_back(direction);
      before = left;
    }
    return directions;
  }

  void check_input(std::size_t i, Rng& rng, InputReport& report) {
    const Tensor& x = inputs_[i];
    const bool elementwise = x.numel() <= options_.elementwise_limit;
    const std::vector<Tensor> directions =
        elementwise ? std::vector<Tensor>() : directions_of(i, rng);
    const std::int64_t places =
        elementwise ? x.numel() : static_cast<std::int64_t>(directions.size());
    for (std::int64_t e = 0; e < x.numel(); ++e) report.not_moved += std::isfinite(x.at(e)) ? 0 : 1;
    // A single element's step is known exactly, a direction's is not.
    std::vector<double> rounded;
    for (std::size_t c = 0; c < cotangents_.size() && !elementwise; ++c) {
      rounded.push_back(norm_of_product(analytic_[c][i], x));
    }
    Comparison comparison(options_, class_of_cotangent_, report);
    for (std::int64_t place = 0; place < places; ++place) {
      if (elementwise && !std::isfinite(x.at(place))) continue;
      Tensor direction;
      if (elementwise) {
        direction = Tensor::zeros(x.shape(), DType::f64, Device::cpu);
        direction.write<double>()[place] = 1.0;
      } else {
        direction = directions[static_cast<std::size_t>(place)];
      }
      const Steps steps = elementwise ? steps_at(x.at(place)) : Steps{};
      left_cell_ = false;
      const Curve curve = [&](double h) -> std::optional<Sample> {
        if (h == 0.0) return sample_of(output_, h, rounded);
        // The end of a domain may be as near as it is; a cell that small is no claim.
        if (left_cell_ && std::abs(h) < steps.smallest) return std::nullopt;
        const Tensor to = moved(x, h, direction);
        return sample(i, to, elementwise ? to.at(place) - x.at(place) : h, rounded);
      };
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
        Pair pair{.place = place,
                  .cotangent = c,
                  .analytic = dot(analytic_[c][i], direction),
                  .largest = largest_of(analytic_[c][i])};
        pair.set_numeric(numeric);
        comparison.add(pair, again);
      }
    }
    comparison.finish();
  }

  const Program program_;
  std::vector<Tensor> inputs_;
  const GradcheckOptions& options_;
  Decisions decisions_ = Decisions::recorder();
  Tape tape_;
  std::vector<Var> leaves_;
  GradcheckReport report_;
  Tensor output_;
  std::uint64_t signature_ = 0;
  bool moves_alike_ = true;  // at moved points, with gradients and without
  bool left_cell_ = false;   // at some step
  std::string outside_;      // why the last step without a value had none
  std::vector<Tensor> cotangents_;
  std::vector<int> class_of_cotangent_;
  std::vector<std::vector<Tensor>> analytic_;  // by cotangent, by input
  // By cotangent: of all results on the way, each times its gradient. Their rounding is the
  // output's.
  std::vector<double> inner_size_;
  std::vector<double> inner_scale_;  // the same, of results of size 1 at least
};

}  // namespace

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
  if (options.elementwise_limit < 0) {
    fail("gradcheck", "elementwise_limit is {}. Use 0 or more elements.",
         options.elementwise_limit);
  }
  if (!(options.relative > 0.0 && options.relative <= kLargestRelative)) {
    fail("gradcheck", "relative is {}. Use a tolerance above 0, at most {}.", options.relative,
         kLargestRelative);
  }
  if (!(options.error_factor >= 0.0 && options.error_factor <= kLargestErrorFactor)) {
    fail("gradcheck", "error_factor is {}. Use 0 to {} error estimates.", options.error_factor,
         kLargestErrorFactor);
  }
  return Checker(program, inputs, options).run();
}

}  // namespace moegrad
