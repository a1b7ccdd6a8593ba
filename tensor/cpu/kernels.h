#pragma once

#include "tensor/kernels.h"

namespace moegrad {

// The kernels of the CPU. Each family is one file, cpu/<family>.cc; work is cut into pieces of
// fixed size (cpu/parallel.h), so that results have the same bits at every number of threads.
class CpuKernels : public Kernels {
 public:
  void upload(const std::byte* host, const Tensor& out) override;
  void download(const Tensor& x, std::byte* host) override;
  void fill(double value, const Tensor& out) override;
  void copy(const Tensor& x, const Tensor& out) override;
  void copy_if_finite(const Tensor& number, const Tensor& x, const Tensor& out) override;
  void convert(const Tensor& x, const Tensor& out) override;
  void accumulate(double alpha, const Tensor& x, const Tensor& y) override;
  void copy_block(const Tensor& src, std::int64_t src_offset, std::int64_t src_row,
                  std::int64_t rows, std::int64_t cols, std::int64_t dst_offset,
                  std::int64_t dst_row, const Tensor& dst) override;
  void swap_axes(const Tensor& x, std::int64_t a, std::int64_t n, std::int64_t b, std::int64_t m,
                 std::int64_t c, const Tensor& out) override;
  bool all_finite(const Tensor& x) override;
  void random_uniform(const Rng& rng, double low, double high, const Tensor& out) override;
  void random_normal(const Rng& rng, double mean, double deviation, const Tensor& out) override;
  void random_gumbel(const Rng& rng, const Tensor& out) override;
  void random_integers(const Rng& rng, const Tensor& index, std::int64_t n,
                       const Tensor& out) override;
  void dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) override;
  void sample_rows(const Rng& rng, const Tensor& probabilities, const Tensor& out) override;
  void unary(int function, Scalars p, const Tensor& x, const Tensor& y) override;
  void unary_backward(int function, Scalars p, const Tensor& x, const Tensor& y, const Tensor& dy,
                      const Tensor& dx) override;
  void binary(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
              const Layout& layout_a, const Tensor& b, const Layout& layout_b,
              const Tensor& y) override;
  void binary_backward(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                       const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                       const Tensor& dy, const Tensor& da, const Tensor& db) override;
  void where(const Tensor& condition, std::int64_t rows, std::int64_t cols, const Tensor& a,
             const Layout& layout_a, const Tensor& b, const Layout& layout_b,
             const Tensor& y) override;
  void greater(std::int64_t rows, std::int64_t cols, const Tensor& a, const Layout& layout_a,
               const Tensor& b, const Layout& layout_b, const Tensor& out) override;
  void reduce(Reduction reduction, const Tensor& x, AxisView view, const Tensor& out) override;
  void argmax(const Tensor& x, AxisView view, const Tensor& index) override;
  void expand(const Tensor& x, double scale, AxisView view, const Tensor& out) override;
  void place(const Tensor& x, const Tensor& index, AxisView view, const Tensor& out) override;
  void softmax(const Tensor& x, AxisView view, const Tensor& y) override;
  void softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                        const Tensor& dx) override;
  void log_softmax(const Tensor& x, AxisView view, const Tensor& y) override;
  void log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                            const Tensor& dx) override;
  void logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                          const Tensor& dx) override;
  void norm(const Tensor& x, AxisView view, const Tensor& out) override;
  void norm_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                     const Tensor& dx) override;
  void cumulative_sum(const Tensor& x, AxisView view, bool from_end, const Tensor& out) override;
  void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon,
                  const Tensor& y, const Tensor& mean, const Tensor& rstd) override;
  void layer_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& mean,
                           const Tensor& rstd, const Tensor& dy, const Tensor& dx,
                           const Tensor& dscale, const Tensor& dshift) override;
  void rms_norm(const Tensor& x, const Tensor& scale, double epsilon, const Tensor& y,
                const Tensor& rstd) override;
  void rms_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& rstd, const Tensor& dy,
                         const Tensor& dx, const Tensor& dscale) override;
  void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, double beta,
              const Tensor& out) override;
  void grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w, const Tensor& offsets,
                      const Tensor& y) override;
  void grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                     const Tensor& dw) override;
  void grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                    const Tensor& y) override;
  void grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& out) override;
  void causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& lse) override;
  void causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& out, const Tensor& lse, const Tensor& dout,
                                 const Tensor& dq, const Tensor& dk, const Tensor& dv) override;
  void packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                        std::int64_t longest, const Tensor& out, const Tensor& lse) override;
  void packed_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& starts, std::int64_t longest, const Tensor& out,
                                 const Tensor& lse, const Tensor& dout, const Tensor& dq,
                                 const Tensor& dk, const Tensor& dv) override;
  void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back,
              const Tensor& y) override;
  void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) override;
  void scatter_add_rows(const Tensor& x, const Tensor& index, const Tensor& out) override;
  void take_columns(const Tensor& x, const Tensor& index, const Tensor& out) override;
  void put_columns(const Tensor& x, const Tensor& index, const Tensor& out) override;
  void top_k(const Tensor& x, std::int64_t k, const Tensor& index) override;
  void cycle(std::int64_t each, std::int64_t period, const Tensor& out) override;
  void log_odds(const Tensor& logits, const Tensor& out) override;
  void top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t groups, std::int64_t kept, const Tensor& out) override;
  void cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                     const Tensor& lse) override;
  void cross_entropy_backward(const Tensor& logits, const Tensor& labels, const Tensor& lse,
                              const Tensor& dy, double scale, const Tensor& dlogits) override;
  void squared_error(const Tensor& a, const Tensor& b, const Tensor& out) override;
  void squared_error_backward(const Tensor& a, const Tensor& b, const Tensor& dy, double scale,
                              const Tensor& da) override;
  void conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) override;
  void conv2d_backward_input(const Tensor& weight, const Tensor& dy, Window window,
                             const Tensor& dx) override;
  void conv2d_backward_weight(const Tensor& x, const Tensor& dy, Window window,
                              const Tensor& dweight) override;
  void max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) override;
  void max_pool2d_backward(const Tensor& dy, const Tensor& index, const Tensor& dx) override;
  void plan(const Tensor& selected, std::int64_t experts, const Tensor& offsets,
            const Tensor& order, const Tensor& inverse) override;
  void complement(const Tensor& selected, const Tensor& out) override;
  void count(const Tensor& selected, const Tensor& group, const Tensor& out) override;
  void keep_first(const Tensor& selected, const Tensor& offsets, const Tensor& inverse,
                  std::int64_t capacity, const Tensor& out) override;
  void tokens_to_slots(const Tensor& x, const Tensor& weights, const Tensor& order, std::int64_t k,
                       const Tensor& out) override;
  void slots_to_tokens(const Tensor& h, const Tensor& weights, const Tensor& inverse,
                       const Tensor& out) override;
  void slot_products(const Tensor& dy, const Tensor& h, const Tensor& inverse,
                     const Tensor& out) override;
  void experts(Activation activation, const ExpertTensors& w, const Tensor& x,
               const ExpertSlots& slots, const Tensor& h) override;
  void experts_backward(Activation activation, const ExpertTensors& w, const Tensor& x,
                        const Tensor& dy, std::span<const ExpertSlotsBackward> plans,
                        const ExpertTensors& dw) override;
  void group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                   const Tensor& means) override;
  void group_means_backward(const Tensor& dmeans, const Tensor& inverse, const GroupSets& sets,
                            const Tensor& dh) override;
  void gradient_norm(std::span<const ParameterStep> parameters, const Tensor& loss,
                     const Tensor& norm) override;
  void adamw(const AdamWStep& o, std::span<const ParameterStep> parameters,
             const StepSize& size) override;
  void sgd(const SgdStep& o, std::span<const ParameterStep> parameters,
           const StepSize& size) override;
};

namespace cpu {

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

}  // namespace cpu
}  // namespace moegrad
