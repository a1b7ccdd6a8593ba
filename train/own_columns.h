#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/dataset.h"
#include "train/table.h"

namespace moegrad {

// What load_own makes of the columns of a table, as it says.

using Rows = std::vector<std::int64_t>;

// The names of the classes in the column of the labels; `classes` as in TaskOptions.
std::vector<std::string> classes_of(const Table& table, std::int64_t column, std::int64_t classes);
// i32 [rows], the places of the labels among the names; an Error where one is none of them.
Tensor labels_of(const Table& table, std::int64_t column, const std::vector<std::string>& names,
                 const Rows& rows);

// All columns but the label's, with means, deviations and categories of the training rows.
std::vector<Column> columns_of(const Table& table, std::int64_t label, const Rows& rows);
// x [rows, inputs]; `places`: of the columns in the table.
Tensor inputs_of(const Table& table, const std::vector<Column>& columns,
                 const std::vector<std::int64_t>& places, const Rows& rows, DType dtype);

}  // namespace moegrad
