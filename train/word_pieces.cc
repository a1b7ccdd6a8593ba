#include "train/word_pieces.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/utf8.h"
#include "train/unicode.h"

namespace moegrad {
namespace {

constexpr std::uint64_t kMostTokenizerBytes = 64U << 20U;
constexpr std::size_t kLongestWord = 100;
constexpr std::string_view kInside = "##";

[[noreturn]] void damaged_tokenizer(const std::filesystem::path& file, std::string_view what) {
  fail("word-pieces", "{}: {}. Give a tokenizer.json of an uncased BERT.", file.string(), what);
}

nlohmann::json parsed_tokenizer(const std::filesystem::path& file) {
  const InputFile input(file);
  if (input.size() > kMostTokenizerBytes) {
    damaged_tokenizer(file,
                      fmt::format("{} bytes, more than {}", input.size(), kMostTokenizerBytes));
  }
  auto json = nlohmann::json::parse(read_file(file), nullptr, false);
  if (!json.is_object()) damaged_tokenizer(file, "it is no JSON object");
  return json;
}

}  // namespace

WordPieces::WordPieces(const std::filesystem::path& file) : file_(file) {
  const nlohmann::json json = parsed_tokenizer(file);
  const auto member = [](const nlohmann::json& object, const char* key) {
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() ? *found : nlohmann::json();
  };
  const nlohmann::json model = member(json, "model");
  if (member(model, "type") != "WordPiece") damaged_tokenizer(file, "its model is no WordPiece");
  if (member(model, "continuing_subword_prefix") != kInside ||
      member(model, "max_input_chars_per_word") != kLongestWord) {
    damaged_tokenizer(file, fmt::format("pieces inside words do not begin with '{}', or words have "
                                        "not {} characters at most",
                                        kInside, kLongestWord));
  }
  const nlohmann::json folding = member(json, "normalizer");
  if (member(folding, "type") != "BertNormalizer" || member(folding, "lowercase") != true ||
      member(folding, "strip_accents") == false) {
    damaged_tokenizer(file, "its normalizer is not that of an uncased BERT");
  }
  const nlohmann::json pieces = member(model, "vocab");
  if (!pieces.is_object()) damaged_tokenizer(file, "it has no vocabulary");
  std::vector<bool> seen(pieces.size());
  for (const auto& [piece, number] : pieces.items()) {
    const bool fits = number.is_number_unsigned() && number.get<std::uint64_t>() < pieces.size();
    const std::size_t id = fits ? number.get<std::size_t>() : 0;
    if (!fits || seen[id]) {
      damaged_tokenizer(file,
                        shown_format("piece '{}' has the id {}, and {} pieces have those from 0 "
                                     "on, each once",
                                     piece, number.dump(), pieces.size()));
    }
    seen[id] = true;
    vocabulary_.emplace(piece, static_cast<std::int32_t>(id));
    longest_ = std::max(longest_, piece.size());
  }
  unknown_ = id("[UNK]");
  begin_ = id("[CLS]");
  end_ = id("[SEP]");
}

std::int32_t WordPieces::id(std::string_view piece) const {
  const auto found = vocabulary_.find(piece);
  if (found == vocabulary_.end()) {
    damaged_tokenizer(file_, shown_format("the vocabulary has no '{}'", piece));
  }
  return found->second;
}

void WordPieces::append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
  if (word.size() > kLongestWord) return ids.push_back(unknown_);
  const std::size_t before = ids.size();
  const std::string letters = to_utf8(word);
  std::string piece;
  for (std::size_t begin = 0; begin < letters.size();) {
    piece = begin == 0 ? "" : kInside;
    const std::size_t start = piece.size();
    piece += letters.substr(begin, longest_);
    auto found = vocabulary_.find(piece);
    while (found == vocabulary_.end() && piece.size() > start + 1) {
      piece.pop_back();
      found = vocabulary_.find(piece);
    }
    if (found == vocabulary_.end()) {
      ids.resize(before);
      return ids.push_back(unknown_);
    }
    ids.push_back(found->second);
    begin += piece.size() - start;
  }
}

std::vector<std::int32_t> WordPieces::ids(std::string_view text, std::size_t most) const {
  if (most < 2) fail("word-pieces", "{} ids at most. Give 2 or more: [CLS] and [SEP].", most);
  std::vector<std::int32_t> ids = {begin_};
  std::u32string word;
  std::u32string letters;
  const auto end_word = [&] {
    if (!word.empty()) append_word(word, ids);
    word.clear();
  };
  while (!text.empty() && ids.size() < most) {
    std::uint32_t character = 0;
    const std::size_t length = first_character(text, character);
    text.remove_prefix(std::max<std::size_t>(1, length));
    const char32_t c = character;
    constexpr char32_t kReplacement = 0xfffd;
    if (length == 0 || c == kReplacement || is_control(c)) continue;
    if (is_blank(c)) {
      end_word();
      continue;
    }
    letters.clear();
    append_folded(c, letters);
    for (const char32_t letter : letters) {
      const bool alone = is_ideograph(c) || is_punctuation(letter);
      if (alone) end_word();
      word += letter;
      if (alone) end_word();
    }
  }
  end_word();
  ids.resize(std::min(ids.size(), most - 1));
  ids.push_back(end_);
  return ids;
}

}  // namespace moegrad
