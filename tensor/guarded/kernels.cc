#include "tensor/guarded/kernels.h"

#include "tensor/cpu/kernels.h"
#include "tensor/guarded/memory.h"

namespace moegrad {
namespace {

void require_guarded(const Tensor& t) {
  if (!t.defined() || t.device() == Device::guarded) return;
  fail("guarded",
       "a kernel is given a {} tensor {} of the {} device. Move it: to(Device::guarded).",
       name_of(t.dtype()), t.shape(), name_of(t.device()));
}
void require_guarded(const GroupSets& s) {
  for (const Tensor* t : {&s.ids, &s.weights, &s.offsets, &s.order}) require_guarded(*t);
}
void require_guarded(const ExpertTensors& w) {
  for (const Tensor* t : {&w.w1, &w.b1, &w.w3, &w.b3, &w.w2, &w.b2}) require_guarded(*t);
}
void require_guarded(const ExpertSlots& s) {
  for (const Tensor* t : {&s.order, &s.offsets, &s.a, &s.c}) require_guarded(*t);
}
void require_guarded(const ExpertSlotsBackward& s) {
  require_guarded(static_cast<const ExpertSlots&>(s));
  for (const Tensor* t : {&s.weights, &s.dslots, &s.dweights}) require_guarded(*t);
}
void require_guarded(const ParameterStep& s) {
  for (const Tensor* t : {&s.parameter, &s.gradient, &s.moments[0], &s.moments[1]}) {
    require_guarded(*t);
  }
}
void require_guarded(const StepSize& s) {
  for (const Tensor* t : {&s.learning_rate, &s.norm, &s.steps}) require_guarded(*t);
}
template <class T>
void require_guarded(std::span<const T> list) {
  for (const T& t : list) require_guarded(t);
}
template <class T>
void require_guarded(const T&) {}

class GuardedKernels final : public Kernels {
 public:
  void upload(const std::byte* host, const Tensor& out) override {
    run(&CpuKernels::upload, host, out);
  }
  void download(const Tensor& x, std::byte* host) override { run(&CpuKernels::download, x, host); }
  void fill(double value, const Tensor& out) override { run(&CpuKernels::fill, value, out); }
  void copy(const Tensor& x, const Tensor& out) override { run(&CpuKernels::copy, x, out); }
  void convert(const Tensor& x, const Tensor& out) override { run(&CpuKernels::convert, x, out); }
  void copy_if_finite(const Tensor& number, const Tensor& x, const Tensor& out) override {
    run(&CpuKernels::copy_if_finite, number, x, out);
  }
  void accumulate(double alpha, const Tensor& x, const Tensor& y) override {
    run(&CpuKernels::accumulate, alpha, x, y);
  }
  void copy_block(const Tensor& src, std::int64_t src_offset, std::int64_t src_row,
                  std::int64_t rows, std::int64_t cols, std::int64_t dst_offset,
                  std::int64_t dst_row, const Tensor& dst) override {
    run(&CpuKernels::copy_block, src, src_offset, src_row, rows, cols, dst_offset, dst_row, dst);
  }
  void swap_axes(const Tensor& x, std::int64_t a, std::int64_t n, std::int64_t b, std::int64_t m,
                 std::int64_t c, const Tensor& out) override {
    run(&CpuKernels::swap_axes, x, a, n, b, m, c, out);
  }
  bool all_finite(const Tensor& x) override { return run(&CpuKernels::all_finite, x); }
  void random_uniform(const Rng& rng, double low, double high, const Tensor& out) override {
    run(&CpuKernels::random_uniform, rng, low, high, out);
  }
  void random_normal(const Rng& rng, double mean, double deviation, const Tensor& out) override {
    run(&CpuKernels::random_normal, rng, mean, deviation, out);
  }
  void random_gumbel(const Rng& rng, const Tensor& out) override {
    run(&CpuKernels::random_gumbel, rng, out);
  }
  void random_integers(const Rng& rng, const Tensor& index, std::int64_t n,
                       const Tensor& out) override {
    run(&CpuKernels::random_integers, rng, index, n, out);
  }
  void dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) override {
    run(&CpuKernels::dropout, rng, p, x, y);
  }
  void sample_rows(const Rng& rng, const Tensor& probabilities, const Tensor& out) override {
    run(&CpuKernels::sample_rows, rng, probabilities, out);
  }
  void unary(int function, Scalars p, const Tensor& x, const Tensor& y) override {
    run(&CpuKernels::unary, function, p, x, y);
  }
  void unary_backward(int function, Scalars p, const Tensor& x, const Tensor& y, const Tensor& dy,
                      const Tensor& dx) override {
    run(&CpuKernels::unary_backward, function, p, x, y, dy, dx);
  }
  void binary(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
              const Layout& layout_a, const Tensor& b, const Layout& layout_b,
              const Tensor& y) override {
    run(&CpuKernels::binary, function, rows, cols, a, layout_a, b, layout_b, y);
  }
  void binary_backward(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                       const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                       const Tensor& dy, const Tensor& da, const Tensor& db) override {
    run(&CpuKernels::binary_backward, function, rows, cols, a, layout_a, b, layout_b, dy, da, db);
  }
  void where(const Tensor& condition, std::int64_t rows, std::int64_t cols, const Tensor& a,
             const Layout& layout_a, const Tensor& b, const Layout& layout_b,
             const Tensor& y) override {
    run(&CpuKernels::where, condition, rows, cols, a, layout_a, b, layout_b, y);
  }
  void greater(std::int64_t rows, std::int64_t cols, const Tensor& a, const Layout& layout_a,
               const Tensor& b, const Layout& layout_b, const Tensor& out) override {
    run(&CpuKernels::greater, rows, cols, a, layout_a, b, layout_b, out);
  }
  void reduce(Reduction reduction, const Tensor& x, AxisView view, const Tensor& out) override {
    run(&CpuKernels::reduce, reduction, x, view, out);
  }
  void argmax(const Tensor& x, AxisView view, const Tensor& index) override {
    run(&CpuKernels::argmax, x, view, index);
  }
  void expand(const Tensor& x, double scale, AxisView view, const Tensor& out) override {
    run(&CpuKernels::expand, x, scale, view, out);
  }
  void place(const Tensor& x, const Tensor& index, AxisView view, const Tensor& out) override {
    run(&CpuKernels::place, x, index, view, out);
  }
  void softmax(const Tensor& x, AxisView view, const Tensor& y) override {
    run(&CpuKernels::softmax, x, view, y);
  }
  void softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                        const Tensor& dx) override {
    run(&CpuKernels::softmax_backward, y, dy, view, dx);
  }
  void log_softmax(const Tensor& x, AxisView view, const Tensor& y) override {
    run(&CpuKernels::log_softmax, x, view, y);
  }
  void log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                            const Tensor& dx) override {
    run(&CpuKernels::log_softmax_backward, y, dy, view, dx);
  }
  void logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                          const Tensor& dx) override {
    run(&CpuKernels::logsumexp_backward, x, y, dy, view, dx);
  }
  void norm(const Tensor& x, AxisView view, const Tensor& out) override {
    run(&CpuKernels::norm, x, view, out);
  }
  void norm_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                     const Tensor& dx) override {
    run(&CpuKernels::norm_backward, x, y, dy, view, dx);
  }
  void cumulative_sum(const Tensor& x, AxisView view, bool from_end, const Tensor& out) override {
    run(&CpuKernels::cumulative_sum, x, view, from_end, out);
  }
  void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon,
                  const Tensor& y, const Tensor& mean, const Tensor& rstd) override {
    run(&CpuKernels::layer_norm, x, scale, shift, epsilon, y, mean, rstd);
  }
  void layer_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& mean,
                           const Tensor& rstd, const Tensor& dy, const Tensor& dx,
                           const Tensor& dscale, const Tensor& dshift) override {
    run(&CpuKernels::layer_norm_backward, x, scale, mean, rstd, dy, dx, dscale, dshift);
  }
  void rms_norm(const Tensor& x, const Tensor& scale, double epsilon, const Tensor& y,
                const Tensor& rstd) override {
    run(&CpuKernels::rms_norm, x, scale, epsilon, y, rstd);
  }
  void rms_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& rstd, const Tensor& dy,
                         const Tensor& dx, const Tensor& dscale) override {
    run(&CpuKernels::rms_norm_backward, x, scale, rstd, dy, dx, dscale);
  }
  void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, double beta,
              const Tensor& out) override {
    run(&CpuKernels::matmul, a, transpose_a, b, transpose_b, beta, out);
  }
  void grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w, const Tensor& offsets,
                      const Tensor& y) override {
    run(&CpuKernels::grouped_matmul, x, w, transpose_w, offsets, y);
  }
  void grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                     const Tensor& dw) override {
    run(&CpuKernels::grouped_outer, x, dy, offsets, dw);
  }
  void grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                    const Tensor& y) override {
    run(&CpuKernels::grouped_bias, x, bias, offsets, y);
  }
  void grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& out) override {
    run(&CpuKernels::grouped_sum, x, offsets, out);
  }
  void causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& lse) override {
    run(&CpuKernels::causal_attention, q, k, v, out, lse);
  }
  void causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& out, const Tensor& lse, const Tensor& dout,
                                 const Tensor& dq, const Tensor& dk, const Tensor& dv) override {
    run(&CpuKernels::causal_attention_backward, q, k, v, out, lse, dout, dq, dk, dv);
  }
  void packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                        std::int64_t longest, const Tensor& out, const Tensor& lse) override {
    run(&CpuKernels::packed_attention, q, k, v, starts, longest, out, lse);
  }
  void packed_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& starts, std::int64_t longest, const Tensor& out,
                                 const Tensor& lse, const Tensor& dout, const Tensor& dq,
                                 const Tensor& dk, const Tensor& dv) override {
    run(&CpuKernels::packed_attention_backward, q, k, v, starts, longest, out, lse, dout, dq, dk,
        dv);
  }
  void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back,
              const Tensor& y) override {
    run(&CpuKernels::rotate, x, cos, sin, back, y);
  }
  void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) override {
    run(&CpuKernels::gather_rows, x, index, out);
  }
  void scatter_add_rows(const Tensor& x, const Tensor& index, const Tensor& out) override {
    run(&CpuKernels::scatter_add_rows, x, index, out);
  }
  void take_columns(const Tensor& x, const Tensor& index, const Tensor& out) override {
    run(&CpuKernels::take_columns, x, index, out);
  }
  void put_columns(const Tensor& x, const Tensor& index, const Tensor& out) override {
    run(&CpuKernels::put_columns, x, index, out);
  }
  void top_k(const Tensor& x, std::int64_t k, const Tensor& index) override {
    run(&CpuKernels::top_k, x, k, index);
  }
  void cycle(std::int64_t each, std::int64_t period, const Tensor& out) override {
    run(&CpuKernels::cycle, each, period, out);
  }
  void log_odds(const Tensor& logits, const Tensor& out) override {
    run(&CpuKernels::log_odds, logits, out);
  }
  void top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t groups, std::int64_t kept, const Tensor& out) override {
    run(&CpuKernels::top_biased, score, scores, logits, bias, groups, kept, out);
  }
  void cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                     const Tensor& lse) override {
    run(&CpuKernels::cross_entropy, logits, labels, loss, lse);
  }
  void cross_entropy_backward(const Tensor& logits, const Tensor& labels, const Tensor& lse,
                              const Tensor& dy, double scale, const Tensor& dlogits) override {
    run(&CpuKernels::cross_entropy_backward, logits, labels, lse, dy, scale, dlogits);
  }
  void squared_error(const Tensor& a, const Tensor& b, const Tensor& out) override {
    run(&CpuKernels::squared_error, a, b, out);
  }
  void squared_error_backward(const Tensor& a, const Tensor& b, const Tensor& dy, double scale,
                              const Tensor& da) override {
    run(&CpuKernels::squared_error_backward, a, b, dy, scale, da);
  }
  void conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) override {
    run(&CpuKernels::conv2d, x, weight, window, y);
  }
  void conv2d_backward_input(const Tensor& weight, const Tensor& dy, Window window,
                             const Tensor& dx) override {
    run(&CpuKernels::conv2d_backward_input, weight, dy, window, dx);
  }
  void conv2d_backward_weight(const Tensor& x, const Tensor& dy, Window window,
                              const Tensor& dweight) override {
    run(&CpuKernels::conv2d_backward_weight, x, dy, window, dweight);
  }
  void max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) override {
    run(&CpuKernels::max_pool2d, x, window, y, index);
  }
  void max_pool2d_backward(const Tensor& dy, const Tensor& index, const Tensor& dx) override {
    run(&CpuKernels::max_pool2d_backward, dy, index, dx);
  }
  void plan(const Tensor& selected, std::int64_t experts, const Tensor& offsets,
            const Tensor& order, const Tensor& inverse) override {
    run(&CpuKernels::plan, selected, experts, offsets, order, inverse);
  }
  void complement(const Tensor& selected, const Tensor& out) override {
    run(&CpuKernels::complement, selected, out);
  }
  void count(const Tensor& selected, const Tensor& group, const Tensor& out) override {
    run(&CpuKernels::count, selected, group, out);
  }
  void keep_first(const Tensor& selected, const Tensor& offsets, const Tensor& inverse,
                  std::int64_t capacity, const Tensor& out) override {
    run(&CpuKernels::keep_first, selected, offsets, inverse, capacity, out);
  }
  void tokens_to_slots(const Tensor& x, const Tensor& weights, const Tensor& order, std::int64_t k,
                       const Tensor& out) override {
    run(&CpuKernels::tokens_to_slots, x, weights, order, k, out);
  }
  void slots_to_tokens(const Tensor& h, const Tensor& weights, const Tensor& inverse,
                       const Tensor& out) override {
    run(&CpuKernels::slots_to_tokens, h, weights, inverse, out);
  }
  void slot_products(const Tensor& dy, const Tensor& h, const Tensor& inverse,
                     const Tensor& out) override {
    run(&CpuKernels::slot_products, dy, h, inverse, out);
  }
  void experts(Activation activation, const ExpertTensors& w, const Tensor& x,
               const ExpertSlots& slots, const Tensor& h) override {
    run(&CpuKernels::experts, activation, w, x, slots, h);
  }
  void experts_backward(Activation activation, const ExpertTensors& w, const Tensor& x,
                        const Tensor& dy, std::span<const ExpertSlotsBackward> plans,
                        const ExpertTensors& dw) override {
    run(&CpuKernels::experts_backward, activation, w, x, dy, plans, dw);
  }
  void group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                   const Tensor& means) override {
    run(&CpuKernels::group_means, h, sets, inverse, means);
  }
  void group_means_backward(const Tensor& dmeans, const Tensor& inverse, const GroupSets& sets,
                            const Tensor& dh) override {
    run(&CpuKernels::group_means_backward, dmeans, inverse, sets, dh);
  }
  void gradient_norm(std::span<const ParameterStep> parameters, const Tensor& loss,
                     const Tensor& norm) override {
    run(&CpuKernels::gradient_norm, parameters, loss, norm);
  }
  void adamw(const AdamWStep& o, std::span<const ParameterStep> parameters,
             const StepSize& size) override {
    run(&CpuKernels::adamw, o, parameters, size);
  }
  void sgd(const SgdStep& o, std::span<const ParameterStep> parameters,
           const StepSize& size) override {
    run(&CpuKernels::sgd, o, parameters, size);
  }

 private:
  template <class R, class... Taken, class... Given>
  R run(R (CpuKernels::*kernel)(Taken...), const Given&... given) {
    (require_guarded(given), ...);
    const guarded::Open open(Device::guarded);
    return (cpu_.*kernel)(given...);
  }

  CpuKernels cpu_;
};

constinit GuardedKernels on_guarded_memory;

}  // namespace

Kernels& guarded_kernels() { return on_guarded_memory; }

}  // namespace moegrad
