#include "train/language.h"

#include <algorithm>
#include <utility>

#include "moe/options.h"
#include "tensor/files.h"
#include "tensor/folders.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kTestWindows = 1024;
constexpr const char* kTrain = "train";
constexpr const char* kTest = "validation";

std::string read_domain(const fs::path& folder, const std::string& domain, const char* part) {
  const fs::path path = folder / "language" / domain / (std::string(part) + ".txt");
  if (!path_exists(path))
    fail("language", "'{}' is missing. Run scripts/data language.", path.string());
  return read_file(path);
}

using Pieces = std::vector<std::int32_t>;

Pieces pieces_of(const BytePairs& pairs, const std::string& text, const std::string& domain,
                 const char* part, std::int64_t context) {
  Pieces pieces = pairs.encode(text);
  if (static_cast<std::int64_t>(pieces.size()) < context + 1) {
    fail("language",
         "{}/{}.txt: {} pieces of text, fewer than the {} of a window. Run scripts/data language "
         "again, or give a shorter --context.",
         domain, part, pieces.size(), context + 1);
  }
  return pieces;
}

// Where the windows of all texts begin: the text, and the piece in it.
struct Place {
  std::size_t domain;
  std::size_t begin;
};

Dataset cut(const std::vector<Pieces>& texts, const std::vector<Place>& windows,
            std::int64_t context) {
  const auto n = static_cast<std::int64_t>(windows.size());
  Dataset data{.x = Tensor::empty({n, context + 1}, DType::i32, Device::cpu),
               .labels = Tensor::empty({n}, DType::i32, Device::cpu)};
  std::int32_t* id = data.x.write<std::int32_t>();
  std::int32_t* label = data.labels.write<std::int32_t>();
  for (const auto& [domain, begin] : windows) {
    const std::int32_t* const from = texts[domain].data() + begin;
    id = std::copy(from, from + context + 1, id);
    *label++ = static_cast<std::int32_t>(domain);
  }
  return data;
}

std::vector<Pieces> pieces_of(const BytePairs& pairs, const fs::path& folder,
                              const std::vector<std::string>& domains, const char* part,
                              std::int64_t context) {
  if (context < 1) fail("language", "a context of {} pieces of text. Give 1 or more.", context);
  std::vector<Pieces> texts;
  for (const std::string& name : domains) {
    texts.push_back(pieces_of(pairs, read_domain(folder, name, part), name, part, context));
  }
  return texts;
}

std::vector<Place> windows_of(const std::vector<Pieces>& texts, std::int64_t context) {
  const auto step = static_cast<std::size_t>(context);
  std::vector<Place> windows;
  for (std::size_t d = 0; d < texts.size(); ++d) {
    for (std::size_t at = 0; at + step < texts[d].size(); at += step) windows.push_back({d, at});
  }
  return windows;
}

}  // namespace

std::vector<std::string> language_domains() {
  return {"prose", "shakespeare", "glosses", "code", "jargon"};
}

std::vector<std::string> chosen_domains(std::string_view domains) {
  const std::vector<std::string> all = language_domains();
  if (domains == "all") return all;
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= domains.size();) {
    const std::size_t end = std::min(domains.find(',', begin), domains.size());
    const std::string name(domains.substr(begin, end - begin));
    if (std::ranges::find(all, name) == all.end()) {
      fail("language", "there is no domain '{}'. Choose from: {}.", name, fmt::join(all, ", "));
    }
    if (std::ranges::find(names, name) != names.end()) {
      fail("language", "the domain '{}' is there twice. Name it once.", name);
    }
    names.push_back(name);
    begin = end + 1;
  }
  return names;
}

BytePairs learned_pairs(const fs::path& folder, std::string_view domains, std::int64_t pieces) {
  std::vector<std::string> texts;
  for (const std::string& name : chosen_domains(domains)) {
    if (pieces > kBytes) texts.push_back(read_domain(folder, name, kTrain));
  }
  return BytePairs::learn(texts, pieces);
}

Dataset training_windows(const fs::path& folder, std::string_view domains, std::int64_t context,
                         const BytePairs& pairs) {
  const std::vector<Pieces> texts =
      pieces_of(pairs, folder, chosen_domains(domains), kTrain, context);
  return cut(texts, windows_of(texts, context), context);
}

Dataset test_windows(const fs::path& folder, std::string_view domains, std::int64_t context,
                     const BytePairs& pairs) {
  const std::vector<Pieces> texts =
      pieces_of(pairs, folder, chosen_domains(domains), kTest, context);
  std::vector<Place> windows = windows_of(texts, context);
  if (const auto all = static_cast<std::int64_t>(windows.size()); all > kTestWindows) {
    std::vector<Place> some;
    for (std::int64_t i = 0; i < kTestWindows; ++i) {
      some.push_back(windows[static_cast<std::size_t>(i * all / kTestWindows)]);
    }
    windows = std::move(some);
  }
  return cut(texts, windows, context);
}

}  // namespace moegrad
