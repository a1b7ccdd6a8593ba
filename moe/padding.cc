#include "moe/padding.h"

#include <algorithm>

#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// i32 [N']: the rows of the tokens.
Tensor rows_of_tokens(const Tensor& mask) {
  const std::span<const std::int32_t> m = mask.values<std::int32_t>();
  Tensor rows = Tensor::empty({std::count(m.begin(), m.end(), 1)}, DType::i32, Device::cpu);
  std::int32_t* next = rows.write<std::int32_t>();
  for (std::size_t row = 0; row < m.size(); ++row) {
    if (m[row] == 1) *next++ = static_cast<std::int32_t>(row);
  }
  return rows;
}

// i32 [N]: the token of each row, -1 for padding.
Tensor tokens_of_rows(const Tensor& mask) {
  Tensor tokens = Tensor::empty(mask.shape(), DType::i32, Device::cpu);
  std::int32_t next = 0;
  for (std::int64_t row = 0; row < mask.numel(); ++row) {
    tokens.write<std::int32_t>()[row] = mask.data<std::int32_t>()[row] == 1 ? next++ : -1;
  }
  return tokens;
}

Shape of_rows(const Tensor& t, std::int64_t rows) {
  Shape shape = t.shape();
  shape[0] = rows;
  return shape;
}

}  // namespace

void require_mask(const Tensor& mask, std::int64_t rows) {
  if (mask.dtype() != DType::i32 || mask.rank() != 1 || mask.size(0) != rows) {
    fail("mask",
         "the mask is {} {} for {} rows. It must be i32 [{}], 1 for a token, 0 for padding.",
         name_of(mask.dtype()), mask.shape(), rows, rows);
  }
  bool any = false;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t m = mask.data<std::int32_t>()[row];
    if (m != 0 && m != 1) {
      fail("mask", "row {} has the mask {}. Use 1 for a token, 0 for padding.", row, m);
    }
    any = any || m == 1;
  }
  if (!any) fail("mask", "all {} rows are padding. Give at least one token.", rows);
}

LayerInput without_padding(const LayerInput& in) {
  if (!in.mask.defined()) return in;
  const std::int64_t rows = in.x.size(0);
  const Tensor mask = in.mask.to(Device::cpu);
  require_mask(mask, rows);
  const Tensor places = rows_of_tokens(mask);
  LayerInput tokens = in;
  tokens.mask = {};
  if (places.numel() == rows) return tokens;
  tokens.mask = mask;
  tokens.x = gather_rows(in.x, places.to(in.x.value().device()));
  tokens.places = places;
  if (in.ids.defined()) {
    if (in.ids.dtype() != DType::i32 || in.ids.numel() != rows) {
      fail("mask", "the ids are {} {} for {} rows. Give one i32 id for each.",
           name_of(in.ids.dtype()), in.ids.shape(), rows);
    }
    tokens.ids = tokens_alone(in.ids.reshape({rows}), mask);
  }
  return tokens;
}

void require_whole_copies(const LayerInput& in, std::int64_t copies) {
  if (!in.places.defined()) return;
  const std::int32_t* const places = in.places.data<std::int32_t>();
  for (std::int64_t t = 0; t < in.places.numel(); ++t) {
    const std::int64_t first = places[t - t % copies];
    if (first % copies == 0 && places[t] == first + t % copies) continue;
    fail("mask",
         "row {} is a token, and not all of the {} rows that are its copies are. Give copies of a "
         "token the same mask.",
         places[t], copies);
  }
  if (in.places.numel() % copies == 0) return;
  fail("mask", "{} rows are tokens, with {} copies of each. Give copies of a token the same mask.",
       in.places.numel(), copies);
}

Var with_padding(Var rows, const Tensor& mask) {
  if (!mask.defined()) return rows;
  return gather_rows(rows, tokens_of_rows(mask).to(rows.value().device()));
}

Tensor with_padding(const Tensor& rows, const Tensor& mask, double fill) {
  if (!mask.defined()) return rows;
  Tensor out = Tensor::full(of_rows(rows, mask.numel()), fill, rows.dtype(), rows.device());
  const std::int64_t each = rows.numel() / rows.size(0);
  const Tensor places = rows_of_tokens(mask);
  for (std::int64_t t = 0; t < places.numel(); ++t) {
    kernels(rows.device())
        .copy_block(rows, t * each, each, 1, each, places.data<std::int32_t>()[t] * each, each,
                    out);
  }
  return out;
}

Var tokens_alone(Var rows, const Tensor& mask) {
  if (!mask.defined()) return rows;
  return gather_rows(rows, rows_of_tokens(mask).to(rows.value().device()));
}

Tensor tokens_alone(const Tensor& rows, const Tensor& mask) {
  if (!mask.defined()) return rows;
  const Tensor places = rows_of_tokens(mask);
  Tensor out = rows.like(of_rows(rows, places.numel()));
  kernels(rows.device()).gather_rows(rows, places.to(rows.device()), out);
  return out;
}

}  // namespace moegrad
