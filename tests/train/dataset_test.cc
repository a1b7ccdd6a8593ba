#include "train/dataset.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;

TEST_CASE("tasks: the list, and a name that is not on it") {
  CHECK(tasks().size() == 9);
  CHECK(tasks()[0].name == "vision");
  CHECK(tasks()[1].name == "synthetic");
  CHECK(tasks()[2].name == "language");
  CHECK(tasks()[3].name == "own");
  CHECK(tasks()[4].name == "fashion-pairs");
  CHECK(tasks()[5].name == "movielens");
  CHECK(tasks()[6].name == "adult");
  CHECK(tasks()[7].name == "reviews");
  CHECK(tasks()[8].name == "distil");
  CHECK(load_task("synthetic", {.folder = "", .seed = 3})
            .train.x.same_bits(make_synthetic(DType::f32, 3).train.x));
  CHECK(error_of([] { load_task("visoin", {}); }) ==
        "[task] there is no task 'visoin'. Choose one of: vision, synthetic, language, own, "
        "fashion-pairs, movielens, adult, reviews, distil.");
}

TEST_CASE("rows evenly from a whole") {
  const Tensor numbers = Tensor::of<double>({6, 1}, {0, 1, 2, 3, 4, 5});
  const Dataset data{
      .x = numbers, .labels = Tensor::of<std::int32_t>({6}, {0, 1, 2, 3, 4, 5}), .guide = numbers};
  const Dataset some = evenly(data, 4);
  const std::vector<double> expected{0, 1, 3, 4};
  CHECK(some.x.to_vector() == expected);
  CHECK(some.labels.to_vector() == expected);
  CHECK(some.guide.to_vector() == expected);
  CHECK(!evenly({.x = data.x, .labels = data.labels}, 4).guide.defined());
  CHECK(evenly(data, 7).x.size(0) == 6);
  CHECK(evenly(data, 0).x.size(0) == 6);
  const Dataset pairs{.x = Tensor::of<double>({2, 2}, {0, 1, 2, 3}),
                      .labels = Tensor::of<std::int32_t>({2, 2}, {4, 5, 6, 7})};
  CHECK(evenly(pairs, 1).x.to_vector() == std::vector<double>{0, 1});
  CHECK(evenly(pairs, 1).labels.to_vector() == std::vector<double>{4, 5});
}

TEST_CASE("synthetic: a function of the seed, with labels that do not depend on the dtype") {
  const Task a = make_synthetic(DType::f64, 1);
  const Task b = make_synthetic(DType::f64, 1);
  const Task single = make_synthetic(DType::f32, 1);
  const Task other = make_synthetic(DType::f64, 2);
  CHECK(a.train.x.shape() == Shape{8192, 16});
  CHECK(a.test.x.shape() == Shape{2048, 16});
  CHECK(a.targets[0].classes == 4);
  CHECK(a.train.x.same_bits(b.train.x));
  CHECK(a.test.labels.same_bits(b.test.labels));
  CHECK(single.train.labels.same_bits(a.train.labels));
  CHECK(single.train.x.at(5) == static_cast<double>(static_cast<float>(a.train.x.at(5))));
  CHECK_FALSE(other.train.x.same_bits(a.train.x));
  CHECK_FALSE(a.train.x.rows(0, 2048).same_bits(a.test.x));
  check_finite(a.train);
}

TEST_CASE("synthetic: every class occurs, of unit scale") {
  const Task task = make_synthetic(DType::f64, 7);
  std::vector<int> count(4);
  for (const std::int32_t label : task.train.labels.values<std::int32_t>()) {
    REQUIRE(label >= 0);
    REQUIRE(label < 4);
    ++count[static_cast<std::size_t>(label)];
  }
  for (const int n : count) CHECK(n > 8192 / 4 / 2);
  double squares = 0.0;
  for (const double v : task.train.x.values<double>()) squares += v * v;
  CHECK(squares / static_cast<double>(task.train.x.numel()) == doctest::Approx(1.0).epsilon(0.3));
}

TEST_CASE("synthetic: with one cluster, a linear rule of x - centre gives the labels") {
  const SyntheticOptions options{
      .train_size = 4000, .test_size = 1, .dimension = 2, .clusters = 1, .classes = 2};
  const Task task = make_synthetic(DType::f64, 5, options);
  // The two classes lie on two sides of a line: a perceptron of x, with a constant, comes close.
  std::vector<double> w(3);
  int wrong = 0;
  for (int epoch = 0; epoch < 50; ++epoch) {
    wrong = 0;
    for (std::int64_t i = 0; i < 4000; ++i) {
      const double* x = task.train.x.data<double>() + 2 * i;
      const double side = task.train.labels.at(i) == 0 ? 1.0 : -1.0;
      if (side * (w[0] * x[0] + w[1] * x[1] + w[2]) > 0.0) continue;
      ++wrong;
      w[0] += side * x[0];
      w[1] += side * x[1];
      w[2] += side;
    }
  }
  CHECK(wrong < 200);
}

TEST_CASE("synthetic: options out of range") {
  CHECK(error_of([] { make_synthetic(DType::f32, 0, {.clusters = 0}); }) ==
        "[synthetic] clusters is 0. Give 1 or more.");
  CHECK(error_of([] { make_synthetic(DType::f32, 0, {.classes = 1}); }) ==
        "[synthetic] classes is 1. Give 2 or more.");
  CHECK(error_of([] { make_synthetic(DType::f32, 0, {.train_size = -1}); }) ==
        "[synthetic] train_size is -1. Give 1 or more.");
  CHECK(error_of([] { make_synthetic(DType::i32, 0); }) ==
        "[synthetic] needs f32 or f64, got i32. Convert the tensor first.");
}

Dataset counted(std::int64_t rows) {
  Dataset dataset{.x = Tensor::empty({rows, 2}, DType::f64, Device::cpu),
                  .labels = Tensor::empty({rows}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < rows; ++i) {
    dataset.x.write<double>()[2 * i] = static_cast<double>(i);
    dataset.x.write<double>()[2 * i + 1] = -static_cast<double>(i);
    dataset.labels.write<std::int32_t>()[i] = static_cast<std::int32_t>(i);
  }
  return dataset;
}

TEST_CASE("a split takes a fifth for the test, each part in its order") {
  const Split split = split_of(11, {3, 1, 0});
  CHECK(split.test.size() == 2);
  CHECK(split.train.size() == 9);
  CHECK(std::ranges::is_sorted(split.test));
  CHECK(std::ranges::is_sorted(split.train));
  std::set<std::int32_t> all(split.test.begin(), split.test.end());
  all.insert(split.train.begin(), split.train.end());
  CHECK(all.size() == 11);
  CHECK(split_of(11, {3, 1, 0}).test == split.test);
  CHECK(split_of(1000, {4, 1, 0}).test != split_of(1000, {3, 1, 0}).test);
}

TEST_CASE("dataset: what is not finite is named") {
  Dataset dataset = counted(4);
  check_finite(dataset);
  dataset.x.write<double>()[5] = std::numeric_limits<double>::quiet_NaN();
  CHECK(error_of([&] { check_finite(dataset); }) ==
        "[dataset] data set: row 2, column 1 is nan. Repair or remove the row.");
  dataset.x.write<double>()[2] = -std::numeric_limits<double>::infinity();
  CHECK(error_of([&] { check_finite(dataset, "vision train"); }) ==
        "[dataset] vision train: row 1, column 0 is -inf. Repair or remove the row.");
}

TEST_CASE("batches: every row once, in an order of (seed, epoch) alone") {
  const Dataset dataset = counted(10);
  const auto order = [&](std::uint64_t seed, std::uint64_t epoch) {
    const Batches batches(dataset, 4, epoch_rng(seed, epoch));
    REQUIRE(batches.size() == 3);
    std::vector<std::int32_t> rows;
    for (std::int64_t i = 0; i < 3; ++i) {
      const Batch batch = batches.get(i);
      REQUIRE(batch.x.shape() == Shape{i < 2 ? 4 : 2, 2});
      for (std::int64_t r = 0; r < batch.x.size(0); ++r) {
        const std::int32_t label = batch.labels.data<std::int32_t>()[r];
        CHECK(batch.x.at(2 * r) == label);
        CHECK(batch.x.at(2 * r + 1) == -label);
        rows.push_back(label);
      }
    }
    CHECK(std::set<std::int32_t>(rows.begin(), rows.end()).size() == 10);
    return rows;
  };
  CHECK(order(1, 0) == order(1, 0));
  CHECK(order(1, 0) != order(1, 1));
  CHECK(order(1, 0) != order(2, 0));
  // A batch does not depend on those taken before it.
  const Batches batches(dataset, 4, epoch_rng(1, 0));
  CHECK(batches.get(2).labels.at(0) == order(1, 0)[8]);
}

TEST_CASE("batches: a guide goes with its rows") {
  Dataset dataset = counted(5);
  CHECK(!Batches(dataset, 2).get(0).guide.defined());
  dataset.guide = Tensor::empty({5, 3}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < 15; ++i)
    dataset.guide.write<double>()[i] = static_cast<double>(i / 3);
  const Batches batches(dataset, 2, epoch_rng(1, 0));
  for (std::int64_t i = 0; i < 3; ++i) {
    const Batch batch = batches.get(i);
    REQUIRE(batch.guide.shape() == Shape{batch.x.size(0), 3});
    for (std::int64_t r = 0; r < batch.x.size(0); ++r) {
      CHECK(batch.guide.at(3 * r + 2) == batch.labels.data<std::int32_t>()[r]);
    }
  }
}

TEST_CASE("batches: without a generator, the order of the data set") {
  const Batches batches(counted(5), 3);
  CHECK(batches.size() == 2);
  CHECK(batches.get(0).labels.same_bits(Tensor::of<std::int32_t>({3}, {0, 1, 2})));
  CHECK(batches.get(1).labels.same_bits(Tensor::of<std::int32_t>({2}, {3, 4})));
  CHECK(Batches(counted(0), 3).size() == 0);
  CHECK(Batches(counted(6), 3).size() == 2);
  CHECK(Batches(counted(5), std::numeric_limits<std::int64_t>::max()).get(0).x.shape() ==
        Shape{5, 2});
}

TEST_CASE("batches: mistakes") {
  CHECK(error_of([] { Batches(counted(5), 0); }) == "[batches] a batch of 0 rows. Give 1 or more.");
  CHECK(error_of([] { Batches(counted(5), 2).get(3); }) ==
        "[batches] batch 3 of 3 asked for. They count from 0.");
  Dataset dataset = counted(5);
  dataset.labels = counted(4).labels;
  CHECK(error_of([&] { Batches(dataset, 2); }) ==
        "[batches] x f64 [5, 2] and labels i32 [4]. They must be [N, D] and i32 [N] or [N, "
        "targets].");
}

}  // namespace
}  // namespace moegrad
