#include "moe/registry.h"

#include <algorithm>

#include "moe/dispatch.h"
#include "moe/experts.h"
#include "ops/list.h"

namespace moegrad {

// One word for each router: moe/routers/NAME.cc defines NAME_router().
#define MOEGRAD_ROUTERS(X) \
  X(softmax)               \
  X(top_k)                 \
  X(noisy_top_k)           \
  X(switch)                \
  X(gshard)                \
  X(v_moe)                 \
  X(expert_choice)         \
  X(x_moe)                 \
  X(hash)                  \
  X(deepseek_v1)           \
  X(deepseek_v3)           \
  X(loss_free)             \
  X(dselect_k)             \
  X(comet)                 \
  X(remoe)                 \
  X(capped_simplex)        \
  X(threshold)             \
  X(soft_moe)              \
  X(smear)                 \
  X(relaxed_top_k)         \
  X(gumbel_top_k_st)       \
  X(moesart)               \
  X(unordered_set)         \
  X(conditional_bernoulli) \
  X(horvitz_thompson)      \
  X(priority)              \
  X(categorical)           \
  X(sparsemixer)           \
  X(sparsemixer_v2)
// One word for each estimator: a file of moe/estimators/ defines NAME_estimator().
#define MOEGRAD_ESTIMATORS(X) \
  X(sparse)                   \
  X(ste_dense_router)         \
  X(ste_dense)                \
  X(ste_probe)                \
  X(expert_group)             \
  X(default_ema)              \
  X(sparsemixer)              \
  X(sparsemixer_v2)           \
  X(st)                       \
  X(gumbel_st)                \
  X(gumbel_softmax)           \
  X(reinmax)                  \
  X(reinforce)                \
  X(attention)                \
  X(lsh_attention)
// The files that declare operations of their own: FILE_operations().
#define MOEGRAD_OPERATIONS(X) \
  X(dispatch)                 \
  X(expert)                   \
  X(expert_group)

#define MOEGRAD_DECLARE_ROUTER(name) RouterEntry name##_router();
#define MOEGRAD_DECLARE_ESTIMATOR(name) EstimatorEntry name##_estimator();
#define MOEGRAD_DECLARE_OPERATIONS(name) std::vector<OperationEntry> name##_operations();
MOEGRAD_ROUTERS(MOEGRAD_DECLARE_ROUTER)
MOEGRAD_ESTIMATORS(MOEGRAD_DECLARE_ESTIMATOR)
MOEGRAD_OPERATIONS(MOEGRAD_DECLARE_OPERATIONS)

namespace {

template <class Entry>
const Entry& find(const std::vector<Entry>& entries, const std::string& name,
                  std::string_view kind) {
  std::vector<std::string> names;
  for (const Entry& entry : entries) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
  }
  fail(kind, "no {} '{}'. Did you mean '{}'?", kind, name, nearest(name, names));
}

std::vector<RouterEntry>& all_routers() {
#define MOEGRAD_ENTRY(name) name##_router(),
  static std::vector<RouterEntry> all = {MOEGRAD_ROUTERS(MOEGRAD_ENTRY)};
#undef MOEGRAD_ENTRY
  return all;
}

std::vector<EstimatorEntry>& all_estimators() {
#define MOEGRAD_ENTRY(name) name##_estimator(),
  static std::vector<EstimatorEntry> all = {MOEGRAD_ESTIMATORS(MOEGRAD_ENTRY)};
#undef MOEGRAD_ENTRY
  return all;
}

template <class Entry>
void add(std::vector<Entry>& entries, Entry entry, std::string_view kind) {
  if (entry.name.empty() || !entry.make) {
    fail(kind, "an entry without a name or without `make`. Give both.");
  }
  for (const Entry& other : entries) {
    if (other.name == entry.name) {
      fail(kind, "'{}' is there already. Choose another name.", entry.name);
    }
  }
  entries.push_back(std::move(entry));
}

}  // namespace

const std::vector<RouterEntry>& routers() { return all_routers(); }
const std::vector<EstimatorEntry>& estimators() { return all_estimators(); }
void add_router(RouterEntry entry) { add(all_routers(), std::move(entry), "router"); }
void add_estimator(EstimatorEntry entry) { add(all_estimators(), std::move(entry), "estimator"); }

const RouterEntry& router_entry(const std::string& name) { return find(routers(), name, "router"); }
const EstimatorEntry& estimator_entry(const std::string& name) {
  return find(estimators(), name, "estimator");
}

std::vector<OperationEntry> all_declared_operations() {
  std::vector<OperationEntry> all = all_operations();
  const auto append = [&](std::vector<OperationEntry> more) {
    all.insert(all.end(), more.begin(), more.end());
  };
#define MOEGRAD_APPEND(name) append(name##_operations());
  MOEGRAD_OPERATIONS(MOEGRAD_APPEND)
#undef MOEGRAD_APPEND
  return all;
}

}  // namespace moegrad
