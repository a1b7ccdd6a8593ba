#include "tensor/safetensors.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <span>
#include <vector>

#include <nlohmann/json.hpp>

#include "tensor/edit_distance.h"
#include "tensor/files.h"
#include "tensor/half.h"
#include "tensor/safetensors_header.h"

namespace moegrad {
namespace {

static_assert(std::endian::native == std::endian::little, "the elements are stored little-endian");

using nlohmann::json;

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

void read_elements(const InputFile& input, std::uint64_t offset, const safetensors::Entry& entry,
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
  if (header_bytes > safetensors::kMaxHeader) {
    fail("safetensors",
         "{}: byte 0: a header of {} bytes. The format allows {}; is this a "
         "safetensors file?",
         file, header_bytes, safetensors::kMaxHeader);
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
  const std::uint64_t data_begin = 8 + header_bytes;
  safetensors::Header read = safetensors::read_header(file, header, input.size() - data_begin);
  TensorFile result{.tensors = {}, .metadata = std::move(read.metadata), .path = path};
  for (const auto& [name, entry] : read.entries) {
    const Tensor tensor = Tensor::empty(*entry.shape, entry.stored->dtype, Device::cpu);
    read_elements(input, data_begin + entry.offsets[0], entry, tensor);
    result.tensors.emplace(name, tensor);
  }
  return result;
}

void write_safetensors(const std::filesystem::path& path, const TensorFile& file) {
  std::vector<std::pair<std::string_view, const Tensor*>> order;
  for (const auto& [name, tensor] : file.tensors) {
    if (name == safetensors::kMetadata) {
      fail("safetensors",
           "{}: a tensor is named '{}', which the format keeps for itself. Rename "
           "it.",
           path.string(), safetensors::kMetadata);
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
  if (!file.metadata.empty()) header[std::string(safetensors::kMetadata)] = file.metadata;
  std::vector<std::string_view> chunks(2);
  std::uint64_t end = 0;
  for (const auto& [name, tensor] : order) {
    const auto* stored = std::find_if(
        safetensors::kStored.begin(), safetensors::kStored.end(),
        [dtype = tensor->dtype()](const safetensors::Stored& s) { return s.dtype == dtype; });
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
  if (text.size() > safetensors::kMaxHeader) {
    fail("safetensors", "{}: a header of {} bytes; the format allows {}. Use several files.",
         path.string(), text.size(), safetensors::kMaxHeader);
  }
  const std::uint64_t header_bytes = text.size();
  chunks[0] = {reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes};
  chunks[1] = text;
  write_file_atomic(path, chunks);
}

}  // namespace moegrad
