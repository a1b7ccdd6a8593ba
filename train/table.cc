#include "train/table.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "moe/options.h"
#include "tensor/folders.h"
#include "tensor/parse.h"
#include "tensor/safetensors.h"
#include "train/npy.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

std::optional<double> finite(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  const auto number = parse_number<double>(text);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

std::string ending_of(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return ending;
}

// Whether the first line is names.
bool begins_with_names(const CsvFile& csv, const std::string& file, const std::string& header) {
  if (header != "auto") return header == "yes";
  bool numbers = false;
  bool changes = false;  // from a text to a number below
  for (std::size_t c = 0; c < csv.columns; ++c) {
    const bool number = finite(csv.cell(0, c)).has_value();
    numbers = numbers || number;
    changes = changes || (!number && csv.rows() > 1 && finite(csv.cell(1, c)).has_value());
  }
  if (numbers && changes) {
    fail("own",
         "{}: line {} may be names or a row: it has texts above numbers, and numbers. Say which "
         "with --header yes or --header no.",
         file, csv.lines.front());
  }
  return !numbers;
}

}  // namespace

Table::Table(const fs::path& path, const std::string& header, const std::string& label)
    : file_(path.string()) {
  if (folder_exists(path)) {
    fail("own", "'{}' is a folder. Give a file: .csv, .tsv, .npy or .safetensors.", file_);
  }
  const std::string ending = ending_of(path);
  if (ending == ".csv" || ending == ".tsv" || ending == ".txt") {
    read_text(path, header);
  } else if (ending == ".npy") {
    numbers_ = read_npy(path);
    rows_ = numbers_.size(0);
    number_columns(numbers_.size(1), 0);
  } else if (ending == ".safetensors") {
    read_tensors(path, label);
  } else {
    fail("own", "'{}' ends with '{}'. Give a file: .csv, .tsv, .txt, .npy or .safetensors.", file_,
         ending);
  }
}

void Table::number_columns(std::int64_t count, std::int64_t first) {
  for (std::int64_t c = 0; c < count; ++c) names_.push_back(fmt::format("{}", c + first));
}

void Table::read_text(const fs::path& path, const std::string& header) {
  csv_ = read_csv(path);
  rows_ = static_cast<std::int64_t>(csv_.rows());
  has_names_ = begins_with_names(csv_, file_, header);
  if (!has_names_) return number_columns(static_cast<std::int64_t>(csv_.columns), 1);
  std::set<std::string, std::less<>> seen;
  for (std::size_t c = 0; c < csv_.columns; ++c) {
    names_.emplace_back(csv_.cell(0, c));
    if (seen.insert(names_.back()).second) continue;
    fail("own", "{}: line {}: two columns '{}'. Rename one.", file_, csv_.lines.front(),
         names_.back());
  }
  if (--rows_ == 0) {
    fail("own", "{}: it has names in line {}, and no rows. Is it the right file?", file_,
         csv_.lines.front());
  }
}

void Table::read_tensors(const fs::path& path, const std::string& label) {
  has_tensors_ = true;
  const TensorFile tensors = read_safetensors(path);
  const Tensor& x = tensors.at("x");
  if (x.rank() < 1 || x.numel() == 0 || x.numel() > kMostNumbers) {
    fail("own", "{}: tensor 'x' of shape {}. It must be [N, ...], of 1 to {} elements.", file_,
         x.shape(), kMostNumbers);
  }
  rows_ = x.size(0);
  const std::int64_t width = x.numel() / rows_;
  numbers_ = x.reshape({rows_, width}).to(DType::f64);
  number_columns(width, 0);
  pixels_ = x.dtype() == DType::i32;
  if (pixels_) {
    const std::span<const std::int32_t> values = x.values<std::int32_t>();
    const auto bad = std::ranges::find_if(values, [](std::int32_t v) { return v < 0 || v > 255; });
    if (bad != values.end()) {
      const std::int64_t at = bad - values.begin();
      fail("own", "{}. Whole numbers are pixels, from 0 to 255: store other numbers as f32 or f64.",
           place(at / width, at % width));
    }
  }
  const std::string name = label.empty() ? "labels" : label;
  const Tensor* const labels = tensors.find(name);
  if (labels == nullptr && !label.empty()) tensors.at(name);  // its error has the nearest name
  if (labels == nullptr) return;
  if (labels->dtype() != DType::i32 || labels->rank() != 1 || labels->size(0) != rows_) {
    fail("own", "{}: tensor '{}' is {} {}, and x has {} rows. It must be whole numbers [{}].",
         file_, name, name_of(labels->dtype()), labels->shape(), rows_, rows_);
  }
  labels_ = *labels;
  names_.push_back(name);
}

std::int64_t Table::column(const std::string& name) const {
  if (const auto at = std::ranges::find(names_, name); at != names_.end()) {
    return at - names_.begin();
  }
  const std::int64_t first = is_text() ? 1 : 0;
  if (const auto at = parse_number<std::int64_t>(name, first, first + columns() - 1)) {
    return *at - first;
  }
  fail("own", "{}: there is no column '{}'. The nearest of its {} is '{}'.", file_, name, columns(),
       nearest(name, names_));
}

std::int64_t Table::label(const std::string& name) const {
  if (has_tensors_) {
    if (labels_.defined()) return columns() - 1;
    fail("own", "{}: no tensor 'labels'. Add it, or give the name of the labels with --label.",
         file_);
  }
  if (!name.empty()) return column(name);
  const auto at = std::ranges::find(names_, "label");
  return at != names_.end() ? at - names_.begin() : columns() - 1;
}

double Table::value(std::int64_t row, std::int64_t column) const {
  const std::int64_t width = numbers_.size(1);
  if (column == width) return labels_.data<std::int32_t>()[row];
  return numbers_.data<double>()[row * width + column];
}

std::optional<double> Table::number(std::int64_t row, std::int64_t column) const {
  if (numbers_.defined()) {
    const double v = value(row, column);
    return std::isfinite(v) ? std::optional(v) : std::nullopt;
  }
  return finite(csv_.cell(static_cast<std::size_t>(row + (has_names_ ? 1 : 0)),
                          static_cast<std::size_t>(column)));
}

std::string Table::text(std::int64_t row, std::int64_t column) const {
  if (numbers_.defined()) return fmt::format("{}", value(row, column));
  return std::string(csv_.cell(static_cast<std::size_t>(row + (has_names_ ? 1 : 0)),
                               static_cast<std::size_t>(column)));
}

std::string Table::place(std::int64_t row, std::int64_t column) const {
  const std::string value = text(row, column);
  const std::int64_t line =
      numbers_.defined() ? row : csv_.lines[static_cast<std::size_t>(row + (has_names_ ? 1 : 0))];
  return shown_format("{}: {} {}, column '{}' is {}", file_, numbers_.defined() ? "row" : "line",
                      line, name(column), value.empty() ? "empty" : "'" + shown(value) + "'");
}

}  // namespace moegrad
