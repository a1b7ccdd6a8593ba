#include "train/csv.h"

#include <algorithm>
#include <span>
#include <string>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

constexpr std::string_view kMark = "\xef\xbb\xbf";

// Unquotes in place: a cell is never longer than what the file has of it.
class Parser {
 public:
  Parser(std::string file, CsvFile& csv, const CsvLimits& limits, std::size_t begin)
      : file_(std::move(file)), csv_(csv), limits_(limits), at_(begin) {}

  void parse(char separator) {
    separator_ = separator;
    while (at_ < csv_.text.size()) row();
    if (csv_.cells.empty()) fail("csv", "{}: it has no rows. Is it the right file?", file_);
  }

 private:
  bool ends() const { return at_ == csv_.text.size(); }
  char here() const { return csv_.text[at_]; }
  bool at_line_end() const { return ends() || here() == '\n' || here() == '\r'; }
  bool at_cell_end() const { return at_line_end() || here() == separator_; }
  bool blank() const { return !at_cell_end() && (here() == ' ' || here() == '\t'); }

  // Past the character here; counts lines.
  void next() {
    if (here() == '\n' ||
        (here() == '\r' && !(at_ + 1 < csv_.text.size() && csv_.text[at_ + 1] == '\n'))) {
      ++line_;
    }
    ++at_;
  }
  void end_line() {
    const bool carriage = !ends() && here() == '\r';
    if (!ends()) next();
    if (carriage && !ends() && here() == '\n') next();
  }

  void row() {
    const std::int64_t line = line_;
    const std::size_t before = csv_.cells.size();
    const std::size_t begin = at_;
    cell();
    while (!ends() && here() == separator_) {
      next();
      cell();
    }
    const bool empty = csv_.cells.size() == before + 1 && csv_.cells.back().empty() &&
                       std::none_of(csv_.text.begin() + static_cast<std::ptrdiff_t>(begin),
                                    csv_.text.begin() + static_cast<std::ptrdiff_t>(at_),
                                    [](char c) { return c == '"'; });
    end_line();
    if (empty) {
      csv_.cells.pop_back();
      return;
    }
    const std::size_t count = csv_.cells.size() - before;
    if (csv_.lines.empty()) csv_.columns = count;
    if (count != csv_.columns) {
      fail("csv", "{}: line {} has {} cells, and line {} has {}. Give each line as many.", file_,
           line, count, csv_.lines.front(), csv_.columns);
    }
    csv_.lines.push_back(line);
  }

  void cell() {
    if (csv_.cells.size() == limits_.cells) {
      fail("csv", "{}: line {}: more than {} cells. Give fewer rows.", file_, line_, limits_.cells);
    }
    if (csv_.lines.empty() && csv_.cells.size() == limits_.columns) {
      fail("csv", "{}: line {}: more than {} cells in a row. Is it the right file?", file_, line_,
           limits_.columns);
    }
    while (blank()) next();
    const bool quote = !ends() && here() == '"';
    csv_.cells.push_back(quote ? quoted() : plain());
    if (!is_utf8(csv_.cells.back())) {
      fail("csv", "{}: line {}: '{}' is not UTF-8. Save the file as UTF-8.", file_, line_,
           csv_.cells.back());
    }
  }

  std::string_view plain() {
    const std::size_t begin = at_;
    while (!at_cell_end()) next();
    std::size_t end = at_;
    while (end > begin && (csv_.text[end - 1] == ' ' || csv_.text[end - 1] == '\t')) --end;
    return {csv_.text.data() + begin, end - begin};
  }

  std::string_view quoted() {
    const std::int64_t line = line_;
    next();
    const std::size_t begin = at_;
    std::size_t out = at_;
    while (true) {
      if (ends()) {
        fail("csv", "{}: line {}: the quote that opens there is never closed. Close it.", file_,
             line);
      }
      if (here() == '"') {
        next();
        if (ends() || here() != '"') break;
      }
      csv_.text[out++] = here();
      next();
    }
    while (blank()) next();
    if (!at_cell_end()) {
      fail("csv", "{}: line {}: text behind a closing quote. Write a quote in a text as \"\".",
           file_, line_);
    }
    return {csv_.text.data() + begin, out - begin};
  }

  std::string file_;
  CsvFile& csv_;
  const CsvLimits& limits_;
  std::size_t at_;
  char separator_ = ',';
  std::int64_t line_ = 1;
};

char separator_of(const std::filesystem::path& path, std::string_view text) {
  if (path.extension() == ".tsv") return '\t';
  const std::string_view first = text.substr(0, text.find_first_of("\r\n"));
  const bool tabs = first.find('\t') != first.npos && first.find(',') == first.npos;
  return tabs ? '\t' : ',';
}

}  // namespace

CsvFile read_csv(const std::filesystem::path& path, const CsvLimits& limits) {
  const std::string file = path.string();
  const InputFile input(path);
  if (input.size() > limits.bytes) {
    fail("csv", "{}: {} bytes. {} are the most; give fewer rows.", file, input.size(),
         limits.bytes);
  }
  CsvFile csv;
  csv.text.resize(input.size());
  input.read(0, std::as_writable_bytes(std::span(csv.text)));
  const std::string_view text(csv.text.data(), csv.text.size());
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) {
    fail("csv", "{}: it begins as UTF-16 does. Save the file as UTF-8.", file);
  }
  if (const std::size_t zero = text.find('\0'); zero != text.npos) {
    const std::string_view before = text.substr(0, zero);
    fail("csv", "{}: line {}: a zero byte. Save the file as text in UTF-8.", file,
         1 + std::count(before.begin(), before.end(), '\n'));
  }
  Parser(file, csv, limits, text.starts_with(kMark) ? kMark.size() : 0)
      .parse(separator_of(path, text));
  return csv;
}

}  // namespace moegrad
