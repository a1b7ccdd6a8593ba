// Defects that kernels of mixtures have been shipped with elsewhere, each a test by its name.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "cuda/device.h"
#include "cuda/emulator/emulator.h"
#include "tensor/kernels.h"

using namespace moegrad;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Kernels& device() { return kernels(Device::cuda); }

Tensor integers(const Shape& shape, const std::vector<std::int32_t>& values) {
  return Tensor::of(shape, values).to(Device::cuda);
}
Tensor counting(const Shape& shape, DType type = DType::f64) {
  Tensor t = Tensor::empty(shape, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    t.write<double>()[i] = static_cast<double>((i * 7) % 11) - 5.0;
  }
  return t.to(type).to(Device::cuda);
}

struct Plan {
  Plan(const Tensor& selected, std::int64_t experts)
      : offsets(selected.like({experts + 1})),
        order(selected.like({selected.numel()})),
        inverse(selected.like()) {
    device().plan(selected, experts, offsets, order, inverse);
  }
  Tensor offsets, order, inverse;
};

// Networks of E experts, each with its own weights.
ExpertTensors networks(std::int64_t experts, std::int64_t width, std::int64_t hidden) {
  ExpertTensors w;
  w.w1 = counting({experts, width, hidden});
  w.b1 = counting({experts, hidden});
  w.w2 = counting({experts, hidden, width});
  w.b2 = counting({experts, width});
  return w;
}
ExpertTensors like(const ExpertTensors& w, double value) {
  ExpertTensors d;
  for (auto member :
       {&ExpertTensors::w1, &ExpertTensors::b1, &ExpertTensors::w2, &ExpertTensors::b2}) {
    d.*member = Tensor::full((w.*member).shape(), value, DType::f64, Device::cuda);
  }
  return d;
}

struct Pass {
  Tensor h, dslots;
  ExpertTensors dw;
};
Pass pass(const ExpertTensors& w, const Tensor& x, const Tensor& selected, std::int64_t experts) {
  const Plan plan(selected, experts);
  const std::int64_t slots = selected.numel();
  const ExpertSlots s{plan.order, plan.offsets, selected.size(1)};
  Pass p{x.like({slots, w.w2.size(2)}), x.like({slots, x.size(1)}), like(w, kNan)};
  device().experts(Activation::gelu, w, x, s, p.h);
  const Tensor weights = Tensor::full(selected.shape(), 0.5, DType::f64, Device::cuda);
  const ExpertSlotsBackward back[] = {{s, weights, p.dslots, {}}};
  device().experts_backward(Activation::gelu, w, x, counting({x.size(0), w.w2.size(2)}), back,
                            p.dw);
  return p;
}

bool same(const Tensor& a, const Tensor& b) { return a.same_bits(b); }
bool all_finite(const Tensor& t) { return device().all_finite(t); }

}  // namespace

TEST_CASE("defects: the weight gradient of an expert without tokens is not zero") {
  const Pass p = pass(networks(4, 5, 3), counting({6, 5}), integers({6, 1}, {0, 3, 0, 3, 3, 0}), 4);
  for (const Tensor* t : {&p.dw.w1, &p.dw.b1, &p.dw.w2, &p.dw.b2}) {
    const std::vector<double> all = t->to_vector();
    const std::size_t each = all.size() / 4;
    for (std::size_t i = each; i < 3 * each; ++i) CHECK(all[i] == 0.0);
    for (const double v : all) CHECK(std::isfinite(v));
  }
}

TEST_CASE("defects: no tokens at all") {
  const Pass p = pass(networks(3, 4, 2), counting({0, 4}), integers({0, 2}, {}), 3);
  for (const Tensor* t : {&p.dw.w1, &p.dw.b1, &p.dw.w2, &p.dw.b2}) {
    for (const double v : t->to_vector()) CHECK(v == 0.0);
  }
  CHECK(p.h.numel() == 0);
}

TEST_CASE("defects: more than 65,535 blocks") {
  constexpr std::int64_t kMany = 65536 * 256 + 77;
  cuda_emulator::Settings quick;  // of 17 million threads none is looked at
  quick.observed = false;
  const cuda_emulator::With with(quick);
  const Tensor x = Tensor::full({kMany}, 2.0, DType::f32, Device::cuda);
  CHECK(x.rows(kMany - 1, kMany).item() == 2.0);
  CHECK(x.rows(65536 * 256 - 1, 65536 * 256).item() == 2.0);
}

TEST_CASE("defects: more blocks than a launch can have") {
  // 2^31 sequences of one token whose width is 0: nothing is as large as their sums.
  constexpr std::int64_t kMany = std::int64_t{1} << 31;
  {
    const Tensor q = Tensor::empty({kMany, 1, 0}, DType::f32, Device::cuda);
    const Tensor lse = q.like({kMany, 1});
    std::string error;
    try {
      device().causal_attention(q, q, q, q, lse);
    } catch (const Error& e) {
      error = e.what();
    }
    CHECK(error ==
          "[causal_attention] 2147483648 blocks, and a launch has 2147483647 at most. Split the "
          "tensors.");
  }
  pool::release_cached(Device::cuda);
}

TEST_CASE("defects: attention asks for more shared memory than the smallest device has") {
  const cuda_emulator::With with({.shared_memory = 64 * 1024});  // an sm_75
  for (const std::int64_t width : {64, 128, 256, 1000}) {
    const Tensor q = Tensor::full({1, 3, width}, 0.125, DType::f64, Device::cuda);
    const Tensor out = q.like();
    const Tensor lse = q.like({1, 3});
    device().causal_attention(q, q, q, out, lse);
    const Tensor dq = q.like();
    const Tensor dk = q.like();
    const Tensor dv = q.like();
    device().causal_attention_backward(q, q, q, out, lse, q, dq, dk, dv);
    CHECK(std::abs(out.to(Device::cpu).at(0) - 0.125) < 1e-15);
    CHECK(all_finite(dv));
  }
}

TEST_CASE("defects: 32-bit products of row and width") {
  // Rows whose elements begin beyond 2^31: only the pages that are touched exist.
  constexpr std::int64_t kRows = 70000;
  constexpr std::int64_t kWidth = 40000;
  const cuda_emulator::With with({.memory = std::size_t{40} << 30});
  {
    const Tensor x = Tensor::empty({kRows, kWidth}, DType::f32, Device::cuda);
    device().fill(3.0, x.rows(kRows - 1, kRows));
    const Tensor out = x.like({1, kWidth});
    device().gather_rows(x, integers({1}, {kRows - 1}), out);
    CHECK(out.to_vector() == std::vector<double>(kWidth, 3.0));
  }
  pool::release_cached(Device::cuda);
}

TEST_CASE("defects: rows misaligned by an odd width") {
  for (const std::int64_t width : {1, 3, 5, 7, 33}) {
    const Pass p = pass(networks(2, width, 3), counting({9, width}),
                        integers({9, 1}, {0, 1, 1, 0, 1, 0, 0, 1, 1}), 2);
    CHECK(all_finite(p.h));
    CHECK(all_finite(p.dslots));
    CHECK(all_finite(p.dw.w1));
  }
}

TEST_CASE("defects: the last partial tile is unwritten, or has another expert's weights") {
  // Sizes around those of tiles; each expert's rows against a product of its own.
  constexpr std::int64_t kExperts = 3;
  for (const std::int64_t rows : {1, 15, 16, 17, 63, 64, 65, 130}) {
    std::vector<std::int32_t> ends = {0, static_cast<std::int32_t>(rows),
                                      static_cast<std::int32_t>(rows + 1),
                                      static_cast<std::int32_t>(2 * rows + 1)};
    const Tensor x = counting({2 * rows + 1, 37});
    const Tensor w = counting({kExperts, 37, 70});
    const Tensor y = x.like({2 * rows + 1, 70});
    device().grouped_matmul(x, w, false, integers({4}, ends), y);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const auto group = static_cast<std::size_t>(e);
      const Tensor mine = x.rows(ends[group], ends[group + 1]);
      const Tensor want = x.like({mine.size(0), 70});
      device().matmul(mine, false, w.rows(e, e + 1).reshape({37, 70}), false, 0.0, want);
      CAPTURE(rows);
      CHECK(same(y.rows(ends[group], ends[group + 1]).clone(), want));
    }
  }
}

TEST_CASE("defects: forward has the same bits on every run, the weight gradients have not") {
  const auto run = [](std::uint64_t schedule) {
    cuda::set_schedule(schedule);
    Pass p = pass(
        networks(3, 6, 4), counting({50, 6}),
        [] {
          std::vector<std::int32_t> ids;
          for (std::int32_t i = 0; i < 100; ++i) ids.push_back(i * i % 3);
          return integers({50, 2}, ids);
        }(),
        3);
    cuda::set_schedule(0);
    return p;
  };
  const Pass first = run(0);
  for (const std::uint64_t schedule : {1, 2, 3}) {
    const Pass other = run(schedule);
    CHECK(same(other.h, first.h));
    CHECK(same(other.dw.w1, first.dw.w1));
    CHECK(same(other.dw.b1, first.dw.b1));
    CHECK(same(other.dw.w2, first.dw.w2));
    CHECK(same(other.dw.b2, first.dw.b2));
  }
}

TEST_CASE("defects: experts above 256 are never chosen") {
  constexpr std::int64_t kExperts = 700;
  Tensor scores = Tensor::zeros({3, kExperts}, DType::f64, Device::cpu);
  for (const std::int64_t at : {0 * kExperts + 699, 1 * kExperts + 300, 2 * kExperts + 257}) {
    scores.write<double>()[at] = 1.0;
  }
  const Tensor index = integers({3, 1}, {0, 0, 0});
  device().top_k(scores.to(Device::cuda), 1, index);
  CHECK(index.to_vector() == std::vector<double>{699, 300, 257});
  const Plan plan(index, kExperts);
  CHECK(plan.order.to_vector() == std::vector<double>{2, 1, 0});
  CHECK(plan.offsets.to_vector().back() == 3.0);
}

TEST_CASE("defects: a row of NaN gives an index out of range") {
  for (const std::int64_t n : {1, 5, 40}) {
    for (const std::int64_t k : {std::int64_t{1}, n}) {
      const Tensor x = Tensor::full({2, n}, kNan, DType::f32, Device::cuda);
      const Tensor index = Tensor::full({2, k}, -9, DType::i32, Device::cuda);
      device().top_k(x, k, index);
      const std::vector<double> places = index.to_vector();
      for (std::size_t i = 0; i < places.size(); ++i) {
        CHECK(places[i] == static_cast<double>(i % static_cast<std::size_t>(k)));
      }
    }
  }
}

TEST_CASE("defects: a NaN leaks into another expert's rows") {
  const Tensor selected = integers({5, 1}, {0, 1, 0, 1, 1});
  const ExpertTensors w = networks(2, 4, 3);
  const Tensor clean = counting({5, 4});
  Tensor dirty = clean.to(Device::cpu).clone();
  dirty.write<double>()[0 * 4 + 2] = kNan;  // of token 0, expert 0
  const Pass a = pass(w, clean, selected, 2);
  const Pass b = pass(w, dirty.to(Device::cuda), selected, 2);
  CHECK(same(b.h.rows(2, 5).clone(), a.h.rows(2, 5).clone()));
  CHECK(same(b.dslots.rows(2, 5).clone(), a.dslots.rows(2, 5).clone()));
  CHECK(same(b.dw.w1.rows(1, 2).clone(), a.dw.w1.rows(1, 2).clone()));
  CHECK(same(b.dw.w2.rows(1, 2).clone(), a.dw.w2.rows(1, 2).clone()));
  CHECK_FALSE(all_finite(b.h.rows(0, 1).clone()));
}

TEST_CASE("defects: the second step runs on dirty memory") {
  const auto run = [] {
    return pass(networks(3, 5, 4), counting({7, 5}), integers({7, 1}, {2, 0, 0, 2, 1, 1, 0}), 3);
  };
  pool::release_cached(Device::cuda);
  const Pass first = run();
  {
    // What the pool hands out next is full of other numbers.
    std::vector<Tensor> dirt;
    for (std::int64_t n = 1; n < 4096; n *= 2) {
      for (int i = 0; i < 4; ++i) dirt.push_back(Tensor::full({n}, kNan, DType::f64, Device::cuda));
    }
  }
  const Pass second = run();
  CHECK(same(second.h, first.h));
  CHECK(same(second.dslots, first.dslots));
  CHECK(same(second.dw.w1, first.dw.w1));
  CHECK(same(second.dw.b2, first.dw.b2));
}
