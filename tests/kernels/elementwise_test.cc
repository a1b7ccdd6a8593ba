#include <utility>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const std::vector<std::int64_t> kSizes = {0, 1, 2, 17, 17001};
constexpr Scalars kScalars{-0.75, 1.25};

// Calls f(functor, place) for every functor of a list.
template <class... F, class Call>
void for_functors(TypeList<F...>, Call&& call) {
  int place = 0;
  (call(F{}, place++), ...);
}

struct Broadcast {
  const char* name;
  std::int64_t rows, cols;
  Layout a, b;
};

// The number of elements that a layout reads.
std::int64_t extent(std::int64_t rows, std::int64_t cols, Layout layout) {
  if (rows * cols == 0) return 0;
  return (rows - 1) * layout.row + (cols - 1) * layout.col + 1;
}

std::vector<Broadcast> broadcasts() {
  std::vector<Broadcast> all;
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 3}, {3, 0}, {1, 1}, {1, 7}, {7, 1}, {3, 5}, {1, 17001}, {17001, 1}, {173, 97}}) {
    const Layout full{cols, 1};
    const Layout row{0, 1};
    const Layout column{1, 0};
    const Layout scalar{0, 0};
    for (const Layout other : {full, row, column, scalar}) {
      all.push_back({"left", rows, cols, full, other});
      all.push_back({"right", rows, cols, other, full});
    }
    all.push_back({"outer", rows, cols, column, row});
    all.push_back({"scalars", rows, cols, scalar, scalar});
    all.push_back({"rows", rows, cols, row, row});
    all.push_back({"transposed", rows, cols, Layout{1, rows}, full});
  }
  return all;
}

// The operands of one case and their elements by place in the result.
struct Operands {
  Operands(const Broadcast& c, DType dtype, double low_a, double high_a, double low_b,
           double high_b)
      : a(random({extent(c.rows, c.cols, c.a)}, dtype, 1, low_a, high_a)),
        b(random({extent(c.rows, c.cols, c.b)}, dtype, 2, low_b, high_b)) {
    for (std::int64_t r = 0; r < c.rows; ++r) {
      for (std::int64_t j = 0; j < c.cols; ++j) {
        at_a.push_back(a.at(r * c.a.row + j * c.a.col));
        at_b.push_back(b.at(r * c.b.row + j * c.b.col));
      }
    }
  }

  Tensor a, b;
  Values at_a, at_b;
};

}  // namespace

KERNEL_TEST("functions of one argument and their derivatives") {
  for_functors(UnaryFunctors{}, [&](auto functor, int place) {
    using F = decltype(functor);
    CAPTURE(F::name);
    CHECK(UnaryFunctors::index_of<F>() == place);
    for (const DType dtype : floating()) {
      for (const std::int64_t n : kSizes) {
        const Tensor x = random({n}, dtype, 1, F::kLow, F::kHigh);
        const Tensor dy = random({n}, dtype, 2);
        Values want_y;
        Values want_dx;
        for (std::int64_t i = 0; i < n; ++i) {
          const double y_i = F::f(x.at(i), kScalars);
          want_y.push_back(y_i);
          want_dx.push_back(dy.at(i) * F::df(x.at(i), y_i, kScalars));
        }
        const Tensor y =
            on.run({n}, dtype, [&](const Tensor& out) { on->unary(place, kScalars, on(x), out); });
        check_close(y, want_y);
        const bool inputs = F::kNeeds == Needs::inputs || F::kNeeds == Needs::inputs_and_output;
        const bool output = F::kNeeds == Needs::output || F::kNeeds == Needs::inputs_and_output;
        check_close(on.run({n}, dtype,
                           [&](const Tensor& out) {
                             on->unary_backward(place, kScalars, on(inputs ? x : Tensor()),
                                                on(output ? y : Tensor()), on(dy), out);
                           }),
                    want_dx, 16.0);
      }
    }
  });
}

TEST_CASE("derivatives of one argument agree with differences") {
  for_functors(UnaryFunctors{}, [](auto functor, int) {
    using F = decltype(functor);
    CAPTURE(F::name);
    for (int i = 0; i <= 20; ++i) {
      const double x = F::kLow + (F::kHigh - F::kLow) * (i + 0.3) / 21.0;
      const double h = 1e-6;
      const double slope = (F::f(x + h, kScalars) - F::f(x - h, kScalars)) / (2.0 * h);
      CHECK(F::df(x, F::f(x, kScalars), kScalars) == doctest::Approx(slope).epsilon(1e-7));
    }
  });
}

TEST_CASE("derivatives of two arguments agree with differences") {
  for_functors(BinaryFunctors{}, [](auto functor, int) {
    using F = decltype(functor);
    CAPTURE(F::name);
    for (int i = 0; i <= 20; ++i) {
      const double a = F::kLowA + (F::kHighA - F::kLowA) * (i + 0.3) / 21.0;
      const double b = F::kHighB - (F::kHighB - F::kLowB) * (i * 8 % 21 + 0.6) / 21.0;
      const double h = 1e-6;
      const double y = F::f(a, b);
      const double slope_a = (F::f(a + h, b) - F::f(a - h, b)) / (2.0 * h);
      const double slope_b = (F::f(a, b + h) - F::f(a, b - h)) / (2.0 * h);
      CHECK(F::da(a, b, y) == doctest::Approx(slope_a).epsilon(1e-7));
      CHECK(F::db(a, b, y) == doctest::Approx(slope_b).epsilon(1e-7));
    }
  });
}

KERNEL_TEST("NaN stays NaN through every function") {
  for_functors(UnaryFunctors{}, [&](auto functor, int place) {
    CAPTURE(decltype(functor)::name);
    for (const DType dtype : floating()) {
      const Tensor x = tensor_of({3}, dtype, {1.0, std::nan(""), 1.0});
      const Tensor y =
          on.run({3}, dtype, [&](const Tensor& out) { on->unary(place, kScalars, on(x), out); });
      CHECK_FALSE(std::isnan(y.at(0)));
      CHECK(std::isnan(y.at(1)));
    }
  });
  for_functors(BinaryFunctors{}, [&](auto functor, int place) {
    if (decltype(functor)::name == "pow") return;  // 1^NaN = NaN^0 = 1, as in IEEE 754
    CAPTURE(decltype(functor)::name);
    const Tensor one = Tensor::scalar(1.0);
    const Tensor nan = Tensor::scalar(std::nan(""));
    for (const auto& [a, b] : {std::pair{one, nan}, std::pair{nan, one}}) {
      const Tensor y = Tensor::empty({}, DType::f64, on.device);
      on->binary(place, 1, 1, on(a), {0, 0}, on(b), {0, 0}, y);
      CHECK(std::isnan(y.item()));
    }
  });
}

KERNEL_TEST("large arguments stay finite") {
  for_functors(UnaryFunctors{}, [&](auto functor, int place) {
    using F = decltype(functor);
    if (F::name == "exp" || F::name == "log" || F::name == "sqrt" || F::name == "power") return;
    CAPTURE(F::name);
    for (const DType dtype : floating()) {
      const Tensor x = on(tensor_of({4}, dtype, {1e4, -1e4, 100.0, -100.0}));
      const Tensor y = x.like();
      const Tensor dx = x.like();
      on->unary(place, kScalars, x, y);
      on->unary_backward(place, kScalars, x, y, Tensor::full({4}, 1.0, dtype, on.device), dx);
      CHECK(on->all_finite(y));
      CHECK(on->all_finite(dx));
    }
  });
}

KERNEL_TEST("functions of two arguments with every broadcast") {
  for_functors(BinaryFunctors{}, [&](auto functor, int place) {
    using F = decltype(functor);
    CAPTURE(F::name);
    CHECK(BinaryFunctors::index_of<F>() == place);
    for (const DType dtype : floating()) {
      for (const Broadcast& c : broadcasts()) {
        // All functors share their loops: the large cases of one, whose arguments differ, are
        // enough.
        const bool large = c.rows * c.cols > 1000;
        if (large && !(F::name == "div" && on.has_own_kernels())) continue;
        CAPTURE(c.name);
        const Operands o(c, dtype, F::kLowA, F::kHighA, F::kLowB, F::kHighB);
        const Tensor dy = random({c.rows, c.cols}, dtype, 3);
        Values want_y;
        Values want_da;
        Values want_db;
        for (std::size_t i = 0; i < o.at_a.size(); ++i) {
          const double a = o.at_a[i];
          const double b = o.at_b[i];
          const double y = F::f(a, b);
          const double dy_i = dy.at(static_cast<std::int64_t>(i));
          want_y.push_back(y);
          want_da.push_back(dy_i * F::da(a, b, y));
          want_db.push_back(dy_i * F::db(a, b, y));
        }
        const auto results = on.at_all_threads([&] {
          const Shape shape{c.rows, c.cols};
          const Tensor y = Tensor::empty(shape, dtype, on.device);
          const Tensor da = Tensor::empty(shape, dtype, on.device);
          const Tensor db = Tensor::empty(shape, dtype, on.device);
          const bool none = F::kNeeds == Needs::nothing;
          const Tensor a = on(none ? Tensor() : o.a);
          const Tensor b = on(none ? Tensor() : o.b);
          const Tensor there = on(dy);
          on->binary(place, c.rows, c.cols, on(o.a), c.a, on(o.b), c.b, y);
          on->binary_backward(place, c.rows, c.cols, a, c.a, b, c.b, there, da, {});
          on->binary_backward(place, c.rows, c.cols, a, c.a, b, c.b, there, {}, db);
          const Tensor both_a = Tensor::empty(shape, dtype, on.device);
          const Tensor over_dy = there.clone();
          on->binary_backward(place, c.rows, c.cols, a, c.a, b, c.b, over_dy, both_a, over_dy);
          CHECK(both_a.same_bits(da));
          CHECK(over_dy.same_bits(db));
          const Tensor alone = there.clone();
          on->binary_backward(place, c.rows, c.cols, a, c.a, b, c.b, alone, alone, {});
          CHECK(alone.same_bits(da));
          return std::vector<Tensor>{y, da, db};
        });
        check_close(results[0], want_y);
        check_close(results[1], want_da, 16.0);
        check_close(results[2], want_db, 16.0);
      }
    }
  });
}

KERNEL_TEST("where chooses element by element") {
  for (const DType dtype : floating()) {
    for (const Broadcast& c : broadcasts()) {
      CAPTURE(c.name);
      const Operands o(c, dtype, -2, 2, -2, 2);
      const Tensor condition = random_integers({c.rows, c.cols}, 4, -1, 2);
      Values want;
      for (std::size_t i = 0; i < o.at_a.size(); ++i) {
        const bool chosen = condition.at(static_cast<std::int64_t>(i)) != 0.0;
        want.push_back(chosen ? o.at_a[i] : o.at_b[i]);
      }
      check_close(on.run({c.rows, c.cols}, dtype,
                         [&](const Tensor& out) {
                           on->where(on(condition), c.rows, c.cols, on(o.a), c.a, on(o.b), c.b,
                                     out);
                         }),
                  want, 0.0);
    }
  }
}

KERNEL_TEST("where takes no value from the side not chosen") {
  const Tensor nan = Tensor::scalar(std::nan(""));
  const Tensor y = Tensor::empty({2}, DType::f64, on.device);
  on->where(on(Tensor::of<std::int32_t>({2}, {1, 1})), 1, 2, on(Tensor::of<double>({2}, {1, 2})),
            {2, 1}, on(nan), {0, 0}, y);
  check_close(y, {1, 2}, 0.0);
}

KERNEL_TEST("greater compares") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      const Tensor a = random({n}, dtype, 5);
      const Tensor b = random({n}, dtype, 6);
      Values want;
      for (std::int64_t i = 0; i < n; ++i) want.push_back(a.at(i) > b.at(i) ? 1.0 : 0.0);
      const Tensor x = on(a);
      const Tensor y = on(b);
      check_close(on.run({n}, DType::i32,
                         [&](const Tensor& out) {
                           on->greater(1, n, x, {n, 1}, y, {n, 1}, out);
                         }),
                  want, 0.0);
    }
    const Tensor out = Tensor::empty({3}, DType::i32, on.device);
    on->greater(1, 3, on(tensor_of({3}, dtype, {1, std::nan(""), 1})), {0, 1},
                on(tensor_of({3}, dtype, {1, 0, std::nan("")})), {0, 1}, out);
    check_close(out, {0, 0, 0}, 0.0);
  }
}

KERNEL_TEST("integers are chosen and compared, broadcast too") {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{0, 3}, {1, 1}, {4, 7}, {3000, 40}}) {
    const Tensor a = random_integers({rows, cols}, 3, -3, 4);
    const Tensor column = random_integers({rows, 1}, 4, -3, 4);
    Values larger;
    Values chosen;
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      larger.push_back(a.at(i) > column.at(i / cols) ? 1.0 : 0.0);
      chosen.push_back(larger.back() != 0.0 ? a.at(i) : -1.0);
    }
    const Tensor x = on(a);
    const Tensor y = on(column);
    const Tensor none = on(Tensor::of<std::int32_t>({}, {-1}));
    const Tensor flags = Tensor::empty({rows, cols}, DType::i32, on.device);
    check_close(on.run({rows, cols}, DType::i32,
                       [&, r = rows, c = cols](const Tensor& out) {
                         on->greater(r, c, x, {c, 1}, y, {1, 0}, out);
                       }),
                larger, 0.0);
    on->greater(rows, cols, x, {cols, 1}, y, {1, 0}, flags);
    check_close(on.run({rows, cols}, DType::i32,
                       [&, r = rows, c = cols](const Tensor& out) {
                         on->where(flags, r, c, x, {c, 1}, none, {0, 0}, out);
                       }),
                chosen, 0.0);
  }
}

KERNEL_TEST("an unknown function is an error") {
  const Tensor x = on(Tensor::scalar(1.0F));
  CHECK_THROWS_AS(on->unary(-1, {}, x, x.like()), Error);
  CHECK_THROWS_AS(on->unary(1000, {}, x, x.like()), Error);
  CHECK_THROWS_AS(on->binary(1000, 1, 1, x, {}, x, {}, x.like()), Error);
}
