#include "tensor/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"
#include "tests/tensor/safetensors_file.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::file_of;
using test::read_error;
using test::TemporaryFolder;
using test::with_length;
using test::write_quickly;

TensorFile example() {
  return {.tensors = {{"experts.w1", Tensor::of<float>({2, 1, 3}, {1, -2, 3, 4, 5, 6})},
                      {"scalar", Tensor::scalar(0.1)},
                      {"counts", Tensor::of<std::int32_t>({3}, {-1, 0, 2'147'483'647})},
                      {"empty", Tensor::of<float>({0, 4}, {})},
                      {"\"odd\" näme\n", Tensor::of<double>({2}, {1e300, -0.0})}},
          .metadata = {{"step", "12"}, {"note", "line\n\"quoted\""}},
          .path = {}};
}

TEST_CASE("safetensors: what is written is read, bit by bit") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  const TensorFile file = example();
  write_safetensors(path, file);
  const TensorFile back = read_safetensors(path);
  CHECK(back.path == path);
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.tensors.size() == file.tensors.size());
  for (const auto& entry : file.tensors) {
    const auto& name = entry.first;
    const auto& tensor = entry.second;
    CAPTURE(name);
    CHECK(back.at(name).same_bits(tensor));
  }
}

TEST_CASE("safetensors: the bytes of a file, f64 first and then by name") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  write_safetensors(path, {.tensors = {{"b", Tensor::of<float>({1}, {1.0F})},
                                       {"a", Tensor::of<std::int32_t>({1, 1}, {2})},
                                       {"c", Tensor::scalar(3.0)}},
                           .metadata = {},
                           .path = {}});
  const std::string header = R"({"a":{"data_offsets":[8,12],"dtype":"I32","shape":[1,1]},)"
                             R"("b":{"data_offsets":[12,16],"dtype":"F32","shape":[1]},)"
                             R"("c":{"data_offsets":[0,8],"dtype":"F64","shape":[]}})";
  std::string expected = with_length((header.size() + 7) / 8 * 8, header);
  expected.resize((expected.size() + 7) / 8 * 8, ' ');
  expected += std::string("\0\0\0\0\0\0\x08\x40\2\0\0\0\0\0\x80\x3f", 16);
  CHECK(read_file(path) == expected);
  write_safetensors(path, read_safetensors(path));
  CHECK(read_file(path) == expected);
}

TEST_CASE("safetensors: a file without tensors") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  write_safetensors(path, {});
  CHECK(read_file(path) == file_of("{}      ", 0));
  CHECK(read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: I64 is read as i32 where it fits") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  const auto write = [&](const std::vector<std::int64_t>& values) {
    const std::string header =
        fmt::format(R"({{"w":{{"dtype":"I64","shape":[{}],"data_offsets":[0,{}]}}}})",
                    values.size(), 8 * values.size());
    write_file_atomic(path,
                      with_length(header.size(), header)
                          .append(reinterpret_cast<const char*>(values.data()), 8 * values.size()));
  };
  write({-3, 2'147'483'647, -2'147'483'648});
  CHECK(read_safetensors(path).at("w").same_bits(Tensor::of<std::int32_t>(
      {3}, {-3, 2'147'483'647, std::numeric_limits<std::int32_t>::min()})));
  std::vector<std::int64_t> many(100'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int64_t>(i);
  write(many);
  const TensorFile file = read_safetensors(path);
  const auto values = file.at("w").values<std::int32_t>();
  CHECK(std::equal(values.begin(), values.end(), many.begin(), many.end()));
  many[70'000] = 2'147'483'648;
  write(many);
  CHECK(error_of([&] { read_safetensors(path); }) ==
        fmt::format("[safetensors] {}: element 70000 of the I64 tensor 'w' is 2147483648. It must "
                    "fit into i32.",
                    path.string()));
}

// A file with one tensor 'w' of this dtype and these 16-bit elements, read.
Tensor read_halves(std::string_view dtype, const std::vector<std::uint16_t>& bits) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  const std::string header =
      fmt::format(R"({{"w":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", dtype,
                  bits.size(), 2 * bits.size());
  write_quickly(path, with_length(header.size(), header)
                          .append(reinterpret_cast<const char*>(bits.data()), 2 * bits.size()));
  return read_safetensors(path).at("w");
}

std::uint32_t bits_of(const Tensor& x, std::size_t i) {
  return std::bit_cast<std::uint32_t>(x.values<float>()[i]);
}

TEST_CASE("safetensors: BF16 is read as f32, literal bytes") {
  const std::string header = R"({"w":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]}})";
  // 1, -2, 3.140625, 0, -0, infinity, a quiet NaN, the smallest subnormal number
  const std::string data("\x80\x3f\x00\xc0\x49\x40\x00\x00\x00\x80\x80\x7f\xc0\xff\x01\x00", 16);
  const TemporaryFolder folder;
  write_quickly(folder / "a.safetensors", with_length(header.size(), header + data));
  const Tensor w = read_safetensors(folder / "a.safetensors").at("w");
  CHECK(w.dtype() == DType::f32);
  CHECK(w.shape() == Shape{2, 4});
  const auto values = w.values<float>();
  CHECK(values[0] == 1.0F);
  CHECK(values[1] == -2.0F);
  CHECK(values[2] == 3.140625F);
  CHECK(bits_of(w, 3) == 0U);
  CHECK(bits_of(w, 4) == 0x80000000U);
  CHECK(values[5] == std::numeric_limits<float>::infinity());
  CHECK(bits_of(w, 6) == 0xffc00000U);
  CHECK(values[7] == 0x1p-133F);
}

TEST_CASE("safetensors: F16 is read as f32, literal bytes") {
  const std::string header = R"({"w":{"dtype":"F16","shape":[10],"data_offsets":[0,20]}})";
  // 1, -2, 0.333251953125, 65504 (the largest), 2^-14 (the smallest normal), 2^-24 and -1023 2^-24
  // (subnormal), -0, -infinity, a NaN with the payload 1
  const std::string data(
      "\x00\x3c\x00\xc0\x55\x35\xff\x7b\x00\x04\x01\x00\xff\x83\x00\x80\x00\xfc\x01\x7e", 20);
  const TemporaryFolder folder;
  write_quickly(folder / "a.safetensors", with_length(header.size(), header + data));
  const Tensor w = read_safetensors(folder / "a.safetensors").at("w");
  const auto values = w.values<float>();
  CHECK(values[0] == 1.0F);
  CHECK(values[1] == -2.0F);
  CHECK(values[2] == 0.333251953125F);
  CHECK(values[3] == 65504.0F);
  CHECK(values[4] == 0x1p-14F);
  CHECK(values[5] == 0x1p-24F);
  CHECK(values[6] == -1023.0F * 0x1p-24F);
  CHECK(bits_of(w, 7) == 0x80000000U);
  CHECK(values[8] == -std::numeric_limits<float>::infinity());
  CHECK(bits_of(w, 9) == 0x7fc02000U);
}

TEST_CASE("safetensors: every BF16 and every F16 is the number that it stands for") {
  std::vector<std::uint16_t> all(1 << 16);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  const Tensor brain = read_halves("BF16", all);
  const Tensor half = read_halves("F16", all);
  int wrong = 0;
  // sign (1 + fraction / 2^bits) 2^(exponent - bias), or fraction / 2^bits 2^(1 - bias) below
  const auto value = [](std::size_t code, int bits, int bias) {
    const int fraction = static_cast<int>(code & ((1U << bits) - 1));
    const int exponent = static_cast<int>((code & 0x7fffU) >> bits);
    const double sign = (code & 0x8000U) != 0 ? -1.0 : 1.0;
    if (exponent == 2 * bias + 1) {
      return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    }
    const double leading = exponent == 0 ? 0.0 : 1.0;
    return sign * std::ldexp(leading + std::ldexp(fraction, -bits), std::max(exponent, 1) - bias);
  };
  for (std::size_t code = 0; code < all.size(); ++code) {
    for (const auto& [tensor, bits, bias] :
         {std::tuple(&brain, 7, 127), std::tuple(&half, 10, 15)}) {
      const double want = value(code, bits, bias);
      const double got = tensor->at(static_cast<std::int64_t>(code));
      const bool same = std::isnan(want) ? std::isnan(got)
                                         : got == want && std::signbit(got) == std::signbit(want);
      wrong += same ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("safetensors: halves of other sizes than their shape are damage") {
  const std::string header = R"({"w":{"dtype":"F16","shape":[3],"data_offsets":[0,8]}})";
  CHECK(read_error(file_of(header, 8)) ==
        "tensor 'w', F16 of shape [3], needs 6 bytes and has 8. Is the file damaged?");
  CHECK(read_halves("BF16", {}).shape() == Shape{0});
}

TEST_CASE("safetensors: a name that is not there") {
  TensorFile file = example();
  CHECK(file.find("experts.w2") == nullptr);
  CHECK(error_of([&] { file.at("experts.w2"); }) ==
        "[safetensors] the file: no tensor 'experts.w2' among 5. The nearest is 'experts.w1'.");
  file.path = "a.safetensors";
  CHECK(error_of([&] { file.at("scaler"); }) ==
        "[safetensors] a.safetensors: no tensor 'scaler' among 5. The nearest is 'scalar'.");
  CHECK(error_of([] { TensorFile().at("w"); }) ==
        "[safetensors] the file: no tensor 'w'. It has none at all.");
}

TEST_CASE("safetensors: what cannot be written") {
  const TemporaryFolder folder;
  const std::string path = (folder / "a.safetensors").string();
  const auto write_error = [&](const TensorFile& file) {
    return error_of([&] { write_safetensors(path, file); });
  };
  const Tensor one = Tensor::scalar(1.0F);
  CHECK(write_error({.tensors = {{"w", Tensor()}}, .metadata = {}, .path = {}}) ==
        fmt::format("[safetensors] {}: tensor 'w' is undefined. Give it a value or leave it out.",
                    path));
  CHECK(write_error({.tensors = {{"__metadata__", one}}, .metadata = {}, .path = {}}) ==
        fmt::format("[safetensors] {}: a tensor is named '__metadata__', which the format keeps "
                    "for itself. Rename it.",
                    path));
  CHECK(write_error({.tensors = {{"w\xff", one}}, .metadata = {}, .path = {}}) ==
        fmt::format("[safetensors] {}: a name or metadata text is not valid UTF-8. Rename it.",
                    path));
  CHECK(folder.files() == 0);
}

TEST_CASE("safetensors: damage outside the header") {
  CHECK(read_error("1234567") == "7 bytes. A safetensors file has 8 or more.");
  CHECK(read_error("") == "0 bytes. A safetensors file has 8 or more.");
  CHECK(read_error(with_length(100, "{}")) ==
        "byte 0: a header of 100 bytes in a file of 10. Was it cut short?");
  CHECK(read_error(with_length(100'000'001, "{}")) ==
        "byte 0: a header of 100000001 bytes. The format allows 100000000; is this a safetensors "
        "file?");
  CHECK(read_error(with_length(~std::uint64_t{0}, "{}")) ==
        "byte 0: a header of 18446744073709551615 bytes. The format allows 100000000; is this a "
        "safetensors file?");
  CHECK(read_error(with_length(0, "")) ==
        "byte 8: the header does not begin with '{'. Is this a safetensors file?");
  CHECK(error_of([] { read_safetensors("/nowhere.safetensors"); }) ==
        "[read] cannot read '/nowhere.safetensors': No such file or directory. Check the path and "
        "its permissions.");
}

TEST_CASE("safetensors: damaged files give an error of ours, or another valid file") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  write_safetensors(path, example());
  const std::string valid = read_file(path);
  // Without the length: most changes to it end the reading at once.
  int errors = 0;
  constexpr int kFiles = 4000;
  for (int i = 0; i < kFiles; ++i) {
    CAPTURE(i);
    std::string bytes;
    if (i % 4 == 0) {
      bytes = test::mutated(valid, 1, static_cast<std::uint64_t>(i));
    } else {
      const std::size_t header = valid.rfind(']') + 3;
      const std::string text =
          test::mutated(valid.substr(8, header - 8), 1, static_cast<std::uint64_t>(i));
      bytes = with_length(text.size(), text) + valid.substr(header);
    }
    write_quickly(path, bytes);
    const std::string error = error_of([&] { read_safetensors(path); });
    errors += error != "no error";
    CHECK((error == "no error" || error.starts_with("[safetensors] ")));
  }
  CHECK(errors > kFiles / 2);
}

}  // namespace
}  // namespace moegrad
