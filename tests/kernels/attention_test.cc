#include <algorithm>
#include <numeric>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t batch, length, width;
  std::vector<std::int32_t> packed = {};  // lengths of the sequences in each; empty: one, causal

  // The rows that row i sees are [first, end).
  struct Rows {
    std::int64_t first, end;
  };
  Rows seen(std::int64_t i) const {
    if (packed.empty()) return {0, i + 1};
    std::int64_t first = 0;
    for (const std::int32_t n : packed) {
      if (i < first + n) return {first, first + n};
      first += n;
    }
    return {0, 0};
  }
};
// Lengths around the tile of 64, and beyond sixteen tiles; sequences that are many beside the longest
// are shared out in another way than few.
const std::vector<Case> kCases = {{0, 3, 2},
                                  {2, 0, 3},
                                  {1, 1, 1},
                                  {3, 1, 4},
                                  {2, 5, 3},
                                  {2, 63, 8},
                                  {1, 64, 5},
                                  {2, 65, 16},
                                  {9, 66, 4},
                                  {1, 200, 32},
                                  {1, 1100, 2},
                                  {0, 3, 2, {3}},
                                  {2, 0, 3, {0}},
                                  {1, 1, 1, {1}},
                                  {2, 9, 3, {1, 5, 0, 3}},
                                  {1, 70, 5, {64, 6}},
                                  {3, 200, 8, {65, 3, 130, 2}},
                                  {3, 130, 8, {40, 20, 40, 30}},
                                  {1, 1103, 2, {3, 1100}}};

// Kernels and what they are run on: q, k, v, dout; out, lse, dq, dk, dv.
enum Input { kQ, kK, kV, kDout };
enum Output { kOut, kLse, kDq, kDk, kDv };
std::vector<Tensor> passes(const OnDevice& on, const std::vector<std::int32_t>& packed,
                           const std::vector<Tensor>& inputs) {
  std::vector<Tensor> in;
  for (const Tensor& x : inputs) in.push_back(on(x));
  const Shape& shape = in[0].shape();
  std::vector<Tensor> r;
  for (const Shape& s : {shape, Shape{shape[0], shape[1]}, shape, shape, shape}) {
    r.push_back(Tensor::empty(s, in[0].dtype(), on.device));
  }
  if (packed.empty()) {
    on->causal_attention(in[kQ], in[kK], in[kV], r[kOut], r[kLse]);
    on->causal_attention_backward(in[kQ], in[kK], in[kV], r[kOut], r[kLse], in[kDout], r[kDq],
                                  r[kDk], r[kDv]);
  } else {
    std::vector<std::int32_t> starts = {0};
    for (const std::int32_t n : packed) starts.push_back(starts.back() + n);
    const Tensor from = on(Tensor::of({std::ssize(starts)}, starts));
    const std::int64_t longest = *std::ranges::max_element(packed);
    on->packed_attention(in[kQ], in[kK], in[kV], from, longest, r[kOut], r[kLse]);
    on->packed_attention_backward(in[kQ], in[kK], in[kV], from, longest, r[kOut], r[kLse],
                                  in[kDout], r[kDq], r[kDk], r[kDv]);
  }
  return r;
}

// Plain loops with all scores of one row at a time.
struct Expected {
  Values out, lse, dq, dk, dv;
};
Expected expected(const Case& c, const Tensor& queries, const Tensor& keys, const Tensor& values,
                  const Tensor& dy) {
  const Values q = queries.to_vector();
  const Values k = keys.to_vector();
  const Values v = values.to_vector();
  const Values dout = dy.to_vector();
  const auto& [batch, length, width, packed] = c;
  const auto rows = at(batch * length);
  const auto size = at(batch * length * width);
  Expected e{Values(size), Values(rows), Values(size), Values(size), Values(size)};
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t row = b * length + i;
      const auto [first, end] = c.seen(i);
      Values p;
      double sum = 0.0;
      for (std::int64_t j = first; j < end; ++j) {
        double s = 0.0;
        for (std::int64_t c_ = 0; c_ < width; ++c_) {
          s += scale * q[at(row * width + c_)] * k[at((b * length + j) * width + c_)];
        }
        p.push_back(s);
      }
      const double top = *std::max_element(p.begin(), p.end());
      for (double& x : p) {
        x = std::exp(x - top);
        sum += x;
      }
      e.lse[at(row)] = top + std::log(sum);
      Values dp;
      double dot = 0.0;
      for (std::int64_t j = first; j < end; ++j) {
        p[at(j - first)] /= sum;
        double d = 0.0;
        for (std::int64_t c_ = 0; c_ < width; ++c_) {
          const std::int64_t of_v = (b * length + j) * width + c_;
          e.out[at(row * width + c_)] += p[at(j - first)] * v[at(of_v)];
          e.dv[at(of_v)] += p[at(j - first)] * dout[at(row * width + c_)];
          d += dout[at(row * width + c_)] * v[at(of_v)];
        }
        dp.push_back(d);
        dot += p[at(j - first)] * d;
      }
      for (std::int64_t j = first; j < end; ++j) {
        const double ds = scale * p[at(j - first)] * (dp[at(j - first)] - dot);
        for (std::int64_t c_ = 0; c_ < width; ++c_) {
          const std::int64_t of_k = (b * length + j) * width + c_;
          e.dq[at(row * width + c_)] += ds * k[at(of_k)];
          e.dk[at(of_k)] += ds * q[at(row * width + c_)];
        }
      }
    }
  }
  return e;
}

}  // namespace

KERNEL_TEST("attention and its backward pass equal plain loops") {
  for (const DType dtype : floating()) {
    for (const Case& c : kCases) {
      CAPTURE(c.batch);
      CAPTURE(c.length);
      CAPTURE(c.width);
      CAPTURE(c.packed.size());
      const Shape shape{c.batch, c.length, c.width};
      const Tensor q = random(shape, dtype, 1);
      const Tensor k = random(shape, dtype, 2);
      const Tensor v = random(shape, dtype, 3);
      const Tensor dout = random(shape, dtype, 4);
      const Expected want = expected(c, q, k, v, dout);
      const auto got = on.at_all_threads([&] { return passes(on, c.packed, {q, k, v, dout}); });
      check_close(got[kOut], want.out);
      check_close(got[kLse], want.lse);
      check_close(got[kDq], want.dq, 16.0);
      check_close(got[kDk], want.dk, 16.0);
      check_close(got[kDv], want.dv, 16.0);
    }
  }
}

KERNEL_TEST("attention: a sequence has the same bits among few and among many") {
  for (const std::int32_t length : {130, 1100}) {
    // The same rows, once and nine times: of causal ones by batch, and packed one behind the other.
    const auto results = [&](std::int64_t times, bool packed) {
      std::vector<Tensor> in;
      for (const std::uint64_t seed : {1, 2, 3, 4}) {
        const Tensor x = random({1, length, 8}, DType::f32, seed);
        const Shape batches{times, length, 8};
        Tensor all =
            Tensor::empty(packed ? Shape{1, times * length, 8} : batches, DType::f32, Device::cpu);
        for (std::int64_t i = 0; i < all.numel(); ++i) {
          all.write<float>()[i] = x.data<float>()[i % x.numel()];
        }
        in.push_back(all);
      }
      const std::vector<std::int32_t> lengths(static_cast<std::size_t>(packed ? times : 0), length);
      std::vector<Tensor> r = passes(on, lengths, in);
      for (Tensor& x : r)
        x = x.to(Device::cpu).reshape({times * length, x.numel() / (times * length)});
      return r;
    };
    for (const bool packed : {false, true}) {
      const auto few = results(1, packed);
      const auto all = results(9, packed);
      for (std::size_t i = 0; i < few.size(); ++i) {
        CHECK(few[i].same_bits(all[i].rows(0, length)));
        CHECK(few[i].same_bits(all[i].rows(8 * length, 9 * length)));
      }
    }
  }
}

KERNEL_TEST("packed attention: a sequence has the same bits whatever lies beside it") {
  constexpr std::int64_t kLength = 130;
  const auto results = [&](std::int64_t before, const std::vector<std::int32_t>& packed) {
    const std::int64_t all = std::accumulate(packed.begin(), packed.end(), std::int64_t{0});
    std::vector<Tensor> in;
    for (const std::uint64_t seed : {1, 2, 3, 4}) {
      const Tensor own = random({1, kLength, 8}, DType::f32, seed);
      const Tensor x = random({1, all, 8}, DType::f32, 10 + seed);
      std::copy_n(own.data<float>(), own.numel(), x.write<float>() + before * 8);
      in.push_back(x);
    }
    std::vector<Tensor> r = passes(on, packed, in);
    for (Tensor& x : r) {
      x = x.to(Device::cpu).reshape({all, x.numel() / all}).rows(before, before + kLength);
    }
    return r;
  };
  const auto alone = results(0, {kLength});
  const auto one_of_few = results(71, {1, 70, kLength, 300});
  const auto one_of_many = results(260, {130, 0, 130, kLength, 130, 130, 130, 130, 130, 130});
  for (std::size_t i = 0; i < alone.size(); ++i) {
    CHECK(alone[i].same_bits(one_of_few[i]));
    CHECK(alone[i].same_bits(one_of_many[i]));
  }
}

KERNEL_TEST("causal attention: scores that rise or fall along many tiles") {
  for (const DType dtype : floating()) {
    for (const double slope : {0.01, 1.0, -1.0}) {
      const Case c{1, 1500, 1};
      const Shape shape{1, c.length, 1};
      const Tensor q = Tensor::full(shape, 1.0, dtype, Device::cpu);
      const Tensor k = Tensor::empty(shape, DType::f64, Device::cpu);
      for (std::int64_t i = 0; i < c.length; ++i)
        k.write<double>()[i] = slope * static_cast<double>(i) / 8.0;
      const Tensor v = random(shape, dtype, 3);
      const Tensor out = Tensor::empty(shape, dtype, on.device);
      const Tensor lse = Tensor::empty({1, c.length}, dtype, on.device);
      const Tensor keys = k.to(dtype);
      on->causal_attention(on(q), on(keys), on(v), out, lse);
      const Expected want = expected(c, q, keys, v, v);
      check_close(out, want.out, 16.0);
      check_close(lse, want.lse, 16.0);
    }
  }
}

KERNEL_TEST("causal attention: NaN stays NaN, and large scores do not overflow") {
  for (const DType dtype : floating()) {
    const std::int64_t length = 1100;
    const Shape shape{1, length, 2};
    const Tensor v = random(shape, dtype, 3);
    const Tensor out = Tensor::empty(shape, dtype, on.device);
    const Tensor lse = Tensor::empty({1, length}, dtype, on.device);
    const Tensor large = Tensor::full(shape, 100.0, dtype, on.device);
    on->causal_attention(large, large, on(v), out, lse);
    CHECK(on->all_finite(out));
    CHECK(on->all_finite(lse));

    Tensor q = random(shape, dtype, 1);
    if (dtype == DType::f32) q.write<float>()[2 * 66] = NAN;
    if (dtype == DType::f64) q.write<double>()[2 * 66] = NAN;
    on->causal_attention(on(q), on(random(shape, dtype, 2)), on(v), out, lse);
    const Values got = out.to_vector();
    for (std::int64_t i = 0; i < length; ++i) CHECK(std::isnan(got[at(2 * i)]) == (i == 66));
  }
}

KERNEL_TEST("causal attention: of scores that are all -infinity so is the lse") {
  for (const DType dtype : floating()) {
    const Shape shape{1, 20, 1};
    const Tensor q = on(Tensor::full(shape, -HUGE_VAL, dtype, Device::cpu));
    const Tensor k = on(random(shape, dtype, 2, 1.0, 2.0));
    const Tensor out = Tensor::empty(shape, dtype, on.device);
    const Tensor lse = Tensor::empty({1, 20}, dtype, on.device);
    on->causal_attention(q, k, k, out, lse);
    check_close(lse, Values(20, -HUGE_VAL));
    check_close(out, Values(20, std::nan("")));  // 0 / 0
  }
}

namespace {

std::vector<Tensor> on_host(std::vector<Tensor> tensors) {
  for (Tensor& x : tensors) x = x.to(Device::cpu);
  return tensors;
}

// Whether `row` of a result depends on what an input holds in row `at` of the same batch: the query
// of a pair sees its key, or is of the same row.
bool depends(const Case& c, Output result, std::int64_t row, Input input, std::int64_t at) {
  if (input == kDout && (result == kOut || result == kLse)) return false;
  if (input == kV && (result == kLse || result == kDv)) return false;
  const auto sees = [&](std::int64_t query, std::int64_t key) {
    const auto [first, end] = c.seen(query);
    return first <= key && key < end;
  };
  const bool of_keys = input == kK || input == kV;
  // What reaches a key comes through the queries that see it, with all that they see.
  if (result == kDk || result == kDv) {
    if (!of_keys) return sees(at, row);
    return !c.packed.empty() ? sees(row, at) : true;
  }
  return of_keys ? sees(row, at) : row == at;
}

}  // namespace

KERNEL_TEST("causal attention: low scores behind many tiles of -infinity") {
  constexpr std::int64_t kLength = 1030;
  constexpr std::int64_t kNone = 1024;  // scores of -infinity
  const Shape shape{1, kLength, 1};
  for (const DType dtype : floating()) {
    const Tensor k = Tensor::full(shape, -800.0, DType::f64, Device::cpu);
    for (std::int64_t i = 0; i < kNone; ++i) k.write<double>()[i] = -HUGE_VAL;
    const Tensor v = random(shape, dtype, 3);
    const Tensor out = Tensor::empty(shape, dtype, on.device);
    const Tensor lse = Tensor::empty({1, kLength}, dtype, on.device);
    on->causal_attention(on(Tensor::full(shape, 1.0, dtype, Device::cpu)), on(k.to(dtype)), on(v),
                         out, lse);
    double sum = 0.0;
    for (std::int64_t i = kNone; i < kLength; ++i) {
      sum += v.at(i);
      const auto count = static_cast<double>(i - kNone + 1);
      CHECK(out.to(Device::cpu).at(i) == doctest::Approx(sum / count));
      CHECK(lse.to(Device::cpu).at(i) == doctest::Approx(-800.0 + std::log(count)));
    }
  }
}

KERNEL_TEST("attention: what a row does not depend on leaves its bits alone") {
  const CheckedPool checked;
  for (const DType dtype : floating()) {
    for (const Case& c :
         {Case{2, 70, 3}, Case{9, 19, 1}, Case{2, 70, 3, {5, 64, 1}}, Case{9, 19, 1, {9, 4, 6}}}) {
      const Shape shape{c.batch, c.length, c.width};
      const Tensor positive = random(shape, dtype, 2, 0.5, 2.0);  // an lse may be infinite
      const std::vector<Tensor> inputs = {random(shape, dtype, 1), positive,
                                          random(shape, dtype, 3), random(shape, dtype, 4)};
      const std::vector<Tensor> want = on_host(passes(on, c.packed, inputs));
      for (const Input poisoned : {kQ, kK, kV, kDout}) {
        for (const std::int64_t place : {std::int64_t{0}, std::int64_t{7}, c.length - 2}) {
          for (const double poison : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
            CAPTURE(c.length);
            CAPTURE(static_cast<int>(poisoned));
            CAPTURE(place);
            CAPTURE(poison);
            std::vector<Tensor> in = inputs;
            Values x = in[poisoned].to_vector();
            const auto row = x.begin() + (c.length + place) * c.width;  // of the second sequence
            std::fill(row, row + c.width, poison);
            in[poisoned] = tensor_of(shape, dtype, x);
            const std::vector<Tensor> got = on_host(passes(on, c.packed, in));
            for (const Output o : {kOut, kLse, kDq, kDk, kDv}) {
              CAPTURE(static_cast<int>(o));
              const std::int64_t width = o == kLse ? 1 : c.width;
              const Tensor now = got[o].reshape({c.batch * c.length, width});
              const Tensor before = want[o].reshape({c.batch * c.length, width});
              std::int64_t wrong = -1;
              for (std::int64_t r = 0; r < c.batch * c.length; ++r) {
                const bool sees = r / c.length == 1 && depends(c, o, r % c.length, poisoned, place);
                const bool right = !sees ? now.rows(r, r + 1).same_bits(before.rows(r, r + 1))
                                         : !std::isnan(poison) || std::isnan(now.at(r * width));
                if (!right) wrong = r;
              }
              CHECK(wrong == -1);
            }
          }
        }
      }
    }
  }
}
