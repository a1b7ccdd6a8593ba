#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "autograd/differences.h"
#include "autograd/gradcheck.h"

namespace moegrad {

// An analytic number and its numeric counterpart.
struct Pair {
  std::int64_t place = 0;     // the element or direction of the input
  std::size_t cotangent = 0;  // and the cotangent that both belong to
  double analytic = 0.0;
  double largest = 0.0;  // analytic number of the input, for this cotangent
  double numeric = 0.0, error = 0.0, rounding = 0.0;
  double step = 0.0;   // that the numeric number came from
  bool jumps = false;  // the output does, near the point

  void set_numeric(const Derivative& d);
  double size() const { return std::fmax(std::abs(analytic), std::abs(numeric)); }
  double difference() const { return std::abs(analytic - numeric); }
};

// Judges the numbers of one input of gradcheck, pair by pair, and keeps the worst in its report.
class Comparison {
 public:
  // `class_of` a cotangent: the class of outputs that it belongs to.
  Comparison(const GradcheckOptions& options, const std::vector<int>& class_of, InputReport& report)
      : options_(options), class_of_(class_of), report_(report) {}

  // `again` finds the numeric numbers of the pair's place by other steps.
  void add(const Pair& first, const std::function<Derivative()>& again);
  // No step gave a value.
  void outside(std::int64_t place, const std::string& why);
  // Counts what rounding hides; where that is everything, nothing was checked.
  void finish();

 private:
  Verdict judge(const Pair& pair) const;
  bool confirms(const Pair& other, const Pair& pair) const;
  bool hides(const Pair& pair, double largest) const;
  double relative_error(const Pair& pair) const;
  void keep_worst(const Pair& pair, Verdict verdict, const std::string& reason);
  void keep(const Pair& pair, const std::string& reason);

  const GradcheckOptions& options_;
  const std::vector<int>& class_of_;
  InputReport& report_;
  std::vector<Pair> pairs_;
};

// Fails the input where `scaled`, the gradient of `scale` times a cotangent, is not `scale` times
// the cotangent's own, each element within `relative`.
void require_linear(const Tensor& own, const Tensor& scaled, double scale, double relative,
                    InputReport& report);

}  // namespace moegrad
