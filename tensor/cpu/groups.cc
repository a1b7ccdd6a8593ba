// Sums of experts' outputs over groups of tokens: for the group means of moe/estimators/.

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"

namespace moegrad {
namespace {

constexpr std::int64_t kGroupColumns = 128;  // that one worker adds up for an expert

// A GroupSets as plain numbers.
template <class T>
struct GroupView {
  explicit GroupView(const GroupSets& s)
      : ids(s.ids.data<std::int32_t>()),
        weights(cpu::data_or_null<T>(s.weights)),
        offsets(s.offsets.data<std::int32_t>()),
        order(s.order.data<std::int32_t>()),
        groups(s.ids.size(1)),
        choices(s.choices),
        members_only(s.members_only) {}

  // Calls f(i, weight) for every set C_ij that holds slot s of expert j.
  template <class F>
  void for_each_set(std::int64_t s, std::int64_t j, F&& f) const {
    const std::int64_t first = order[s] / choices * groups;
    if (members_only && std::find(ids + first, ids + first + groups, j) == ids + first + groups) {
      return;
    }
    for (std::int64_t m = first; m < first + groups; ++m) {
      if (ids[m] >= 0) f(std::int64_t{ids[m]}, weights == nullptr ? T(1) : weights[m]);
    }
  }

  const std::int32_t* ids;
  const T* weights;
  const std::int32_t* offsets;
  const std::int32_t* order;
  std::int64_t groups;
  std::int64_t choices;
  bool members_only;
};

void require_group_indices(std::string_view operation, const GroupSets& sets,
                           std::int64_t experts) {
  cpu::require_indices(operation, sets.ids.data<std::int32_t>(), sets.ids.numel(), -1, experts);
  cpu::require_indices(operation, sets.order.data<std::int32_t>(), sets.order.numel(), -1,
                       sets.ids.size(0) * sets.choices);
}

}  // namespace

void CpuKernels::group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                             const Tensor& means) {
  const std::int64_t experts = means.size(0);
  const std::int64_t cols = means.size(2);
  require_group_indices("group_means", sets, experts);
  with_floating(means.dtype(), "group_means", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets);
    const T* const rows = h.data<T>();
    T* const to = means.write<T>();
    T* const scale = inverse.write<T>();

    // The sums of weights, by (i, j), and one over them.
    cpu::parallel_for(experts, 1, [=](std::int64_t j, std::int64_t) {
      PoolVector<double> sums(static_cast<std::size_t>(experts), 0.0);
      for (std::int64_t s = view.offsets[j]; s < view.offsets[j + 1]; ++s) {
        view.for_each_set(s, j, [&](std::int64_t i, T w) {
          sums[static_cast<std::size_t>(i)] += static_cast<double>(w);
        });
      }
      for (std::int64_t i = 0; i < experts; ++i) {
        double sum = sums[static_cast<std::size_t>(i)];
        if (view.weights == nullptr) sum = std::max(1.0, sum);
        scale[i * experts + j] = static_cast<T>(sum > 0.0 ? 1.0 / sum : 0.0);
      }
    });

    // One owner for a block of columns of an expert, its sums side by side.
    const std::int64_t blocks = (cols + kGroupColumns - 1) / kGroupColumns;
    const Tensor workspace =
        Tensor::empty({cpu::workers(), experts, kGroupColumns}, means.dtype(), Device::cpu);
    T* const sums_of = workspace.write<T>();
    cpu::parallel_pieces(experts * blocks, [=](std::int64_t piece, int worker) {
      const std::int64_t j = piece / blocks;
      const std::int64_t first = piece % blocks * kGroupColumns;
      const std::int64_t width = std::min(kGroupColumns, cols - first);
      T* const sums = sums_of + worker * experts * kGroupColumns;
      cpu::LongSums<T> blocked(sums, experts * kGroupColumns,
                               view.offsets[j + 1] - view.offsets[j]);
      for (std::int64_t s = view.offsets[j]; s < view.offsets[j + 1]; ++s) {
        const T* const row = rows + s * cols + first;
        view.for_each_set(s, j, [=](std::int64_t i, T w) {
          T* const sum = sums + i * kGroupColumns;
          for (std::int64_t c = 0; c < width; ++c) sum[c] += w * row[c];
        });
        blocked.added();
      }
      blocked.finish();
      for (std::int64_t i = 0; i < experts; ++i) {
        const T* const sum = sums + i * kGroupColumns;
        T* const mean = to + (i * experts + j) * cols + first;
        const T factor = scale[i * experts + j];
        for (std::int64_t c = 0; c < width; ++c) mean[c] = factor * sum[c];
      }
    });
  });
}

void CpuKernels::group_means_backward(const Tensor& dmeans, const Tensor& inverse,
                                      const GroupSets& sets, const Tensor& dh) {
  const std::int64_t experts = dmeans.size(0);
  const std::int64_t cols = dmeans.size(2);
  const std::int64_t slots = sets.offsets.data<std::int32_t>()[experts];
  require_group_indices("group_means_backward", sets, experts);
  with_floating(dh.dtype(), "group_means_backward", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets);
    const T* const from = dmeans.data<T>();
    const T* const scale = inverse.data<T>();
    T* const to = dh.write<T>();
    const std::int64_t cost = cols * (view.groups + 1);
    cpu::parallel_for(slots, cpu::items_per_grain(cost), [=](std::int64_t begin, std::int64_t end) {
      std::int64_t j = 0;
      for (std::int64_t s = begin; s < end; ++s) {
        while (view.offsets[j + 1] <= s) ++j;
        const auto add_to = [=](T* sum, std::int64_t i, T w) {
          const T factor = w * scale[i * experts + j];
          const T* const row = from + (i * experts + j) * cols;
          for (std::int64_t c = 0; c < cols; ++c) sum[c] += factor * row[c];
        };
        T* const sum = to + s * cols;
        if (view.groups <= cpu::kShortSum) {
          view.for_each_set(s, j, [=](std::int64_t i, T w) { add_to(sum, i, w); });
          continue;
        }
        PoolVector<T> many(static_cast<std::size_t>(cols));
        cpu::LongSums<T> sums(many.data(), cols, view.groups);
        view.for_each_set(s, j, [&](std::int64_t i, T w) {
          add_to(many.data(), i, w);
          sums.added();
        });
        sums.finish();
        for (std::int64_t c = 0; c < cols; ++c) sum[c] += many[static_cast<std::size_t>(c)];
      }
    });
  });
}

}  // namespace moegrad
