#include "cuda/emulator/cublaslt.h"

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "cuda/emulator/device.h"
#include "cuda/emulator/grouped_product.h"
#include "cuda/emulator/matrix_product.h"
#include "cuda/emulator/memory.h"

using namespace cuda_emulator;

struct cublasLtContext {};
struct cublasLtMatmulPreferenceOpaque_t {
  std::size_t workspace = 0;
  std::int64_t depth = 0, rows = 0, cols = 0;
};

namespace {

using Desc = cublasLtMatmulDescOpaque_t;
using Layout = cublasLtMatrixLayoutOpaque_t;
using Preference = cublasLtMatmulPreferenceOpaque_t;

constexpr std::size_t kWorkspace = std::size_t{1} << 20;  // that its one algorithm needs
constexpr int kHasGroups = 130200;                        // the first version that has them

// What has been created and not destroyed.
template <class T>
std::set<T*>& living() {
  static auto* const all = new std::set<T*>;
  return *all;
}
template <class T, class... A>
cublasStatus_t create(T** out, A... a) {
  *out = new T{a...};
  living<T>().insert(*out);
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t destroy(const Call& call, T* given, const char* what) {
  if (living<T>().erase(given) == 0) {
    return call.refuse(CUBLAS_STATUS_INVALID_VALUE, "no such " + std::string(what));
  }
  delete given;
  return CUBLAS_STATUS_SUCCESS;
}
// Writes to a field of as many bytes; null: there is no such attribute.
template <class T>
cublasStatus_t set(const Call& call, T* field, const void* value, std::size_t bytes) {
  if (field == nullptr) {
    return call.refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the emulator has no such attribute");
  }
  if (value == nullptr || bytes != sizeof(T)) {
    return call.refuse(CUBLAS_STATUS_INVALID_VALUE,
                       "the attribute has " + text(sizeof(T)) + " bytes, and " +
                           text(static_cast<long long>(bytes)) + " are given");
  }
  std::memcpy(field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

Trouble check_layout(const char* name, const Layout* x, int groups, bool is_factor) {
  const std::string of = name;
  if (!living<Layout>().contains(const_cast<Layout*>(x))) return invalid(of + " has no layout");
  if (x->order != CUBLASLT_ORDER_COL) {
    return {CUBLAS_STATUS_NOT_SUPPORTED, of + " is not by columns, as matrices of groups are"};
  }
  if (x->groups != groups) {
    return invalid(of + " has " + text(x->groups) + " groups, where A has " + text(groups));
  }
  if (x->type != CUDA_R_16BF && (is_factor || x->type != CUDA_R_32F)) {
    return {CUBLAS_STATUS_NOT_SUPPORTED, "A and B are of bf16 here, C and D of f32 or bf16"};
  }
  return {};
}

Trouble check_problem(const Desc* desc, const Layout* a, const Layout* b, const Layout* c,
                      const Layout* d) {
  if (!living<Desc>().contains(const_cast<Desc*>(desc))) return invalid("no such descriptor");
  if (desc->compute != CUBLAS_COMPUTE_32F || desc->scale != CUDA_R_32F) {
    return {CUBLAS_STATUS_NOT_SUPPORTED, "sums and alpha are in f32 here"};
  }
  for (const auto& [name, layout, factor] :
       {std::tuple{"A", a, true}, {"B", b, true}, {"C", c, false}, {"D", d, false}}) {
    const int groups = living<Layout>().contains(const_cast<Layout*>(a)) ? a->groups : 0;
    if (const Trouble t = check_layout(name, layout, groups, factor); !t.why.empty()) return t;
  }
  const int major = settings().capability / 10;
  if (settings().capability == 90 || major == 10 || settings().capability == 110) return {};
  return {CUBLAS_STATUS_NOT_SUPPORTED,
          "devices of compute capability 9.0, 10.x and 11.0 have "
          "grouped products"};
}

Trouble check_operand(const Operand& x) {
  const auto groups = static_cast<std::size_t>(x.layout.groups);
  const std::string of = std::string(" of ") + x.name;
  const auto array = [&](const char* what, const void* at, std::size_t width) -> Trouble {
    if (reinterpret_cast<std::uintptr_t>(at) % width == 0 && memory::whole(at, groups * width)) {
      return {};
    }
    return invalid("the " + std::string(what) + of + " are no array of the device of " +
                   text(x.layout.groups) + " times " + text(static_cast<long long>(width)) +
                   " bytes");
  };
  for (const Trouble& t : {array("pointers", x.pointers, sizeof(void*)),
                           array("rows", x.layout.rows, bytes_of(x.layout.size_width)),
                           array("columns", x.layout.cols, bytes_of(x.layout.size_width)),
                           array("leading dimensions", x.layout.ld, bytes_of(x.layout.ld_width))}) {
    if (!t.why.empty()) return t;
  }
  return {};
}

Trouble check_workspace(const void* workspace, std::size_t bytes) {
  if (bytes < kWorkspace) {
    return invalid("the algorithm needs a workspace of " + text(kWorkspace) + " bytes, and " +
                   text(static_cast<long long>(bytes)) + " are given");
  }
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0 || !memory::whole(workspace, bytes)) {
    return invalid("the workspace is not that many bytes of the device, from a multiple of 256 on");
  }
  return {};
}

}  // namespace

std::size_t cublasLtGetVersion() { return static_cast<std::size_t>(settings().cublaslt); }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* out) {
  const Call call({.call = "cublasLtCreate"});
  *out = nullptr;
  if (spoils_capture()) {
    return call.refuse(CUBLAS_STATUS_ALLOC_FAILED, "a stream captures, and this allocates");
  }
  return create(out);
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  const Call call({.call = "cublasLtDestroy", .waits = true});
  finish_all();
  return destroy(call, handle, "handle");
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  const Call call({.call = "cublasLtMatmulDescCreate"});
  return create(out, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  const Call call({.call = "cublasLtMatmulDescDestroy"});
  return destroy(call, desc, "descriptor");
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  const Call call({.call = "cublasLtMatmulDescSetAttribute"});
  return set(call,
             attribute == CUBLASLT_MATMUL_DESC_TRANSA   ? &desc->op_a
             : attribute == CUBLASLT_MATMUL_DESC_TRANSB ? &desc->op_b
                                                        : nullptr,
             value, bytes);
}

cublasStatus_t cublasLtGroupedMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType_t type,
                                                 int groups, const void* rows, const void* cols,
                                                 const void* ld) {
  const Call call({.call = "cublasLtGroupedMatrixLayoutCreate"});
  if (groups < 1) return call.refuse(CUBLAS_STATUS_INVALID_VALUE, text(groups) + " groups");
  return create(out, type, groups, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  const Call call({.call = "cublasLtMatrixLayoutDestroy"});
  return destroy(call, layout, "layout");
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  const Call call({.call = "cublasLtMatrixLayoutSetAttribute"});
  std::int32_t* field = nullptr;
  if (attribute == CUBLASLT_MATRIX_LAYOUT_ORDER) field = &layout->order;
  if (attribute == CUBLASLT_GROUPED_MATRIX_LAYOUT_ROWS_COLS_ARRAY_INTEGER_WIDTH) {
    field = &layout->size_width;
  }
  if (attribute == CUBLASLT_GROUPED_MATRIX_LAYOUT_LD_ARRAY_INTEGER_WIDTH) field = &layout->ld_width;
  return set(call, field, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  const Call call({.call = "cublasLtMatmulPreferenceCreate"});
  return create(out);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  const Call call({.call = "cublasLtMatmulPreferenceDestroy"});
  return destroy(call, preference, "preference");
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  const Call call({.call = "cublasLtMatmulPreferenceSetAttribute"});
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(call, &preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_GROUPED_AVERAGE_REDUCTION_DIM:
      return set(call, &preference->depth, value, bytes);
    case CUBLASLT_MATMUL_PREF_GROUPED_DESC_D_AVERAGE_ROWS:
      return set(call, &preference->rows, value, bytes);
    case CUBLASLT_MATMUL_PREF_GROUPED_DESC_D_AVERAGE_COLS:
      return set(call, &preference->cols, value, bytes);
  }
  return set<int>(call, nullptr, value, bytes);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  const Call call({.call = "cublasLtMatmulAlgoGetHeuristic"});
  *found = 0;
  if (!living<cublasLtContext>().contains(handle)) {
    return call.refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no such handle");
  }
  if (!living<Preference>().contains(preference) || wanted < 1) {
    return call.refuse(CUBLAS_STATUS_INVALID_VALUE, "no such preference, or no algorithm wanted");
  }
  if (const Trouble t = check_problem(desc, a, b, c, d); !t.why.empty()) {
    return call.refuse(t.status, t.why);
  }
  if (preference->workspace < kWorkspace) {
    return call.refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                       "no algorithm does with " +
                           text(static_cast<long long>(preference->workspace)) +
                           " bytes of workspace");
  }
  results[0] = {};
  results[0].workspaceSize = kWorkspace;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*,
                              void* workspace, std::size_t workspace_bytes, cudaStream_t stream) {
  const Call call({.call = "cublasLtMatmul"});
  const auto refuse = [&](const Trouble& t) { return call.refuse(t.status, t.why); };
  if (!living<cublasLtContext>().contains(handle)) {
    return refuse({CUBLAS_STATUS_NOT_INITIALIZED, "no such handle"});
  }
  if (const Trouble t = check_problem(desc, a_layout, b_layout, c_layout, d_layout);
      !t.why.empty()) {
    return refuse(t);
  }
  for (const void* const at : {alpha, beta}) {
    if (at == nullptr || memory::holds(at)) {
      return refuse(invalid("alpha and beta must be on the host in this pointer mode"));
    }
  }
  if (c != d || c_layout != d_layout) {
    return refuse({CUBLAS_STATUS_NOT_SUPPORTED, "C is D in the emulator"});
  }
  const GroupedProduct groups = {
      *desc,
      {"A", a, *a_layout},
      {"B", b, *b_layout},
      {"D", d, *d_layout},
      double{*static_cast<const float*>(alpha)},
      double{*static_cast<const float*>(beta)},
      settings().skips_empty_groups,
  };
  for (const Operand* const x : {&groups.a, &groups.b, &groups.d}) {
    if (const Trouble t = check_operand(*x); !t.why.empty()) return refuse(t);
  }
  if (const Trouble t = check_workspace(workspace, workspace_bytes); !t.why.empty()) {
    return refuse(t);
  }
  CUstream_st* const s = of(stream);
  if (s == nullptr) return refuse(invalid("no such stream"));
  give(*s, [groups] { multiply_groups(groups); });
  return CUBLAS_STATUS_SUCCESS;
}

namespace cuda_emulator {

void* cublaslt_symbol(const char* name) {
  if (settings().cublaslt == 0) return nullptr;
  const std::string_view wanted = name;
  const bool grouped = settings().grouped_products && settings().cublaslt >= kHasGroups;
  if (wanted == "cublasLtGroupedMatrixLayoutCreate" && !grouped) return nullptr;
#define CUDA_EMULATOR_SYMBOL(f) \
  if (wanted == #f) return reinterpret_cast<void*>(&f);
  CUDA_EMULATOR_SYMBOL(cublasLtGetVersion)
  CUDA_EMULATOR_SYMBOL(cublasLtCreate)
  CUDA_EMULATOR_SYMBOL(cublasLtDestroy)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulDescCreate)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulDescDestroy)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulDescSetAttribute)
  CUDA_EMULATOR_SYMBOL(cublasLtGroupedMatrixLayoutCreate)
  CUDA_EMULATOR_SYMBOL(cublasLtMatrixLayoutDestroy)
  CUDA_EMULATOR_SYMBOL(cublasLtMatrixLayoutSetAttribute)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulPreferenceCreate)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulPreferenceDestroy)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulPreferenceSetAttribute)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmulAlgoGetHeuristic)
  CUDA_EMULATOR_SYMBOL(cublasLtMatmul)
#undef CUDA_EMULATOR_SYMBOL
  return nullptr;
}

}  // namespace cuda_emulator
