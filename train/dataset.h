#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/parameters.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"
#include "train/byte_pairs.h"

namespace moegrad {

// Examples, by rows.
struct Dataset {
  Tensor x;           // what a model reads: floating [N, D], or ids, i32 [N, W]
  Tensor labels;      // i32 [N], or [N, targets]; -1: not known
  Tensor guide = {};  // floating [N, G]: what a teacher tells of each; undefined: there is none
};

// So many rows, evenly from all: row i is i N / rows. All of them where there are fewer, or rows is 0.
Dataset evenly(const Dataset& data, std::int64_t rows);

// What a model is to tell.
struct Target {
  enum class Kind {
    classes,  // 0 to classes - 1: logits [N, classes], by cross-entropy
    binary,   // 0 or 1: a logit, by binary cross-entropy
    number    // itself, by the squared difference
  };
  std::string name;
  Kind kind = Kind::classes;
  std::int64_t classes = 0;
  bool partial = false;                 // of some examples it is not known
  std::vector<std::string> names = {};  // of the classes; none: they are numbers
  std::vector<std::int32_t> lengths =
      {};  // of the classes, in bytes, where they are pieces of text

  friend bool operator==(const Target&, const Target&) = default;
};

// A column of a table, and what becomes of it in x: a number v is (v - mean) / deviation; a text is a
// 1 at its place among the categories, which are sorted, and zeros, all zeros where it is none of them.
struct Column {
  std::string name;
  double mean = 0.0;
  double deviation = 1.0;
  std::vector<std::string> categories = {};  // none: of numbers

  std::int64_t width() const {
    return categories.empty() ? 1 : static_cast<std::int64_t>(categories.size());
  }
  friend bool operator==(const Column&, const Column&) = default;
};

// What ids tell of an example: one of so many values, by its id from 0 on, in one column of x; or
// several of them, in as many columns as there are values, each 1 or 0.
struct Field {
  std::string name;
  std::int64_t values = 0;
  bool several = false;

  std::int64_t columns() const { return several ? values : 1; }
  friend bool operator==(const Field&, const Field&) = default;
};

// What a model has to know of its data.
struct TaskShape {
  std::int64_t inputs = 0;  // columns of x
  bool ids = false;         // x are ids
  std::vector<Target> targets = {};
  std::vector<Field> fields = {};  // of ids, from the first column to the last; none: they are text
  std::vector<BytePairs::Pair> pairs = {};  // of text: beside the bytes, what its pieces are
  // Of texts of word pieces, zeros behind each (train/encoder.h), how many pieces there are; else 0.
  std::int64_t vocabulary = 0;
  // Of data of one's own: the columns of the table without the labels, and the place of the labels.
  std::vector<Column> columns = {};
  std::int64_t label = 0;

  friend bool operator==(const TaskShape&, const TaskShape&) = default;
};

struct Task {
  std::string name = {};
  std::string summary = {};
  std::string source = {};
  std::vector<Target> targets = {};
  Dataset train = {};
  Dataset test = {};
  std::vector<Field> fields = {};  // as in TaskShape, here and below
  std::vector<BytePairs::Pair> pairs = {};
  std::int64_t vocabulary = 0;
  std::vector<Column> columns = {};
  std::int64_t label = 0;
  // Sets what a model begins with where it is not drawn; undefined: nothing.
  std::function<void(Parameters&)> begin = {};

  TaskShape shape() const {
    return {.inputs = train.x.size(1),
            .ids = train.x.dtype() == DType::i32,
            .targets = targets,
            .fields = fields,
            .pairs = pairs,
            .vocabulary = vocabulary,
            .columns = columns,
            .label = label};
  }
};

struct TaskOptions {
  std::filesystem::path folder;  // of the data sets
  DType dtype = DType::f32;
  std::uint64_t seed = 1;  // of tasks that are made up, divided or paired
  // Of the language task.
  std::string domains = "all";
  std::int64_t context = 128;  // likewise of the task distil
  std::int64_t pieces = 256;
  std::string pieces_from = {};  // the domains that teach the pieces; empty: `domains`
  // Told of long work.
  std::function<void(std::string_view)> message = [](std::string_view) {};
  // Of the task own (train/own.h).
  std::filesystem::path file = {};
  std::filesystem::path test_file = {};
  double test_share = 0.2;
  std::string label = {};
  std::int64_t classes = 0;
  std::string header = "auto";
};

struct TaskInfo {
  std::string_view name;
  std::string_view summary;
  std::string_view source;
  Task (*load)(const TaskOptions& options);  // its targets and data
  bool drawn = false;                        // what is to train on and to test on, from the seed
};

// Every task there is.
std::span<const TaskInfo> tasks();
// TaskInfo::drawn, by the name; false where there is none.
bool is_drawn(std::string_view task);
// A task by its name.
Task load_task(std::string_view name, const TaskOptions& options);

struct SyntheticOptions {
  std::int64_t train_size = 8192;
  std::int64_t test_size = 2048;
  std::int64_t dimension = 16;
  std::int64_t clusters = 8;
  std::int64_t classes = 4;
};

// Points around cluster centres, each cluster with a linear rule of its own: what a mixture should
// discover, and no single linear rule can follow. For cluster c, uniform, and z ~ N(0, I):
//   centre_c ~ N(0, 4 I),   x = (centre_c + z) / sqrt(5),   label = argmax_j (A_c z)_j
// with A_c [classes, dimension] ~ N(0, 1). Each coordinate of x has mean 0 and variance 1 over the
// draws of the centres. A function of (seed, options) alone: the labels do not depend on the dtype.
Task make_synthetic(DType dtype, std::uint64_t seed, const SyntheticOptions& options = {});

// The places of n examples: a fifth of them, drawn by rng, for the test, the others to train. Each in
// their order.
struct Split {
  std::vector<std::int32_t> train;
  std::vector<std::int32_t> test;
};
Split split_of(std::int64_t n, Rng rng);

// The CRC-32 of the elements of its training and test data, in hexadecimal.
std::string checksum_of(const Task& task);

// An error that names the first row and column where x is NaN or infinite; ids are neither.
void check_finite(const Dataset& dataset, std::string_view name = "data set");

// The order of an epoch: a function of (seed, epoch) alone, so that training resumes anywhere.
Rng epoch_rng(std::uint64_t seed, std::uint64_t epoch);

struct Batch {
  Tensor x;           // [B, D]
  Tensor labels;      // i32 [B], or [B, targets]
  Tensor ids;         // i32 [B]: the places of the rows in the data set
  Tensor guide = {};  // as in Dataset

  // A copy on another device; itself where it is there already.
  Batch to(Device device) const {
    return {x.to(device), labels.to(device), ids.to(device),
            guide.defined() ? guide.to(device) : guide};
  }
};

// A data set in batches of batch_size rows, the last of them smaller where the rows do not divide.
class Batches {
 public:
  // In the order of the data set.
  Batches(Dataset dataset, std::int64_t batch_size);
  // In the order of rng's permutation.
  Batches(Dataset dataset, std::int64_t batch_size, Rng rng);

  // The number of batches.
  std::int64_t size() const;
  // Batch i, copied.
  Batch get(std::int64_t i) const;

 private:
  Dataset dataset_;
  std::int64_t batch_size_;
  Tensor order_;  // i32 [N]; undefined: the data set's own
};

}  // namespace moegrad
