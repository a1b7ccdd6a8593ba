#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "autograd/tape.h"

namespace moegrad {

// The parameters of a model, in the order they were added; they never move. Names are unique. What
// is not a default of Parameter is set on what `add` returns: add("w", value).decays = true.
class Parameters {
 public:
  Parameter& add(std::string name, Tensor value, bool trained = true) {
    if (find(name) != nullptr) fail("parameters", "'{}' is there already. Names are unique.", name);
    return list_.emplace_back(Parameter{std::move(name), std::move(value), trained});
  }
  // Null where there is none of this name.
  Parameter* find(std::string_view name) {
    for (Parameter& p : list_) {
      if (p.name == name) return &p;
    }
    return nullptr;
  }

  auto begin() { return list_.begin(); }
  auto end() { return list_.end(); }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }
  std::size_t size() const { return list_.size(); }
  // Where all of them are; the CPU where there is none.
  Device device() const { return list_.empty() ? Device::cpu : list_.front().value.device(); }

 private:
  std::deque<Parameter> list_;
};

}  // namespace moegrad
