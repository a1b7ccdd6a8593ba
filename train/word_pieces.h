#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moegrad {

// The tokenizer of BERT's uncased models (Devlin et al. 2019; pieces: Wu et al. 2016,
// arXiv:1609.08144). A text is folded (train/unicode.h), without control characters, and cut into
// words at blanks; a mark of punctuation and a Chinese character are words of their own. Of a word the
// longest piece of the vocabulary that it begins with is taken, then of the rest, where pieces inside
// words are written "##piece". A word of more than 100 characters, or whose rest begins with no piece,
// is [UNK] as a whole. What names a special token, "[SEP]", is text like any other.
class WordPieces {
 public:
  // Of a tokenizer.json of Hugging Face. It is not trusted: errors name the file.
  explicit WordPieces(const std::filesystem::path& file);

  // [CLS], the pieces, [SEP]: at most `most` ids, 2 or more; of a longer text the first pieces.
  // Bytes that are not UTF-8 are left out.
  std::vector<std::int32_t> ids(std::string_view text, std::size_t most) const;

  // Of the vocabulary; ids are from 0 to size() - 1.
  std::int64_t size() const { return static_cast<std::int64_t>(vocabulary_.size()); }
  // The id of a piece as it is written, "##ing"; an Error where there is none.
  std::int32_t id(std::string_view piece) const;

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  void append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const;

  std::filesystem::path file_;
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> vocabulary_;
  std::size_t longest_ = 0;  // piece, in bytes
  std::int32_t unknown_ = 0;
  std::int32_t begin_ = 0;
  std::int32_t end_ = 0;
};

}  // namespace moegrad
