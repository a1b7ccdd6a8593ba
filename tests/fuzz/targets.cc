#include "targets.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>
#include <string_view>

#include <zlib.h>

#include "lab/page_data.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"
#include "tests/temporary_files.h"
#include "train/checkpoint.h"
#include "train/classifier.h"
#include "train/config.h"
#include "train/gzip.h"
#include "train/idx.h"
#include "train/loop.h"
#include "train/npy.h"
#include "train/own.h"
#include "train/plain_rows.h"
#include "train/sentiment.h"
#include "train/stored_model.h"
#include "train/word_pieces.h"

namespace moegrad::fuzz {
namespace {

namespace fs = std::filesystem;
using test::mutated;
using test::TemporaryFolder;

constexpr std::int64_t kInputs = 16;
constexpr std::int64_t kClasses = 4;

// Number i of a seed's numbers below n.
std::uint64_t below(std::uint64_t n, std::uint64_t seed, std::uint64_t i, std::uint64_t place) {
  return n == 0 ? 0 : Rng{seed ^ 0x66757a7aU, i, 0}.bits(place) % n;
}

// Letters changed, or one number of the text replaced by one at an end of some type.
std::string changed_text(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  static constexpr std::string_view kNumbers[] = {"0",
                                                  "-1",
                                                  "1",
                                                  "65535",
                                                  "65536",
                                                  "2147483647",
                                                  "2147483648",
                                                  "4294967296",
                                                  "1000000",
                                                  "9007199254740991",
                                                  "1e999",
                                                  "-0.0",
                                                  "1e-320",
                                                  "1.5",
                                                  "9223372036854775807",
                                                  "null",
                                                  "\"1\"",
                                                  "[]",
                                                  "{}",
                                                  "18446744073709551615",
                                                  "true",
                                                  "4611686018427387905",
                                                  "\"\\u001b\"",
                                                  "99999999999999999999999"};
  if (below(2, seed, i, 0) == 0) return mutated(input, seed, i);
  std::string text = input;
  std::vector<std::size_t> starts;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto digit = [&](std::size_t place) {
      return std::isdigit(static_cast<unsigned char>(text[place])) != 0;
    };
    if (digit(at) && (at == 0 || !digit(at - 1))) starts.push_back(at);
  }
  if (starts.empty()) return mutated(input, seed, i);
  const std::size_t at = starts[below(starts.size(), seed, i, 1)];
  const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
  text.replace(at, end - at, kNumbers[below(std::size(kNumbers), seed, i, 2)]);
  return text;
}

// What `write` makes of a file.
std::string bytes_of(const std::function<void(const fs::path&)>& write) {
  const TemporaryFolder folder;
  write(folder / "seed");
  return read_file(folder / "seed");
}

// --- safetensors: the length of the header, the header, the data

std::string changed_header(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  std::uint64_t length = 0;
  if (input.size() >= 8) std::copy_n(input.data(), 8, reinterpret_cast<char*>(&length));
  if (input.size() < 8 || length > input.size() - 8) return mutated(input, seed, i);
  const std::string header = changed_text(input.substr(8, length), seed, i);
  const std::uint64_t now = header.size();
  return std::string(reinterpret_cast<const char*>(&now), 8) + header + input.substr(8 + length);
}

std::vector<std::string> tensor_files() {
  TensorFile file;
  file.tensors = {{"a.f32", Rng{1, 0, 0}.uniform({2, 3}, DType::f32)},
                  {"b.f64", Rng{1, 1, 0}.uniform({4}, DType::f64)},
                  {"c.i32", Tensor::of<std::int32_t>({1, 2}, {7, -7})},
                  {"d.none", Tensor::empty({0, 5}, DType::f32, Device::cpu)},
                  {"e.scalar", Tensor::scalar(1.0)}};
  file.metadata = {{"format", "pt"}, {"text", "a \"b\" \n c"}};
  const auto bytes = [](const TensorFile& f) {
    return bytes_of([&](const fs::path& path) { write_safetensors(path, f); });
  };
  const std::string header = R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]},)"
                             R"("h":{"dtype":"F16","shape":[2,1],"data_offsets":[20,24]},)"
                             R"("i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}})";
  const std::uint64_t length = header.size();
  return {bytes(file), bytes({}),
          std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(24, '\1')};
}

std::string change_tensors(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  return i % 2 == 0 ? mutated(input, seed, i) : changed_header(input, seed, i);
}

void read_tensors(const fs::path& file) {
  const TensorFile tensors = read_safetensors(file);
  for (const auto& [name, tensor] : tensors.tensors) static_cast<void>(tensor.to_vector());
  tensors.at("a.f32");
}

// --- checkpoints

std::vector<TrainConfig> configs() {
  std::vector<TrainConfig> all;
  for (const char* router : {"top-k", "soft-moe", "x-moe", "hash", "comet", "deepseek-v3"}) {
    TrainConfig c;
    c.task = "synthetic";
    c.router = router;
    c.experts = 4;
    c.active = 1;
    c.width = c.hidden = 2;
    all.push_back(c);
  }
  all[0].options = {{"shared", "1"}};
  all[1].options = {{"slots", "2"}};
  all[2].options = {{"dimensions", "3"}};
  return all;
}

struct Trained {
  explicit Trained(const TrainConfig& c)
      : config(to_json(c, true)),
        parameters(Classifier(kInputs, kClasses, c.layer()).initial(1, DType::f32)),
        optimiser(parameters, {}) {}
  Checkpoints checkpoints(const fs::path& folder) const { return {folder, 2, config}; }

  std::string config;
  Parameters parameters;
  AdamWOptimiser optimiser;
};

std::vector<std::string> checkpoints() {
  std::vector<std::string> all;
  for (const TrainConfig& c : configs()) {
    const TemporaryFolder folder;
    Trained model(c);
    const TrainState state{.step = 12, .epoch = 1, .batch = 3, .rng = {7, 1, 5}};
    const fs::path path =
        model.checkpoints(folder.path()).save(state, model.parameters, model.optimiser);
    all.push_back(read_file(path));
  }
  return all;
}

// One text of the metadata changed, half the time the configuration.
void change_metadata(TensorFile& file, std::uint64_t seed, std::uint64_t i) {
  if (file.metadata.empty()) return;
  auto at = file.metadata.find("config");
  if (at == file.metadata.end() || below(2, seed, i, 3) == 0) {
    at = std::next(file.metadata.begin(),
                   static_cast<std::ptrdiff_t>(below(file.metadata.size(), seed, i, 4)));
  }
  at->second = changed_text(at->second, seed, i);
}

// Most changes would end at the checksum: where the file can still be read, it is made good.
std::string change_checkpoint(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  const bool metadata = i % 2 == 0;
  const std::string bytes = metadata ? input : change_tensors(input, seed, i / 2);
  if (i % 8 == 1) return bytes;
  try {
    return bytes_of([&](const fs::path& path) {
      write_file_atomic(path, bytes);
      TensorFile file = read_safetensors(path);
      if (metadata) change_metadata(file, seed, i);
      file.metadata["checksum"] = checksum_of(file);
      write_safetensors(path, file);
    });
  } catch (const Error&) {
    return bytes;
  }
}

void read_checkpoints(const fs::path& file) {
  static Trained model(configs()[0]);
  try {
    const Checkpoint checkpoint = model.checkpoints(file.parent_path()).read(file);
    Checkpoints::restore(checkpoint, model.parameters, model.optimiser);
  } catch (const Error&) {  // the other reader is to see the file, too
  }
  load_model(file);
}

// --- configurations

std::vector<std::string> config_files() {
  std::vector<std::string> all;
  for (const TrainConfig& c : configs()) all.push_back(to_json(c));
  return all;
}

void read_config(const fs::path& file) {
  TrainConfig config;
  apply_settings(config, load_settings(file));
  const Layer layer(config.layer());
}

// --- IDX files

std::string packed(std::string bytes) {
  z_stream stream = {};
  if (deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    fail("fuzz", "zlib cannot start.");
  }
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::vector<std::string> idx_files() {
  const std::string images("\0\0\x08\3\0\0\0\2\0\0\0\3\0\0\0\2", 16);
  const std::string labels("\0\0\x08\1\0\0\0\2\1\2", 10);
  return {packed(images + "abcdefghijkl"), packed(labels),
          packed(images.substr(0, 9)) + packed("")};
}

std::string change_idx(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  if (i % 2 == 0) return mutated(input, seed, i);
  try {
    const std::string plain = bytes_of([&](const fs::path& path) {
      write_file_atomic(path, input);
      std::vector<unsigned char> bytes(1 << 16);
      bytes.resize(GzipFile(path).read(bytes));
      write_file_atomic(path, std::string(bytes.begin(), bytes.end()));
    });
    return packed(mutated(plain, seed, i));
  } catch (const Error&) {
    return mutated(input, seed, i);
  }
}

std::vector<std::string> plain_files() {
  return {"a\tb\n1\t2\n3\t4\n", "a\tb\r\n\t\r\nx y\t", "a\tb\n-1\t\xff\n"};
}

std::string change_plain(const std::string& input, std::uint64_t seed, std::uint64_t i) {
  return mutated(input, seed, i);
}

void read_plain_file(const fs::path& file) { read_plain_rows(file, "set", '\t', "a\tb"); }

// --- word pieces, and sentences with their ratings

std::vector<std::string> tokenizer_files() {
  return {R"({"normalizer":{"type":"BertNormalizer","lowercase":true},"model":{"type":"WordPiece",)"
          R"("continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,)"
          R"("[CLS]":1,"[SEP]":2,"a":3,"##b":4}}})"};
}

void read_tokenizer(const fs::path& file) {
  static_cast<void>(WordPieces(file).ids("ab aB \xc3\xa9 \xe6\x9d\xb1 c", 8));
}

std::vector<std::string> sentence_files() {
  return {"1_1\t0.5\tA film.\r\n1_2\t-4\tNo \xc3\xa9.\n", "7\t2.25\tTab\there"};
}

void read_sentence_file(const fs::path& file) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "sentiment");
  for (const fs::path& path : sentiment_files(folder.path())) {
    fs::copy_file(file, path);
  }
  read_sentiment(folder.path());
}

void read_idx_file(const fs::path& file) {
  try {
    read_idx(file, 1);
  } catch (const Error&) {  // read as images, too
  }
  read_idx(file, 3);
}

// --- folders of runs, for a page of them: one of the three files is damaged

std::vector<std::string> run_files() {
  return {
      config_files()[0],
      R"({"steps":40,"test_loss":0.5,"test_accuracy":0.9,"expert_load":[0.5,0.5]})",
      R"({"kind":"step","step":20,"epoch":0,"loss":1.5,"auxiliary":0.01,"losses":{"balance":1},)"
      R"("expert_load":[0.5,0.5],"layer_loads":[[1,0],[0,1]],"dropped":0,"gradient_norm":1})"
      "\n"
      R"({"kind":"evaluation","step":40,"epoch":1,"test_loss":0.5,"expert_load":[0.5,0.5]})"
      "\n"};
}

void read_run_files(const fs::path& file) {
  const TemporaryFolder folder;
  const auto copy = [&](const char* name) {
    fs::copy_file(file, folder / name, fs::copy_options::overwrite_existing);
  };
  write_file_atomic(folder / "config.json", config_files()[0]);
  copy("metrics.jsonl");
  copy("result.json");
  page_data({folder.path()});
  copy("config.json");
  page_data({folder.path()});
}

// --- rows of one's own: CSV, NPY. The kind is in the name: the input is copied to one that has it.

std::vector<std::string> csv_files() {
  return {"a,b,label\n1,x,0\n2,\"y, \"\"z\"\"\",1\n3,x,0\n", "1\t2\tyes\r\n3\t4\tno\r\n5\t6\tno",
          "\xef\xbb\xbf"
          "n,t\n1e3,\"a\nb\"\n-2.5,c\n"};
}

void read_rows(const fs::path& file, std::string_view name) {
  const fs::path named = file.parent_path() / name;
  fs::copy_file(file, named, fs::copy_options::overwrite_existing);
  const Task task = load_own({.folder = "", .file = named});
  read_own(named, task.shape(), {});
}

std::vector<std::string> npy_files() {
  const auto file = [](std::string_view header, std::size_t data) {
    const std::string size = {static_cast<char>(header.size()), '\0'};
    return std::string("\x93NUMPY\1\0", 8) + size + std::string(header) + std::string(data, '\1');
  };
  return {file("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }\n", 32),
          file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }\n", 6),
          file("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1)}", 8)};
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
      {"safetensors", tensor_files, change_tensors, read_tensors},
      {"checkpoint", checkpoints, change_checkpoint, read_checkpoints},
      {"config", config_files, changed_text, read_config},
      {"idx", idx_files, change_idx, read_idx_file},
      {"run", run_files, changed_text, read_run_files},
      {"csv", csv_files, changed_text, [](const fs::path& file) { read_rows(file, "f.csv"); }},
      {"npy", npy_files, changed_text, [](const fs::path& file) { read_rows(file, "f.npy"); }},
      {"plain-rows", plain_files, change_plain, read_plain_file},
      {"word-pieces", tokenizer_files, changed_text, read_tokenizer},
      {"sentiment", sentence_files, change_plain, read_sentence_file}};
  return all;
}

}  // namespace moegrad::fuzz
