#include "train/own_columns.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "train/npy.h"
#include "train/own.h"

namespace moegrad {
namespace {

constexpr double kExactWhole = 9007199254740992.0;

bool is_whole(double v) { return v == std::floor(v) && std::abs(v) < kExactWhole; }

// The label of a row: 7, 07 and 7.0 are one.
std::string label_of(const Table& table, std::int64_t row, std::int64_t column) {
  const auto number = table.number(row, column);
  if (number && is_whole(*number)) {
    return fmt::format("{}", static_cast<std::int64_t>(*number));
  }
  if (!number && !table.is_text()) {
    fail("own", "{}, no finite number. Correct it, or leave the row out.",
         table.place(row, column));
  }
  std::string text = table.text(row, column);
  if (text.empty()) {
    fail("own", "{}. Give the row its label, or leave it out.", table.place(row, column));
  }
  if (shown(text) != text) {
    fail("own", "{}: a class needs a name of one line that can be shown. Give another label.",
         table.place(row, column));
  }
  return text;
}

std::vector<std::string> numbers_below(std::int64_t n) {
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < n; ++i) names.push_back(fmt::format("{}", i));
  return names;
}

double number_at(const Table& table, std::int64_t row, std::int64_t column) {
  if (const auto v = table.number(row, column)) return *v;
  const std::string text = table.text(row, column);
  fail("own", "{}{}. Correct it, or leave the row out.", table.place(row, column),
       text.empty() ? ", where numbers are" : ", no finite number");
}

bool is_of_texts(const Table& table, std::int64_t column) {
  if (!table.is_text()) return false;
  std::int64_t texts = 0;
  std::int64_t numbers = 0;
  for (std::int64_t row = 0; row < table.rows(); ++row) {
    if (table.number(row, column)) {
      ++numbers;
    } else if (!table.text(row, column).empty()) {
      ++texts;
    }
  }
  if (texts + numbers == 0) {
    fail("own", "{}: column '{}' is empty in every row. Leave it out.", table.file(),
         table.name(column));
  }
  return numbers <= texts;
}

std::vector<std::string> categories_of(const Table& table, std::int64_t column, const Rows& rows) {
  std::set<std::string> texts;
  for (const std::int64_t row : rows) {
    texts.insert(table.text(row, column));
    if (static_cast<std::int64_t>(texts.size()) <= kMostCategories) continue;
    fail("own", "{}: one text more than {}, the most of a column. Leave the column out.",
         table.place(row, column), kMostCategories);
  }
  return {texts.begin(), texts.end()};
}

void set_scale(const Table& table, std::int64_t column, const Rows& rows, Column& out) {
  if (table.pixels()) {
    out.deviation = 255.0;
    return;
  }
  const double first = number_at(table, rows.front(), column);
  bool constant = true;
  double sum = 0.0;
  for (const std::int64_t row : rows) {
    const double v = number_at(table, row, column);
    constant = constant && v == first;
    sum += v;
  }
  const auto n = static_cast<double>(rows.size());
  out.mean = constant ? first : sum / n;
  if (constant) return;
  double squares = 0.0;
  for (const std::int64_t row : rows) {
    const double away = number_at(table, row, column) - out.mean;
    squares += away * away;
  }
  out.deviation = std::sqrt(squares / n);
  if (std::isnormal(out.deviation) && std::isfinite(out.mean)) return;
  fail("own", "{}: column '{}' has a mean of {} and a deviation of {}. Scale its numbers.",
       table.file(), table.name(column), out.mean, out.deviation);
}

}  // namespace

std::vector<std::string> classes_of(const Table& table, std::int64_t column, std::int64_t classes) {
  std::map<std::string, std::int64_t, std::less<>> first;  // row of each
  std::set<std::int64_t> numbers;
  const std::int64_t most = classes > 0 ? classes : kMostOwnClasses;
  std::int64_t beyond = -1;
  std::int64_t fraction = -1;  // the first row whose label is a number, and not a whole one
  std::int64_t rows_of_numbers = 0;
  for (std::int64_t row = 0; row < table.rows(); ++row) {
    const auto number = table.number(row, column);
    if (number) ++rows_of_numbers;
    const auto [at, added] = first.try_emplace(label_of(table, row, column), row);
    if (!added) continue;
    if (number && is_whole(*number)) {
      numbers.insert(static_cast<std::int64_t>(*number));
    } else if (number && *number != std::floor(*number) && fraction < 0) {
      fraction = row;
    }
    if (static_cast<std::int64_t>(first.size()) == most + 1) beyond = row;
    if (static_cast<std::int64_t>(first.size()) > kMostOwnClasses) break;
  }
  const bool whole = numbers.size() == first.size();
  if (classes > 0 && whole) {
    std::int64_t wrong = table.rows();
    for (const auto& [name, row] : first) {
      const double v = *table.number(row, column);
      if (v < 0.0 || v >= static_cast<double>(classes)) wrong = std::min(wrong, row);
    }
    if (wrong == table.rows()) return numbers_below(classes);
    fail("own", "{}: with {} classes labels are 0 to {}. Correct it, or give more --classes.",
         table.place(wrong, column), classes, classes - 1);
  }
  if (classes == 0 && fraction >= 0 && 2 * rows_of_numbers > table.rows()) {
    fail("own",
         "{}: labels are classes, and this is a quantity. Name the column of the labels with "
         "--label; if each number is a class, say of how many with --classes.",
         table.place(fraction, column));
  }
  if (beyond >= 0) {
    fail("own", "{}: the label of one class more than {}. {}", table.place(beyond, column), most,
         classes > 0 ? "Correct it, or give more --classes." : "Is it the column of the labels?");
  }
  if (classes > 0 && static_cast<std::int64_t>(first.size()) != classes) {
    fail("own", "{}: column '{}' has {} different labels, and --classes is {}. Give --classes {}.",
         table.file(), table.name(column), first.size(), classes, first.size());
  }
  if (first.size() < 2) {
    fail("own", "{} in every row. There must be two classes at least.", table.place(0, column));
  }
  std::vector<std::string> names;
  if (whole) {
    for (const std::int64_t v : numbers) names.push_back(fmt::format("{}", v));
  } else {
    for (const auto& [name, row] : first) names.push_back(name);
  }
  return names;
}

Tensor labels_of(const Table& table, std::int64_t column, const std::vector<std::string>& names,
                 const Rows& rows) {
  std::map<std::string_view, std::int32_t> known;
  for (const std::string& name : names) {
    known.emplace(name, static_cast<std::int32_t>(known.size()));
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  Tensor labels = Tensor::empty({count}, DType::i32, Device::cpu);
  std::int32_t* out = labels.write<std::int32_t>();
  for (const std::int64_t row : rows) {
    const auto at = known.find(label_of(table, row, column));
    if (at == known.end()) {
      fail("own", "{}, none of the {} classes: {}. Correct it, or leave the row out.",
           table.place(row, column), names.size(), fmt::format("{}", fmt::join(names, ", ")));
    }
    *out++ = at->second;
  }
  return labels;
}

std::vector<Column> columns_of(const Table& table, std::int64_t label, const Rows& rows) {
  std::vector<Column> columns;
  for (std::int64_t c = 0; c < table.columns(); ++c) {
    if (c == label) continue;
    Column column{.name = table.name(c)};
    if (is_of_texts(table, c)) {
      column.categories = categories_of(table, c, rows);
    } else {
      set_scale(table, c, rows, column);
    }
    columns.push_back(std::move(column));
  }
  return columns;
}

Tensor inputs_of(const Table& table, const std::vector<Column>& columns,
                 const std::vector<std::int64_t>& places, const Rows& rows, DType dtype) {
  std::int64_t width = 0;
  for (const Column& c : columns) width += c.width();
  const auto count = static_cast<std::int64_t>(rows.size());
  if (width > kMostNumbers / count) {
    fail("own",
         "{}: {} rows of {} inputs, where a text is as many as its column has. {} numbers "
         "are the most.",
         table.file(), count, width, kMostNumbers);
  }
  Tensor x = Tensor::zeros({count, width}, dtype, Device::cpu);
  with_floating(dtype, "own", [&]<class T>(T) {
    T* const out = x.write<T>();
    std::int64_t begin = 0;
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const Column& column = columns[c];
      const auto& texts = column.categories;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        T* const at = out + static_cast<std::int64_t>(r) * width + begin;
        if (!texts.empty()) {
          const std::string text = table.text(rows[r], places[c]);
          const auto found = std::lower_bound(texts.begin(), texts.end(), text);
          if (found != texts.end() && *found == text) at[found - texts.begin()] = T(1);
          continue;
        }
        const double v = (number_at(table, rows[r], places[c]) - column.mean) / column.deviation;
        *at = static_cast<T>(v);
        if (!std::isfinite(*at)) {
          fail("own", "{}: too far from the mean, {}, for {}. Correct it, or leave the row out.",
               table.place(rows[r], places[c]), column.mean, name_of(dtype));
        }
      }
      begin += column.width();
    }
  });
  return x;
}

}  // namespace moegrad
