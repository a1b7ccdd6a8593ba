#include "moe/sampling.h"

#include <limits>

#include "moe/noise.h"
#include "moe/on_host.h"
#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/threads.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTokensPerPiece = 32;  // whose weights are worked out together

Tensor gumbel_top_k(const Tensor& logits, std::int64_t k, Rng& rng) {
  const Tensor noisy =
      noisy_order(logits, rng.gumbel(logits.shape(), logits.dtype(), logits.device()));
  return largest_places(noisy, k);
}

// Of logits on the host, draw by draw from the softmax over what is left: logits, not
// probabilities, so that a score that underflows can still be drawn once the others are gone.
Tensor sequential(Tape& tape, const Tensor& logits, std::int64_t k, bool replacement) {
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  const Tensor left = logits.to(DType::f64).clone();
  const Tensor probabilities = left.like();
  Tensor selected = Tensor::empty({tokens, k}, DType::i32, left.device());
  for (std::int64_t draw = 0; draw < k; ++draw) {
    kernels(left.device()).softmax(left, {tokens, experts, 1}, probabilities);
    const Tensor drawn = tape.decisions().categorical("draw", probabilities, tape.rng());
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int32_t expert = drawn.data<std::int32_t>()[t];
      selected.write<std::int32_t>()[t * k + draw] = expert;
      if (!replacement) {
        left.write<double>()[t * experts + expert] = -std::numeric_limits<double>::infinity();
      }
    }
  }
  return selected;
}

}  // namespace

Tensor sample_experts(Var logits, std::int64_t k, bool replacement, std::string_view kind) {
  Tape& tape = logits.tape();
  Decisions& decisions = tape.decisions();
  const Tensor value = logits.value();
  if (decisions.mode() == Decisions::Mode::enumerate && !decisions.has(kind)) {
    return on_host([&](const Tensor& o) { return sequential(tape, o, k, replacement); }, value);
  }
  return decisions.decide(kind, DType::i32, {value.size(0), k}, [&] {
    if (!replacement) return gumbel_top_k(value, k, tape.rng());
    Tensor selected = Tensor::empty({value.size(0), k}, DType::i32, value.device());
    for (std::int64_t j = 0; j < k; ++j) {
      const Tensor one = gumbel_top_k(value, 1, tape.rng());
      kernels(value.device()).copy_block(one, 0, 1, one.size(0), 1, j, k, selected);
    }
    return selected;
  });
}

Var constant_ratio_weights(Var logits, const Tensor& selected, const TokenWeights& value) {
  Tape& tape = logits.tape();
  const std::int64_t tokens = selected.size(0);
  const std::int64_t k = selected.size(1);
  const Tensor held = tape.decisions().decide("weights", logits.dtype(), {tokens, k}, [&] {
    const auto weigh = [&](const Tensor& o, const Tensor& ids) {
      Tensor w = o.like({tokens, k});
      const std::span<double> weights = w.write_values<double>();
      const auto experts = static_cast<std::size_t>(o.size(1));
      const auto active = static_cast<std::size_t>(k);
      parallel_on_host(tokens, kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          const auto row = static_cast<std::size_t>(t);
          value(t, o.values<double>().subspan(row * experts, experts),
                ids.values<std::int32_t>().subspan(row * active, active),
                weights.subspan(row * active, active));
        }
      });
      return w;
    };
    const Tensor o = less_largest(logits.value().to(DType::f64));
    return on_host(weigh, o, selected).to(logits.dtype());
  });
  const Var log_g = take_columns(log_softmax(logits), selected);
  return tape.constant(held) * exp(log_g - stop_gradient(log_g));
}

void select_renormalised(Routing& routing, std::int64_t k) {
  routing.selected = top_k_indices(routing.logits, k, "selected");
  routing.weights = softmax(take_columns(routing.logits, routing.selected));
}

}  // namespace moegrad
