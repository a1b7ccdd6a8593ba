#include "autograd/decisions.h"

#include <algorithm>
#include <cmath>

#include "tensor/categorical.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

template <class... Args>
[[noreturn]] void mismatch(fmt::format_string<Args...> what, Args&&... args) {
  throw ReplayMismatch("[decisions] " + shown_format(what, std::forward<Args>(args)...) +
                       " Replay the same program.");
}

}  // namespace

void Decisions::give(std::string_view kind, const Tensor& value) {
  if (in_program_ && mode_ != Mode::live) {
    fail("decisions",
         "'{}' is given from within a program that is being checked. Give it before the run.",
         kind);
  }
  for (Record& record : given_) {
    if (record.kind == kind) {
      record.value = value.clone();
      return;
    }
  }
  given_.push_back({std::string(kind), value.clone()});
}

const Tensor* Decisions::given(std::string_view kind) const {
  for (const Record& record : given_) {
    if (record.kind == kind) return &record.value;
  }
  return nullptr;
}

void Decisions::replay(Hold hold) {
  if (mode_ != Mode::record && mode_ != Mode::replay) {
    fail("decisions", "replay of decisions that were not recorded. Start from recorder().");
  }
  mode_ = Mode::replay;
  hold_ = hold;
  next_record_ = 0;
}

void Decisions::require_same(std::string_view kind, DType dtype, const Shape& shape,
                             const Tensor& value, std::string_view origin) {
  if (value.dtype() != dtype || !(value.shape() == shape)) {
    fail("decisions", "'{}' is asked for as {} {}, and {} as {} {}. The shapes must agree.", kind,
         name_of(dtype), shape, origin, name_of(value.dtype()), value.shape());
  }
}

const Decisions::Record& Decisions::next(std::string_view kind, DType dtype, const Shape& shape) {
  if (next_record_ == records_.size()) {
    mismatch("replay asks for decision {} ('{}'), and only {} were recorded.", next_record_ + 1,
             kind, records_.size());
  }
  const Record& record = records_[next_record_++];
  if (record.kind != kind) {
    mismatch("replay asks for '{}' as decision {}, where '{}' was recorded.", kind, next_record_,
             record.kind);
  }
  if (record.value.dtype() != dtype || !(record.value.shape() == shape)) {
    mismatch("replay asks for '{}' as {} {}, and it was recorded as {} {}.", kind, name_of(dtype),
             shape, name_of(record.value.dtype()), record.value.shape());
  }
  return record;
}

// A decision that comes out nearer to another one of its kind than to its own has changed places
// with it: a program may ask in an order that depends on values.
void Decisions::require_in_place(const Record& record, const Tensor& computed) const {
  if (!computed.defined()) return;
  const Tensor now = computed.to(Device::cpu);
  const auto matches = [&](const Record& other) {
    return other.kind == record.kind && other.value.dtype() == record.value.dtype() &&
           other.value.shape() == record.value.shape();
  };
  const auto distance = [&](const Record& other) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < now.numel(); ++i) sum += std::abs(now.at(i) - other.value.at(i));
    return sum;
  };
  if (!matches(Record{record.kind, now}) || now.same_bits(record.value)) return;
  const double own = (1.0 - 1e-6) * distance(record);
  // Neighbours change places; in a program of many thousand decisions no others are looked at.
  constexpr std::size_t kNeighbours = 64;
  const std::size_t first = next_record_ > kNeighbours ? next_record_ - kNeighbours : 0;
  const std::size_t end = std::min(records_.size(), next_record_ + kNeighbours);
  for (std::size_t i = first; i < end; ++i) {
    const Record& other = records_[i];
    if (&other == &record || !matches(other) || !(distance(other) < own)) continue;
    mismatch("replay comes to '{}' where another decision of this kind was recorded.", record.kind);
  }
}

// A selection that is not held and comes out otherwise is in another cell.
Tensor Decisions::unheld(const Record& record, Tensor now) {
  if (!is_floating(now.dtype()) && !now.same_bits(record.value)) {
    mismatch("replay computes '{}' anew, and it is another one.", record.kind);
  }
  return now;
}

void Decisions::finish_replay() const {
  if (mode_ == Mode::replay && next_record_ != records_.size()) {
    mismatch("replay ended after {} of {} decisions; the next recorded one is '{}'.", next_record_,
             records_.size(), records_[next_record_].kind);
  }
}

Tensor Decisions::categorical(std::string_view kind, const Tensor& probabilities, Rng& rng) {
  if (probabilities.rank() != 2 || !is_floating(probabilities.dtype())) {
    fail("categorical", "probabilities are {} {}. They must be floating, [rows, outcomes].",
         name_of(probabilities.dtype()), probabilities.shape());
  }
  const std::int64_t rows = probabilities.size(0);
  const Device device = probabilities.device();
  if (mode_ == Mode::enumerate && given(kind) == nullptr) {
    return enumerated(probabilities.to(Device::cpu)).to(device);
  }
  return decide(kind, DType::i32, {rows}, [&] {
    Tensor drawn = Tensor::empty({rows}, DType::i32, device);
    kernels(device).sample_rows(rng.take(static_cast<std::uint64_t>(rows)), probabilities, drawn);
    return drawn;
  });
}

Tensor Decisions::bernoulli(std::string_view kind, const Tensor& probabilities, Rng& rng) {
  if (!is_floating(probabilities.dtype())) {
    fail("bernoulli", "probabilities are {}. They must be floating.",
         name_of(probabilities.dtype()));
  }
  const Tensor host = probabilities.to(Device::cpu);
  const auto at = [&](std::int64_t i) {
    const double p = host.at(i);
    if (!(p >= 0.0 && p <= 1.0)) {
      fail("bernoulli", "element {} holds the probability {}. Use 0 to 1.", i, p);
    }
    return p;
  };
  const Shape& shape = probabilities.shape();
  const auto drawn = [&](const auto& draw) {
    const Tensor ones = Tensor::empty(shape, DType::i32, Device::cpu);
    for (std::int64_t i = 0; i < ones.numel(); ++i) ones.write<std::int32_t>()[i] = draw(i, at(i));
    return ones.to(probabilities.device());
  };
  if (mode_ == Mode::enumerate && given(kind) == nullptr) {
    ++draws_;
    return drawn([&](std::int64_t, double p) {
      Outcomes outcomes;
      if (p < 1.0) outcomes.emplace_back(0, 1.0 - p);
      if (p > 0.0) outcomes.emplace_back(1, p);
      return choose(std::move(outcomes));
    });
  }
  return decide(kind, DType::i32, shape, [&] {
    const Rng first = rng.take(static_cast<std::uint64_t>(probabilities.numel()));
    return drawn([&](std::int64_t i, double p) {
      return first.uniform(static_cast<std::uint64_t>(i)) < p ? 1 : 0;
    });
  });
}

Tensor Decisions::enumerated(const Tensor& probabilities) {
  ++draws_;
  const std::int64_t rows = probabilities.size(0);
  const std::int64_t categories = probabilities.size(1);
  const Tensor drawn = Tensor::empty({rows}, DType::i32, Device::cpu);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto p = [&](std::int64_t i) { return probabilities.at(row * categories + i); };
    require_distribution(row, categories, p);
    Outcomes outcomes;
    for (std::int64_t i = 0; i < categories; ++i) {
      if (p(i) > 0.0) outcomes.emplace_back(static_cast<std::int32_t>(i), p(i));
    }
    drawn.write<std::int32_t>()[row] = choose(std::move(outcomes));
  }
  return drawn;
}

// The outcome that this run takes of its next draw.
std::int32_t Decisions::choose(Outcomes outcomes) {
  if (next_choice_ == choices_.size()) {
    constexpr std::size_t kMostDraws = 4096;  // of one run; each has two outcomes at least
    if (!single_ && choices_.size() >= kMostDraws) {
      throw TooManyDraws("[decisions] an enumerated run makes more than 4096 draws. Sample it.");
    }
    const std::size_t taken = first_taken(outcomes);
    choices_.push_back({std::move(outcomes), taken});
  } else if (choices_[next_choice_].outcomes != outcomes) {
    fail("decisions",
         "draw {} of an enumerated run has other probabilities than in the run before. Is there "
         "hidden state? Draw from the tape's rng() alone.",
         next_choice_ + 1);
  }
  const Choice& choice = choices_[next_choice_++];
  return choice.outcomes[choice.taken].first;
}

// Of a draw that is made for the first time.
std::size_t Decisions::first_taken(const Outcomes& outcomes) {
  if (!single_) return 0;
  if (next_choice_ < forced_.size()) {
    const auto& [outcome, probability] = forced_[next_choice_];
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i].first != outcome) continue;
      weight_ *= outcomes[i].second / probability;
      return i;
    }
    weight_ = 0.0;
  }
  const double u = rng_.take(1).uniform(0);
  double sum = 0.0;
  std::size_t taken = 0;
  for (std::size_t i = 0; i < outcomes.size() && sum <= u; ++i) {
    taken = i;
    sum += outcomes[i].second;
  }
  return taken;
}

Decisions Decisions::along(Path path, const Rng& rng, std::int64_t most) {
  Decisions decisions(Mode::enumerate, most);
  decisions.single_ = true;
  decisions.forced_ = std::move(path);
  decisions.rng_ = rng;
  return decisions;
}

bool Decisions::enumerates(double outcomes) const {
  if (mode_ != Mode::enumerate) return false;
  for (std::size_t i = 0; i < next_choice_; ++i) {
    outcomes *= static_cast<double>(choices_[i].outcomes.size());
  }
  return outcomes <= static_cast<double>(most_);
}

void Decisions::note(const Tensor& value) {
  if (value.dtype() != DType::i32) return;
  const Tensor host = value.to(Device::cpu);
  for (const std::int32_t word : host.values<std::int32_t>()) {
    signature_ =
        (signature_ ^ static_cast<std::uint32_t>(word)) * 0x100000001b3ULL + 0x9e3779b97f4a7c15ULL;
  }
}

bool Decisions::next_outcome() {
  while (!choices_.empty() && choices_.back().taken + 1 == choices_.back().outcomes.size()) {
    choices_.pop_back();
  }
  next_choice_ = 0;
  signature_ = 0;
  draws_ = 0;
  if (single_ || choices_.empty()) return false;
  ++choices_.back().taken;
  return true;
}

double Decisions::probability() const {
  double product = 1.0;
  for (const Choice& choice : choices_) product *= choice.outcomes[choice.taken].second;
  return product;
}

Decisions::Path Decisions::path() const {
  Path path;
  for (const Choice& choice : choices_) path.push_back(choice.outcomes[choice.taken]);
  return path;
}

}  // namespace moegrad
