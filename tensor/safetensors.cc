#include "tensor/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <nlohmann/json.hpp>

#include "tensor/edit_distance.h"
#include "tensor/files.h"
#include "tensor/half.h"

namespace moegrad {
namespace {

static_assert(std::endian::native == std::endian::little, "the elements are stored little-endian");

using nlohmann::json;

constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::string_view kMetadata = "__metadata__";

struct Stored {
  std::string_view name;
  DType dtype;
  std::uint64_t size;  // of an element in the file
};
// What a tensor is written as comes first.
constexpr std::array<Stored, 7> kStored = {{{"F32", DType::f32, 4},
                                            {"F64", DType::f64, 8},
                                            {"I32", DType::i32, 4},
                                            {"I64", DType::i32, 8},
                                            {"BF16", DType::f32, 2},
                                            {"F16", DType::f32, 2},
                                            {"U8", DType::i32, 1}}};

struct Entry {
  std::string name;
  const Stored* stored = nullptr;
  std::optional<Shape> shape;
  std::vector<std::uint64_t> offsets;  // [begin, end) in the data
  std::uint64_t bytes() const { return offsets[1] - offsets[0]; }
};

// Follows the header event by event: no document is built, and what is not of the format stops the
// reading at once, however deep or long it is.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  std::map<std::string, Entry, std::less<>> entries;
  std::map<std::string, std::string, std::less<>> metadata;

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_integer(number_integer_t value) override { wrong_number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { wrong_number(text); }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      if (entry_->shape->rank() == Shape::kMaxRank) {
        stop("tensor '{}' has more than {} axes. Merge some of them.", name_, Shape::kMaxRank);
      }
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        stop("tensor '{}' has a size of {} in its shape. Is the file damaged?", name_, value);
      }
      entry_->shape->push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::offsets) {
      if (entry_->offsets.size() == 2) {
        stop("tensor '{}' has more than two data_offsets. They are [begin, end].", name_);
      }
      entry_->offsets.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata) {
      if (!metadata.emplace(field_, text).second) {
        stop("the metadata have '{}' twice. Remove one.", field_);
      }
    } else if (place_ == Place::entry && field_ == "dtype") {
      const auto* stored = std::find_if(kStored.begin(), kStored.end(),
                                        [&](const Stored& s) { return s.name == text; });
      if (stored == kStored.end()) {
        stop("tensor '{}' has dtype {}. Convert it to F32, F64, BF16, F16, I32, I64 or U8.", name_,
             text);
      }
      entry_->stored = stored;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool key(string_t& text) override {
    if (place_ == Place::root) {
      name_ = text;
      return true;
    }
    field_ = text;
    if (place_ == Place::entry) {
      const bool repeated = (field_ == "dtype" && entry_->stored != nullptr) ||
                            (field_ == "shape" && entry_->shape.has_value()) ||
                            (field_ == "data_offsets" && !entry_->offsets.empty());
      if (repeated) {
        stop("tensor '{}' has the field '{}' twice. Remove one.", name_, field_);
      }
      if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
        stop("tensor '{}' has a field '{}'. The format has dtype, shape and data_offsets.", name_,
             field_);
      }
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::root;
    } else if (place_ == Place::root && name_ == kMetadata) {
      if (seen_metadata_) stop("the header has '{}' twice. Remove one.", kMetadata);
      seen_metadata_ = true;
      place_ = Place::metadata;
    } else if (place_ == Place::root) {
      const auto [at, added] = entries.try_emplace(name_);
      if (!added) stop("there are two tensors '{}'. Rename one.", name_);
      entry_ = &at->second;
      entry_->name = name_;
      place_ = Place::entry;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::entry) {
      const std::string_view missing = entry_->stored == nullptr     ? "dtype"
                                       : !entry_->shape              ? "shape"
                                       : entry_->offsets.size() != 2 ? "data_offsets"
                                                                     : "";
      if (!missing.empty()) {
        stop("tensor '{}' has no complete field '{}'. Is the file damaged?", name_, missing);
      }
    }
    place_ = place_ == Place::root ? Place::outside : Place::root;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::entry && field_ == "shape") {
      entry_->shape.emplace();
      place_ = Place::shape;
    } else if (place_ == Place::entry && field_ == "data_offsets") {
      place_ = Place::offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    place_ = Place::entry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception&) override {
    stop("the header is not valid JSON at byte {}, near '{}'. Is the file damaged?", 7 + position,
         token);
  }

 private:
  enum class Place { outside, root, metadata, entry, shape, offsets };

  template <class... Args>
  [[noreturn]] void stop(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error("[safetensors] " + shown(file_) + ": " +
                shown_format(format, std::forward<Args>(args)...));
  }

  [[noreturn]] void unexpected(std::string_view kind) const {
    switch (place_) {
      case Place::outside:
        stop("the header is {}. It must be a JSON object.", kind);
      case Place::root:
        stop("the entry '{}' of the header is {}. It must be an object.", name_, kind);
      case Place::metadata:
        stop("the metadata '{}' are {}. They must be a string.", field_, kind);
      case Place::entry:
        stop("the field '{}' of tensor '{}' is {}. It must be {}.", field_, name_, kind,
             field_ == "dtype" ? "a string" : "an array of whole numbers");
      default:
        stop("the field '{}' of tensor '{}' holds {}. It must hold whole numbers.", field_, name_,
             kind);
    }
  }

  [[noreturn]] void wrong_number(const std::string& text) const {
    if (place_ != Place::shape && place_ != Place::offsets) unexpected("a number");
    stop("the field '{}' of tensor '{}' holds {}. It must hold whole numbers of 0 or more.", field_,
         name_, text);
  }

  std::string file_;
  Place place_ = Place::outside;
  std::string name_;
  std::string field_;
  Entry* entry_ = nullptr;
  bool seen_metadata_ = false;
};

// The number of bytes of the elements; an error where no tensor can have the shape, which includes
// sizes beside a 0.
std::uint64_t checked_bytes(const std::string& file, const Entry& entry) {
  std::int64_t product = 1;
  for (const std::int64_t size : *entry.shape) {
    if (__builtin_mul_overflow(product, std::max<std::int64_t>(size, 1), &product) ||
        product > Shape::kMostElements) {
      fail("safetensors", "{}: tensor '{}' of shape {} has too many elements. Is the file damaged?",
           file, entry.name, *entry.shape);
    }
  }
  return static_cast<std::uint64_t>(entry.shape->numel()) * entry.stored->size;
}

void check_entry(const std::string& file, const Entry& entry, std::uint64_t data_bytes) {
  const std::uint64_t begin = entry.offsets[0];
  const std::uint64_t end = entry.offsets[1];
  const std::string& name = entry.name;
  if (begin > end) {
    fail("safetensors", "{}: tensor '{}' begins at {} and ends at {}. Is the file damaged?", file,
         name, begin, end);
  }
  if (end > data_bytes) {
    fail("safetensors", "{}: tensor '{}' ends at byte {} of {} bytes of data. Was it cut short?",
         file, name, end, data_bytes);
  }
  const std::uint64_t bytes = checked_bytes(file, entry);
  if (bytes != entry.bytes()) {
    fail("safetensors",
         "{}: tensor '{}', {} of shape {}, needs {} bytes and has {}. Is the file "
         "damaged?",
         file, name, entry.stored->name, *entry.shape, bytes, entry.bytes());
  }
}

// Every byte of the data belongs to exactly one tensor.
void check_layout(const std::string& file, std::vector<const Entry*> entries,
                  std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->offsets < b->offsets; });
  std::uint64_t end = 0;
  const Entry* before = nullptr;
  for (const Entry* entry : entries) {
    if (entry->offsets[0] < end) {
      fail("safetensors",
           "{}: tensors '{}' and '{}' overlap at byte {} of the data. Is the file "
           "damaged?",
           file, before->name, entry->name, entry->offsets[0]);
    }
    if (entry->offsets[0] > end) {
      fail("safetensors",
           "{}: bytes {} to {} of the data, before tensor '{}', belong to no tensor. "
           "Is the file damaged?",
           file, end, entry->offsets[0], entry->name);
    }
    end = entry->offsets[1];
    before = entry;
  }
  if (end != data_bytes) {
    fail("safetensors",
         "{}: bytes {} to {} of the data, at its end, belong to no tensor. Is the "
         "file damaged?",
         file, end, data_bytes);
  }
}

// Reads elements that are stored as another type: out[i] = convert(stored element i, i).
template <class From, class To, class Convert>
void read_converted(const InputFile& input, std::uint64_t offset, const Tensor& out,
                    Convert convert) {
  const std::span<To> values(out.write<To>(), static_cast<std::size_t>(out.numel()));
  std::vector<From> piece(std::min<std::size_t>(values.size(), 1 << 16));
  for (std::size_t first = 0; first < values.size(); first += piece.size()) {
    const auto part = std::span(piece).first(std::min(piece.size(), values.size() - first));
    input.read(offset + first * sizeof(From), std::as_writable_bytes(part));
    for (std::size_t i = 0; i < part.size(); ++i) values[first + i] = convert(part[i], first + i);
  }
}

void read_elements(const InputFile& input, std::uint64_t offset, const Entry& entry,
                   const Tensor& out) {
  if (entry.stored->name == "I64") {
    const auto narrowed = [&](std::int64_t value, std::size_t place) {
      if (static_cast<std::int32_t>(value) != value) {
        fail("safetensors", "{}: element {} of the I64 tensor '{}' is {}. It must fit into i32.",
             input.path().string(), place, entry.name, value);
      }
      return static_cast<std::int32_t>(value);
    };
    read_converted<std::int64_t, std::int32_t>(input, offset, out, narrowed);
  } else if (entry.stored->name == "BF16") {
    read_converted<std::uint16_t, float>(
        input, offset, out, [](std::uint16_t half, std::size_t) { return from_bf16(half); });
  } else if (entry.stored->name == "F16") {
    read_converted<std::uint16_t, float>(
        input, offset, out, [](std::uint16_t half, std::size_t) { return from_f16(half); });
  } else if (entry.stored->name == "U8") {
    read_converted<std::uint8_t, std::int32_t>(
        input, offset, out, [](std::uint8_t byte, std::size_t) { return std::int32_t{byte}; });
  } else {
    input.read(offset, {out.write_raw(), out.bytes()});
  }
}

}  // namespace

const Tensor* TensorFile::find(std::string_view name) const {
  const auto at = tensors.find(name);
  return at == tensors.end() ? nullptr : &at->second;
}

const Tensor& TensorFile::at(std::string_view name) const {
  if (const Tensor* tensor = find(name)) return *tensor;
  const std::string file = path.empty() ? "the file" : path.string();
  if (tensors.empty()) fail("safetensors", "{}: no tensor '{}'. It has none at all.", file, name);
  std::string_view nearest;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const auto& [other, tensor] : tensors) {
    const std::size_t distance = edit_distance(name, other);
    if (distance < least) {
      least = distance;
      nearest = other;
    }
  }
  fail("safetensors", "{}: no tensor '{}' among {}. The nearest is '{}'.", file, name,
       tensors.size(), nearest);
}

TensorFile read_safetensors(const std::filesystem::path& path) {
  const std::string file = path.string();
  const InputFile input(path);
  if (input.size() < 8) {
    fail("safetensors", "{}: {} bytes. A safetensors file has 8 or more.", file, input.size());
  }
  std::uint64_t header_bytes = 0;
  input.read(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  if (header_bytes > kMaxHeader) {
    fail("safetensors",
         "{}: byte 0: a header of {} bytes. The format allows {}; is this a "
         "safetensors file?",
         file, header_bytes, kMaxHeader);
  }
  if (header_bytes > input.size() - 8) {
    fail("safetensors", "{}: byte 0: a header of {} bytes in a file of {}. Was it cut short?", file,
         header_bytes, input.size());
  }
  std::string header(header_bytes, '\0');
  input.read(8, std::as_writable_bytes(std::span(header)));
  if (!header.starts_with('{')) {
    fail("safetensors",
         "{}: byte 8: the header does not begin with '{{'. Is this a safetensors "
         "file?",
         file);
  }
  // The JSON library would take it for the end.
  if (const std::size_t zero = header.find('\0'); zero != std::string::npos) {
    fail("safetensors", "{}: byte {}: a zero byte in the header. Is the file damaged?", file,
         8 + zero);
  }
  HeaderReader reader(file);
  json::sax_parse(header, &reader);

  const std::uint64_t data_begin = 8 + header_bytes;
  const std::uint64_t data_bytes = input.size() - data_begin;
  std::vector<const Entry*> entries;
  for (const auto& [name, entry] : reader.entries) {
    check_entry(file, entry, data_bytes);
    entries.push_back(&entry);
  }
  check_layout(file, entries, data_bytes);

  TensorFile result{.tensors = {}, .metadata = std::move(reader.metadata), .path = path};
  for (const Entry* entry : entries) {
    const Tensor tensor = Tensor::empty(*entry->shape, entry->stored->dtype, Device::cpu);
    read_elements(input, data_begin + entry->offsets[0], *entry, tensor);
    result.tensors.emplace(entry->name, tensor);
  }
  return result;
}

void write_safetensors(const std::filesystem::path& path, const TensorFile& file) {
  std::vector<std::pair<std::string_view, const Tensor*>> order;
  for (const auto& [name, tensor] : file.tensors) {
    if (name == kMetadata) {
      fail("safetensors",
           "{}: a tensor is named '{}', which the format keeps for itself. Rename "
           "it.",
           path.string(), kMetadata);
    }
    if (!tensor.defined()) {
      fail("safetensors", "{}: tensor '{}' is undefined. Give it a value or leave it out.",
           path.string(), name);
    }
    if (tensor.device() != Device::cpu) {
      fail("safetensors", "{}: tensor '{}' is on the {} device. Copy it to the cpu first.",
           path.string(), name, name_of(tensor.device()));
    }
    order.emplace_back(name, &tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return size_of(a.second->dtype()) > size_of(b.second->dtype());
  });

  json header = json::object();
  if (!file.metadata.empty()) header[std::string(kMetadata)] = file.metadata;
  std::vector<std::string_view> chunks(2);
  std::uint64_t end = 0;
  for (const auto& [name, tensor] : order) {
    const auto* stored =
        std::find_if(kStored.begin(), kStored.end(),
                     [dtype = tensor->dtype()](const Stored& s) { return s.dtype == dtype; });
    const std::uint64_t begin = std::exchange(end, end + tensor->bytes());
    header[std::string(name)] = {
        {"dtype", stored->name},
        {"shape", std::vector(tensor->shape().begin(), tensor->shape().end())},
        {"data_offsets", {begin, end}}};
    chunks.emplace_back(reinterpret_cast<const char*>(tensor->raw()), tensor->bytes());
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    fail("safetensors", "{}: a name or metadata text is not valid UTF-8. Rename it.",
         path.string());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeader) {
    fail("safetensors", "{}: a header of {} bytes; the format allows {}. Use several files.",
         path.string(), text.size(), kMaxHeader);
  }
  const std::uint64_t header_bytes = text.size();
  chunks[0] = {reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes};
  chunks[1] = text;
  write_file_atomic(path, chunks);
}

}  // namespace moegrad
