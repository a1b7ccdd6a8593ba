#include "train/adult.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "tensor/parse.h"
#include "train/plain_rows.h"

namespace moegrad {
namespace {

// Of this task: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kPersonStream = 0x6164756c'00000000U;

constexpr std::string_view kHeader =
    "age,workclass,fnlwgt,education,educational-num,marital-status,occupation,relationship,race,"
    "gender,capital-gain,capital-loss,hours-per-week,native-country,income";
constexpr std::size_t kNumbers[] = {0, 2, 4, 10, 11, 12};
constexpr std::size_t kTexts[] = {1, 3, 6, 8, 9, 13};
constexpr std::size_t kMarital = 5;
constexpr std::size_t kIncome = 14;
constexpr std::size_t kMostValues = 1000;  // of a column of text

// The numbers of a column, standardised by those of the rows `train`.
std::vector<double> standardised(const PlainRows& table, std::size_t column,
                                 const std::vector<std::int32_t>& train) {
  std::vector<double> values;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const auto value = parse_number<double>(table.rows[i][column], -1e9, 1e9);
    if (!value) {
      table.damaged(i, fmt::format("'{}' is no number from -1e9 to 1e9", table.rows[i][column]));
    }
    values.push_back(*value);
  }
  double sum = 0.0;
  double squares = 0.0;
  for (const std::int32_t i : train) sum += values[static_cast<std::size_t>(i)];
  const auto n = static_cast<double>(train.size());
  const double mean = sum / n;
  for (const std::int32_t i : train) {
    const double d = values[static_cast<std::size_t>(i)] - mean;
    squares += d * d;
  }
  const double deviation = squares > 0.0 ? std::sqrt(squares / n) : 1.0;
  for (double& value : values) value = (value - mean) / deviation;
  return values;
}

// The values of a column in their order, each with its place.
std::map<std::string, std::int32_t> values_of(const PlainRows& table, std::size_t column) {
  std::map<std::string, std::int32_t> places;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    places.emplace(table.rows[i][column], 0);
    if (places.size() > kMostValues) {
      table.damaged(i, fmt::format("more than {} values in column {}", kMostValues, column + 1));
    }
  }
  std::int32_t place = 0;
  for (auto& [value, at] : places) at = place++;
  return places;
}

}  // namespace

Task load_adult(const TaskOptions& o) {
  const PlainRows table = read_plain_rows(o.folder / "adult" / "adult.csv", "adult", ',', kHeader);
  const std::int64_t n = std::ssize(table.rows);
  const Split split = split_of(n, {o.seed, kPersonStream, 0});
  // Column by column, [n] each.
  std::vector<std::vector<double>> columns;
  for (const std::size_t column : kNumbers) {
    columns.push_back(standardised(table, column, split.train));
  }
  for (const std::size_t column : kTexts) {
    const auto places = values_of(table, column);
    const std::size_t first = columns.size();
    columns.resize(first + places.size(), std::vector<double>(table.rows.size()));
    for (std::size_t i = 0; i < table.rows.size(); ++i) {
      columns[first + static_cast<std::size_t>(places.at(table.rows[i][column]))][i] = 1.0;
    }
  }
  const auto marital = values_of(table, kMarital);
  const std::map<std::string, std::int32_t> income = {{"<=50K", 0}, {">50K", 1}};
  const auto part = [&](const std::vector<std::int32_t>& chosen) {
    const std::int64_t rows = std::ssize(chosen);
    Dataset data{.x = Tensor::empty({rows, std::ssize(columns)}, o.dtype, Device::cpu),
                 .labels = Tensor::empty({rows, 2}, DType::i32, Device::cpu)};
    std::int32_t* label = data.labels.write<std::int32_t>();
    with_floating(o.dtype, "adult", [&]<class T>(T) {
      T* x = data.x.write<T>();
      for (const std::int32_t row : chosen) {
        const auto i = static_cast<std::size_t>(row);
        for (const std::vector<double>& column : columns) *x++ = static_cast<T>(column[i]);
        const auto found = income.find(table.rows[i][kIncome]);
        if (found == income.end()) {
          table.damaged(i, fmt::format("'{}' is no income, <=50K or >50K", table.rows[i][kIncome]));
        }
        *label++ = found->second;
        *label++ = marital.at(table.rows[i][kMarital]);
      }
    });
    return data;
  };
  return {.targets = {{.name = "income", .kind = Target::Kind::binary},
                      {.name = "marital", .classes = std::ssize(marital)}},
          .train = part(split.train),
          .test = part(split.test)};
}

}  // namespace moegrad
