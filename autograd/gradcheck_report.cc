#include <cmath>

#include "autograd/gradcheck.h"

namespace moegrad {

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
    if (r.worst >= 0 && std::isnan(r.numeric)) text += fmt::format(", worst at {}", r.worst);
    if (r.worst >= 0 && !std::isnan(r.numeric)) {
      text += fmt::format(", worst at {}: analytic {:.12g}, numeric {:.12g} +- {:.1e}", r.worst,
                          r.analytic, r.numeric, r.error_estimate);
    }
    if (!r.reason.empty()) text += " (" + r.reason + ")";
    if (r.dead) text += " (dead: gradient and differences are zero everywhere)";
    if (r.not_moved > 0) text += fmt::format("; {} elements are not finite", r.not_moved);
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

}  // namespace moegrad
