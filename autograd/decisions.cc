#include "autograd/decisions.h"

#include <cmath>

namespace moegrad {
namespace {

// Probability `i` of a row; an Error where it is none.
double probability_at(const Tensor& probabilities, std::int64_t row, std::int64_t i) {
  const double p = probabilities.at(row * probabilities.size(1) + i);
  if (!(p >= 0.0)) {
    fail("categorical", "row {} holds the probability {}. Use 0 or more.", row, p);
  }
  return p;
}

[[noreturn]] void no_outcome(std::int64_t row) {
  fail("categorical", "row {} holds no positive probability. Give each row a sum of 1.", row);
}

void require_sum_of_one(std::int64_t row, double sum) {
  if (std::abs(sum - 1.0) <= 1e-5) return;
  fail("categorical", "row {} has probabilities that add up to {}. Divide by the sum.", row, sum);
}

}  // namespace

void Decisions::give(std::string_view kind, const Tensor& value) {
  for (Record& record : given_) {
    if (record.kind == kind) {
      record.value = value;
      return;
    }
  }
  given_.push_back({std::string(kind), value});
}

const Tensor* Decisions::given(std::string_view kind) const {
  for (const Record& record : given_) {
    if (record.kind == kind) return &record.value;
  }
  return nullptr;
}

void Decisions::replay() {
  if (mode_ != Mode::record && mode_ != Mode::replay) {
    fail("decisions", "replay of decisions that were not recorded. Start from recorder().");
  }
  mode_ = Mode::replay;
  next_record_ = 0;
}

void Decisions::require_same(std::string_view kind, DType dtype, const Shape& shape,
                             const Tensor& value, std::string_view origin) {
  if (value.dtype() != dtype || !(value.shape() == shape)) {
    fail("decisions", "'{}' is asked for as {} {}, and {} as {} {}. The shapes must agree.", kind,
         name_of(dtype), shape, origin, name_of(value.dtype()), value.shape());
  }
}

Tensor Decisions::replayed(std::string_view kind, DType dtype, const Shape& shape) {
  if (next_record_ == records_.size()) {
    fail("decisions",
         "replay asks for decision {} ('{}'), and only {} were recorded. Replay the same program.",
         next_record_ + 1, kind, records_.size());
  }
  const Record& record = records_[next_record_++];
  if (record.kind != kind) {
    fail("decisions",
         "replay asks for '{}' as decision {}, where '{}' was recorded. Replay the same program.",
         kind, next_record_, record.kind);
  }
  require_same(kind, dtype, shape, record.value, "was recorded");
  return record.value;
}

void Decisions::finish_replay() const {
  if (mode_ == Mode::replay && next_record_ != records_.size()) {
    fail("decisions",
         "replay ended after {} of {} decisions; the next recorded one is '{}'. Replay the same "
         "program.",
         next_record_, records_.size(), records_[next_record_].kind);
  }
}

Tensor Decisions::categorical(std::string_view kind, const Tensor& probabilities, Rng& rng) {
  if (probabilities.rank() != 2 || !is_floating(probabilities.dtype())) {
    fail("categorical", "probabilities are {} {}. They must be floating, [rows, outcomes].",
         name_of(probabilities.dtype()), probabilities.shape());
  }
  const std::int64_t rows = probabilities.size(0);
  if (mode_ == Mode::enumerate && given(kind) == nullptr) return enumerated(probabilities);
  return decide(kind, DType::i32, {rows}, [&] {
    const std::int64_t outcomes = probabilities.size(1);
    const Tensor drawn = Tensor::empty({rows}, DType::i32);
    const Rng at = rng.take(static_cast<std::uint64_t>(rows));
    for (std::int64_t row = 0; row < rows; ++row) {
      const double u = at.uniform(static_cast<std::uint64_t>(row));
      // Rounding may leave the sum below u: then the last possible outcome is taken.
      double sum = 0.0;
      std::int32_t taken = -1;
      for (std::int64_t i = 0; i < outcomes; ++i) {
        const double p = probability_at(probabilities, row, i);
        if (p > 0.0 && sum <= u) taken = static_cast<std::int32_t>(i);
        sum += p;
      }
      if (taken < 0) no_outcome(row);
      require_sum_of_one(row, sum);
      drawn.write<std::int32_t>()[row] = taken;
    }
    return drawn;
  });
}

Tensor Decisions::enumerated(const Tensor& probabilities) {
  const std::int64_t rows = probabilities.size(0);
  const std::int64_t outcomes = probabilities.size(1);
  const Tensor drawn = Tensor::empty({rows}, DType::i32);
  for (std::int64_t row = 0; row < rows; ++row) {
    if (next_choice_ == choices_.size()) {
      Choice choice;
      double sum = 0.0;
      for (std::int64_t i = 0; i < outcomes; ++i) {
        const double p = probability_at(probabilities, row, i);
        sum += p;
        if (p > 0.0) choice.outcomes.emplace_back(static_cast<std::int32_t>(i), p);
      }
      if (choice.outcomes.empty()) no_outcome(row);
      require_sum_of_one(row, sum);
      choices_.push_back(std::move(choice));
    }
    const Choice& choice = choices_[next_choice_++];
    drawn.write<std::int32_t>()[row] = choice.outcomes[choice.taken].first;
  }
  return drawn;
}

bool Decisions::next_outcome() {
  while (!choices_.empty() && choices_.back().taken + 1 == choices_.back().outcomes.size()) {
    choices_.pop_back();
  }
  next_choice_ = 0;
  if (choices_.empty()) return false;
  ++choices_.back().taken;
  return true;
}

double Decisions::probability() const {
  double product = 1.0;
  for (const Choice& choice : choices_) product *= choice.outcomes[choice.taken].second;
  return product;
}

}  // namespace moegrad
