#include "bench/report/rows.h"

#include <cstdint>
#include <memory>

#include <fmt/format.h>

#include "bench/report/cases.h"
#include "bench/report/product.h"
#include "lab/cost.h"
#include "tensor/threads.h"
#include "train/language.h"

namespace moegrad::bench {
namespace {

constexpr double kBudget = 1.5;  // seconds for a row, nine rounds at least

Spread reciprocal(const Spread& s) { return {1.0 / s.median, 1.0 / s.max, 1.0 / s.min, s.rounds}; }
Spread times(const Spread& s, double factor) {
  return {s.median * factor, s.min * factor, s.max * factor, s.rounds};
}
// Operations per second / 1e9 of a program that takes these seconds.
Spread rate(const Spread& seconds, double operations) {
  return times(reciprocal(seconds), operations * 1e-9);
}
Spread count(double value) { return {value, value, value, 1}; }

class Report {
 public:
  explicit Report(const std::function<void(const std::string&)>& progress) : progress_(progress) {}

  std::vector<Row> measure() {
    const int most = threads();
    for (const int threads : {1, most}) {
      const ThreadScope scope(threads);
      threads_ = threads;
      layers();
      against_bare();
      language();
      ste_dense();
      if (most == 1) break;
    }
    {
      const ThreadScope alone(1);
      threads_ = 1;
      tape();
      expert_group();
      memory();
      growth();
    }
    if (most > 1) {
      more_threads(most);
      for (Row& row : thread_rows(most, progress_)) rows_.push_back(std::move(row));
    }
    return std::move(rows_);
  }

 private:
  void add(std::string what, std::string setting, std::string unit, const Spread& value,
           std::optional<Target> target = {}) {
    rows_.push_back(
        {std::move(what), std::move(setting), threads_, std::move(unit), value, target});
  }
  // a / b, each made only for this.
  template <class A, class B>
  SideBySide compare(const std::string& what, A a, B b) {
    progress_(fmt::format("{}, {} threads", what, threads_));
    return side_by_side([&] { a->step(); }, [&] { b->step(); }, kBudget);
  }

  void layers() {
    struct Held {
      Size size;
      double bound;
    };
    const std::vector<Held> held = {
        {large_size(), 0.9}, {larger_size(), 0.9}, {small_size(), 0.8}, {fine_size(), 0.8}};
    Product product(threads_);
    for (const Size& size : sizes()) {
      const std::string name = size.name();
      progress_(fmt::format("layer {}, {} threads", name, threads_));
      BareLayer layer(size);
      const SideBySide s = side_by_side([&] { product.run(); }, [&] { layer.step(); }, kBudget);
      // Rates: operations over seconds; the seconds of both are of the same round.
      const double relative = size.operations() / product.operations();
      std::optional<Target> target;
      for (const Held& h : held) {
        if (h.size.name() == name) target = at_least(h.bound);
      }
      add("layer over product rate", name, "", times(s.ratio, relative), target);
      add("layer rate", name, "GFLOP/s", rate(s.b, size.operations()));
      add("product rate", "beside " + name, "GFLOP/s", rate(s.a, product.operations()));
      add("layer time", name, "ms", times(s.b, 1e3));
    }
  }

  void against_bare() {
    for (const Size& size : {large_size(), larger_size(), small_size(), fine_size()}) {
      const SideBySide s = compare("whole layer " + size.name(), std::make_unique<BareLayer>(size),
                                   std::make_unique<WholeLayer>(size, "top-k", "sparse"));
      add("bare layer over layer with router and loss", size.name(), "", s.ratio, at_least(0.9));
    }
    for (const Size& size : {small_size(), large_size()}) {
      const SideBySide s = compare("dense layer " + size.name(), std::make_unique<DenseLayer>(size),
                                   std::make_unique<BareLayer>(size));
      add("dense layer of equal operations over bare layer", size.name(), "", s.ratio);
    }
  }

  // A training step of the default language model, by the operations of its matrix products: beside its
  // layers, each by itself; and beside a bare layer of its tokens, of two matrices and relu, whose
  // experts have as many operations: 2 matrices of 264 for 3 of 176.
  void language() {
    const TrainConfig config = language_m();
    const TaskShape text{.inputs = config.context + 1,
                         .ids = true,
                         .targets = {{.name = "byte", .classes = kBytes}}};
    const double operations = operations_of_step(config, text);
    const std::string name = "language model, size M";
    auto layers = std::make_unique<LanguageLayers>(config);
    const double of_layers = operations / layers->operations();
    const SideBySide s = compare(name, std::move(layers), make_language(config));
    add("rate of a step over its layers'", name, "", times(s.ratio, of_layers), at_least(0.8));
    add("rate of a step", name, "GFLOP/s", rate(s.b, operations));
    add("time of a step", name, "ms", times(s.b, 1e3));
    const Size size{2048, 128, 264, 8, 2};
    const SideBySide bare = compare(name, std::make_unique<BareLayer>(size), make_language(config));
    add("rate of a step over a bare layer's", name, "",
        times(bare.ratio, operations / size.operations()));
  }

  void tape() {
    progress_("tape");
    time_tape(200);
    std::vector<double> record, backward;
    for (int i = 0; i < 15; ++i) {
      const TapeTimes t = time_tape(100);
      record.push_back(t.record * 1e9);
      backward.push_back(t.backward * 1e9);
    }
    add("record an operation", "1 element", "ns", spread_of(record), at_most(150.0));
    add("replay it backward", "1 element", "ns", spread_of(backward), at_most(150.0));
    for (const auto& [rows, width] : {std::pair<std::int64_t, std::int64_t>{256, 512}, {8, 16}}) {
      const std::unique_ptr<Model> mlp = make_mlp(rows, width, 4);
      const SideBySide s = side_by_side([&] { mlp->gradient(); }, [&] { mlp->forward(); }, kBudget);
      const std::string name = fmt::format("MLP, {} rows, 4 layers of {}", rows, width);
      add("gradient over forward", name, "", s.ratio,
          rows == 256 ? std::optional<Target>(at_most(3.2)) : std::nullopt);
      add("forward", name, "us", times(s.b, 1e6));
    }
  }

  void expert_group() {
    for (const auto& [size, bound] : {std::pair{large_size(), 1.05}, {widest_size(), 1.023}}) {
      const SideBySide s = compare("expert-group " + size.name(),
                                   std::make_unique<WholeLayer>(size, "top-k", "expert-group"),
                                   std::make_unique<WholeLayer>(size, "top-k", "sparse"));
      add("expert-group over sparse, step", size.name(), "", s.ratio, at_most(bound));
    }
  }

  void ste_dense() {
    for (const Size& size : {Size{16, 64, 128, 8, 2}, Size{64, 64, 128, 8, 2},
                             Size{64, 256, 512, 8, 2}, small_size(), Size{2048, 256, 512, 8, 2}}) {
      const SideBySide s = compare("ste-dense " + size.name(),
                                   std::make_unique<WholeLayer>(size, "top-k", "ste-dense"),
                                   std::make_unique<WholeLayer>(size, "softmax", "sparse"));
      add("ste-dense over dense, step", size.name(), "", s.ratio, at_most(1.0));
    }
  }

  void memory() {
    for (const Size& size : {large_size(), larger_size(), small_size(), fine_size()}) {
      progress_("memory " + size.name());
      BareLayer layer(size);
      const BareLayer::Memory m = layer.memory();
      const auto elements =
          static_cast<double>(size.tokens * size.model + size.tokens * size.active * size.hidden);
      const auto relative = [&](std::size_t bytes) {
        return count(static_cast<double>(bytes) / sizeof(float) / elements);
      };
      add("saved for backward over N D + N k H", size.name(), "", relative(m.saved), at_most(1.05));
      add("peak of the forward pass over N D + N k H", size.name(), "", relative(m.forward_peak));
      add("peak of the step, gradients of weights too, over N D + N k H", size.name(), "",
          relative(m.step_peak));
    }
    WholeLayer layer(small_size(), "top-k", "sparse");
    for (int i = 0; i < 3; ++i) layer.step();
    const std::uint64_t before = pool::stats(Device::cpu).system_allocations;
    for (int i = 0; i < 10; ++i) layer.step();
    add("blocks taken from the system in 10 steady steps", small_size().name(), "",
        count(static_cast<double>(pool::stats(Device::cpu).system_allocations - before)),
        at_most(0.0));
  }

  void growth() {
    const Size base = large_size();
    Size twice = base;
    twice.tokens *= 2;
    SideBySide s =
        compare("doubled N", std::make_unique<BareLayer>(twice), std::make_unique<BareLayer>(base));
    add("cost of doubling N", base.name(), "", s.ratio, at_most(2.05));
    twice = base;
    twice.experts *= 2;
    s = compare("doubled E", std::make_unique<BareLayer>(twice), std::make_unique<BareLayer>(base));
    add("cost of doubling E", base.name(), "", s.ratio, at_most(1.1));
    twice = base;
    twice.active *= 2;
    s = compare("doubled k", std::make_unique<BareLayer>(twice), std::make_unique<BareLayer>(base));
    add("cost of doubling k", base.name(), "", s.ratio);
  }

  void more_threads(int most) {
    for (const Size& size : {large_size(), larger_size(), small_size(), fine_size()}) {
      progress_("threads " + size.name());
      BareLayer layer(size);
      const auto with = [&](int threads) {
        return [&layer, threads] {
          const ThreadScope scope(threads);
          layer.step();
        };
      };
      const SideBySide s = side_by_side(with(1), with(most), kBudget);
      threads_ = most;
      // The target is for two threads, 90 % of them; the same share of as many as there are.
      add("one thread over all", size.name(), "", s.ratio, at_least(0.9 * most));
    }
    Product one(1), all(most);
    const SideBySide s = side_by_side([&] { one.run(); }, [&] { all.run(); }, kBudget);
    add("one thread over all", "the products alone", "", times(s.ratio, most));
  }

  const std::function<void(const std::string&)>& progress_;
  int threads_ = 1;
  std::vector<Row> rows_;
};

}  // namespace

std::vector<Row> measure_rows(const std::function<void(const std::string&)>& progress) {
  return Report(progress).measure();
}

}  // namespace moegrad::bench
