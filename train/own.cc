#include "train/own.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "train/own_columns.h"

namespace moegrad {
namespace {

// Of the rows to test on: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kSplitStream = 0x6f776e00'00000000U;

Rows all_rows(const Table& table) {
  Rows rows(static_cast<std::size_t>(table.rows()));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return rows;
}

std::pair<Rows, Rows> split(const Table& table, const TaskOptions& o) {
  const std::int64_t count = table.rows();
  if (count < 2) {
    fail("own", "{}: one row. Give one to train on and one to test on at least.", table.file());
  }
  const auto share = std::llround(static_cast<double>(count) * o.test_share);
  const std::int64_t tests = std::clamp<std::int64_t>(share, 1, count - 1);
  const Tensor order = Rng{o.seed, kSplitStream, 0}.permutation(count);
  const std::span<const std::int32_t> drawn = order.values<std::int32_t>();
  Rows test(drawn.begin(), drawn.begin() + tests);
  Rows train(drawn.begin() + tests, drawn.end());
  std::ranges::sort(test);
  std::ranges::sort(train);
  return {train, test};
}

// Where a model finds its columns in another table, by names where it has them.
std::vector<std::int64_t> places_of(const Table& table, const TaskShape& task, bool labels) {
  std::vector<std::int64_t> places;
  const auto inputs = static_cast<std::int64_t>(task.columns.size());
  if (table.has_names()) {
    for (const Column& column : task.columns) places.push_back(table.column(column.name));
    return places;
  }
  const bool labelled = table.columns() == inputs + 1;
  if (!labelled && (labels || table.columns() != inputs)) {
    fail("own", "{}: {} columns, and the model was trained on {} and the labels. {}", table.file(),
         table.columns(), inputs, "Give a file of the same columns.");
  }
  const std::int64_t label = table.has_tensors() ? inputs : task.label;
  for (std::int64_t c = 0; c < inputs; ++c) {
    places.push_back(labelled && c >= label ? c + 1 : c);
  }
  return places;
}

}  // namespace

Task load_own(const TaskOptions& o) {
  if (o.file.empty()) fail("own", "no file is given. Give one with --data.");
  const Table table(o.file, o.header, o.label);
  if (table.columns() < 2) {
    fail("own",
         "{}: it has one column, '{}'. Give columns of inputs and one of labels, with commas or "
         "tabs between them.",
         table.file(), table.name(0));
  }
  if (table.columns() > kMostColumns) {
    fail("own", "{}: {} columns. {} are the most.", table.file(), table.columns(), kMostColumns);
  }
  const std::int64_t label = table.label(o.label);
  const std::vector<std::string> classes = classes_of(table, label, o.classes);
  const auto [train, test] =
      o.test_file.empty() ? split(table, o) : std::pair(all_rows(table), Rows());
  Task task;
  task.name = "own";
  task.source = table.file();
  task.targets = {{.name = table.name(label),
                   .classes = static_cast<std::int64_t>(classes.size()),
                   .names = classes}};
  task.columns = columns_of(table, label, train);
  task.label = label;
  std::vector<std::int64_t> places;
  for (std::int64_t c = 0; c < table.columns(); ++c) {
    if (c != label) places.push_back(c);
  }
  const auto rows_of = [&](const Rows& rows) {
    return Dataset{.x = inputs_of(table, task.columns, places, rows, o.dtype),
                   .labels = labels_of(table, label, classes, rows)};
  };
  task.train = rows_of(train);
  task.test = o.test_file.empty()
                  ? rows_of(test)
                  : read_own(o.test_file, task.shape(), {.dtype = o.dtype, .header = o.header});
  task.summary = shown_format(
      "{}: {} rows{}; {} columns are {} inputs, column '{}' has {} classes; {} rows to "
      "train on, {} to test",
      table.file(), table.rows(), table.has_names() ? " below the names" : "", task.columns.size(),
      task.train.x.size(1), table.name(label), classes.size(), task.train.x.size(0),
      task.test.x.size(0));
  return task;
}

Dataset read_own(const std::filesystem::path& file, const TaskShape& task,
                 const OwnOptions& options) {
  if (task.columns.empty() || task.targets.size() != 1) {
    fail("own", "the model was not trained on rows of a file. Give a run of the task own.");
  }
  const Target& target = task.targets.front();
  // Of labels that are not asked for: a tensor that is not there is no mistake.
  const Table table(file, options.header, options.labels ? target.name : "");
  const std::vector<std::int64_t> places = places_of(table, task, options.labels);
  const Rows rows = all_rows(table);
  Dataset data{.x = inputs_of(table, task.columns, places, rows, options.dtype),
               .labels = Tensor::zeros({table.rows()}, DType::i32, Device::cpu)};
  if (options.labels) {
    const std::int64_t label =
        table.has_names() || table.has_tensors() ? table.label(target.name) : task.label;
    data.labels = labels_of(table, label, target.names, rows);
  }
  return data;
}

}  // namespace moegrad
