#pragma once

#include <optional>

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Indices are i32; they are not differentiated. An index of -1 means none: a row or element of
// zeros when read, nothing when written.

// [R, ...] = x[index[r]] for x [V, ...] and index [R]
Var gather_rows(Var x, const Tensor& index);
// [rows, ...]: the sum of the x[r] with index[r] = v at v, for x [R, ...] and index [R]
Var scatter_add_rows(Var x, const Tensor& index, std::int64_t rows);
// [ids..., D] = table[ids] for table [V, D] and ids of any shape, each from 0 to V-1. The row
// padding_id is read like any other and gets no gradient, as in PyTorch: it stays what it was
// before training (zeros, where the user set it so).
Var embedding(Var table, const Tensor& ids, std::optional<std::int32_t> padding_id = std::nullopt);
// [N, k] = x[n, index[n, j]] for x [N, E] and index [N, k]
Var take_columns(Var x, const Tensor& index);
// [N, columns]: x [N, k] added to zero at index [N, k]
Var put_columns(Var x, const Tensor& index, std::int64_t columns);

struct GatherRows {
  static constexpr std::string_view name = "gather_rows";
  static constexpr std::string_view summary = "rows of x by index";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct ScatterAddRows {
  static constexpr std::string_view name = "scatter_add_rows";
  static constexpr std::string_view summary = "rows of x added up by index, in a fixed order";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    std::int64_t rows = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct TakeColumns {
  static constexpr std::string_view name = "take_columns";
  static constexpr std::string_view summary = "k elements of each row by index";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct PutColumns {
  static constexpr std::string_view name = "put_columns";
  static constexpr std::string_view summary = "k elements of each row added to zeros by index";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    std::int64_t columns = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

// gather_rows and reshape.
struct Embedding {
  static constexpr std::string_view name = "embedding";
  static constexpr std::string_view summary = "rows of a table by ids of any shape";
  static constexpr Claim claim = Claim::exact;
  static std::vector<OperationCase> cases();
};

// The rows other than the padding, and the padding with its gradient stopped.
struct EmbeddingPadded {
  static constexpr std::string_view name = "embedding_padded";
  static constexpr std::string_view summary = "embedding whose padding row gets no gradient";
  static constexpr Claim claim = Claim::surrogate;
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
