#include "train/byte_pairs.h"

#include <doctest/doctest.h>

#include "tensor/rng.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using Pair = BytePairs::Pair;
using Pieces = std::vector<std::int32_t>;
using Texts = std::vector<std::string>;

TEST_CASE("pairs are learned by how often they are, by hand") {
  // Words: "low" 2, " low" 1, " lower" 2, " new" 1. Pairs: l o 5, o w 5, of which l o is the lower.
  const Texts texts = {"low low lower", "low new lower"};
  const BytePairs pairs = BytePairs::learn(texts, 260);
  CHECK(pairs.pairs() == std::vector<Pair>{{'l', 'o'}, {256, 'w'}, {' ', 257}, {'e', 'r'}});
  CHECK(pairs.text(258) == " low");
  CHECK(pairs.encode("lower low") == Pieces{257, 259, 258});
  CHECK(pairs.encode("wol") == Pieces{'w', 'o', 'l'});
  CHECK(pairs.encode("").empty());
  CHECK(BytePairs::learn(texts, 256).size() == 256);
}

TEST_CASE("what overlaps itself is joined from the left") {
  const BytePairs pairs(std::vector<Pair>{{'a', 'a'}, {256, 256}});
  CHECK(pairs.encode("aaa") == Pieces{256, 'a'});
  CHECK(pairs.encode("aaaaaaa") == Pieces{257, 256, 'a'});
}

TEST_CASE("pieces do not cross the borders of words") {
  std::vector<Pair> all;
  const std::string signs("ab1.\n \0\xc3", 8);
  for (const char a : signs) {
    for (const char b : signs) {
      all.push_back({static_cast<unsigned char>(a), static_cast<unsigned char>(b)});
    }
  }
  const BytePairs pairs(all);
  const auto words = [&](std::string_view text) {
    Texts texts;
    for (const std::int32_t piece : pairs.encode(text)) texts.emplace_back(pairs.text(piece));
    return texts;
  };
  CHECK(words("ab1.") == Texts{"ab", "1", "."});
  CHECK(words("b\xc3") == Texts{"b\xc3"});
  CHECK(words("a b") == Texts{"a", " b"});
  CHECK(words("a  b") == Texts{"a", " ", " b"});
  CHECK(words("a\n b") == Texts{"a", "\n", " b"});
  CHECK(words("a \n") == Texts{"a", " \n"});
  CHECK(words("b ") == Texts{"b", " "});
  CHECK(words(std::string_view("a\0\0 \0", 5)) ==
        Texts{"a", std::string(1, '\0'), std::string(1, '\0'), " ", std::string(1, '\0')});
}

TEST_CASE("any bytes come back") {
  Texts texts;
  const Rng rng{.seed = 3};
  for (std::uint64_t t = 0; t < 40; ++t) {
    std::string text;
    // Of few signs, so that there are pairs of pairs, and of all; runs longer than a word too.
    const std::uint64_t signs = t % 2 == 0 ? 3 : 256;
    for (std::uint64_t i = 0; i < t * 20; ++i) {
      const auto byte = static_cast<char>(rng.bits(t * 1000 + i) % signs + (signs == 3 ? 31 : 0));
      text.append(rng.bits(t * 1000 + i + 100'000) % 50 == 0 ? 70 : 1, byte);
    }
    texts.push_back(text);
  }
  const BytePairs pairs = BytePairs::learn(texts, 400);
  for (const std::string& text : texts) CHECK(pairs.decode(pairs.encode(text)) == text);
  CHECK(pairs.encode(texts[38]).size() < texts[38].size());
  for (std::int32_t p = 0; p < 400; ++p) CHECK(pairs.text(p).size() <= BytePairs::kMostBytes);
}

TEST_CASE("what was learned does not hang on the order of the texts") {
  Texts texts = {"to be or not to be", "that is the question", "whether tis nobler"};
  const BytePairs pairs = BytePairs::learn(texts, 262);
  std::swap(texts[0], texts[2]);
  CHECK(BytePairs::learn(texts, 262).pairs() == pairs.pairs());
}

TEST_CASE("byte pairs: errors") {
  const Texts texts = {"abab cd"};
  const auto learned = [&](std::int64_t n) {
    return error_of([&] { BytePairs::learn(texts, n); });
  };
  CHECK(learned(255) == "[byte-pairs] 255 pieces. Give 256 to 65536.");
  CHECK(learned(65537) == "[byte-pairs] 65537 pieces. Give 256 to 65536.");
  CHECK(learned(300) ==
        "[byte-pairs] 300 pieces of texts that teach 257. Give fewer pieces, or more text.");
  const auto made = [](std::vector<Pair> pairs) {
    return error_of([&] { const BytePairs all(pairs); });
  };
  CHECK(made({{'a', 256}}) ==
        "[byte-pairs] pair 0 is of the piece 256, and 256 come before it. Give earlier ones.");
  CHECK(made({{-1, 'a'}}).starts_with("[byte-pairs] pair 0 is of the piece -1"));
  CHECK(made({{'a', 'b'}, {'a', 'b'}}) ==
        "[byte-pairs] pair 1, of 97 and 98, is there already. Give each once.");
  CHECK(made({{'a', 'a'}, {256, 256}, {257, 257}, {258, 258}, {259, 259}, {260, 260}}) ==
        "[byte-pairs] pair 5 is of 64 bytes, and a word has 32 at most. Give shorter ones.");
  const BytePairs bytes;
  CHECK(error_of([&] { bytes.text(256); }) == "[byte-pairs] piece 256 of 256. Give one of them.");
}

}  // namespace
}  // namespace moegrad
