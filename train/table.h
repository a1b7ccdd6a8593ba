#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"
#include "train/csv.h"

namespace moegrad {

// Rows of a file of somebody's own, by its name's end: .csv, .tsv and .txt (read_csv); .npy
// (read_npy); .safetensors, a tensor x [N, ...], f32 or f64, or pixels of whole numbers from 0 to 255,
// with the labels [N], whole numbers, as the last column where they are there.
class Table {
 public:
  // `header`: whether the first line of a text is names: yes, no, or auto: where none of its cells is
  // a number, and an Error where it could be both. `label`: the name of the labels' tensor in a
  // .safetensors file; empty: "labels".
  Table(const std::filesystem::path& path, const std::string& header, const std::string& label);

  const std::string& file() const { return file_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return static_cast<std::int64_t>(names_.size()); }
  bool has_names() const { return has_names_; }
  bool is_text() const { return csv_.columns > 0; }
  bool has_tensors() const { return has_tensors_; }
  bool pixels() const { return pixels_; }
  // Where the file has none, a column's number: from 1 in a text, else from 0.
  const std::string& name(std::int64_t column) const {
    return names_[static_cast<std::size_t>(column)];
  }
  // By its name, or its number; an Error, with the nearest name, where there is none.
  std::int64_t column(const std::string& name) const;
  // The column of the labels: column(name); where that is empty the one called "label", or the last.
  std::int64_t label(const std::string& name) const;

  // A cell where it is a finite number.
  std::optional<double> number(std::int64_t row, std::int64_t column) const;
  std::string text(std::int64_t row, std::int64_t column) const;
  // "FILE: line 23, column 'age' is 'abc'", where the file has it.
  std::string place(std::int64_t row, std::int64_t column) const;

 private:
  void read_text(const std::filesystem::path& path, const std::string& header);
  void read_tensors(const std::filesystem::path& path, const std::string& label);
  void number_columns(std::int64_t count, std::int64_t first);
  double value(std::int64_t row, std::int64_t column) const;

  std::string file_;
  std::int64_t rows_ = 0;
  std::vector<std::string> names_;
  bool has_names_ = false;
  bool has_tensors_ = false;
  bool pixels_ = false;
  CsvFile csv_;     // of a text
  Tensor numbers_;  // else: f64 [N, D]
  Tensor labels_;   // i32 [N], behind them
};

}  // namespace moegrad
