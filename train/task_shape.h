#pragma once

#include <string>
#include <string_view>

#include "train/dataset.h"

namespace moegrad {

// {"inputs":16,"ids":false,"targets":[{"name":"class","kind":"classes","classes":4,"partial":false}]},
// with "names" in a target that has them; where there are columns "label", its place, and "columns":
// {"name","mean","deviation"} or {"name","categories"}.
std::string to_json(const TaskShape& shape);
// and, where there are some, "fields":[{"name":"user","values":943,"several":false}].
// and "pairs":[[116,104]], as BytePairs has them, where there are some.
// Of texts of word pieces "vocabulary":30522.
// From there. The text is not trusted: errors name the file. Sizes are at most kMostInputs and
// kMostClassesOfTarget, and there are at most kMostTargets and kMostFields.
inline constexpr std::int64_t kMostInputs = 1 << 24;
inline constexpr std::int64_t kMostClassesOfTarget = 1 << 24;
inline constexpr std::int64_t kMostTargets = 1024;
inline constexpr std::int64_t kMostFields = 1024;
TaskShape read_shape(std::string_view json, std::string_view file);
// The first thing that differs between two shapes; empty where nothing does.
std::string difference(const TaskShape& there, const TaskShape& here);
// Of a task whose data everybody has; an Error, which names the file, for any other.
TaskShape shape_of_task(std::string_view name, std::string_view file);

}  // namespace moegrad
