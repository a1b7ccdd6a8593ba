#include "tensor/safetensors_header.h"

#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/tensor/safetensors_file.h"

namespace moegrad {
namespace {

using test::file_of;
using test::read_error;

TEST_CASE("safetensors: a header that is not JSON") {
  CHECK(read_error(file_of("[]", 0)) ==
        "byte 8: the header does not begin with '{'. Is this a safetensors file?");
  CHECK(read_error(file_of("{\"a\" 1}", 0)) ==
        "the header is not valid JSON at byte 13, near '1'. Is the file damaged?");
  CHECK(read_error(file_of("{} {}", 0)) ==
        "the header is not valid JSON at byte 11, near '{} {'. Is the file damaged?");
  CHECK(read_error(file_of("{", 0)) ==
        "the header is not valid JSON at byte 9, near '{'. Is the file damaged?");
  CHECK(read_error(file_of("{\"\xff\":1}", 0)) ==
        "the header is not valid JSON at byte 10, near '\"\\xff'. Is the file damaged?");
  CHECK(read_error(file_of(std::string_view("{}\0x", 4), 0)) ==
        "byte 10: a zero byte in the header. Is the file damaged?");
  const std::string endless = "{\"" + std::string(200'000, 'x');
  CHECK(read_error(file_of(endless, 0)).size() < kLongestShown + 100);
}

TEST_CASE("safetensors: a header of wrong kinds of things") {
  const auto header_error = [](std::string_view header) { return read_error(file_of(header, 8)); };
  CHECK(header_error(R"({"w":1})") ==
        "the entry 'w' of the header is a number. It must be an object.");
  CHECK(header_error(R"({"w":null})") ==
        "the entry 'w' of the header is null. It must be an object.");
  CHECK(header_error(R"({"w":-1})") ==
        "the entry 'w' of the header is a number. It must be an object.");
  CHECK(header_error(R"({"__metadata__":{"a":true}})") ==
        "the metadata 'a' are a boolean. They must be a string.");
  CHECK(header_error(R"({"__metadata__":{"a":"1","a":"2"}})") ==
        "the metadata have 'a' twice. Remove one.");
  CHECK(header_error(R"({"__metadata__":{},"__metadata__":{}})") ==
        "the header has '__metadata__' twice. Remove one.");
  CHECK(header_error(R"({"__metadata__":[]})") ==
        "the entry '__metadata__' of the header is an array. It must be an object.");
  CHECK(header_error(R"({"w":{"dtype":5}})") ==
        "the field 'dtype' of tensor 'w' is a number. It must be a string.");
  CHECK(header_error(R"({"w":{"shape":"5"}})") ==
        "the field 'shape' of tensor 'w' is a string. It must be an array of whole numbers.");
  CHECK(header_error(R"({"w":{"shape":[null]}})") ==
        "the field 'shape' of tensor 'w' holds null. It must hold whole numbers.");
  CHECK(header_error(R"({"w":{"shape":[[2]]}})") ==
        "the field 'shape' of tensor 'w' holds an array. It must hold whole numbers.");
  CHECK(header_error(R"({"w":{"shape":[2.5]}})") ==
        "the field 'shape' of tensor 'w' holds 2.5. It must hold whole numbers of 0 or more.");
  CHECK(header_error(R"({"w":{"shape":[-2]}})") ==
        "the field 'shape' of tensor 'w' holds -2. It must hold whole numbers of 0 or more.");
  CHECK(header_error(R"({"w":{"shape":[99999999999999999999]}})") ==
        "the field 'shape' of tensor 'w' holds 99999999999999999999. It must hold whole numbers of "
        "0 or more.");
  CHECK(header_error(R"({"w":{"data_offsets":[0,8.0]}})") ==
        "the field 'data_offsets' of tensor 'w' holds 8.0. It must hold whole numbers of 0 or "
        "more.");
  CHECK(header_error(R"({"w":{"data_offsets":[0,4,8]}})") ==
        "tensor 'w' has more than two data_offsets. They are [begin, end].");
  CHECK(header_error(R"({"w":{"colour":"red"}})") ==
        "tensor 'w' has a field 'colour'. The format has dtype, shape and data_offsets.");
  CHECK(header_error(R"({"w":{"shape":[],"shape":[]}})") ==
        "tensor 'w' has the field 'shape' twice. Remove one.");
  CHECK(header_error(R"({"w":{"dtype":"F32","shape":[2]}})") ==
        "tensor 'w' has no complete field 'data_offsets'. Is the file damaged?");
  CHECK(header_error(R"({"w":{"dtype":"F32","data_offsets":[0]}})") ==
        "tensor 'w' has no complete field 'shape'. Is the file damaged?");
  CHECK(header_error(R"({"w":{}})") ==
        "tensor 'w' has no complete field 'dtype'. Is the file damaged?");
}

TEST_CASE("safetensors: nesting ends the reading where it leaves the format") {
  const auto nested = [](std::string_view before) {
    return read_error(file_of(std::string(before) + std::string(1'000'000, '['), 0));
  };
  CHECK(nested("{\"w\":") == "the entry 'w' of the header is an array. It must be an object.");
  CHECK(nested("{\"w\":{\"dtype\":") ==
        "the field 'dtype' of tensor 'w' is an array. It must be a string.");
  CHECK(nested("{\"__metadata__\":{\"a\":") ==
        "the metadata 'a' are an array. They must be a string.");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK(read_error(file_of(objects, 0)) ==
        "tensor 'a' has a field 'a'. The format has dtype, shape and data_offsets.");
}

TEST_CASE("safetensors: tensors that do not agree with the data") {
  const auto entry = [](std::string_view name, std::string_view dtype, std::string_view shape,
                        std::string_view offsets) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype,
                       shape, offsets);
  };
  const auto error = [](std::string_view entries, std::size_t n) {
    return read_error(file_of(fmt::format("{{{}}}", entries), n));
  };
  CHECK(error(entry("w", "F32", "2", "0,8"), 8) == "no error");
  CHECK(error(entry("w", "F8_E5M2", "4", "0,4"), 4) ==
        "tensor 'w' has dtype F8_E5M2. Convert it to F32, F64, BF16, F16, I32, I64 or U8.");
  CHECK(error(entry("w", "F32", "2", "0,8") + "," + entry("w", "F32", "0", "8,8"), 8) ==
        "there are two tensors 'w'. Rename one.");
  CHECK(error(entry("w", "F32", "1,1,1,1,1,2", "0,8"), 8) ==
        "tensor 'w' has more than 5 axes. Merge some of them.");
  CHECK(error(entry("w", "F32", "18446744073709551615", "0,8"), 8) ==
        "tensor 'w' has a size of 18446744073709551615 in its shape. Is the file damaged?");
  // 2^62 floats are 2^64 bytes, which would wrap to 0; a size of 0 hides no overflow either.
  CHECK(error(entry("w", "F32", "4611686018427387904", "0,0"), 0) ==
        "tensor 'w' of shape [4611686018427387904] has too many elements. Is the file damaged?");
  CHECK(error(entry("w", "F32", "0,1152921504606846976", "0,0"), 0) ==
        "tensor 'w' of shape [0, 1152921504606846976] has too many elements. Is the file damaged?");
  CHECK(error(entry("w", "F32", "4294967296,4294967296,0", "0,0"), 0) ==
        "tensor 'w' of shape [4294967296, 4294967296, 0] has too many elements. Is the file "
        "damaged?");
  CHECK(error(entry("w", "F32", "2", "8,0"), 8) ==
        "tensor 'w' begins at 8 and ends at 0. Is the file damaged?");
  CHECK(error(entry("w", "F32", "2", "0,8"), 7) ==
        "tensor 'w' ends at byte 8 of 7 bytes of data. Was it cut short?");
  CHECK(error(entry("w", "F32", "2", "0,18446744073709551615"), 8) ==
        "tensor 'w' ends at byte 18446744073709551615 of 8 bytes of data. Was it cut short?");
  CHECK(error(entry("w", "F64", "2", "0,8"), 8) ==
        "tensor 'w', F64 of shape [2], needs 16 bytes and has 8. Is the file damaged?");
  CHECK(error(entry("v", "F32", "2", "0,8") + "," + entry("w", "F32", "2", "4,12"), 12) ==
        "tensors 'v' and 'w' overlap at byte 4 of the data. Is the file damaged?");
  CHECK(error(entry("v", "F32", "2", "0,8") + "," + entry("w", "F32", "1", "12,16"), 16) ==
        "bytes 8 to 12 of the data, before tensor 'w', belong to no tensor. Is the file damaged?");
  CHECK(error(entry("w", "F32", "2", "0,8"), 12) ==
        "bytes 8 to 12 of the data, at its end, belong to no tensor. Is the file damaged?");
  CHECK(error(entry("w", "F32", "0", "4,4") + "," + entry("v", "F32", "2", "0,8"), 8) ==
        "tensors 'v' and 'w' overlap at byte 4 of the data. Is the file damaged?");
  CHECK(error("", 3) ==
        "bytes 0 to 3 of the data, at its end, belong to no tensor. Is the file damaged?");
  // Names come from the file: they are cut and cannot command a terminal.
  CHECK(error(entry("\\u001b[2J", "U16", "4", "0,8"), 8) ==
        "tensor '\\x1b[2J' has dtype U16. Convert it to F32, F64, BF16, F16, I32, I64 or U8.");
  const std::string endless(200'000, 'w');
  CHECK(error(entry(endless, "U16", "4", "0,8"), 8) ==
        "tensor '" + shown(endless) +
            "' has dtype U16. Convert it to F32, F64, BF16, F16, I32, I64 or U8.");
}

}  // namespace
}  // namespace moegrad
