#include "ops/list.h"

namespace moegrad {
namespace {

template <class... Op>
void add(TypeList<Op...>, std::vector<OperationEntry>& entries) {
  (entries.push_back(entry_of<Op>()), ...);
}

}  // namespace

std::vector<OperationEntry> all_operations() {
  std::vector<OperationEntry> entries;
  add(AllOps{}, entries);
  add(ComposedFunctions{}, entries);
  return entries;
}

}  // namespace moegrad
