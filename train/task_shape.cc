#include "train/task_shape.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>

#include <nlohmann/json.hpp>

namespace moegrad {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 3> kKinds = {"classes", "binary", "number"};

[[noreturn]] void damaged(std::string_view file, std::string_view what) {
  fail("checkpoint", "{}: its task {}. Is the file damaged?", file, what);
}

std::int64_t count(const Json& object, const char* key, std::int64_t least, std::int64_t most,
                   std::string_view file) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer() ||
      found->get<double>() < static_cast<double>(least) ||
      found->get<double>() > static_cast<double>(most)) {
    damaged(file, fmt::format("has no '{}' from {} to {}", key, least, most));
  }
  return found->get<std::int64_t>();
}

bool flag(const Json& object, const char* key, std::string_view file) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_boolean()) {
    damaged(file, fmt::format("does not say whether '{}'", key));
  }
  return found->get<bool>();
}

std::string text(const Json& object, const char* key, std::string_view file) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) {
    damaged(file, fmt::format("has no text '{}'", key));
  }
  return found->get<std::string>();
}

std::vector<std::string> texts(const Json& object, const char* key, std::string_view file) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array()) {
    damaged(file, fmt::format("has no list '{}'", key));
  }
  std::vector<std::string> list;
  for (const Json& entry : *found) {
    if (!entry.is_string()) damaged(file, fmt::format("has no texts in '{}'", key));
    list.push_back(entry.get<std::string>());
  }
  return list;
}

double number(const Json& object, const char* key, std::string_view file) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number() || !std::isfinite(found->get<double>())) {
    damaged(file, fmt::format("has no finite number '{}'", key));
  }
  return found->get<double>();
}

Column column_of(const Json& object, std::string_view file) {
  if (!object.is_object()) damaged(file, "has a column that is no object");
  Column column{.name = text(object, "name", file)};
  if (object.contains("categories")) {
    column.categories = texts(object, "categories", file);
    const auto& list = column.categories;
    if (list.empty() || !std::is_sorted(list.begin(), list.end(), std::less_equal<>())) {
      damaged(file, "has categories that are not sorted");
    }
    return column;
  }
  column.mean = number(object, "mean", file);
  column.deviation = number(object, "deviation", file);
  if (column.deviation <= 0.0) damaged(file, "has a deviation that is not above 0");
  return column;
}

Target target_of(const Json& object, std::string_view file) {
  if (!object.is_object()) damaged(file, "has a target that is no object");
  Target target{.name = text(object, "name", file)};
  const std::string kind = text(object, "kind", file);
  std::size_t k = 0;
  while (k < kKinds.size() && kKinds[k] != kind) ++k;
  if (k == kKinds.size()) damaged(file, fmt::format("has a target of the kind '{}'", kind));
  target.kind = static_cast<Target::Kind>(k);
  target.classes = count(object, "classes", target.kind == Target::Kind::classes ? 1 : 0,
                         kMostClassesOfTarget, file);
  target.partial = flag(object, "partial", file);
  if (object.contains("names")) {
    target.names = texts(object, "names", file);
    const std::set<std::string> distinct(target.names.begin(), target.names.end());
    if (static_cast<std::int64_t>(distinct.size()) != target.classes ||
        distinct.size() != target.names.size() ||
        !std::ranges::all_of(distinct, [](const std::string& s) { return shown(s) == s; })) {
      damaged(file, fmt::format("has not a name for each of {} classes", target.classes));
    }
  }
  return target;
}

std::vector<Field> fields_of(const Json& list, std::int64_t inputs, std::string_view file) {
  if (!list.is_array() || list.empty() || static_cast<std::int64_t>(list.size()) > kMostFields) {
    damaged(file, fmt::format("has not 1 to {} fields", kMostFields));
  }
  std::vector<Field> fields;
  std::int64_t columns = 0;
  for (const Json& object : list) {
    if (!object.is_object()) damaged(file, "has a field that is no object");
    fields.push_back({.name = text(object, "name", file),
                      .values = count(object, "values", 1, kMostClassesOfTarget, file),
                      .several = flag(object, "several", file)});
    columns += fields.back().columns();
  }
  if (columns != inputs) {
    damaged(file, fmt::format("has fields of {} columns for {} inputs", columns, inputs));
  }
  return fields;
}

std::vector<BytePairs::Pair> pairs_of(const Json& list, const TaskShape& shape,
                                      std::string_view file) {
  const auto whole = [](const Json& n) { return n.is_number_integer() && n.is_number_unsigned(); };
  std::vector<BytePairs::Pair> pairs;
  if (!list.is_array()) damaged(file, "has no list of 'pairs'");
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !whole(pair[0]) || !whole(pair[1]) ||
        pair[0] >= BytePairs::kMostPieces || pair[1] >= BytePairs::kMostPieces) {
      damaged(file, "has a pair that is not two pieces");
    }
    pairs.push_back({pair[0].get<std::int32_t>(), pair[1].get<std::int32_t>()});
  }
  const std::int64_t classes = shape.targets.front().classes;
  if (!shape.ids || BytePairs().size() + static_cast<std::int64_t>(pairs.size()) != classes) {
    damaged(file, fmt::format("has {} pairs for {} pieces of text", pairs.size(), classes));
  }
  try {
    const BytePairs sound(pairs);
  } catch (const Error& error) {
    damaged(file, fmt::format("has pairs that are none: {}", error.what()));
  }
  return pairs;
}

}  // namespace

std::string to_json(const TaskShape& shape) {
  Json targets = Json::array();
  for (const Target& t : shape.targets) {
    targets.push_back({{"name", t.name},
                       {"kind", kKinds[static_cast<std::size_t>(t.kind)]},
                       {"classes", t.classes},
                       {"partial", t.partial}});
    if (!t.names.empty()) targets.back()["names"] = t.names;
  }
  Json object = {{"inputs", shape.inputs}, {"ids", shape.ids}, {"targets", targets}};
  for (const Field& f : shape.fields) {
    object["fields"].push_back({{"name", f.name}, {"values", f.values}, {"several", f.several}});
  }
  if (!shape.pairs.empty()) object["pairs"] = shape.pairs;
  if (shape.vocabulary > 0) object["vocabulary"] = shape.vocabulary;
  if (shape.columns.empty()) return object.dump();
  Json columns = Json::array();
  for (const Column& c : shape.columns) {
    columns.push_back(c.categories.empty()
                          ? Json{{"name", c.name}, {"mean", c.mean}, {"deviation", c.deviation}}
                          : Json{{"name", c.name}, {"categories", c.categories}});
  }
  object["label"] = shape.label;
  object["columns"] = columns;
  return object.dump();
}

TaskShape read_shape(std::string_view json, std::string_view file) {
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) damaged(file, "is no JSON object");
  TaskShape shape{.inputs = count(object, "inputs", 1, kMostInputs, file),
                  .ids = flag(object, "ids", file)};
  const auto targets = object.find("targets");
  if (targets == object.end() || !targets->is_array() || targets->empty() ||
      static_cast<std::int64_t>(targets->size()) > kMostTargets) {
    damaged(file, fmt::format("has not 1 to {} targets", kMostTargets));
  }
  for (const Json& target : *targets) shape.targets.push_back(target_of(target, file));
  if (const auto fields = object.find("fields"); fields != object.end()) {
    if (!shape.ids) damaged(file, "has fields, and its 'ids' is false");
    shape.fields = fields_of(*fields, shape.inputs, file);
  }
  if (const auto pairs = object.find("pairs"); pairs != object.end()) {
    shape.pairs = pairs_of(*pairs, shape, file);
  }
  if (object.contains("vocabulary")) {
    if (!shape.ids || !shape.fields.empty()) damaged(file, "has a 'vocabulary', and no texts");
    shape.vocabulary = count(object, "vocabulary", 1, kMostClassesOfTarget, file);
  }
  const auto columns = object.find("columns");
  if (columns == object.end()) return shape;
  if (!columns->is_array() || columns->empty() || shape.ids) damaged(file, "has no columns");
  std::int64_t width = 0;
  for (const Json& column : *columns) {
    shape.columns.push_back(column_of(column, file));
    width += shape.columns.back().width();
  }
  if (width != shape.inputs) {
    damaged(file, fmt::format("has {} inputs, and its columns are {}", shape.inputs, width));
  }
  shape.label = count(object, "label", 0, static_cast<std::int64_t>(shape.columns.size()), file);
  return shape;
}

std::string difference(const TaskShape& there, const TaskShape& here) {
  if (there == here) return {};
  const auto differ = [](std::string_view what, const auto& a, const auto& b) {
    return shown_format("{} {} there and {} here", what, a, b);
  };
  if (there.columns.size() != here.columns.size()) {
    return differ("the columns are", there.columns.size(), here.columns.size());
  }
  for (std::size_t i = 0; i < here.columns.size(); ++i) {
    const Column& a = there.columns[i];
    const Column& b = here.columns[i];
    const std::string what = shown_format("column '{}'", b.name);
    if (a.name != b.name) return differ("a column is called", a.name, b.name);
    if (a.categories.size() != b.categories.size()) {
      return differ(what + " has texts:", a.categories.size(), b.categories.size());
    }
    if (a.categories != b.categories) return what + " has other texts";
    if (a.mean != b.mean) return differ(what + " has the mean", a.mean, b.mean);
    if (a.deviation != b.deviation) {
      return differ(what + " has the deviation", a.deviation, b.deviation);
    }
  }
  if (there.inputs != here.inputs) return differ("the inputs are", there.inputs, here.inputs);
  if (there.vocabulary != here.vocabulary) {
    return differ("the word pieces are", there.vocabulary, here.vocabulary);
  }
  if (there.fields != here.fields) return "the fields are other ones";
  if (there.pairs != here.pairs) return "the pieces of text are other ones";
  return "the targets are other ones";
}

TaskShape shape_of_task(std::string_view name, std::string_view file) {
  const auto classes = [](std::int64_t inputs, std::int64_t n) {
    return TaskShape{.inputs = inputs, .targets = {{.name = "class", .classes = n}}};
  };
  if (name == "vision") return classes(28 * 28, 10);
  if (name == "synthetic") return classes(SyntheticOptions().dimension, SyntheticOptions().classes);
  damaged(file, fmt::format("'{}' says nothing of its data", name));
}

}  // namespace moegrad
