// Sums of experts' outputs over groups of tokens: for the group means of moe/estimators/.
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;

// A GroupSets as plain numbers.
template <class T>
struct GroupView {
  explicit GroupView(const GroupSets& s, const char* operation, std::int64_t experts_given)
      : ids(in<std::int32_t>(s.ids)),
        weights(in<T>(s.weights)),
        offsets(in<std::int32_t>(s.offsets)),
        order(in<std::int32_t>(s.order)),
        groups(s.ids.size(1)),
        choices(s.choices),
        experts(experts_given),
        members_only(s.members_only),
        check_id(cuda::indices(operation, -1, experts_given)),
        check_order(cuda::indices(operation, -1, s.ids.size(0) * s.choices)) {}

  // Calls f(i, weight) for every set C_ij that holds slot s of expert j.
  template <class F>
  __device__ void for_each_set(std::int64_t s, std::int64_t j, const F& f) const {
    if (!check_order(order[s], s) || order[s] < 0) return;
    const std::int64_t first = order[s] / choices * groups;
    bool member = !members_only;
    for (std::int64_t m = first; m < first + groups; ++m) member = member || ids[m] == j;
    if (!member) return;
    for (std::int64_t m = first; m < first + groups; ++m) {
      if (check_id(ids[m], m) && ids[m] >= 0) f(ids[m], weights == nullptr ? T(1) : weights[m]);
    }
  }

  const std::int32_t* ids;
  const T* weights;
  const std::int32_t* offsets;
  const std::int32_t* order;
  std::int64_t groups;
  std::int64_t choices;
  std::int64_t experts;
  bool members_only;
  cuda::IndexCheck check_id, check_order;
};

template <class T>
void scales(const GroupView<T>& view, T* inverse) {
  each("group_means", view.experts * view.experts, [=] __device__(std::int64_t at) {
    const std::int64_t i = at / view.experts;
    const std::int64_t j = at % view.experts;
    double sum = 0.0;
    for (std::int64_t s = view.offsets[j]; s < view.offsets[j + 1]; ++s) {
      view.for_each_set(s, j, [&](std::int64_t group, T w) {
        if (group == i) sum += static_cast<double>(w);
      });
    }
    if (view.weights == nullptr && sum < 1.0) sum = 1.0;
    inverse[at] = static_cast<T>(sum > 0.0 ? 1.0 / sum : 0.0);
  });
}

template <class T>
void means_as(const GroupView<T>& view, const T* h, const T* inverse, std::int64_t cols,
              std::int64_t numel, T* means) {
  each("group_means", numel, [=] __device__(std::int64_t at) {
    const std::int64_t c = at % cols;
    const std::int64_t i = at / cols / view.experts;
    const std::int64_t j = at / cols % view.experts;
    double sum = 0.0;
    for (std::int64_t s = view.offsets[j]; s < view.offsets[j + 1]; ++s) {
      view.for_each_set(s, j, [&](std::int64_t group, T w) {
        if (group == i) sum += static_cast<double>(w * h[s * cols + c]);
      });
    }
    means[at] = inverse[i * view.experts + j] * static_cast<T>(sum);
  });
}

template <class T>
void means_backward_as(const GroupView<T>& view, const T* dmeans, const T* inverse,
                       std::int64_t cols, std::int64_t numel, T* dh) {
  each("group_means_backward", numel, [=] __device__(std::int64_t at) {
    const std::int64_t s = at / cols;
    if (s >= view.offsets[view.experts]) return;
    std::int64_t j = 0;
    while (view.offsets[j + 1] <= s) ++j;
    double sum = 0.0;
    view.for_each_set(s, j, [&](std::int64_t i, T w) {
      const std::int64_t set = i * view.experts + j;
      sum += static_cast<double>(w * inverse[set] * dmeans[set * cols + at % cols]);
    });
    dh[at] += static_cast<T>(sum);
  });
}

}  // namespace

void CudaKernels::group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                              const Tensor& means) {
  with_floating(means.dtype(), "group_means", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets, "group_means", means.size(0));
    scales(view, out<T>(inverse));
    means_as(view, in<T>(h), in<T>(inverse), means.size(2), means.numel(), out<T>(means));
  });
}

void CudaKernels::group_means_backward(const Tensor& dmeans, const Tensor& inverse,
                                       const GroupSets& sets, const Tensor& dh) {
  with_floating(dh.dtype(), "group_means_backward", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets, "group_means_backward", dmeans.size(0));
    means_backward_as(view, in<T>(dmeans), in<T>(inverse), dmeans.size(2), dh.numel(), out<T>(dh));
  });
}

}  // namespace moegrad
