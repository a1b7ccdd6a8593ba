// Softmax and its relatives along the middle axis of [outer, n, inner]; cross-entropy.
#include "cuda/kernels.h"
#include "cuda/lines.h"

namespace moegrad {
namespace {

using cuda::Axis;
using cuda::each;
using cuda::each_line;
using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;

template <class T>
void softmax_as(const T* x, AxisView view, T* y) {
  each_line("softmax", view, [=] __device__(const Line& line, const Team& team) {
    const T top = cuda::line_largest(x, line, team);
    const T sum = cuda::line_exp_sum(x, top, line, team);
    for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
      y[line.at(j)] = math::exp(x[line.at(j)] - top) / sum;
    }
  });
}

template <class T>
void softmax_backward_as(const T* y, const T* dy, AxisView view, T* dx) {
  each_line("softmax_backward", view, [=] __device__(const Line& line, const Team& team) {
    const T dot =
        static_cast<T>(cuda::line_sum(line, team, [=](std::int64_t at) { return dy[at] * y[at]; }));
    for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
      const std::int64_t at = line.at(j);
      dx[at] = y[at] * (dy[at] - dot);
    }
  });
}

template <class T>
void log_softmax_as(const T* x, AxisView view, T* y) {
  each_line("log_softmax", view, [=] __device__(const Line& line, const Team& team) {
    const T top = cuda::line_largest(x, line, team);
    const T log_sum = math::log(cuda::line_exp_sum(x, top, line, team));
    for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
      y[line.at(j)] = (x[line.at(j)] - top) - log_sum;
    }
  });
}

template <class T>
void log_softmax_backward_as(const T* y, const T* dy, AxisView view, T* dx) {
  each_line("log_softmax_backward", view, [=] __device__(const Line& line, const Team& team) {
    const T sum =
        static_cast<T>(cuda::line_sum(line, team, [=](std::int64_t at) { return dy[at]; }));
    for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
      const std::int64_t at = line.at(j);
      dx[at] = dy[at] - math::exp(y[at]) * sum;
    }
  });
}

template <class T>
void logsumexp_backward_as(const T* x, const T* y, const T* dy, AxisView view, T* dx) {
  const Axis axis(view);
  each("logsumexp_backward", view.outer * view.n * view.inner, [=] __device__(std::int64_t i) {
    const std::int64_t line = axis.place(i).line;
    // Where every element is -infinity none of them has a share, whatever dy is.
    const bool none = y[line] == -std::numeric_limits<T>::infinity();
    dx[i] = none ? T(0) : math::exp(x[i] - y[line]) * dy[line];
  });
}

template <class T>
void cross_entropy_as(const T* x, const std::int32_t* labels, AxisView view, cuda::IndexCheck check,
                      T* loss, T* lse) {
  each_line("cross_entropy", view, [=] __device__(const Line& line, const Team& team) {
    const T top = cuda::line_largest(x, line, team);
    const T log_sum = math::log(cuda::line_exp_sum(x, top, line, team));
    if (!team.leads()) return;
    const std::int32_t label = labels[line.number];
    const bool counts = check(label, line.number) && label >= 0;
    lse[line.number] = top + log_sum;
    loss[line.number] = counts ? log_sum - (x[line.at(label)] - top) : T(0);
  });
}

template <class T>
void cross_entropy_backward_as(const T* x, const std::int32_t* labels, const T* lse, const T* dy,
                               T scale, std::int64_t rows, std::int64_t classes,
                               cuda::IndexCheck check, T* dx) {
  const auto of_class = [=] __device__(std::int64_t i, std::int64_t row, std::int64_t c) {
    const std::int32_t label = labels[row];
    if (!check(label, row) || label < 0) {
      dx[i] = T(0);
      return;
    }
    const T p = math::exp(x[i] - lse[row]);
    dx[i] = scale * dy[0] * (c == label ? p - T(1) : p);
  };
  cuda::each_cell("cross_entropy_backward", rows, classes, of_class);
}

}  // namespace

void CudaKernels::softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "softmax", [&](auto zero) {
    using T = decltype(zero);
    softmax_as(in<T>(x), view, out<T>(y));
  });
}

void CudaKernels::softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                   const Tensor& dx) {
  with_floating(dx.dtype(), "softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    softmax_backward_as(in<T>(y), in<T>(dy), view, out<T>(dx));
  });
}

void CudaKernels::log_softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "log_softmax", [&](auto zero) {
    using T = decltype(zero);
    log_softmax_as(in<T>(x), view, out<T>(y));
  });
}

void CudaKernels::log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                       const Tensor& dx) {
  with_floating(dx.dtype(), "log_softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    log_softmax_backward_as(in<T>(y), in<T>(dy), view, out<T>(dx));
  });
}

void CudaKernels::logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& dy,
                                     AxisView view, const Tensor& dx) {
  with_floating(dx.dtype(), "logsumexp_backward", [&](auto zero) {
    using T = decltype(zero);
    logsumexp_backward_as(in<T>(x), in<T>(y), in<T>(dy), view, out<T>(dx));
  });
}

void CudaKernels::cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                                const Tensor& lse) {
  const std::int64_t classes = logits.shape().back();
  const cuda::IndexCheck check = cuda::indices("cross_entropy", -1, classes);
  with_floating(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    cross_entropy_as(in<T>(logits), in<std::int32_t>(labels), {labels.numel(), classes, 1}, check,
                     out<T>(loss), out<T>(lse));
  });
}

void CudaKernels::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                         const Tensor& lse, const Tensor& dy, double scale,
                                         const Tensor& dlogits) {
  const std::int64_t classes = logits.shape().back();
  const cuda::IndexCheck check = cuda::indices("cross_entropy_backward", -1, classes);
  with_floating(dlogits.dtype(), "cross_entropy_backward", [&](auto zero) {
    using T = decltype(zero);
    cross_entropy_backward_as(in<T>(logits), in<std::int32_t>(labels), in<T>(lse), in<T>(dy),
                              static_cast<T>(scale), labels.numel(), classes, check,
                              out<T>(dlogits));
  });
}

}  // namespace moegrad
