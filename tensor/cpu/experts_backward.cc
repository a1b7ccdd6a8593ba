// The way back through the experts' networks: the activations are computed again, and each weight
// gradient has one owner that goes through its rows in order.

#include <numeric>
#include <tuple>

#include "tensor/cpu/experts.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/tiles.h"

namespace moegrad {
namespace cpu::network {
namespace {

// Multiply-adds below which a pass runs on the calling thread.
constexpr std::int64_t kSerialExperts = std::int64_t{1} << 18;
// A weight gradient is cut into parts where one expert has more rows than three experts of sixteen
// would have on average: the largest part is what one thread does alone.
constexpr std::int64_t kLeastPart = 512;
constexpr std::int64_t kPartShare = 3;
constexpr std::int64_t kPartExperts = 16;

// Rows of a part beyond which its products are added in f64, those of kTilesOfSum tiles at once.
constexpr std::int64_t kManyRows = 4096;
constexpr std::int64_t kTilesOfSum = 8;

// The rows of x are padded.
template <class T>
void add_column_sums(const T* x, std::int64_t rows, std::int64_t cols, T* to, LongSums<T>& sums) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* const row = x + r * (cols + kPad);
    for (std::int64_t c = 0; c < cols; ++c) to[c] += row[c];
    sums.added();
  }
}

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  return lane_sum<T>(n, [=](std::int64_t i) { return a[i] * b[i]; });
}

// to [rows, w.rows] = x [rows, w.cols] w_e^T + beta to; rows of `to` are `stride` apart
template <class T>
void times_transposed(Matrix<T> x, std::int64_t rows, Stack<const T> w, std::int64_t e, T beta,
                      T* to, std::int64_t stride) {
  product(rows, w.rows, w.cols, x, Matrix<T>{w.at(e), w.cols, true}, beta, to, stride);
}
// sum [m, n] = left [rows, m]^T right [rows, n] + beta sum
template <class T>
void add_product(Matrix<T> left, std::int64_t m, Matrix<T> right, std::int64_t n, std::int64_t rows,
                 T beta, T* sum, std::int64_t depth) {
  left.transposed = true;
  product(m, n, rows, left, right, beta, sum, n, depth);
}

// The slots of one plan.
template <class T>
struct Rows {
  explicit Rows(const ExpertSlotsBackward& s)
      : slots(s),
        bounds(s.offsets.data<std::int32_t>()),
        a(data_or_null<T>(s.a)),
        c(data_or_null<T>(s.c)),
        weights(data_or_null<T>(s.weights)),
        dslots(s.dslots.defined() ? s.dslots.write<T>() : nullptr),
        dweights(s.dweights.defined() ? s.dweights.write<T>() : nullptr) {}
  std::int64_t count(std::int64_t expert) const { return bounds[expert + 1] - bounds[expert]; }

  Slots slots;
  const std::int32_t* bounds;  // [E+1]
  const T *a, *c, *weights;
  T *dslots, *dweights;
};

// What one owner adds up: the rows [first, last) of expert e, those of all plans one behind the
// other, into the gradients of that expert, or into a partial sum of its own where an expert has
// several owners.
struct Part {
  std::int64_t expert, first, last;
  std::int64_t partial;  // -1: the gradients themselves
};

PoolVector<Part> parts_of(const PoolVector<std::int64_t>& rows_of_experts) {
  const auto experts = static_cast<std::int64_t>(rows_of_experts.size());
  const std::int64_t all =
      std::accumulate(rows_of_experts.begin(), rows_of_experts.end(), std::int64_t{0});
  const std::int64_t most =
      std::max(kLeastPart, kPartShare * all / std::max(experts, kPartExperts));
  PoolVector<Part> parts;
  std::int64_t partials = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t rows = rows_of_experts[static_cast<std::size_t>(e)];
    const std::int64_t count = std::max<std::int64_t>(1, tiles_of(rows, most));
    for (std::int64_t i = 0; i < count; ++i) {
      parts.push_back({e, rows * i / count, rows * (i + 1) / count, i == 0 ? -1 : partials++});
    }
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {  // the largest first
    return std::tuple(b.last - b.first, a.expert, a.first) <
           std::tuple(a.last - a.first, b.expert, b.first);
  });
  return parts;
}

// Where one owner adds up its gradients; null where they are not wanted.
template <class T>
struct Sums {
  T *w1 = nullptr, *b1 = nullptr, *w3 = nullptr, *b3 = nullptr, *w2 = nullptr, *b2 = nullptr;
};

// The sums over rows among them, where these are many.
template <class T>
struct BiasSums {
  LongSums<T> b1, b3, b2;
};

template <class F, class T>
class ExpertsBackward {
 public:
  ExpertsBackward(const ExpertTensors& w, const Tensor& x, const Tensor& dy,
                  std::span<const ExpertSlotsBackward> plans, const ExpertTensors& dw)
      : w_(w),
        dw_(dw),
        model_(w_.w1.rows),
        hidden_(w_.w1.cols),
        output_(w_.w2.cols),
        x_(x.data<T>()),
        dy_(dy.data<T>()),
        plans_(plans.begin(), plans.end()),
        parts_(parts_of(rows_of_experts(w.w1.size(0)))),
        tile_rows_(tile_rows(model_ * hidden_)),
        workspace_(tile_rows_, 3 * (hidden_ + kPad) + (all_kept() ? 0 : 2 * hidden_)) {
    std::int64_t partials = 0;
    for (const Part& part : parts_) partials = std::max(partials, part.partial + 1);
    partial_ = Tensor::empty({partials, count_of_sums()}, dtype_of<T>, Device::cpu);
  }

  void operator()() {
    const auto count = static_cast<std::int64_t>(parts_.size());
    const auto run = [&](std::int64_t i, int worker) {
      part(parts_[static_cast<std::size_t>(i)], worker);
    };
    std::int64_t rows = kPanelRows * count;
    for (const Part& part : parts_) rows += part.last - part.first;
    if (rows * model_ * hidden_ <= kSerialExperts) {
      for (std::int64_t i = 0; i < count; ++i) run(i, 0);
    } else {
      parallel_pieces(count, run);
    }
    add_partials();
  }

 private:
  PoolVector<std::int64_t> rows_of_experts(std::int64_t experts) const {
    PoolVector<std::int64_t> rows(static_cast<std::size_t>(experts), 0);
    for (std::int64_t e = 0; e < experts; ++e) {
      for (const Rows<T>& plan : plans_) rows[static_cast<std::size_t>(e)] += plan.count(e);
    }
    return rows;
  }
  bool all_kept() const {
    return std::ranges::all_of(plans_, [](const Rows<T>& plan) { return plan.a != nullptr; });
  }

  static std::int64_t each(const Stack<T>& s) { return s ? s.rows * s.cols : 0; }
  std::int64_t count_of_sums() const {
    std::int64_t sum = 0;
    for (const Stack<T>* s : {&dw_.w1, &dw_.b1, &dw_.w3, &dw_.b3, &dw_.w2, &dw_.b2})
      sum += each(*s);
    return sum;
  }

  Sums<T> sums_of(const Part& part) const {
    Sums<T> sums;
    T* next = part.partial < 0 ? nullptr : partial_.write<T>() + part.partial * count_of_sums();
    const auto place = [&](T*& at, const Stack<T>& s) {
      if (!s) return;
      at = next == nullptr ? s.at(part.expert) : next;
      if (next != nullptr) next += each(s);
      // The first tile's products overwrite the matrices.
      if (part.first == part.last) std::fill(at, at + each(s), T(0));
    };
    place(sums.w1, dw_.w1);
    place(sums.b1, dw_.b1);
    place(sums.w3, dw_.w3);
    place(sums.b3, dw_.b3);
    place(sums.w2, dw_.w2);
    place(sums.b2, dw_.b2);
    return sums;
  }

  void part(const Part& part, int worker) const {
    const Sums<T> sums = sums_of(part);
    const std::int64_t rows = part.last - part.first;
    const auto bias_sums = [=](T* at, std::int64_t cols) {
      return LongSums<T>(at, at == nullptr ? 0 : cols, rows);
    };
    BiasSums<T> of_biases{bias_sums(sums.b1, hidden_), bias_sums(sums.b3, hidden_),
                          bias_sums(sums.b2, output_)};
    const bool many = rows > kManyRows;
    PoolVector<LongSums<T>> of_matrices;
    if (many) {
      if (sums.w1 != nullptr) of_matrices.emplace_back(sums.w1, each(dw_.w1), rows, kTilesOfSum);
      if (sums.w3 != nullptr) of_matrices.emplace_back(sums.w3, each(dw_.w3), rows, kTilesOfSum);
      if (sums.w2 != nullptr) of_matrices.emplace_back(sums.w2, each(dw_.w2), rows, kTilesOfSum);
    }
    const std::int64_t tiles = tiles_of(rows, tile_rows_);
    PoolVector<Run> runs;
    for (std::int64_t i = 0; i < tiles; ++i) {
      runs_of(part.expert, part.first + rows * i / tiles, part.first + rows * (i + 1) / tiles,
              runs);
      tile(part.expert, runs, i == 0 && !many ? T(0) : T(1), many ? kSumBlock : kDepth, sums,
           of_biases, worker);
      for (LongSums<T>& sum : of_matrices) sum.added();
    }
    for (LongSums<T>& sum : of_matrices) sum.finish();
    of_biases.b1.finish();
    of_biases.b3.finish();
    of_biases.b2.finish();
  }

  // Rows of a tile that are slots of one plan.
  struct Run {
    const Rows<T>* plan;
    std::int64_t slot, rows;
  };

  // The rows [first, last) of an expert, those of all plans one behind the other.
  void runs_of(std::int64_t e, std::int64_t first, std::int64_t last, PoolVector<Run>& runs) const {
    runs.clear();
    std::int64_t before = 0;
    for (const Rows<T>& plan : plans_) {
      const std::int64_t count = plan.count(e);
      const std::int64_t begin = std::clamp<std::int64_t>(first - before, 0, count);
      const std::int64_t end = std::clamp<std::int64_t>(last - before, 0, count);
      if (begin < end) runs.push_back({&plan, plan.bounds[e] + begin, end - begin});
      before += count;
    }
  }

  // Rows of expert e, in one copy of its matrices. beta: 0 where this tile starts the sums of
  // products; depth: see product().
  void tile(std::int64_t e, const PoolVector<Run>& runs, T beta, std::int64_t depth,
            const Sums<T>& sums, BiasSums<T>& of_biases, int worker) const {
    const std::int64_t wide = hidden_ + kPad;
    T* const u = workspace_.of(worker);
    T* const da = u + tile_rows_ * wide;
    T* const dc = da + tile_rows_ * wide;
    T* const again = dc + tile_rows_ * wide;
    std::int32_t* const tokens = workspace_.tokens(worker);
    std::int64_t rows = 0;
    for (const Run& run : runs) {
      run.plan->slots.put_tokens(run.slot, run.rows, tokens + rows);
      rows += run.rows;
    }
    const Matrix<T> x{x_, model_, false, tokens};
    // The adjoints of the tokens, to be multiplied by their weights; or those of the slots of the
    // only plan.
    const bool weighted = runs[0].plan->weights != nullptr;
    const Matrix<T> g = weighted ? Matrix<T>{dy_, output_, false, tokens}
                                 : Matrix<T>{dy_ + runs[0].slot * output_, output_};
    times_transposed(g, rows, w_.w2, e, T(0), da, wide);  // du, to become da

    std::int64_t r = 0;
    for (const Run& run : runs) {
      const PreActivations before = pre_activations(run, tokens + r, e, again + r * hidden_);
      for (std::int64_t i = 0; i < run.rows; ++i, ++r) {
        const std::int32_t choice = run.plan->slots.order[run.slot + i];
        const T scale = weighted ? run.plan->weights[choice] : T(1);
        T* const dweight = run.plan->dweights == nullptr ? nullptr : run.plan->dweights + choice;
        const T* const g_row = dy_ + (weighted ? tokens[r] : run.slot + i) * output_;
        const T* const a = before.a + i * hidden_;
        const T* const c = before.c == nullptr ? nullptr : before.c + i * hidden_;
        if (dweight != nullptr || sums.w2 != nullptr) {
          T gate = both_ways(a, c, scale, u + r * wide, da + r * wide, dc + r * wide);  // <u, du>
          if (w_.b2 && dweight != nullptr) gate += dot<T>(g_row, w_.b2.at(e), output_);
          if (dweight != nullptr) *dweight = gate;
        } else {
          activate_backward<F>(a, c, scale, hidden_, da + r * wide, dc + r * wide);
        }
        if (sums.b2 != nullptr) {
          for (std::int64_t o = 0; o < output_; ++o) sums.b2[o] += scale * g_row[o];
          of_biases.b2.added();
        }
      }
    }

    const Matrix<T> u_rows{u, wide};
    const Matrix<T> da_rows{da, wide};
    const Matrix<T> dc_rows{dc, wide};
    if (sums.w2 != nullptr) add_product(u_rows, hidden_, g, output_, rows, beta, sums.w2, depth);
    if (sums.w1 != nullptr) add_product(x, model_, da_rows, hidden_, rows, beta, sums.w1, depth);
    if (sums.b1 != nullptr) add_column_sums(da, rows, hidden_, sums.b1, of_biases.b1);
    if (sums.w3 != nullptr) add_product(x, model_, dc_rows, hidden_, rows, beta, sums.w3, depth);
    if (sums.b3 != nullptr) add_column_sums(dc, rows, hidden_, sums.b3, of_biases.b3);
    r = 0;
    for (const Run& run : runs) {
      if (run.plan->dslots != nullptr) {
        T* const dx = run.plan->dslots + run.slot * model_;
        times_transposed(Matrix<T>{da + r * wide, wide}, run.rows, w_.w1, e, T(0), dx, model_);
        if (w_.w3) {
          times_transposed(Matrix<T>{dc + r * wide, wide}, run.rows, w_.w3, e, T(1), dx, model_);
        }
      }
      r += run.rows;
    }
  }

  // a and c [rows, H] of a run; c is null where there is none.
  struct PreActivations {
    const T *a, *c;
  };

  // Those that were kept; else worked out once more, at `space`.
  PreActivations pre_activations(const Run& run, const std::int32_t* tokens, std::int64_t e,
                                 T* space) const {
    if (run.plan->a != nullptr) {
      const std::int64_t first = run.slot * hidden_;
      return {run.plan->a + first, w_.w3 ? run.plan->c + first : nullptr};
    }
    const Matrix<T> x{x_, model_, false, tokens};
    T* const c = w_.w3 ? space + tile_rows_ * hidden_ : nullptr;
    linear(x, run.rows, w_.w1, w_.b1, e, space);
    if (c != nullptr) linear(x, run.rows, w_.w3, w_.b3, e, c);
    return {space, c};
  }

  // Of one row: u times `scale` (u (weight g)^T = (weight u) g^T), da in the place of du, dc.
  // Returns <u, du> as they are without the weight.
  T both_ways(const T* a, const T* c, T scale, T* u, T* du, T* dc) const {
    if (c == nullptr) return activate_both_ways<F>(a, scale, hidden_, u, du);
    activate<F>(a, c, hidden_, u);
    const T gate = dot<T>(u, du, hidden_);
    for (std::int64_t i = 0; i < hidden_; ++i) u[i] *= scale;
    activate_backward<F>(a, c, scale, hidden_, du, dc);
    return gate;
  }

  // The partial sums of an expert, in order, on top of its first part's.
  void add_partials() const {
    PoolVector<const Part*> partial(static_cast<std::size_t>(partial_.size(0)));
    for (const Part& part : parts_) {
      if (part.partial >= 0) partial[static_cast<std::size_t>(part.partial)] = &part;
    }
    const T* from = partial_.data<T>();
    for (const Part* part : partial) {
      for (const Stack<T>* s : {&dw_.w1, &dw_.b1, &dw_.w3, &dw_.b3, &dw_.w2, &dw_.b2}) {
        if (!*s) continue;
        T* const to = s->at(part->expert);
        parallel_for(each(*s), kGrain, [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
        });
        from += each(*s);
      }
    }
  }

  Network<const T> w_;
  Network<T> dw_;
  std::int64_t model_, hidden_, output_;
  const T *x_, *dy_;
  PoolVector<Rows<T>> plans_;
  PoolVector<Part> parts_;
  std::int64_t tile_rows_;
  Workspace<T> workspace_;
  Tensor partial_;
};

}  // namespace
}  // namespace cpu::network

void CpuKernels::experts_backward(Activation activation, const ExpertTensors& w, const Tensor& x,
                                  const Tensor& dy, std::span<const ExpertSlotsBackward> plans,
                                  const ExpertTensors& dw) {
  for (const ExpertSlotsBackward& plan : plans) {
    if (plan.dweights.defined()) fill(0.0, plan.dweights);
  }
  with_floating(x.dtype(), "experts", [&](auto zero) {
    using T = decltype(zero);
    for (const ExpertSlotsBackward& plan : plans) cpu::clear_rest<T>(plan.offsets, plan.dslots);
    cpu::network::with_activation(activation, [&](auto functor) {
      cpu::network::ExpertsBackward<decltype(functor), T>(w, x, dy, plans, dw)();
    });
  });
}

}  // namespace moegrad
