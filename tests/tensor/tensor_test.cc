#include "tensor/tensor.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;

TEST_CASE("a tensor holds the values it is given") {
  const Tensor t = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(t.shape() == Shape{2, 3});
  CHECK(t.dtype() == DType::f32);
  CHECK(t.device() == Device::cpu);
  CHECK(t.numel() == 6);
  CHECK(t.bytes() == 24);
  CHECK(t.size(0) == 2);
  CHECK(t.size(-1) == 3);
  CHECK(t.at(4) == 5.0);
  CHECK(t.values<float>()[5] == 6.0F);
  CHECK(Tensor::scalar(2.5).item() == 2.5);
  CHECK(Tensor::scalar(2.5).rank() == 0);
  CHECK(Tensor::of<std::int32_t>({2}, {7, -1}).to_vector() == std::vector<double>{7, -1});
  CHECK_FALSE(Tensor().defined());
  CHECK(Tensor::empty({0}, DType::f32, Device::cpu).defined());
}

TEST_CASE("zeros and full") {
  const test::CheckedPool checked;
  for (const DType dtype : {DType::f32, DType::f64, DType::i32}) {
    CHECK(Tensor::zeros({3}, dtype, Device::cpu).to_vector() == std::vector<double>{0, 0, 0});
    CHECK(Tensor::full({2}, 4.0, dtype, Device::cpu).to_vector() == std::vector<double>{4, 4});
    CHECK(Tensor::zeros({0, 3}, dtype, Device::cpu).to_vector().empty());
  }
}

TEST_CASE("an unset element is seen in checked mode") {
  const test::CheckedPool checked;
  CHECK(std::isnan(Tensor::empty({2}, DType::f32, Device::cpu).at(1)));
  CHECK(std::isnan(Tensor::empty({2}, DType::f64, Device::cpu).at(1)));
  CHECK(Tensor::empty({2}, DType::i32, Device::cpu).at(1) > 1e9);
}

TEST_CASE("views share elements, copies do not") {
  const Tensor t = Tensor::of<double>({4, 2}, {0, 1, 2, 3, 4, 5, 6, 7});
  const Tensor rows = t.rows(1, 3);
  CHECK(rows.shape() == Shape{2, 2});
  CHECK(rows.to_vector() == std::vector<double>{2, 3, 4, 5});
  CHECK(rows.shares_storage(t));
  CHECK(rows.rows(1, 2).to_vector() == std::vector<double>{4, 5});
  CHECK(t.rows(4, 4).numel() == 0);
  const Tensor flat = t.reshape({8});
  flat.write<double>()[2] = 9.0;
  CHECK(rows.at(0) == 9.0);
  const Tensor copy = rows.clone();
  CHECK_FALSE(copy.shares_storage(t));
  CHECK(copy.unique());
  copy.write<double>()[0] = 1.0;
  CHECK(rows.at(0) == 9.0);
  CHECK(Tensor::empty({0, 2}, DType::f32, Device::cpu).clone().shape() == Shape{0, 2});
}

TEST_CASE("conversion keeps values and gives itself when there is nothing to do") {
  const Tensor t = Tensor::of<double>({3}, {1.5, -2.5, 1e9});
  CHECK(t.to(DType::f64).shares_storage(t));
  CHECK(t.to(DType::f32).to_vector() == std::vector<double>{1.5, -2.5, 1e9});
  CHECK(t.to(DType::i32).to_vector() == std::vector<double>{1, -2, 1e9});
}

TEST_CASE("same_bits tells shape, type and every bit apart") {
  const Tensor t = Tensor::of<float>({2}, {0.0F, 1.0F});
  CHECK(t.same_bits(t.clone()));
  CHECK_FALSE(t.same_bits(Tensor::of<float>({2}, {-0.0F, 1.0F})));
  CHECK_FALSE(t.same_bits(t.reshape({2, 1})));
  CHECK_FALSE(t.same_bits(t.to(DType::f64)));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(Tensor::scalar(nan).same_bits(Tensor::scalar(nan)));
  CHECK_FALSE(Tensor().same_bits(Tensor::empty({0}, DType::f32, Device::cpu)));
}

TEST_CASE("mistakes are errors that say what to do") {
  const Tensor t = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK_THROWS_WITH_AS(t.reshape({4}),
                       "[reshape] [2, 3] has 6 elements and [4] has 4. The numbers must agree.",
                       Error);
  CHECK_THROWS_WITH_AS(t.data<double>(),
                       "[tensor] elements are f32, asked for as f64. Convert with to().", Error);
  CHECK_THROWS_AS(t.rows(1, 3), Error);
  CHECK_THROWS_AS(t.rows(-1, 1), Error);
  CHECK_THROWS_AS(t.rows(2, 1), Error);
  CHECK_THROWS_AS(Tensor::scalar(1.0).rows(0, 1), Error);
  CHECK_THROWS_AS(t.item(), Error);
  CHECK_THROWS_AS(t.at(6), Error);
  CHECK_THROWS_AS(t.at(-1), Error);
  CHECK_THROWS_WITH_AS(
      Tensor::of<float>({2}, {1.0F}),
      "[tensor] 1 values for shape [2], which has 2 elements. Give as many values.", Error);
}

TEST_CASE("a shape too large for memory is an error, not a small tensor") {
  const std::int64_t huge = std::int64_t{1} << 32;
  CHECK_THROWS_AS(Tensor::empty({huge, huge}, DType::f32, Device::cpu), Error);
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 61}, DType::f64, Device::cpu), Error);
  CHECK_THROWS_AS(Tensor::zeros({huge, huge, 4}, DType::i32, Device::cpu), Error);
  CHECK_THROWS_AS(Tensor::empty({huge, huge, 0}, DType::f32, Device::cpu),
                  Error);  // its strides overflow
  CHECK(Tensor::empty({huge, 0}, DType::f32, Device::cpu).numel() == 0);
}

TEST_CASE("sizes whose product is beyond 64 bits are refused, by views and by new tensors") {
  constexpr std::int64_t big = std::int64_t{1} << 60;
  const Tensor t = Tensor::zeros({16}, DType::f32, Device::cpu);
  const auto refused = [](auto&& make) {
    try {
      make();
    } catch (const Error& error) {
      return std::string(error.what()).find("more than 2^58 elements") != std::string::npos;
    }
    return false;
  };
  CHECK(refused([&] { static_cast<void>(t.reshape({big + 1, 16})); }));
  CHECK(refused([&] { static_cast<void>(t.reshape({big, 16})); }));  // 0 modulo 2^64
  CHECK(refused([&] { Tensor::empty({big + 1, 16}, DType::f64, Device::cpu); }));
  CHECK(refused([&] { Tensor::empty({0, big, 16}, DType::f64, Device::cpu); }));
  CHECK(refused([&] { Tensor::of<float>({big, 16}, {}); }));
  CHECK(refused([&] { Tensor::of<float>({big + 1, 16}, std::vector<float>(16)); }));
  CHECK_THROWS_AS(static_cast<void>(t.rows(-1, 2)), Error);
  CHECK_THROWS_AS(static_cast<void>(t.rows(0, INT64_MAX)), Error);
  CHECK_THROWS_AS(static_cast<void>(t.rows(INT64_MAX, INT64_MIN)), Error);
  // As many bytes as no machine has.
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 57}, DType::f64, Device::cpu), Error);
}
