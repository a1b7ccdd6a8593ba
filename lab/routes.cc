#include "lab/routes.h"

#include <algorithm>
#include <cctype>

#include "ops/ops.h"
#include "train/byte_pairs.h"
#include "train/evaluation.h"
#include "train/language.h"

namespace moegrad {
namespace {

bool reads_text(const StoredModel& model) { return model.task.ids && model.task.fields.empty(); }

// 0 .. 4, in the order of token_classes().
std::int32_t kind_of_byte(int byte) {
  const bool ascii = byte < 128;
  if (ascii && std::isalpha(byte) != 0) return 0;
  if (ascii && std::isdigit(byte) != 0) return 1;
  if (ascii && std::isspace(byte) != 0) return 2;
  return ascii && std::ispunct(byte) != 0 ? 3 : 4;
}

std::vector<std::string> names_of_domains(const std::string& domains) {
  if (domains == "all") return language_domains();
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= domains.size();) {
    const std::size_t end = std::min(domains.find(',', begin), domains.size());
    names.push_back(domains.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// That of its first byte that is no space.
std::int32_t kind_of_piece(std::string_view text) {
  constexpr std::int32_t kSpace = 2;
  for (const char byte : text) {
    const std::int32_t kind = kind_of_byte(static_cast<unsigned char>(byte));
    if (kind != kSpace) return kind;
  }
  return kSpace;
}

std::vector<TokenClasses> classes_of_text(const StoredModel& model, const Dataset& data) {
  const BytePairs pairs(model.task.pairs);
  TokenClasses domain{"domain", names_of_domains(model.config.domains), {}};
  TokenClasses kind{"kind", {"letter", "digit", "space", "mark", "other"}, {}};
  TokenClasses piece{"piece", {}, {}};
  const std::int64_t width = data.x.size(1);
  for (std::int64_t i = 0; i < data.x.size(0); ++i) {
    for (std::int64_t t = 0; t + 1 < width; ++t) {
      const std::int32_t here = data.x.data<std::int32_t>()[i * width + t];
      domain.of_token.push_back(data.labels.data<std::int32_t>()[i]);
      kind.of_token.push_back(kind_of_piece(pairs.text(here)));
      piece.of_token.push_back(here);
    }
  }
  return {domain, kind, piece};
}

}  // namespace

std::vector<Routes> routes_of(const StoredModel& model, const Dataset& data) {
  std::vector<Routes> all;
  const Batches batches(data, rows_of_pass(*model.model));
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    Batch batch = batches.get(i);
    if (is_floating(batch.x.dtype())) batch.x = batch.x.to(model.config.type());
    Tape tape(Tape::Options{.gradients = false});
    const Pass pass = model.model->forward(tape, batch.to(model.parameters.device()),
                                           model.parameters, {.training = false});
    all.resize(pass.mixtures.size());
    for (std::size_t l = 0; l < pass.mixtures.size(); ++l) {
      const Routing& routing = pass.mixtures[l].out.routing;
      if (routing.rows.defined() || routing.merge.defined()) {
        fail("study", "router {} selects no experts for a token. Give a run of another router.",
             model.config.router);
      }
      const Tensor selected = routing.selected.to(Device::cpu);
      all[l].choices = selected.size(1);
      const auto values = selected.values<std::int32_t>();
      all[l].experts.insert(all[l].experts.end(), values.begin(), values.end());
    }
  }
  return all;
}

void require_classes_of_tokens(const StoredModel& model) {
  if (model.task.vocabulary == 0) return;
  fail("study",
       "the model tells a class of a text, and routes its tokens. Give a run of another "
       "task.");
}

std::vector<TokenClasses> token_classes(const StoredModel& model, const Dataset& data) {
  require_classes_of_tokens(model);
  if (reads_text(model)) return classes_of_text(model, data);
  const Target& target = model.task.targets.front();
  if (target.kind == Target::Kind::number) return {};
  TokenClasses classes{target.name, target.names, {}};
  const std::int64_t columns = data.labels.rank() == 1 ? 1 : data.labels.size(1);
  for (std::int64_t i = 0; i < data.x.size(0); ++i) {
    classes.of_token.push_back(data.labels.data<std::int32_t>()[i * columns]);
  }
  return {classes};
}

}  // namespace moegrad
