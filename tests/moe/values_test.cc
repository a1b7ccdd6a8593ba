#include "moe/values.h"

#include <vector>

#include <doctest/doctest.h>

#include "moe/on_host.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;

constexpr Device kDevices[] = {Device::cpu, Device::guarded};

}  // namespace

TEST_CASE("values beside the tape: on their device, shapes that meet as those of operations") {
  for (const Device device : kDevices) {
    const auto x = Tensor::of<double>({2, 3}, {1, 5, 3, 4, 2, 6}).to(device);
    const auto column = Tensor::of<double>({2, 1}, {3, 4}).to(device);
    const auto none = Tensor::of<std::int32_t>({}, {-1}).to(device);
    CHECK(compute<functor::Sub>(x, column).to_vector() == Values{-2, 2, 0, 0, -2, 2});
    CHECK(compute<functor::Affine>(x, {2.0, 1.0}).to_vector() == Values{3, 11, 7, 9, 5, 13});
    CHECK(greater(x, column).to_vector() == Values{0, 1, 0, 0, 0, 1});
    CHECK(reduce_rows(Reduction::max, x).to_vector() == Values{5, 6});
    const Tensor best = largest_places(x, 2);
    CHECK(best.to_vector() == Values{1, 2, 2, 0});
    CHECK(best.device() == device);
    CHECK(take_columns(x, best).to_vector() == Values{5, 3, 6, 4});
    CHECK(put_columns(column, columns_of(best, 1, 2), 3).to_vector() == Values{0, 0, 3, 4, 0, 0});
    CHECK(flags_of(best, 3).to_vector() == Values{0, 1, 1, 1, 0, 1});
    CHECK(where(flags_of(best, 3), none, cycle({2, 3}, 1, 3, device)).to_vector() ==
          Values{0, -1, -1, -1, 1, -1});
    CHECK(transposed(x).to_vector() == Values{1, 4, 5, 2, 3, 6});
    CHECK(joined(column, x).to_vector() == Values{3, 1, 5, 3, 4, 4, 2, 6});
    CHECK(cycle({5}, 2, 2, device).to_vector() == Values{0, 0, 1, 1, 0});
    const std::uint64_t waits = waits_for_devices();
    const Tensor sum =
        on_host([](const Tensor& a, const Tensor& b) { return Tensor::scalar(a.at(0) + b.at(1)); },
                x, column);
    CHECK(waits_for_devices() - waits == (device == Device::cpu ? 0 : 2));
    CHECK(sum.device() == device);
    CHECK(sum.item() == 5.0);
  }
}
