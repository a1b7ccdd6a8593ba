// Sums of experts' outputs over groups of tokens: for the group means of moe/estimators/.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/tiles.h"

namespace moegrad {
namespace {

using cuda::Divisor;
using cuda::each_warp;
using cuda::in;
using cuda::out;
using cuda::Quotient;

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
    const std::int64_t first = choices.times(order[s]) * groups;
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
  Divisor choices;
  std::int64_t experts;
  bool members_only;
  cuda::IndexCheck check_id, check_order;
};

// A warp for each pair (i, j) and piece of columns goes through the slots of expert j 32 at a time
// and adds the rows of those that C_ij holds, in their order. inverse [E, E], means [E, E, cols]
template <class T>
void means_as(const GroupView<T>& view, const T* h, std::int64_t cols, T* inverse, T* means) {
  constexpr std::int64_t kOwn = 4;  // columns of a lane
  const std::int64_t pieces = std::max<std::int64_t>(1, cuda::pieces_of(cols, kOwn * cuda::kWarp));
  const Divisor by_pieces(pieces), by_experts(view.experts);
  const auto mean = [=] __device__(std::int64_t at, unsigned lane) {
    const Quotient piece = by_pieces.of(at);
    const Quotient set = by_experts.of(piece.times);
    const std::int64_t i = set.times;
    const std::int64_t j = set.rest;
    const std::int64_t first_col = piece.rest * kOwn * cuda::kWarp + lane;
    double weight = 0.0;
    double sums[kOwn] = {};
    const std::int64_t end = view.offsets[j + 1];
    for (std::int64_t first = view.offsets[j]; first < end; first += cuda::kWarp) {
      bool holds = false;
      if (first + lane < end) {
        view.for_each_set(first + lane, j,
                          [&](std::int64_t group, T) { holds = holds || group == i; });
      }
      for (unsigned left = __ballot_sync(cuda::kAllLanes, holds); left != 0; left &= left - 1) {
        const std::int64_t s = first + __ffs(static_cast<int>(left)) - 1;
        view.for_each_set(s, j, [&](std::int64_t group, T w) {
          if (group != i) return;
          weight += static_cast<double>(w);
          UNROLL
          for (int c = 0; c < kOwn; ++c) {
            const std::int64_t col = first_col + c * cuda::kWarp;
            if (col < cols) sums[c] += static_cast<double>(w * h[s * cols + col]);
          }
        });
      }
    }
    if (view.weights == nullptr && weight < 1.0) weight = 1.0;
    const T factor = static_cast<T>(weight > 0.0 ? 1.0 / weight : 0.0);
    if (piece.rest == 0 && lane == 0) inverse[piece.times] = factor;
    UNROLL
    for (int c = 0; c < kOwn; ++c) {
      const std::int64_t col = first_col + c * cuda::kWarp;
      if (col < cols) means[piece.times * cols + col] = factor * static_cast<T>(sums[c]);
    }
  };
  each_warp("group_means", view.experts * view.experts * pieces, mean);
}

template <class T>
void means_backward_as(const GroupView<T>& view, const T* dmeans, const T* inverse,
                       std::int64_t slots, std::int64_t cols, T* dh) {
  each_warp("group_means_backward", slots, [=] __device__(std::int64_t s, unsigned lane) {
    const std::int64_t j = cuda::Groups{view.offsets, view.experts}.of(s);
    if (j == view.experts) return;
    for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
      double sum = 0.0;
      view.for_each_set(s, j, [&](std::int64_t i, T w) {
        const std::int64_t set = i * view.experts + j;
        sum += static_cast<double>(w * inverse[set] * dmeans[set * cols + c]);
      });
      dh[s * cols + c] += static_cast<T>(sum);
    }
  });
}

}  // namespace

void CudaKernels::group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                              const Tensor& means) {
  with_floating(means.dtype(), "group_means", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets, "group_means", means.size(0));
    means_as(view, in<T>(h), means.size(2), out<T>(inverse), out<T>(means));
  });
}

void CudaKernels::group_means_backward(const Tensor& dmeans, const Tensor& inverse,
                                       const GroupSets& sets, const Tensor& dh) {
  with_floating(dh.dtype(), "group_means_backward", [&](auto zero) {
    using T = decltype(zero);
    const GroupView<T> view(sets, "group_means_backward", dmeans.size(0));
    means_backward_as(view, in<T>(dmeans), in<T>(inverse), dh.size(0), dmeans.size(2), out<T>(dh));
  });
}

}  // namespace moegrad
