#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "autograd/expectation.h"
#include "autograd/transfer.h"

namespace moegrad {

// One run of a program whose expectation is taken.
struct ExpectationRun {
  double weight = 0.0;  // in the moments, where they sum to 1
  double loss = 0.0;
  std::vector<Tensor> gradients;  // by input; undefined for integer inputs
  // Of all results on the way, each times its gradient: of their sizes, and of sizes of at least 1.
  double inner = 0.0, scale = 0.0;
  std::vector<double> also;
  bool took_numbers = false;  // from the tape's rng
  bool may_peek = false;      // has asked for the rng more often than its draws need
  Decisions::Path path;
  std::pair<std::uint64_t, std::uint64_t> cell;  // of the operations, of the selections
};

// One sample of Monte Carlo: a seed, and all outcomes of its draws, or one of them.
struct ExpectationSample {
  Rng rng;
  bool enumerated = false;
  std::size_t first = 0, runs = 0;
};

// Runs a program in the ways that its expectation needs.
class Sampler {
 public:
  static constexpr std::int64_t kInner = 16;  // outcomes that are enumerated within a sample

  Sampler(const Program& program, const ExpectationOptions& options)
      : program_(on_device(options.device, program)), options_(options) {}

  // The outcomes of the path; the weight is how many times more probable they are than it says.
  ExpectationRun run_along(std::span<const Tensor> inputs, const Rng& rng,
                           const Decisions::Path& path, bool gradients) const;
  // Every outcome of the draws, weighted by its probability; nothing where there are more than the
  // limit.
  std::optional<std::vector<ExpectationRun>> enumerate(std::span<const Tensor> inputs,
                                                       const Rng& rng, std::int64_t limit,
                                                       bool gradients) const;
  // One seed for each sample, the same for every inputs; `inner`: its draws enumerated, where they
  // have few outcomes.
  std::vector<ExpectationRun> sample(std::span<const Tensor> inputs, bool inner,
                                     std::vector<ExpectationSample>& samples) const;
  // True when the runs depend on the seed. An Error when they depend on something else.
  bool noisy(std::span<const Tensor> inputs, const std::vector<ExpectationRun>& runs) const;
  // Whether each of the runs gives the same bits once more; `samples` is empty where enumerated.
  bool same_again(std::span<const Tensor> inputs, const std::vector<ExpectationRun>& runs,
                  const std::vector<ExpectationSample>& samples) const;

 private:
  ExpectationRun run(std::span<const Tensor> inputs, const Rng& rng, Decisions& decisions,
                     bool gradients) const;

  const Program program_;
  const ExpectationOptions& options_;
};

}  // namespace moegrad
