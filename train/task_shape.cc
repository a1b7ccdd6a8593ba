#include "train/task_shape.h"

#include <array>

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

Target target_of(const Json& object, std::string_view file) {
  if (!object.is_object()) damaged(file, "has a target that is no object");
  Target target{.name = text(object, "name", file)};
  const std::string kind = text(object, "kind", file);
  std::size_t k = 0;
  while (k < kKinds.size() && kKinds[k] != kind) ++k;
  if (k == kKinds.size()) damaged(file, fmt::format("has a target of the kind '{}'", kind));
  target.kind = static_cast<Target::Kind>(k);
  target.classes =
      count(object, "classes", target.kind == Target::Kind::classes ? 1 : 0, kMostClasses, file);
  target.partial = flag(object, "partial", file);
  return target;
}

}  // namespace

std::string to_json(const TaskShape& shape) {
  Json targets = Json::array();
  for (const Target& t : shape.targets) {
    targets.push_back({{"name", t.name},
                       {"kind", kKinds[static_cast<std::size_t>(t.kind)]},
                       {"classes", t.classes},
                       {"partial", t.partial}});
  }
  return Json{{"inputs", shape.inputs}, {"ids", shape.ids}, {"targets", targets}}.dump();
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
  return shape;
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
