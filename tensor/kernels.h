#pragma once

#include <array>
#include <span>

#include "tensor/elementwise.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace moegrad {

// How an operand of an element-wise function of two arguments is laid over the result [rows, cols]:
// element (r, c) of the result reads element r * row + c * col of the operand.
struct Layout {
  std::int64_t row = 0;
  std::int64_t col = 0;
};

// A tensor seen as [outer, n, inner], for work along its middle axis.
struct AxisView {
  std::int64_t outer = 1;
  std::int64_t n = 1;
  std::int64_t inner = 1;
};

enum class Reduction { sum, sum_of_squares, max, logsumexp };

// What makes scores [N, E] of logits [N, E].
enum class Score { sigmoid, softmax, root_softplus };

// Sizes of a convolution or pooling window over images [N, C, H, W].
struct Window {
  std::int64_t height = 1;
  std::int64_t width = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
};

// Slots of a plan on their way through the experts, slot s being of token order[s] / choices; of
// expert e where it lies in offsets[e] .. offsets[e+1], of none from offsets[E] on.
struct ExpertSlots {
  Tensor order;              // i32 [S]
  Tensor offsets;            // i32 [E+1]
  std::int64_t choices = 1;  // k
  // [S, H]: the pre-activations that the way back reads of the way there, c of swiglu alone;
  // undefined: not kept, and on the way back worked out once more.
  Tensor a = {}, c = {};
};

// The same on the way back, and what is wanted of it (undefined: is not).
struct ExpertSlotsBackward : ExpertSlots {
  Tensor weights = {};   // [N, k]: what their outputs are multiplied by; undefined: nothing
  Tensor dslots = {};    // [S, D]
  Tensor dweights = {};  // [N, k]
};

// Tokens in groups, and the slots that count for them: slot s of expert j, of token t = order[s] /
// k, is in C_ij for each group i of ids[t, :] (with members_only: where j is one of them too).
struct GroupSets {
  Tensor ids;                // i32 [N, G]; -1 for none
  Tensor weights;            // [N, G]: what a token counts in each of its groups; undefined: 1
  Tensor offsets;            // i32 [E+1], of the plan
  Tensor order;              // i32 [S], of the plan
  std::int64_t choices = 1;  // k
  bool members_only = false;
};

// A parameter in an optimiser's step: tensors of its shape and type.
struct ParameterStep {
  Tensor parameter;
  Tensor gradient;                     // undefined: zero everywhere
  std::array<Tensor, 2> moments = {};  // of the optimiser's state: AdamW's m and v; SGD's u
  double rate = 1.0;                   // factor of the learning rate
  bool decays = false;                 // weight decay applies
};

// When an optimiser steps at all, and with which part of the gradients.
struct StepSize {
  Tensor learning_rate;  // f64 []
  Tensor norm;           // f64 []: of all gradients; where it is not finite nothing is changed
  // Gradients are multiplied by max_norm / norm where the norm is larger; 0: they are not.
  double max_norm = 0.0;
  Tensor steps;  // f64 []: the steps made, counted up
};

struct AdamWStep {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

struct SgdStep {
  double momentum = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
};

// What an expert does between its matrices; swiglu has three of them.
enum class Activation { relu, gelu, silu, swiglu };

// Tensors of E experts, or their gradients: w1, w3 [E, D, H], w2 [E, H, O], b1, b3 [E, H], b2
// [E, O]. The biases may be undefined; w3 and b3 belong to swiglu alone.
struct ExpertTensors {
  Tensor w1, b1, w3, b3, w2, b2;
};

// The contract of a device: what the operations are composed of. Outputs come last and are written
// in full (never added to, where not said otherwise); inputs and outputs are tensors of this device
// and do not overlap, where not said otherwise. Floating tensors of one call share one dtype.
// Callers have checked the shapes; indices outside their range are an Error where a kernel reads
// them on the host, before anything is written; a device that finds them later has it thrown by the
// next transfer to the host, and a plan of such choices has no slots. Sizes of 0 are fine everywhere. Every result has
// the same bits on every run and at every number of threads: work is cut into pieces of fixed size
// and sums have a fixed order.
class Kernels {
 public:
  virtual ~Kernels() = default;

  // --- between the host and the device: x.bytes() bytes; download waits for all before it
  virtual void upload(const std::byte* host, const Tensor& out) = 0;
  virtual void download(const Tensor& x, std::byte* host) = 0;

  // --- filling, copying, converting
  virtual void fill(double value, const Tensor& out) = 0;
  virtual void copy(const Tensor& x, const Tensor& out) = 0;     // same dtype and numel
  virtual void convert(const Tensor& x, const Tensor& out) = 0;  // any dtype to any other
  // copy(x, out) where `number` (f64 []) is finite, nothing where it is not
  virtual void copy_if_finite(const Tensor& number, const Tensor& x, const Tensor& out) = 0;
  // y += alpha x
  virtual void accumulate(double alpha, const Tensor& x, const Tensor& y) = 0;
  // dst[r, 0..cols) = src[r, 0..cols) for rows of lengths src_row and dst_row elements; src and dst
  // start src_offset and dst_offset elements in; src_row 0 repeats one row. Any dtype.
  virtual void copy_block(const Tensor& src, std::int64_t src_offset, std::int64_t src_row,
                          std::int64_t rows, std::int64_t cols, std::int64_t dst_offset,
                          std::int64_t dst_row, const Tensor& dst) = 0;
  // x as [a, n, b, m, c] becomes out [a, m, b, n, c]. Any dtype.
  virtual void swap_axes(const Tensor& x, std::int64_t a, std::int64_t n, std::int64_t b,
                         std::int64_t m, std::int64_t c, const Tensor& out) = 0;
  // True when no element is NaN or infinite.
  virtual bool all_finite(const Tensor& x) = 0;

  // --- random numbers: element i from number i of the generator (normal: 2i and 2i+1)
  virtual void random_uniform(const Rng& rng, double low, double high, const Tensor& out) = 0;
  virtual void random_normal(const Rng& rng, double mean, double deviation, const Tensor& out) = 0;
  virtual void random_gumbel(const Rng& rng, const Tensor& out) = 0;
  // out (i32): the 64 bits of number index_i >= 0 of the generator, modulo n; index i32
  virtual void random_integers(const Rng& rng, const Tensor& index, std::int64_t n,
                               const Tensor& out) = 0;
  // y_i = x_i / (1 - p) where uniform number i is >= p, else 0: everywhere for p = 1.
  virtual void dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) = 0;
  // out (i32) [N]: of each row of probabilities [N, E] the first place i that is possible and where
  // p_0 + .. + p_i, in f64, is above uniform number n; the last possible one where none is. A row
  // with a number that is not >= 0, or a sum that is not 1 within 1e-5, is an Error as an index is.
  virtual void sample_rows(const Rng& rng, const Tensor& probabilities, const Tensor& out) = 0;

  // --- element-wise; `function` is the place in UnaryFunctors or BinaryFunctors
  virtual void unary(int function, Scalars p, const Tensor& x, const Tensor& y) = 0;
  // dx = dy * df(x, y); x or y may be undefined where the functor does not need it.
  virtual void unary_backward(int function, Scalars p, const Tensor& x, const Tensor& y,
                              const Tensor& dy, const Tensor& dx) = 0;
  // y [rows, cols] = f(a, b), each laid over y by its layout.
  virtual void binary(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                      const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                      const Tensor& y) = 0;
  // da [rows, cols] = dy * df/da and db = dy * df/db, not yet summed over the places that a
  // broadcast operand was read from; undefined where not wanted. a and b may be undefined if not
  // needed. db, or da where db is not wanted, may be dy itself.
  virtual void binary_backward(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                               const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                               const Tensor& dy, const Tensor& da, const Tensor& db) = 0;
  // y = condition != 0 ? a : b; condition i32 [rows, cols], the others of any dtype.
  virtual void where(const Tensor& condition, std::int64_t rows, std::int64_t cols, const Tensor& a,
                     const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                     const Tensor& y) = 0;
  // out (i32) [rows, cols] = a > b, each laid over it by its layout; a and b of any dtype
  virtual void greater(std::int64_t rows, std::int64_t cols, const Tensor& a,
                       const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                       const Tensor& out) = 0;

  // --- along an axis
  // out [outer, inner]; sum 0, logsumexp -infinity when n = 0; max needs n > 0. The max of a line
  // with a NaN is NaN; the logsumexp of a line of -infinities is -infinity.
  virtual void reduce(Reduction reduction, const Tensor& x, AxisView view, const Tensor& out) = 0;
  // index (i32) [outer, inner]: the first place of the largest element, or of the first NaN; n > 0
  virtual void argmax(const Tensor& x, AxisView view, const Tensor& index) = 0;
  // out [outer, n, inner] = scale * x [outer, inner]
  virtual void expand(const Tensor& x, double scale, AxisView view, const Tensor& out) = 0;
  // out [outer, n, inner] = x [outer, inner] at the place index [outer, inner], elsewhere 0
  virtual void place(const Tensor& x, const Tensor& index, AxisView view, const Tensor& out) = 0;
  virtual void softmax(const Tensor& x, AxisView view, const Tensor& y) = 0;
  // dx = y (dy - sum(dy y))
  virtual void softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                const Tensor& dx) = 0;
  virtual void log_softmax(const Tensor& x, AxisView view, const Tensor& y) = 0;
  // dx = dy - exp(y) sum(dy)
  virtual void log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                    const Tensor& dx) = 0;
  // dx [outer, n, inner] = exp(x - y) dy for y = logsumexp(x) [outer, inner]; 0 where y is
  // -infinity
  virtual void logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                                  const Tensor& dx) = 0;

  // out [outer, inner] = sqrt(sum x^2), which is right wherever the result is in range
  virtual void norm(const Tensor& x, AxisView view, const Tensor& out) = 0;
  // dx [outer, n, inner] = x / y dy for y = norm(x) [outer, inner]; 0 where y is 0
  virtual void norm_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                             const Tensor& dx) = 0;
  // out_j = the sum of the x_i with i <= j, or with from_end those with i >= j
  virtual void cumulative_sum(const Tensor& x, AxisView view, bool from_end, const Tensor& out) = 0;

  // --- normalisation of rows x [R, C]; statistics [R], scale and shift [C]
  // y = (x - mean) rstd scale + shift, rstd = 1/sqrt(variance + epsilon), population variance. What
  // backward is given as `mean` is the mean of x - x[r, 0]: in f32 it keeps its digits where the
  // mean is large beside the spread.
  virtual void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon,
                          const Tensor& y, const Tensor& mean, const Tensor& rstd) = 0;
  virtual void layer_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& mean,
                                   const Tensor& rstd, const Tensor& dy, const Tensor& dx,
                                   const Tensor& dscale, const Tensor& dshift) = 0;
  // y = x rstd scale, rstd = 1/sqrt(mean(x^2) + epsilon)
  virtual void rms_norm(const Tensor& x, const Tensor& scale, double epsilon, const Tensor& y,
                        const Tensor& rstd) = 0;
  virtual void rms_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& rstd,
                                 const Tensor& dy, const Tensor& dx, const Tensor& dscale) = 0;

  // --- products
  // out = op(a) op(b) + beta out for matrices [m, k] and [k, n], stored transposed where told;
  // both may carry a batch as their first axis, or only one of them (the other is then shared).
  virtual void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                      double beta, const Tensor& out) = 0;
  // Rows [offsets[e], offsets[e+1]) belong to group e; offsets i32 [E+1], from 0 up. Rows from
  // offsets[E] on belong to none: they count for nothing, and their results are zero.
  // y [S, M]: y_e = x_e w_e for w [E, K, M], or x_e w_e^T for w [E, M, K] when transposed.
  virtual void grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w,
                              const Tensor& offsets, const Tensor& y) = 0;
  // dw [E, K, M]: dw_e = x_e^T dy_e; zero for an empty group
  virtual void grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                             const Tensor& dw) = 0;
  // y [S, M] = x [S, M] + bias [E, M] of the row's group; those of none as they are
  virtual void grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                            const Tensor& y) = 0;
  // out [E, M]: the sum of the rows of each group
  virtual void grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& out) = 0;

  // --- attention: q, k, v, out [B, L, d], lse [B, L]
  // out_i = sum over the j that i sees of e^(s_ij - lse_i) v_j, s_ij = q_i k_j / sqrt(d), lse_i = log
  // of the sum of e^s_ij over them, in space that does not grow with L^2. What lies in rows that i
  // does not see is not read for it, nor on the way back an adjoint of rows that do not see k_i and
  // v_i: not even NaN.
  // Row i sees the rows j <= i.
  virtual void causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& out, const Tensor& lse) = 0;
  virtual void causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& out, const Tensor& lse, const Tensor& dout,
                                         const Tensor& dq, const Tensor& dk, const Tensor& dv) = 0;
  // Row i sees all rows of its sequence: in each of the B the rows [starts[n], starts[n + 1]), with
  // starts i32 [sequences + 1] from 0 to L, rising, none longer than `longest`.
  virtual void packed_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& starts, std::int64_t longest, const Tensor& out,
                                const Tensor& lse) = 0;
  virtual void packed_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& starts, std::int64_t longest,
                                         const Tensor& out, const Tensor& lse, const Tensor& dout,
                                         const Tensor& dq, const Tensor& dk, const Tensor& dv) = 0;

  // Rotary positions: y [R, d] of x [R, d], row r by cos and sin [L, d] of place r % L. With turned(x) =
  // (-second half, first half) of a row: y = x cos + turned(x) sin; back: the transpose of that map.
  virtual void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back,
                      const Tensor& y) = 0;

  // --- rows and columns by index (i32); where nothing else is said of any dtype
  // out [R, C] = x[index[r], :]; an index of -1 gives a row of zeros
  virtual void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) = 0;
  // out [V, C] = sum over r with index[r] = v of x[r, :], floating, in the order of r; -1 is none
  virtual void scatter_add_rows(const Tensor& x, const Tensor& index, const Tensor& out) = 0;
  // out [N, k] = x[n, index[n, j]] of x [N, E]; an index of -1 gives 0
  virtual void take_columns(const Tensor& x, const Tensor& index, const Tensor& out) = 0;
  // out [N, E]: zero, plus x [N, k] at index; -1 is skipped
  virtual void put_columns(const Tensor& x, const Tensor& index, const Tensor& out) = 0;
  // index (i32) [N, k]: the places of the k largest of each row of x [N, E], largest first; of
  // equal values the lowest place wins; NaN counts as the largest
  virtual void top_k(const Tensor& x, std::int64_t k, const Tensor& index) = 0;
  // out (i32): element i is i / each % period
  virtual void cycle(std::int64_t each, std::int64_t period, const Tensor& out) = 0;

  // --- orders of scores by what floating point does not round away: the sigmoid of 40 is 1, as is
  // that of 50, and beside a logit of 200 the softmax of 0 and of 50 is 0 in f32
  // out (f64) [N, E] = log(g / (1 - g)) of g = softmax(logits [N, E]): o_i - logsumexp of the
  // others, which grows as g does. E = 1: infinity.
  virtual void log_odds(const Tensor& logits, const Tensor& out) = 0;
  // out (i32) [N, k]: the k experts of the largest s_i + b_i of each row, the largest first, for
  // scores s [N, E] of the logits and biases b [E]. Where sums are within rounding of each other
  // they are made of the logits and compared to 32 digits; of equal sums the larger logit comes
  // first, then the lower expert. With groups of E/groups neighbours: those of the `kept` groups of
  // the largest score, the sum of a group's two largest s_i + b_i.
  virtual void top_biased(Score score, const Tensor& scores, const Tensor& logits,
                          const Tensor& bias, std::int64_t groups, std::int64_t kept,
                          const Tensor& out) = 0;

  // --- losses: rows of logits [N, C], labels i32 [N]; a row with the label -1 has the loss 0 and
  // no gradient
  // loss [N] = lse - logits[label], lse [N] = logsumexp of the row
  virtual void cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                             const Tensor& lse) = 0;
  // dlogits = scale * dy[0] * (exp(logits - lse) - onehot(label)); dy has one element
  virtual void cross_entropy_backward(const Tensor& logits, const Tensor& labels, const Tensor& lse,
                                      const Tensor& dy, double scale, const Tensor& dlogits) = 0;

  // out [] = sum of (a - b)^2 over all elements
  virtual void squared_error(const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  // da = 2 scale dy[0] (a - b); dy has one element
  virtual void squared_error_backward(const Tensor& a, const Tensor& b, const Tensor& dy,
                                      double scale, const Tensor& da) = 0;

  // --- images, row-major [N, C, H, W]
  // y [N, O, H', W'] = sum over channels and window of x weight; weight [O, C, height, width].
  // What would be a product with padding is no term, even where the factor is not finite.
  virtual void conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) = 0;
  virtual void conv2d_backward_input(const Tensor& weight, const Tensor& dy, Window window,
                                     const Tensor& dx) = 0;
  virtual void conv2d_backward_weight(const Tensor& x, const Tensor& dy, Window window,
                                      const Tensor& dweight) = 0;
  // y [N, C, H', W'] the largest of each window; index (i32) its place in the H*W plane, first
  // wins; padding never does: a window of nothing else gives -infinity and -1
  virtual void max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) = 0;
  virtual void max_pool2d_backward(const Tensor& dy, const Tensor& index, const Tensor& dx) = 0;

  // --- the mixture: token t's j-th choice is selected[t, j], an expert or -1 for none
  // Stable counting sort of the choices by expert. offsets [E+1]; order [S] holds t*k+j by slot,
  // and -1 in those from offsets[E] on, which belong to none; inverse [N, k] holds the slot, -1
  // where none. S is no less than there are choices (else an Error, as for an index out of range).
  virtual void plan(const Tensor& selected, std::int64_t experts, const Tensor& offsets,
                    const Tensor& order, const Tensor& inverse) = 0;
  // out (i32) [N, E]: e in column e where the token did not choose expert e, else -1
  virtual void complement(const Tensor& selected, const Tensor& out) = 0;
  // out (i32) [G, E]: how many choices of the tokens of each group fell on each expert; group[t] of
  // i32 [N], undefined: all are of group 0
  virtual void count(const Tensor& selected, const Tensor& group, const Tensor& out) = 0;
  // out [N, k] = selected[t, j] where that choice is one of the first `capacity` slots of its
  // expert by a plan of `selected`, else -1
  virtual void keep_first(const Tensor& selected, const Tensor& offsets, const Tensor& inverse,
                          std::int64_t capacity, const Tensor& out) = 0;
  // out [S, D]: out[s] = x[order[s] / k], times weights [N, k] at order[s] where given; 0 for -1
  virtual void tokens_to_slots(const Tensor& x, const Tensor& weights, const Tensor& order,
                               std::int64_t k, const Tensor& out) = 0;
  // out [N, D]: sum over j of h[inverse[t, j]], times weights[t, j] where given, in the order of j
  virtual void slots_to_tokens(const Tensor& h, const Tensor& weights, const Tensor& inverse,
                               const Tensor& out) = 0;
  // out [N, k] = <dy[t], h[inverse[t, j]]>; 0 where inverse is -1
  virtual void slot_products(const Tensor& dy, const Tensor& h, const Tensor& inverse,
                             const Tensor& out) = 0;

  // The experts' networks on the slots of a plan, slot s being of token t:
  //   a = x_t w1_e + b1_e,  c = x_t w3_e + b3_e
  //   u = act(a) (swiglu: silu(a) c),  h = u w2_e + b2_e
  // x [N, D]; h [S, O] and, where wanted, a and c [S, H]; rows of none are 0.
  virtual void experts(Activation activation, const ExpertTensors& w, const Tensor& x,
                       const ExpertSlots& slots, const Tensor& h) = 0;
  // The way back, with the adjoint g_s of slot s: dy [S, O] by slot, or, where weights [N, k] are
  // given, weights[order[s]] dy[t] for dy [N, O].
  //   dslots [S, D] = da w1_e^T + dc w3_e^T,  da = (g w2_e^T) act'(a); 0 in rows of none
  //   dweights [N, k] = <dy[t], h_s>, 0 where a choice has no slot
  //   dw.w2 = sum u^T g,  dw.w1 = sum x^T da, ... in the order of slots
  // The slots of several plans, all with weights, that share x and dy go through together: dw is
  // the sum over all, of each expert in the order of the plans. The experts' outputs are not
  // needed.
  virtual void experts_backward(Activation activation, const ExpertTensors& w, const Tensor& x,
                                const Tensor& dy, std::span<const ExpertSlotsBackward> plans,
                                const ExpertTensors& dw) = 0;

  // means [E, E, D]: means_ij = inverse_ij sum over C_ij of weight h[s], in the order of the slots
  // of h [S, D]; inverse [E, E] by (i, j): 1 / max(1, |C_ij|), with weights 1 / their sum or, where
  // that is not positive, 0
  virtual void group_means(const Tensor& h, const GroupSets& sets, const Tensor& inverse,
                           const Tensor& means) = 0;
  // dh [S, D] += sum over the C_ij that hold slot s of weight inverse_ij dmeans_ij
  virtual void group_means_backward(const Tensor& dmeans, const Tensor& inverse,
                                    const GroupSets& sets, const Tensor& dh) = 0;

  // --- optimisers: all parameters of a model in one call, each of a dtype of its own
  // norm (f64 []) = sqrt of the sum of squares over all gradients; NaN where `loss` (one element;
  // undefined: not asked) is not finite. Each gradient is summed in its dtype, and in f64 where
  // that overflows or vanishes.
  virtual void gradient_norm(std::span<const ParameterStep> parameters, const Tensor& loss,
                             const Tensor& norm) = 0;
  // In place, for each parameter p with g = gradient * min(1, max_norm / norm), t = steps + 1:
  //   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
  //   p -= lr (m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + epsilon) + weight_decay p), epsilon >= 1e-12
  // and steps = t. Nothing at all is changed where the norm is not finite. Moments that would be
  // subnormal become 0: those of what gets no gradient any more, as of dead experts, would stay so.
  virtual void adamw(const AdamWStep& o, std::span<const ParameterStep> parameters,
                     const StepSize& size) = 0;
  // Likewise:  g += weight_decay p;  u = momentum u + g;  p -= lr u (nesterov: lr (g + momentum u))
  virtual void sgd(const SgdStep& o, std::span<const ParameterStep> parameters,
                   const StepSize& size) = 0;
};

// The kernels of a device; an error where this build has none for it.
Kernels& kernels(Device device);

}  // namespace moegrad
