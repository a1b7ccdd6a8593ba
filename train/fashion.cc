#include "train/fashion.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "tensor/folders.h"
#include "train/idx.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// Of the pairs: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kPairStream = 0x70616972'00000000U;

constexpr std::int64_t kClasses = 10;
constexpr std::int64_t kShift = 8;  // of the lower image

// (pixel / 255 - mean) / deviation of all pixels has mean 0 and variance 1.
struct PixelScale {
  double mean;
  double deviation;
};
constexpr PixelScale kImageScale{0.2860, 0.3530};
constexpr PixelScale kPairScale{0.3043, 0.3640};

struct Images {
  IdxArray pixels;  // [N, rows, columns]
  IdxArray labels;  // [N]

  std::int64_t count() const { return pixels.sizes[0]; }
  std::int64_t rows() const { return pixels.sizes[1]; }
  std::int64_t columns() const { return pixels.sizes[2]; }
};

Images read_images(const fs::path& folder, const std::string& part) {
  const fs::path images_path = folder / (part + "-images-idx3-ubyte.gz");
  const fs::path labels_path = folder / (part + "-labels-idx1-ubyte.gz");
  for (const fs::path& path : {images_path, labels_path}) {
    if (!path_exists(path)) fail("vision", "'{}' is missing. Run scripts/data.", path.string());
  }
  Images images{.pixels = read_idx(images_path, 3), .labels = read_idx(labels_path, 1)};
  if (images.pixels.values.empty()) {
    fail("vision", "{}: {} images of {} x {}. Run scripts/data.", images_path.string(),
         images.count(), images.rows(), images.columns());
  }
  if (images.labels.sizes[0] != images.count()) {
    fail("vision", "{}: {} labels for {} images. Run scripts/data.", labels_path.string(),
         images.labels.sizes[0], images.count());
  }
  for (std::size_t i = 0; i < images.labels.values.size(); ++i) {
    if (images.labels.values[i] >= kClasses) {
      fail("vision", "{}: label {} of image {}. Labels are 0 to {}; run scripts/data.",
           labels_path.string(), images.labels.values[i], i, kClasses - 1);
    }
  }
  return images;
}

// Both splits: training and test.
std::array<Images, 2> read_splits(const fs::path& data) {
  const fs::path folder = vision_folder(data);
  if (!folder_exists(folder)) {
    fail("vision", "there is no folder '{}'. Run scripts/data.", folder.string());
  }
  std::array<Images, 2> both{read_images(folder, "train"), read_images(folder, "t10k")};
  const auto& [train, test] = both;
  if (train.rows() * train.columns() != test.rows() * test.columns()) {
    fail("vision", "{}: images of {} pixels to train and {} to test. Run scripts/data.",
         folder.string(), train.rows() * train.columns(), test.rows() * test.columns());
  }
  return both;
}

void scale_pixels(std::span<const unsigned char> pixels, const PixelScale& scale,
                  const Tensor& out) {
  with_floating(out.dtype(), "vision", [&]<class T>(T) {
    std::array<T, 256> scaled;
    for (std::size_t pixel = 0; pixel < scaled.size(); ++pixel) {
      scaled[pixel] =
          static_cast<T>((static_cast<double>(pixel) / 255.0 - scale.mean) / scale.deviation);
    }
    std::transform(pixels.begin(), pixels.end(), out.write<T>(),
                   [&](unsigned char pixel) { return scaled[pixel]; });
  });
}

Dataset single(const Images& images, DType dtype) {
  const std::int64_t n = images.count();
  Dataset data{.x = Tensor::empty({n, images.rows() * images.columns()}, dtype, Device::cpu),
               .labels = Tensor::empty({n}, DType::i32, Device::cpu)};
  scale_pixels(images.pixels.values, kImageScale, data.x);
  std::ranges::copy(images.labels.values, data.labels.write<std::int32_t>());
  return data;
}

Dataset paired(const Images& images, DType dtype, const Rng& rng) {
  const std::int64_t n = images.count();
  const std::int64_t width = images.columns() + kShift;
  const std::int64_t height = images.rows() + kShift;
  Dataset data{.x = Tensor::empty({n, height * width}, dtype, Device::cpu),
               .labels = Tensor::empty({n, 2}, DType::i32, Device::cpu)};
  std::vector<unsigned char> canvas(static_cast<std::size_t>(height * width));
  const auto draw = [&](std::int64_t image, std::int64_t shift) {
    const unsigned char* pixel =
        images.pixels.values.data() + image * images.rows() * images.columns();
    for (std::int64_t r = shift; r < images.rows() + shift; ++r) {
      unsigned char* out = canvas.data() + r * width + shift;
      for (std::int64_t c = 0; c < images.columns(); ++c, ++pixel, ++out) {
        *out = std::max(*out, *pixel);
      }
    }
  };
  std::array<Tensor, 2> order;
  for (std::uint64_t place = 0; place < 2; ++place) {
    order[place] = rng.split(rng.stream + place).permutation(n);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    std::ranges::fill(canvas, 0);
    for (std::size_t place = 0; place < 2; ++place) {
      const std::int32_t image = order[place].data<std::int32_t>()[i];
      draw(image, place == 0 ? 0 : kShift);
      data.labels.write<std::int32_t>()[2 * i + static_cast<std::int64_t>(place)] =
          images.labels.values[static_cast<std::size_t>(image)];
    }
    scale_pixels(canvas, kPairScale, data.x.rows(i, i + 1));
  }
  return data;
}

}  // namespace

fs::path vision_folder(const fs::path& data) { return data / "fashion-mnist"; }

Task load_vision(const TaskOptions& o) {
  const auto [train, test] = read_splits(o.folder);
  return {.targets = {{.name = "class", .classes = kClasses}},
          .train = single(train, o.dtype),
          .test = single(test, o.dtype)};
}

Task load_fashion_pairs(const TaskOptions& o) {
  const auto [train, test] = read_splits(o.folder);
  return {
      .targets = {{.name = "upper", .classes = kClasses}, {.name = "lower", .classes = kClasses}},
      .train = paired(train, o.dtype, {o.seed, kPairStream, 0}),
      .test = paired(test, o.dtype, {o.seed, kPairStream + 2, 0})};
}

}  // namespace moegrad
