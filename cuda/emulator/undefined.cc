// What -fsanitize=alignment,bounds,... calls where an access or a sum has no meaning. The
// sanitizer's own library is not linked.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "cuda/emulator/block.h"
#include "cuda/emulator/observer.h"

using cuda_emulator::Inside;

namespace {

// How the compiler describes a place and a type to its sanitizer.
struct Location {
  const char* file;
  std::uint32_t line, column;
};
struct Type {
  std::uint16_t kind, info;
  char name[1];  // 'float4'
};
struct Mismatch {
  Location at;
  const Type* type;
  unsigned char log_alignment, kind;
};
struct OutOfBounds {
  Location at;
  const Type *array, *index;
};
struct Overflow {
  Location at;
  const Type* type;
};

[[noreturn]] void fail(const Location& at, const std::string& what) {
  std::string_view file = at.file == nullptr ? "" : at.file;
  file.remove_prefix(file.rfind('/') + 1);
  const std::string line = std::string(file) + ":" + std::to_string(at.line);
  if (cuda_emulator::in_kernel()) cuda_emulator::die(what, line);
  std::fprintf(stderr, "%s: %s.\n", line.c_str(), what.c_str());
  std::abort();
}

[[noreturn]] void overflow(const Overflow& data, const char* operation) {
  fail(data.at, std::string("overflow: ") + operation + " of " + data.type->name +
                    " has no room for its result. Compute it in 64 bits: std::int64_t{a} * b");
}

}  // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const Mismatch* data, std::uintptr_t at) {
  const Inside inside;
  const std::uintptr_t alignment = std::uintptr_t{1} << data->log_alignment;
  char address[32];
  std::snprintf(address, sizeof address, "0x%zx", static_cast<std::size_t>(at));
  fail(data->at, std::string("misaligned: ") + data->type->name + " at " + address +
                     ", where only multiples of " + std::to_string(alignment) +
                     " can be. Align the rows, or take them by smaller parts");
}
void __ubsan_handle_out_of_bounds(const OutOfBounds* data, std::uintptr_t index) {
  const Inside inside;
  // The index may be narrower than a word: its upper bits are not its own.
  const bool is_signed = (data->index->info & 1) != 0;
  const unsigned bits = 1U << (data->index->info >> 1);
  std::string text = std::to_string(index);
  if (bits <= 64) {
    const auto value = static_cast<std::uint64_t>(index) << (64 - bits);
    text = is_signed ? std::to_string(static_cast<std::int64_t>(value) >> (64 - bits))
                     : std::to_string(value >> (64 - bits));
  }
  fail(data->at, "out of bounds: index " + text + " of " + data->array->name +
                     ". Check the index against the size");
}
void __ubsan_handle_add_overflow(const Overflow* data, std::uintptr_t, std::uintptr_t) {
  const Inside inside;
  overflow(*data, "a sum");
}
void __ubsan_handle_sub_overflow(const Overflow* data, std::uintptr_t, std::uintptr_t) {
  const Inside inside;
  overflow(*data, "a difference");
}
void __ubsan_handle_mul_overflow(const Overflow* data, std::uintptr_t, std::uintptr_t) {
  const Inside inside;
  overflow(*data, "a product");
}
void __ubsan_handle_negate_overflow(const Overflow* data, std::uintptr_t) {
  const Inside inside;
  overflow(*data, "a negation");
}
void __ubsan_handle_divrem_overflow(const Overflow* data, std::uintptr_t, std::uintptr_t) {
  const Inside inside;
  fail(data->at, std::string("a division of ") + data->type->name +
                     " by zero, or of the least by -1. Leave that case out");
}
void __ubsan_handle_shift_out_of_bounds(const Overflow* data, std::uintptr_t, std::uintptr_t) {
  const Inside inside;
  fail(data->at, std::string("a shift of ") + data->type->name +
                     " by a negative number, or by all its bits and more. Leave that case out");
}
}
