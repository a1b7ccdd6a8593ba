#include "train/distil.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>

#include <zlib.h>

#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/safetensors.h"
#include "train/measures.h"
#include "train/modules.h"
#include "train/optimiser.h"
#include "train/sentiment.h"
#include "train/teacher.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// Of the split: no other part of a program draws these numbers.
constexpr Rng kMoodSplit{1, 0x6d6f6f64'00000000U, 0};

constexpr double kNeutral = 0.5;
constexpr std::int64_t kMostHeldOut = 9000;
const std::vector<std::string> kMoods = {"negative", "neutral", "positive"};
constexpr int kHeadSteps = 300;
constexpr double kHeadRate = 0.1;

std::int32_t mood_of(double rating) { return rating < -kNeutral ? 0 : rating > kNeutral ? 2 : 1; }

// Whole documents in an order that is drawn, as long as they fit.
Split split_documents(const std::vector<Sentence>& sentences) {
  std::map<std::string_view, std::vector<std::int32_t>> documents;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    documents[sentences[i].document].push_back(static_cast<std::int32_t>(i));
  }
  std::vector<const std::vector<std::int32_t>*> list;
  for (const auto& entry : documents) list.push_back(&entry.second);
  const std::int64_t wanted = std::min(kMostHeldOut, std::ssize(sentences) / 2);
  const Tensor order = Rng(kMoodSplit).permutation(std::ssize(list));
  Split split;
  std::set<std::string_view> texts;
  for (const std::int32_t d : order.values<std::int32_t>()) {
    const std::vector<std::int32_t>& document = *list[static_cast<std::size_t>(d)];
    if (std::ssize(split.test) + std::ssize(document) > wanted) continue;
    split.test.insert(split.test.end(), document.begin(), document.end());
  }
  std::ranges::sort(split.test);
  for (const std::int32_t i : split.test) texts.insert(sentences[static_cast<std::size_t>(i)].text);
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    if (!texts.contains(sentences[i].text)) split.train.push_back(static_cast<std::int32_t>(i));
  }
  if (split.train.empty() || split.test.empty()) {
    fail("distil", "{} sentences in {} documents cannot be split. Give more.", sentences.size(),
         documents.size());
  }
  return split;
}

// Rows of x by their places.
Tensor rows_at(const Tensor& x, const std::vector<std::int32_t>& places) {
  Tensor out = x.like({std::ssize(places), x.size(1)});
  kernels(x.device()).gather_rows(x, Tensor::of({std::ssize(places)}, places), out);
  return out;
}

// A linear map from embeddings to moods, by all of them at once.
Parameters train_head(const Tensor& embeddings, const Tensor& moods) {
  const Linear head{embeddings.size(1), std::ssize(kMoods)};
  Parameters parameters;
  head.declare("head.", parameters, kMoodSplit);
  for (Parameter& p : parameters) {
    p.value = Tensor::zeros(p.value.shape(), embeddings.dtype(), Device::cpu);
  }
  AdamWOptimiser optimiser(parameters, {.weight_decay = 0.0});
  for (int step = 0; step < kHeadSteps; ++step) {
    Tape tape;
    const Var logits = head(tape.constant(embeddings), moegrad::bind(tape, parameters, "head."));
    const Gradients g = tape.backward(cross_entropy(logits, moods));
    optimiser.step(parameters, g, kHeadRate * (1.0 - static_cast<double>(step) / kHeadSteps));
  }
  return parameters;
}

// What the guide is a function of, by checksums.
std::string origin_of(const TaskOptions& o) {
  std::string origin = fmt::format("1 {} {}", o.context, name_of(o.dtype));
  std::vector<fs::path> files = sentiment_files(o.folder);
  for (const char* name : {"model.safetensors", "tokenizer.json"}) {
    files.push_back(teacher_folder(o.folder) / name);
  }
  for (const fs::path& file : files) {
    const std::string bytes = read_file(file);
    const uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
    origin += fmt::format(" {:08x}", crc);
  }
  return origin;
}

fs::path guide_file(const fs::path& folder) { return folder / "distil" / "guide.safetensors"; }

// The guide of this origin, where the file has it: embeddings [N, D], logits [N, C] of all sentences,
// and the head.
bool has_guide(const fs::path& path, const std::string& origin, TensorFile& guide) {
  if (!path_exists(path)) return false;
  guide = read_safetensors(path);
  const auto found = guide.metadata.find("origin");
  return found != guide.metadata.end() && found->second == origin;
}

TensorFile make_guide(const TaskOptions& o, const Teacher& teacher, const Tensor& ids,
                      const Tensor& moods, const Split& split, const std::string& origin) {
  const fs::path path = guide_file(o.folder);
  make_folder(path.parent_path());
  require_writable(path);
  o.message(fmt::format("the teacher reads {} sentences, some minutes; then they are in {}",
                        ids.size(0), path.string()));
  TensorFile guide;
  const Tensor embeddings = teacher.embeddings(ids);
  const Parameters head =
      train_head(rows_at(embeddings, split.train),
                 rows_at(moods, split.train).reshape({std::ssize(split.train)}));
  Tape tape(Tape::Options{.gradients = false});
  const Linear map{embeddings.size(1), std::ssize(kMoods)};
  guide.tensors["embeddings"] = embeddings;
  guide.tensors["logits"] =
      map(tape.constant(embeddings), moegrad::bind(tape, head, "head.")).value();
  for (const Parameter& p : head) guide.tensors[p.name] = p.value;
  guide.metadata["origin"] = origin;
  write_safetensors(path, guide);
  return guide;
}

// What a network's "w1" [D, U], "b1" [U], "w2" [U, D] or "b2" [D] becomes, as `like`, of E experts of H:
// the first E H of its U hidden units, w2 times U / H.
Tensor expert_part(const std::string& which, const Tensor& dense, const Tensor& like) {
  Tape tape(Tape::Options{.gradients = false});
  const Var x = tape.constant(dense);
  const std::int64_t experts = like.size(0);
  const std::int64_t d = dense.shape().back();
  if (which == "b2") return (x + constant_like(x, {experts, d}, 0.0)).value();
  const int axis = which == "w1" ? 1 : 0;
  const std::int64_t units = dense.size(axis);
  const std::int64_t h = which == "w1" ? like.size(2) : like.size(1);
  if (experts * h > units) {
    fail("distil",
         "{} experts of {} hidden units, and the teacher has {}. Give fewer or smaller ones.",
         experts, h, units);
  }
  const Var some = slice(x, axis, 0, experts * h);
  if (which == "w1") return transpose(reshape(some, {dense.size(0), experts, h}), 0, 1).value();
  if (which == "b1") return reshape(some, {experts, h}).value();
  const double scale = static_cast<double>(units) / static_cast<double>(h);
  return (scale * reshape(some, {experts, h, d})).value();
}

// Sets what a student has of the teacher: by name, and its experts from the dense networks.
void begin_student(Parameters& student, const std::map<std::string, Tensor>& teacher) {
  constexpr std::string_view kExperts = ".mixture.experts.";
  for (Parameter& p : student) {
    const std::size_t mixture = p.name.find(kExperts);
    const bool is_expert = mixture != std::string::npos;
    const std::string which = is_expert ? p.name.substr(mixture + kExperts.size()) : "";
    std::string name = p.name;
    if (is_expert) {
      name = fmt::format("{}.dense.w{}.{}", p.name.substr(0, mixture), which[1],
                         which[0] == 'w' ? "weight" : "bias");
    }
    const auto found = teacher.find(name);
    if (found == teacher.end()) {
      if (p.router || !is_expert) continue;
      fail("distil",
           "the teacher has nothing for the student's '{}'. Give no more layers than it "
           "has, and the activation gelu.",
           p.name);
    }
    Tensor value = found->second;
    if (is_expert) value = expert_part(which, value, p.value);
    if (name == "embedding.place" && value.size(0) > p.value.size(0)) {
      value = value.rows(0, p.value.size(0)).clone();
    }
    if (!(p.value.shape() == value.shape())) {
      fail("distil",
           "the student's '{}' is {}, and the teacher's {}. Give the sizes of "
           "examples/configs/distil.json.",
           p.name, p.value.shape(), value.shape());
    }
    p.value = value.to(p.value.dtype()).to(p.value.device());
  }
}

double accuracy_of(const Tensor& logits, const Tensor& moods) {
  const Tensor guesses = Tensor::empty({moods.numel()}, DType::i32, Device::cpu);
  kernels(Device::cpu).argmax(logits, {logits.size(0), logits.size(1), 1}, guesses);
  return accuracy(guesses.values<std::int32_t>(), moods.values<std::int32_t>());
}

}  // namespace

Task load_distil(const TaskOptions& o) {
  const std::vector<Sentence> sentences = read_sentiment(o.folder);
  const Split split = split_documents(sentences);
  const Teacher teacher(o.folder, o.dtype);
  std::vector<std::string_view> texts;
  std::vector<std::int32_t> moods;
  for (const Sentence& s : sentences) {
    texts.push_back(s.text);
    moods.push_back(mood_of(s.rating));
  }
  const Tensor ids = teacher.ids(texts, o.context);
  const Tensor labels = Tensor::of({std::ssize(moods), 1}, moods);
  const std::string origin = origin_of(o);
  TensorFile guide;
  if (!has_guide(guide_file(o.folder), origin, guide)) {
    guide = make_guide(o, teacher, ids, labels, split, origin);
  }
  const auto part = [&](const std::vector<std::int32_t>& places) {
    const Tensor mood = rows_at(labels, places);
    return Dataset{.x = rows_at(ids, places),
                   .labels = mood.reshape({mood.numel()}),
                   .guide = joined(rows_at(guide.at("logits"), places),
                                   rows_at(guide.at("embeddings"), places))};
  };
  Task task{.targets = {{.name = "mood", .classes = std::ssize(kMoods), .names = kMoods}},
            .train = part(split.train),
            .test = part(split.test),
            .vocabulary = teacher.size().pieces};
  o.message(fmt::format("of {} texts held out the teacher tells {:.4f}", split.test.size(),
                        accuracy_of(rows_at(guide.at("logits"), split.test), task.test.labels)));
  std::map<std::string, Tensor> known = {{"head.weight", guide.at("head.weight")},
                                         {"head.bias", guide.at("head.bias")}};
  for (const Parameter& p : teacher.parameters()) known[p.name] = p.value;
  task.begin = [known](Parameters& student) { begin_student(student, known); };
  return task;
}

}  // namespace moegrad
