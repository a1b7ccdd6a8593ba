#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/dataset.h"
#include "train/stored_model.h"

namespace moegrad {

// The experts that a mixture layer chose at inference for each token of a data set: token t has
// experts[t k .. t k + k), -1 for none.
struct Routes {
  std::int64_t choices = 0;  // k
  std::vector<std::int32_t> experts;

  std::int64_t tokens() const {
    return choices == 0 ? 0 : static_cast<std::int64_t>(experts.size()) / choices;
  }
};
// Of each mixture layer. An Error for a router that selects no experts for a token (soft-moe, smear).
std::vector<Routes> routes_of(const StoredModel& model, const Dataset& data);

// A property that tokens have: each one of a few.
struct TokenClasses {
  std::string name;                // "domain"
  std::vector<std::string> names;  // of the classes; empty: they are numbers
  std::vector<std::int32_t> of_token;
};
// What is known of the tokens of a data set, for the tokens that a layer sees. Of text: domain, kind
// (letter, digit, space, mark, other: that of its first byte that is no space) and the piece of text, a byte
// or several; of anything else the class of the first target,
// where it has one.
std::vector<TokenClasses> token_classes(const StoredModel& model, const Dataset& data);
// An Error for a model that routes tokens and tells a class of their text alone.
void require_classes_of_tokens(const StoredModel& model);

}  // namespace moegrad
