#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moegrad {

// Byte pair encoding (Gage 1994; of words, Sennrich et al. 2016; of bytes, Radford et al. 2019).
//
//   piece p < 256 is the byte p;   piece 256 + i is pair i: two earlier pieces, one behind the other
//
// A text is cut into words, and in each word the pair of neighbours with the least number becomes one
// piece, from the left, until none is left. Any bytes come back as they were. A word is a run of
// letters and bytes above 127, of digits, or of other signs, with one space before it where there is
// one; or a run of spaces and ends of lines; or one zero byte, which ends a document. Words longer
// than kMostBytes are cut.
class BytePairs {
 public:
  using Pair = std::array<std::int32_t, 2>;
  static constexpr std::size_t kMostBytes = 32;
  static constexpr std::int64_t kMostPieces = 65536;

  BytePairs() : BytePairs(std::span<const Pair>{}) {}  // the bytes alone
  // Errors: more than kMostPieces pieces; a pair of a piece that does not come before it, or of more
  // than kMostBytes, or that is there twice.
  explicit BytePairs(std::span<const Pair> pairs);

  // What texts teach: the pair of neighbours that is most often in their words, the lowest of them
  // where several are, becomes a piece, and so on until there are `pieces`. Errors: fewer than 256,
  // more than kMostPieces, or more than the texts have pairs that are there twice.
  static BytePairs learn(std::span<const std::string> texts, std::int64_t pieces);

  std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }
  const std::vector<Pair>& pairs() const { return pairs_; }
  // The bytes of a piece.
  std::string_view text(std::int32_t piece) const;
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> pieces) const;

 private:
  void add(Pair pair);
  std::vector<std::int32_t> encode_word(std::string_view word) const;

  std::vector<Pair> pairs_;
  std::vector<std::string> texts_;
  std::unordered_map<std::uint64_t, std::int32_t> piece_of_;  // by its pair
};

}  // namespace moegrad
