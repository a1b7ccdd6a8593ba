// The page of a tape of one's own: its graph, to step through in a browser.
//   tape_page [FILE.html]
#include <filesystem>
#include <string>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

int main(int argc, char** argv) {
  Tape t;
  const Var x = t.constant(Tensor::of<double>({2, 2}, {1.0, -0.5, 0.25, 2.0}));
  const Var w = t.variable(Tensor::of<double>({2, 2}, {0.5, -1.0, 1.0, 0.25}));
  const Var gate = softmax(matmul(x, w));
  const Var experts = t.variable(Tensor::of<double>({2}, {1.0, -2.0}));  // a number each
  const Var y = sum(gate * experts, 1);
  const Var loss = mean(square(y - 0.5));

  const auto file = argc > 1 ? std::filesystem::path(argv[1])
                             : std::filesystem::temp_directory_path() / "moegrad-tape.html";
  write_file_atomic(file, tape_page(t, loss,
                                    {.title = "Two experts and a gate",
                                     .names = {{x, "x"}, {w, "W"}, {gate, "gate"}, {y, "y"}}}));
  fmt::print("{} nodes; open {}\n", t.size(), file.string());

  // The page has changed nothing: the tape goes on.
  const Tensor dw = t.backward(loss)[w];
  return dw.numel() == 4 && std::filesystem::file_size(file) > 100000 ? 0 : 1;
}
