#pragma once

#include <filesystem>

#include <nlohmann/json_fwd.hpp>

namespace moegrad {

// Which experts the text of a run of the task language goes to: its newest checkpoint at inference,
// on windows of the validation text, evenly from each domain's.
//   domains   the names of those with a window
//   windows   [of each domain]: how many were read
//   shares    [layer][domain][expert]: of the choices of the domain's pieces
//   texts     of each domain one window: {pieces, chosen, scores}
//     pieces  T of them, each its bytes
//     chosen  [layer][T]: the selected expert of the largest weight; -1: none had room
//     scores  [layer][T][expert], 3 digits
// Errors: another task; no checkpoint; no data where the run's are, or others.
nlohmann::ordered_json text_routing(const std::filesystem::path& run);
inline constexpr int kMostTextWindows = 32;  // of a domain

}  // namespace moegrad
