// The other side of bench/peers/compare.py. One command a line, one answer a line:
//   cases                the names of all cases; layers by their size, then models
//   prepare CASE FILE    makes the case; its inputs and results go to FILE (.safetensors)
//   time CASE PART       seconds per call of a part ("step", "forward", ...) of the case
//   once CASE PART       seconds of a single call
//   memory CASE          bytes of memory that one step needs above what is there before it
//   drop CASE            forgets it
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include <fmt/format.h>

#include "bench/report/cases.h"
#include "bench/report/measure.h"
#include "bench/report/rows.h"
#include "tensor/parse.h"
#include "tensor/storage.h"

namespace moegrad::bench {
namespace {

struct Case {
  std::map<std::string, Program> parts = {};
  std::map<std::string, int> calls = {};  // of each part, once it has been timed
  TensorFile file = {};
};

Case layer_case(const Size& size) {
  auto layer = std::make_shared<BareLayer>(size);
  return {.parts = {{"step", [layer] { layer->step(/*plan_too=*/true); }}}, .file = layer->file()};
}

Case model_case(std::unique_ptr<Model> made) {
  std::shared_ptr<Model> model = std::move(made);
  return {.parts = {{"step", [model] { model->step(); }},
                    {"gradient", [model] { model->gradient(); }},
                    {"forward", [model] { model->forward(); }}},
          .file = model->file()};
}

Case make_case(const std::string& name) {
  for (const Size& size : sizes()) {
    if (size.name() == name) return layer_case(size);
  }
  if (name == "mlp") return model_case(make_mlp(256, 512, 4));
  if (name == "small-mlp") return model_case(make_mlp(8, 16, 4));
  if (name == "vision") return model_case(make_vision());
  if (name == "transformer") return model_case(make_transformer());
  if (name == "language") return model_case(make_language(language_xs()));
  fail("serve", "there is no case '{}'.", name);
}

// A line of /proc/self/status in bytes; 0 where there is none.
std::size_t status(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return first_number(line.substr(field.size())) * 1024;
  }
  return 0;
}

std::size_t memory_of(const Case& c) {
  pool::release_cached(Device::cpu);
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const std::size_t before = status("VmRSS");
  c.parts.at("step")();
  return status("VmHWM") - before;
}

std::string answer(const std::string& line, std::map<std::string, Case>& cases) {
  std::istringstream words(line);
  std::string command, name, last;
  words >> command >> name >> last;
  if (command == "cases") {
    std::string names;
    for (const Size& size : sizes()) names += size.name() + " ";
    return names + "vision transformer language mlp small-mlp";
  }
  if (command == "prepare") {
    const Case& c = cases[name] = make_case(name);
    write_safetensors(last, c.file);
    cases[name].file = {};
    return "ok";
  }
  if (command == "drop") {
    cases.erase(name);
    pool::release_cached(Device::cpu);
    return "ok";
  }
  Case& c = cases.at(name);
  if (command == "memory") return fmt::format("{}", memory_of(c));
  const Program& part = c.parts.at(last);
  if (command == "once") return fmt::format("{}", seconds(part, 1));
  if (command != "time") fail("serve", "there is no command '{}'.", command);
  int& calls = c.calls[last];
  if (calls == 0) calls = calls_for(part);
  return fmt::format("{}", seconds(part, calls));
}

}  // namespace

void serve() {
  std::map<std::string, Case> cases;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(line, cases) << std::endl;
  }
}

}  // namespace moegrad::bench
