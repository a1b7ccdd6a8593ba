// Runs `moegrad layer` on small files.
#pragma once

#include <string>
#include <vector>

#include "tensor/rng.h"
#include "tensor/safetensors.h"
#include "tests/app/program.h"

namespace moegrad::test {

inline constexpr std::int64_t kN = 5, kD = 3, kE = 4, kH = 6, kO = 2;

inline Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{8, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

inline TensorFile numbers() {
  TensorFile file;
  file.tensors = {{"x", random({kN, kD}, 1)},
                  {"dy", random({kN, kO}, 2)},
                  {"router.weight", random({kD, kE}, 3)},
                  {"router.bias", random({kE}, 4)},
                  {"experts.w1", random({kE, kD, kH}, 5)},
                  {"experts.w2", random({kE, kH, kO}, 6)},
                  {"experts.b2", random({kE, kO}, 7)}};
  return file;
}

struct LayerProgram {
  TemporaryFolder folder;
  std::string in = (folder / "in.safetensors").string();
  std::string out = (folder / "out.safetensors").string();

  Outcome operator()(const TensorFile& file, std::vector<std::string> more) {
    write_safetensors(in, file);
    std::vector<std::string> arguments = {"layer", "--in", in, "--out", out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(folder, arguments);
  }
  // The error, without the program's name and with FILE for the file's.
  std::string refused(const TensorFile& file, std::vector<std::string> more) {
    std::filesystem::remove(out);
    const Outcome outcome = (*this)(file, std::move(more));
    CHECK(outcome.code == 2);
    CHECK_FALSE(std::filesystem::exists(out));
    std::string text = outcome.err;
    if (const auto at = text.find(in); at != std::string::npos) text.replace(at, in.size(), "FILE");
    return text;
  }
};

}  // namespace moegrad::test
