#include <algorithm>
#include <array>
#include <vector>

#include "autograd/tape.h"
#include "tensor/kernels.h"

namespace moegrad {

std::vector<Tape::Row> Tape::rows() const {
  std::vector<Row> rows = {{"node", "operation", "inputs", "shape", "saved bytes", "finite"}};
  const std::vector<std::size_t> saved = bytes_saved_by_node();
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    std::string inputs;
    for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
      const std::int32_t source = input_index(node, k);
      inputs += (k > 0 ? " " : "") + (source < 0 ? std::string("-") : std::to_string(source));
    }
    std::string finite = "released";
    if (node.value.defined()) {
      const bool ok =
          !is_floating(node.dtype()) || kernels(node.value.device()).all_finite(node.value);
      finite = ok ? "yes" : "NO";
    }
    rows.push_back({std::to_string(i), std::string(node.label()), inputs,
                    std::string(name_of(node.dtype())) + " " + node.shape().str(),
                    std::to_string(saved[i]), finite});
  }
  return rows;
}

std::string Tape::table() const {
  const std::vector<Row> rows = this->rows();
  std::array<std::size_t, 6> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += fmt::format("{:<{}}  ", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string Tape::dot() const {
  std::string text = "digraph tape {\n  node [shape=box];\n";
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    text += fmt::format("  n{} [label=\"{}: {}\\n{} {}\"{}];\n", i, i, node.label(),
                        name_of(node.dtype()), node.shape(),
                        node.needs_gradient ? "" : ", style=dashed");
    for (int k = 0; k < static_cast<int>(node.inputs); ++k) {
      if (input_index(node, k) < 0) continue;
      text += fmt::format("  n{} -> n{};\n", input_index(node, k), i);
    }
  }
  return text + "}\n";
}

}  // namespace moegrad
