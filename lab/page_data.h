#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace moegrad {

// The data of a page of runs, as one JSON object in ASCII:
//   studies      of each what StudyReport has: {study, command, version, machine, device, data, legend,
//                tables, charts}; its runs are among the runs
//   runs         of each what LoggedRun has: {name, state, step (its last), config, set, command,
//                result, maths, late, notes, steps, evaluations, loads, texts}
//     late         of each test measure the mean of the last tenth of the evaluations
//     steps, evaluations   {step, COLUMN...}, of every `every`-th line
//     loads        {step, layers}: layers[layer][expert][i], its share of the choices at step[i]
//     texts        where its text goes (lab/text_routing.h), of runs of the task language where
//                  that was asked for; else null
//   groups       [{name, runs}] of runs that differ by their seed alone, or by what changes no result
//   differ       the settings that differ among the runs
//   every        {steps, evaluations, loads}: of a run at most kMostPoints lines are kept, and
//                kMostLoads of loads, at the same places of every run
// Numbers have 6 digits, shares 3; what is not finite is null.
struct PageData {
  std::string json;
  std::size_t studies = 0;
  std::size_t runs = 0;
  std::size_t groups = 0;
  std::vector<std::string> notes = {};  // of the runs, behind their names
};
inline constexpr std::size_t kMostPoints = 400;
inline constexpr std::size_t kMostLoads = 100;

// Of folders of moegrad train and of moegrad study. Errors: no folder, one that holds no run and no study,
// one that is named twice, a configuration or a report that cannot be read; where `texts` are asked for
// those of text_routing, and no run of the task language.
PageData page_data(const std::vector<std::filesystem::path>& folders, bool texts = false);

}  // namespace moegrad
