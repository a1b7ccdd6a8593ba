#include "train/word_pieces.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

using Ids = std::vector<std::int32_t>;

// A tokenizer.json of these pieces, in their order.
std::string tokenizer(const std::vector<std::string>& pieces, const std::string& type = "WordPiece",
                      const std::string& lowercase = "true") {
  std::string vocabulary;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    vocabulary += (i == 0 ? "\"" : ",\"") + pieces[i] + "\":" + std::to_string(i);
  }
  return R"({"normalizer":{"type":"BertNormalizer","lowercase":)" + lowercase +
         R"(,"strip_accents":null},"model":{"type":")" + type +
         R"(","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{)" +
         vocabulary + "}}}";
}

const std::vector<std::string> kPieces = {
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able",  "affable",
    "a",     "cafe",  "!",     "##s",   "東", "京",    "и",       "##и",
    "=",     ".",     "don",   "'",     "t",  "か",    "\\u1100", "##\\u1161"};

class Fixture {
 public:
  Fixture() { write(tokenizer(kPieces)); }
  void write(const std::string& json) const { write_file_atomic(path(), json); }
  std::filesystem::path path() const { return folder_ / "tokenizer.json"; }
  Ids ids(std::string_view text, std::size_t most = 64) const {
    return WordPieces(path()).ids(text, most);
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("word pieces: the longest first, from the left") {
  const Fixture f;
  CHECK(f.ids("unaffable affable") == Ids{2, 4, 5, 6, 7, 3});
  CHECK(f.ids("a as") == Ids{2, 8, 8, 11, 3});
  CHECK(f.ids("") == Ids{2, 3});
  CHECK(f.ids(" \t\r\n\u00a0\u3000") == Ids{2, 3});
}

TEST_CASE("word pieces: case and accents are folded away, composed or not") {
  const Fixture f;
  for (const char* text : {"Cafés", "CAFÉS", "cafe\u0301s", "ｃafes"}) {
    if (std::string_view(text).starts_with("ｃ")) {
      CHECK(f.ids(text) == Ids{2, 1, 3});  // a wide letter is another letter
    } else {
      CHECK(f.ids(text) == Ids{2, 9, 11, 3});
    }
  }
  CHECK(f.ids("Й") == Ids{2, 14, 3});
  CHECK(f.ids("ИЙ") == Ids{2, 14, 15, 3});
  CHECK(f.ids("が") == Ids{2, 21, 3});
  CHECK(f.ids("가") == Ids{2, 22, 23, 3});  // a Korean syllable is its letters
  CHECK(f.ids("≠") == Ids{2, 16, 3});       // an = with a mark on it
}

TEST_CASE("word pieces: punctuation and Chinese characters are words of their own") {
  const Fixture f;
  CHECK(f.ids("don't!!") == Ids{2, 18, 19, 20, 10, 10, 3});
  CHECK(f.ids("a東京a") == Ids{2, 8, 12, 13, 8, 3});
  CHECK(f.ids("a。a") == Ids{2, 8, 1, 8, 3});   // of any script
  CHECK(f.ids("[SEP]") == Ids{2, 1, 1, 1, 3});  // text, and no end
}

TEST_CASE("word pieces: words that have none are unknown as a whole") {
  const Fixture f;
  CHECK(f.ids("unaffxa a") == Ids{2, 1, 8, 3});
  CHECK(f.ids("un" + std::string(98, 's'), 200).size() == 2 + 1 + 98);
  CHECK(f.ids("un" + std::string(99, 's'), 200) == Ids{2, 1, 3});  // 101 characters
}

TEST_CASE("word pieces: control characters and broken bytes are not there") {
  const Fixture f;
  CHECK(f.ids("un\x01\u200b\ufeff"
              "aff\ufffd"
              "able") == Ids{2, 4, 5, 6, 3});
  CHECK(f.ids(std::string("a\0\xff\xc3(a", 6)) == Ids{2, 8, 1, 8, 3});
  CHECK(f.ids("\xe6\x9d") == Ids{2, 3});
}

TEST_CASE("word pieces: of a longer text the first") {
  const Fixture f;
  CHECK(f.ids("unaffable a", 5) == Ids{2, 4, 5, 6, 3});
  CHECK(f.ids("unaffable", 4) == Ids{2, 4, 5, 3});
  CHECK(f.ids("a", 2) == Ids{2, 3});
  CHECK(error_of([&] { f.ids("a", 1); }) ==
        "[word-pieces] 1 ids at most. Give 2 or more: [CLS] and [SEP].");
}

TEST_CASE("errors of word pieces") {
  const Fixture f;
  const auto error = [&](const std::string& json) {
    f.write(json);
    return error_of([&] { WordPieces pieces(f.path()); });
  };
  const auto says = [&](const std::string& json, std::string_view what) {
    const std::string text = error(json);
    CAPTURE(text);
    CHECK(text.starts_with("[word-pieces] " + f.path().string() + ": "));
    CHECK(text.find(what) != std::string::npos);
  };
  says("{", "it is no JSON object");
  says("[]", "it is no JSON object");
  says("{}", "its model is no WordPiece");
  says(tokenizer(kPieces, "BPE"), "its model is no WordPiece");
  says(tokenizer(kPieces, "WordPiece", "false"), "its normalizer is not that of an uncased BERT");
  says(tokenizer({"[PAD]", "[UNK]", "[CLS]"}), "the vocabulary has no '[SEP]'");
  std::string twice = tokenizer(kPieces);
  twice.replace(twice.find("\"[PAD]\":0"), 9, "\"[PAD]\":3");
  says(twice, "has the id 3, and 24 pieces have those from 0 on, each once");
  std::string far = tokenizer(kPieces);
  far.replace(far.find("\"[PAD]\":0"), 9, "\"[PAD]\":-1");
  says(far, "piece '[PAD]' has the id -1");
  for (std::uint64_t i = 0; i < 200; ++i) {
    f.write(test::mutated(tokenizer(kPieces), 1, i));
    const std::string text =
        error_of([&] { WordPieces(f.path()).ids("unaffable Café 東京 x", 9); });
    CAPTURE(text);
    CHECK((text == "no error" || text.starts_with("[word-pieces]")));
  }
}

}  // namespace moegrad
