#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace moegrad {

// A replayed program asks for another decision than was recorded; the text says which.
class ReplayMismatch : public Error {
 public:
  using Error::Error;
};

// An enumerated run made more draws than can all be enumerated: perhaps in a loop without an end.
class TooManyDraws : public Error {
 public:
  using Error::Error;
};

// The one door for everything that is not differentiable: a selection, a drawn sample, noise, a
// stopped gradient. Each such step asks its tape's Decisions, which
//
//   live       computes it; training
//   record     computes it and keeps it, in order; the base point of a check
//   replay     returns what was kept: the program with all decisions frozen is smooth, and finite
//              differences of it are what a straight-through or sparse gradient claims to be
//   enumerate  runs the program once for each outcome of its discrete draws, with its probability
//
// What is handed out is a copy: a program may write it.
class Decisions {
 public:
  enum class Mode { live, record, replay, enumerate };
  // Which decisions a replay holds. Where it holds nothing they are computed anew, with the same
  // random numbers; a selection or a draw that comes out otherwise is a ReplayMismatch: another
  // cell.
  enum class Hold { all, nothing };

  Decisions() = default;
  static Decisions recorder() { return Decisions(Mode::record); }
  // Of at most so many outcomes: enumerates() goes by it.
  static Decisions enumerator(std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
    return {Mode::enumerate, most};
  }
  // The outcomes of the draws of one run, in order, and the probability that each had.
  using Path = std::vector<std::pair<std::int32_t, double>>;
  // One run of an enumeration instead of all: its draws have the outcomes of `path`; those after
  // its end are drawn with `rng`.
  static Decisions along(Path path, const Rng& rng, std::int64_t most);

  Mode mode() const { return mode_; }
  bool live() const { return mode_ == Mode::live; }

  // The decision `kind` of this type and shape: compute() when live, recording or enumerating, what
  // was kept when replaying. A Gaussian or Gumbel draw is such a decision too. compute() asks for
  // no decision itself: a replay would not reach it. It is run in a replay as well, so that it
  // takes the same random numbers, and so that two decisions of one kind that have changed places
  // are noticed. What is kept lies on the host, and is answered on the device that compute() works
  // on: recorded on one device, it can be replayed on another.
  template <class Compute>
  Tensor decide(std::string_view kind, DType dtype, const Shape& shape, Compute&& compute) {
    if (mode_ == Mode::live && given_.empty()) return compute();
    if (mode_ == Mode::replay) {
      const Record& record = next(kind, dtype, shape);
      if (record.given) return copy_on(device_, record.value);
      if (hold_ == Hold::nothing) return unheld(record, compute());
      const Tensor now = attempt(compute);
      require_in_place(record, now);
      if (now.defined()) device_ = now.device();
      return copy_on(device_, record.value);
    }
    const Tensor* forced = given(kind);
    Tensor value = forced != nullptr ? forced->clone() : compute();
    require_same(kind, dtype, shape, value, forced != nullptr ? "was given" : "was computed");
    device_ = value.device();
    if (mode_ == Mode::record) {
      records_.push_back({std::string(kind), copy_on(Device::cpu, value), forced != nullptr});
    }
    if (mode_ == Mode::enumerate) note(value);
    return value;
  }

  // One draw for each row of probabilities [N, E] (each row sums to 1): i32 [N]. When enumerating,
  // every outcome of positive probability gets its run; a draw then never takes numbers from rng.
  Tensor categorical(std::string_view kind, const Tensor& probabilities, Rng& rng);
  // One draw for each element p of probabilities: i32 of their shape, 1 with probability p, else 0.
  // Enumerated like categorical: 2^n outcomes for n elements inside (0, 1).
  Tensor bernoulli(std::string_view kind, const Tensor& probabilities, Rng& rng);
  // True when enumerating and a draw of so many outcomes keeps this run's draws within the limit:
  // for a step that can also hold noise, as dropout does.
  bool enumerates(double outcomes) const;

  // Forces the decision `kind`, every time it is asked for, outside of replay. For programs that
  // are to run on decisions made elsewhere; the value is of the device that the program decides on.
  // A second value of a kind takes the place of the first.
  // An Error from within a program that is recorded, replayed or enumerated: a check would hold it.
  void give(std::string_view kind, const Tensor& value);
  bool has(std::string_view kind) const { return given(kind) != nullptr; }

  // After recording, or after a replay: the next run replays from the first decision.
  void replay(Hold hold = Hold::all);
  // After a replayed run: a ReplayMismatch when the program asked for fewer decisions than were
  // recorded.
  void finish_replay() const;
  std::size_t recorded() const { return records_.size(); }
  // The recorded decisions of a kind, in order.
  std::vector<Tensor> recorded(std::string_view kind) const {
    std::vector<Tensor> values;
    for (const Record& record : records_) {
      if (record.kind == kind) values.push_back(record.value.clone());
    }
    return values;
  }

  // Enumerating: to the next outcome; false when all have been run. The first run needs no call.
  // An Error in a later run whose draws have other probabilities than before: hidden state.
  bool next_outcome();
  // Of the run just made: the probability of its outcome, and the outcomes of its draws.
  double probability() const;
  Path path() const;
  // After a run along a path: how many times more probable its outcomes were than the path says; 0
  // where one was impossible (the run then took another).
  double weight() const { return weight_; }
  // How many enumerated draws the run has asked for so far.
  std::uint64_t draws() const { return draws_; }
  // Equal for two enumerated runs whose integer decisions (selections, comparisons) were the same.
  std::uint64_t signature() const { return signature_; }

 private:
  using Outcomes = Path;  // of one draw: those of positive probability
  struct Record {
    std::string kind;
    Tensor value;
    bool given = false;
  };
  // One draw of an enumerated run, and the place of the outcome that is taken.
  struct Choice {
    Outcomes outcomes;
    std::size_t taken = 0;
  };

  explicit Decisions(Mode mode) : mode_(mode) {}
  Decisions(Mode mode, std::int64_t most) : mode_(mode), most_(most) {}
  const Tensor* given(std::string_view kind) const;
  const Record& next(std::string_view kind, DType dtype, const Shape& shape);
  static Tensor copy_on(Device device, const Tensor& value) {
    return value.device() == device ? value.clone() : value.to(device);
  }
  // What compute() gives at the replayed point; undefined where it cannot work there.
  template <class Compute>
  static Tensor attempt(Compute&& compute) {
    try {
      return compute();
    } catch (const Error&) {
      return {};
    }
  }
  void require_in_place(const Record& record, const Tensor& computed) const;
  static Tensor unheld(const Record& record, Tensor now);
  static void require_same(std::string_view kind, DType dtype, const Shape& shape,
                           const Tensor& value, std::string_view origin);
  Tensor enumerated(const Tensor& probabilities);
  std::int32_t choose(Outcomes outcomes);
  std::size_t first_taken(const Outcomes& outcomes);
  void note(const Tensor& value);

  friend class Tape;
  Mode mode_ = Mode::live;
  Device device_ = Device::cpu;  // of the last decision that was computed or given
  bool in_program_ = false;      // a tape has handed these out
  Hold hold_ = Hold::all;
  std::vector<Record> records_;
  std::size_t next_record_ = 0;
  std::vector<Record> given_;
  std::vector<Choice> choices_;
  std::size_t next_choice_ = 0;
  std::int64_t most_ = std::numeric_limits<std::int64_t>::max();
  std::uint64_t signature_ = 0;
  std::uint64_t draws_ = 0;
  bool single_ = false;  // one run, along forced_
  double weight_ = 1.0;
  Path forced_;
  Rng rng_;
};

}  // namespace moegrad
