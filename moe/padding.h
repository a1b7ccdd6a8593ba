#pragma once

#include "moe/router.h"

namespace moegrad {

// Padding is taken out of a batch before its router sees it and put back behind its experts: what
// is not there is drawn for, chosen, counted and averaged nowhere.

// An Error for a mask that is not i32 [N] of 0 and 1, or without a token.
void require_mask(const Tensor& mask, std::int64_t rows);

// Of N rows the N' tokens, with their ids and places; the whole `in` where nothing is masked. The
// mask of what is returned, if any, is on the host, where it is read: this is the one place in a
// pass whose shapes depend on data.
// Errors: those of require_mask; ids that are not i32 [N].
LayerInput without_padding(const LayerInput& in);

// Where rows n t .. n t + n - 1 are copies of token t: an Error where only some of them are
// padding.
void require_whole_copies(const LayerInput& in, std::int64_t copies);

// Rows of the tokens [N', ...] alone at their places among all [N, ...], behind which `mask`
// stands, on the host (undefined: there is no padding): zeros, or `fill`, at padding.
Var with_padding(Var rows, const Tensor& mask);
Tensor with_padding(const Tensor& rows, const Tensor& mask, double fill = 0.0);
// The rows [N, ...] of the tokens alone: [N', ...].
Var tokens_alone(Var rows, const Tensor& mask);
Tensor tokens_alone(const Tensor& rows, const Tensor& mask);

}  // namespace moegrad
