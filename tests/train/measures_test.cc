#include "train/measures.h"

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

using namespace moegrad;

namespace {

using Labels = std::vector<std::int32_t>;
using Numbers = std::vector<double>;

}  // namespace

TEST_CASE("accuracy and root mean square error, by hand") {
  CHECK(accuracy(Labels{1, 2, 0, 1}, Labels{1, 0, 0, 2}) == 0.5);
  CHECK(std::isnan(accuracy(Labels{}, Labels{})));
  CHECK(root_mean_square_error(Numbers{1.0, 4.5}, Labels{4, 4}) ==
        doctest::Approx(std::sqrt((9.0 + 0.25) / 2)));
  CHECK(std::isnan(root_mean_square_error(Numbers{}, Labels{})));
}

TEST_CASE("the perplexity a byte, by hand") {
  // Two pieces of 3 and 1 bytes, 2 nats a piece: 4 nats over 4 bytes.
  CHECK(byte_perplexity(2.0, Labels{1, 0}, Labels{1, 3}) == doctest::Approx(std::exp(1.0)));
  CHECK(byte_perplexity(2.0, Labels{0, 0}, Labels{1, 3}) == doctest::Approx(std::exp(2.0)));
}

TEST_CASE("the area under the curve is the share of ordered pairs") {
  CHECK(area_under_curve(Numbers{0.1, 0.4, 0.35, 0.8}, Labels{0, 0, 1, 1}) == 0.75);
  CHECK(area_under_curve(Numbers{3, 2, 1}, Labels{1, 0, 0}) == 1.0);
  CHECK(area_under_curve(Numbers{3, 2, 1}, Labels{0, 1, 1}) == 0.0);
  CHECK(area_under_curve(Numbers{5, 5, 5}, Labels{0, 1, 0}) == 0.5);   // ties are half
  CHECK(area_under_curve(Numbers{1, 2, 2}, Labels{0, 1, 0}) == 0.75);  // one won, one tied
  CHECK(area_under_curve(Numbers{-1e300, 1e300}, Labels{0, 1}) == 1.0);
  CHECK(std::isnan(area_under_curve(Numbers{1, 2}, Labels{1, 1})));
  CHECK(std::isnan(area_under_curve(Numbers{}, Labels{})));
  CHECK(std::isnan(area_under_curve(Numbers{1, NAN}, Labels{0, 1})));
}

TEST_CASE("the area under the curve against all pairs, in any order") {
  Numbers scores;
  Labels labels;
  for (int i = 0; i < 200; ++i) {
    scores.push_back((i * 37) % 23);
    labels.push_back((i * 61) % 7 < 3 ? 1 : 0);
  }
  double won = 0.0;
  double pairs = 0.0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    for (std::size_t j = 0; j < labels.size(); ++j) {
      if (labels[i] != 1 || labels[j] != 0) continue;
      pairs += 1.0;
      won += scores[i] > scores[j] ? 1.0 : (scores[i] == scores[j] ? 0.5 : 0.0);
    }
  }
  CHECK(area_under_curve(scores, labels) == doctest::Approx(won / pairs));
}
