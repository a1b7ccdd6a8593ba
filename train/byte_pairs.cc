#include "train/byte_pairs.h"

#include <algorithm>

#include "tensor/error.h"

namespace moegrad {
namespace {

constexpr std::int32_t kByteValues = 256;

enum class Sign { letter, digit, blank, end, other };

Sign sign_of(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte == 0) return Sign::end;
  if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte > 127) {
    return Sign::letter;
  }
  if (byte >= '0' && byte <= '9') return Sign::digit;
  return byte == ' ' || (byte >= '\t' && byte <= '\r') ? Sign::blank : Sign::other;
}

std::string_view first_word(std::string_view text) {
  const auto sign = [&](std::size_t i) { return sign_of(text[i]); };
  if (sign(0) == Sign::end) return text.substr(0, 1);
  std::size_t begin = 0;
  if (text[0] == ' ' && text.size() > 1 && sign(1) != Sign::blank && sign(1) != Sign::end)
    begin = 1;
  const std::size_t most = std::min(text.size(), BytePairs::kMostBytes);
  std::size_t end = begin;
  while (end < most && sign(end) == sign(begin)) ++end;
  // The last space of several is the next word's.
  if (end > 1 && end < text.size() && sign(begin) == Sign::blank && text[end - 1] == ' ') --end;
  return text.substr(0, end);
}

template <class F>
void for_each_word(std::string_view text, const F& f) {
  while (!text.empty()) {
    const std::string_view word = first_word(text);
    f(word);
    text.remove_prefix(word.size());
  }
}

std::uint64_t key_of(BytePairs::Pair pair) {
  return static_cast<std::uint64_t>(pair[0]) << 32U | static_cast<std::uint64_t>(pair[1]);
}

BytePairs::Pair pair_of(std::uint64_t key) {
  return {static_cast<std::int32_t>(key >> 32U), static_cast<std::int32_t>(key & 0xffffffffU)};
}

std::vector<std::int32_t> bytes_of(std::string_view word) {
  std::vector<std::int32_t> pieces(word.size());
  std::ranges::transform(word, pieces.begin(),
                         [](char c) { return static_cast<unsigned char>(c); });
  return pieces;
}

// Each pair of neighbours becomes `piece`, from the left.
void join(std::vector<std::int32_t>& pieces, BytePairs::Pair pair, std::int32_t piece) {
  std::size_t out = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const bool both = i + 1 < pieces.size() && pieces[i] == pair[0] && pieces[i + 1] == pair[1];
    pieces[out++] = both ? piece : pieces[i];
    if (both) ++i;
  }
  pieces.resize(out);
}

// The words of texts, and how often each pair of neighbours stands in them.
class Neighbours {
 public:
  explicit Neighbours(std::span<const std::string> texts) {
    std::unordered_map<std::string_view, std::int64_t> times;
    for (const std::string& text : texts) {
      for_each_word(text, [&](std::string_view word) { ++times[word]; });
    }
    for (const auto& [word, n] : times) {  // in any order: sums and the lowest pair have none
      words_.push_back({bytes_of(word), n});
      count(words_.size() - 1, 1);
    }
  }

  // The pair that is there most often; {-1, -1} where none is there twice.
  BytePairs::Pair most_often() const {
    BytePairs::Pair best = {-1, -1};
    std::int64_t most = 1;
    for (const auto& [key, places] : pairs_) {
      const BytePairs::Pair pair = pair_of(key);
      if (places.times < most || (places.times == most && (most == 1 || pair > best))) continue;
      best = pair;
      most = places.times;
    }
    return best;
  }

  void join_all(BytePairs::Pair pair, std::int32_t piece) {
    std::vector<std::size_t> words = std::move(pairs_.at(key_of(pair)).words);
    std::ranges::sort(words);
    words.erase(std::unique(words.begin(), words.end()), words.end());
    for (const std::size_t w : words) {
      count(w, -1);
      join(words_[w].pieces, pair, piece);
      count(w, 1);
    }
    pairs_.erase(key_of(pair));
  }

 private:
  struct Word {
    std::vector<std::int32_t> pieces;
    std::int64_t times;
  };
  struct Places {
    std::int64_t times = 0;
    std::vector<std::size_t> words = {};  // all that have it, and some that had
  };

  void count(std::size_t w, std::int64_t sign) {
    const Word& word = words_[w];
    for (std::size_t i = 0; i + 1 < word.pieces.size(); ++i) {
      Places& places = pairs_[key_of({word.pieces[i], word.pieces[i + 1]})];
      places.times += sign * word.times;
      if (sign > 0) places.words.push_back(w);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Places> pairs_;  // by key_of
};

}  // namespace

BytePairs::BytePairs(std::span<const Pair> pairs) {
  for (std::int32_t byte = 0; byte < kByteValues; ++byte) {
    texts_.emplace_back(1, static_cast<char>(byte));
  }
  for (const Pair& pair : pairs) add(pair);
}

void BytePairs::add(Pair pair) {
  if (size() >= kMostPieces) {
    fail("byte-pairs", "more than {} pieces. Give fewer pairs.", kMostPieces);
  }
  for (const std::int32_t piece : pair) {
    if (piece < 0 || piece >= size()) {
      fail("byte-pairs", "pair {} is of the piece {}, and {} come before it. Give earlier ones.",
           pairs_.size(), piece, size());
    }
  }
  std::string text = std::string(this->text(pair[0])) + std::string(this->text(pair[1]));
  if (text.size() > kMostBytes) {
    fail("byte-pairs", "pair {} is of {} bytes, and a word has {} at most. Give shorter ones.",
         pairs_.size(), text.size(), kMostBytes);
  }
  if (!piece_of_.emplace(key_of(pair), static_cast<std::int32_t>(size())).second) {
    fail("byte-pairs", "pair {}, of {} and {}, is there already. Give each once.", pairs_.size(),
         pair[0], pair[1]);
  }
  pairs_.push_back(pair);
  texts_.push_back(std::move(text));
}

BytePairs BytePairs::learn(std::span<const std::string> texts, std::int64_t pieces) {
  if (pieces < kByteValues || pieces > kMostPieces) {
    fail("byte-pairs", "{} pieces. Give {} to {}.", pieces, kByteValues, kMostPieces);
  }
  BytePairs learned;
  if (pieces == kByteValues) return learned;
  Neighbours neighbours(texts);
  while (learned.size() < pieces) {
    const Pair pair = neighbours.most_often();
    if (pair[0] < 0) {
      fail("byte-pairs", "{} pieces of texts that teach {}. Give fewer pieces, or more text.",
           pieces, learned.size());
    }
    neighbours.join_all(pair, static_cast<std::int32_t>(learned.size()));
    learned.add(pair);
  }
  return learned;
}

std::string_view BytePairs::text(std::int32_t piece) const {
  if (piece < 0 || piece >= size()) {
    fail("byte-pairs", "piece {} of {}. Give one of them.", piece, size());
  }
  return texts_[static_cast<std::size_t>(piece)];
}

std::vector<std::int32_t> BytePairs::encode_word(std::string_view word) const {
  std::vector<std::int32_t> pieces = bytes_of(word);
  while (true) {
    std::int32_t first = kMostPieces;
    for (std::size_t i = 0; i + 1 < pieces.size(); ++i) {
      const auto found = piece_of_.find(key_of({pieces[i], pieces[i + 1]}));
      if (found != piece_of_.end()) first = std::min(first, found->second);
    }
    if (first == kMostPieces) return pieces;
    join(pieces, pairs_[static_cast<std::size_t>(first - kByteValues)], first);
  }
}

std::vector<std::int32_t> BytePairs::encode(std::string_view text) const {
  if (pairs_.empty()) return bytes_of(text);
  std::unordered_map<std::string_view, std::vector<std::int32_t>> known;
  std::vector<std::int32_t> pieces;
  for_each_word(text, [&](std::string_view word) {
    auto [entry, isnew] = known.try_emplace(word);
    if (isnew) entry->second = encode_word(word);
    pieces.insert(pieces.end(), entry->second.begin(), entry->second.end());
  });
  return pieces;
}

std::string BytePairs::decode(std::span<const std::int32_t> pieces) const {
  std::string all;
  for (const std::int32_t piece : pieces) all += text(piece);
  return all;
}

}  // namespace moegrad
