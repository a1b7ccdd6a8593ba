#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "autograd/tape.h"

namespace moegrad {

struct TapePage {
  std::string title = "A tape";
  std::string text = {};                                // what the program is; paragraphs
  std::vector<std::pair<Var, std::string>> names = {};  // of values, besides parameters
  Tensor cotangent = {};                                // where the output is no scalar
};

// A page of a tape, for any browser (lab/page.h): its graph, and of each node operation, type, shape, bytes
// saved, claim, value and adjoint; it can be stepped through, forward and backward. Runs a backward
// pass from the output that keeps everything: the tape is as it was before.
//
//   write_file_atomic("tape.html", tape_page(tape, loss, {.names = {{x, "x"}, {loss, "loss"}}}));
//
// Errors: more than kMostNodes nodes; those of Tape::backward, of a tape that a backward pass has
// released too; no d3 in this build.
std::string tape_page(Tape& tape, Var output, const TapePage& page = {});
inline constexpr std::size_t kMostNodes = 300;
inline constexpr std::int64_t kMostElements = 64;  // that are shown of a value

// The data of the page, one JSON object in ASCII:
//   text, output   paragraphs; the place of the output
//   nodes          {operation, name, claim (leaves: null), type, shape, saved, learns, inputs,
//                  stopped, value, adjoint, gives}
//     learns       a gradient is wanted of it; the inputs of others were not recorded: []
//     stopped      of a constant, the node with a gradient whose value it is (stop_gradient); -1
//     value, adjoint   {numbers, of, finite}: the first kMostElements `of` so many; adjoint null where no gradient
//                  comes to the node
//     gives        what backward adds to the adjoint of its inputs: [{to, part, sum}], the part and
//                  the sum so far, in the order of the inputs
// Numbers have 6 digits; what is not finite is a text: "nan", "inf", "-inf".
std::string tape_page_data(Tape& tape, Var output, const TapePage& page);

}  // namespace moegrad
