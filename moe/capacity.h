#pragma once

#include "moe/options.h"
#include "moe/router.h"

namespace moegrad {

// Room for at most `capacity` choices in each expert: selected i32 [N, k] with -1 in place of the
// choices that found their expert full. All first choices (column 0) queue before all second ones,
// and so on (GShard, arXiv:2006.16668); among choices of one rank the tokens stand in the order of
// `queue`, a permutation i32 [N], or in their own order where none is given. A choice of -1 takes
// no room. Dropping twice is dropping once, whatever the queues. A function of its arguments alone:
// a program that replays them replays it.
Tensor drop_over_capacity(const Tensor& selected, std::int64_t experts, std::int64_t capacity,
                          const Tensor& queue = {});

// E C, the choices that all experts together have room for; those that 64 bits do not hold are all.
std::int64_t most_within(std::int64_t experts, std::int64_t capacity);

// The choices [N, k] that a router with a capacity makes: routing.selected is `chosen` without what
// finds its expert full, with routing.most at what there is room for; routing.choice is `chosen`,
// for balance losses. Where the layer is to drop nothing at inference (LayerInput::dropless) it is
// all of `chosen`.
void select_within(Routing& routing, const LayerInput& in, const Tensor& chosen,
                   std::int64_t experts, std::int64_t capacity, const Tensor& queue = {});

// weights [N, k] where a choice was kept and 0, without gradient, where it is -1.
Var kept_weights(Var weights, const Tensor& selected);

// factor * choices / experts, the share of one expert, rounded down and at least 1.
std::int64_t capacity_down(double factor, std::int64_t choices, std::int64_t experts);
// The same rounded up to a multiple.
std::int64_t capacity_up(double factor, std::int64_t choices, std::int64_t experts,
                         std::int64_t multiple);

// The option "capacity-min": the room that an expert has at least, 4 of what is counted ("tokens").
OptionSpec least_capacity_option(std::string_view counted);

}  // namespace moegrad
