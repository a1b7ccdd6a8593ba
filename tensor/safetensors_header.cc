#include "tensor/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>

#include "tensor/error.h"

namespace moegrad::safetensors {
namespace {

using nlohmann::json;

// Follows the header event by event: no document is built, and what is not of the format stops the
// reading at once, however deep or long it is.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  Header header;

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
      if (!header.metadata.emplace(field_, text).second) {
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
      const auto [at, added] = header.entries.try_emplace(name_);
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

}  // namespace

Header read_header(const std::string& file, const std::string& text, std::uint64_t data_bytes) {
  // The JSON library would take it for the end.
  if (const std::size_t zero = text.find('\0'); zero != std::string::npos) {
    fail("safetensors", "{}: byte {}: a zero byte in the header. Is the file damaged?", file,
         8 + zero);
  }
  HeaderReader reader(file);
  json::sax_parse(text, &reader);
  std::vector<const Entry*> entries;
  for (const auto& [name, entry] : reader.header.entries) {
    check_entry(file, entry, data_bytes);
    entries.push_back(&entry);
  }
  check_layout(file, entries, data_bytes);
  return std::move(reader.header);
}

}  // namespace moegrad::safetensors
