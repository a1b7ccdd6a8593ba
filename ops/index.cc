#include "ops/index.h"

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/select.h"
#include "ops/shape.h"

namespace moegrad {
namespace {

Tensor indices(const Shape& shape, std::initializer_list<std::int32_t> values) {
  return Tensor::of<std::int32_t>(shape, values);
}

// A fixed sequence that repeats and leaves out some of the numbers 0 to limit-1.
Tensor scattered(const Shape& shape, std::int64_t limit) {
  Tensor index = Tensor::empty(shape, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    index.write<std::int32_t>()[i] = static_cast<std::int32_t>((i * i + 3 * i) % limit);
  }
  return index;
}

void require_places(std::string_view operation, const Tensor& x, const Tensor& index) {
  if (x.rank() < 1 || index.rank() != 1 || (x.size(0) != index.size(0))) {
    fail(operation, "x has shape {} and the index {}. Give one index for each row of x.", x.shape(),
         index.shape());
  }
}

void require_columns(std::string_view operation, const Tensor& x, const Tensor& index) {
  if (x.rank() != 2 || index.rank() != 2 || x.size(0) != index.size(0)) {
    fail(operation, "x has shape {} and the index {}. Give both as many rows.", x.shape(),
         index.shape());
  }
}

// `like` with its first axis of another size.
Tensor with_rows(const Tensor& like, std::int64_t rows) {
  Shape shape = like.shape();
  shape[0] = rows;
  return Tensor::empty(shape, like.dtype(), like.device());
}

}  // namespace

Tensor GatherRows::forward(Forward& in, const Attributes&) {
  Tensor y = with_rows(in[0], in[1].numel());
  kernels(y.device()).gather_rows(in[0], in[1], y);
  return y;
}
void GatherRows::backward(Backward& b, const Attributes&) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).scatter_add_rows(b.dy(), b.input(1), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> GatherRows::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, const Tensor& index) {
    cases.push_back({fmt::format("{} by {}", shape, index.shape()),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return gather_rows(x[0], index); }});
  };
  add({4, 3}, indices({5}, {2, 0, 2, -1, 1}));
  add({3, 2, 2}, indices({2}, {2, 2}));
  add({3}, indices({4}, {1, 1, 0, -1}));
  add({1, 1}, indices({1}, {0}));
  add({0, 3}, indices({2}, {-1, -1}));
  add({3, 2}, indices({0}, {}));
  add({23, 11}, scattered({40}, 23));
  return cases;
}

Tensor ScatterAddRows::forward(Forward& in, const Attributes& p) {
  require_places(name, in[0], in[1]);
  Tensor y = with_rows(in[0], p.rows);
  kernels(y.device()).scatter_add_rows(in[0], in[1], y);
  return y;
}
void ScatterAddRows::backward(Backward& b, const Attributes&) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).gather_rows(b.dy(), b.input(1), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> ScatterAddRows::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, const Tensor& index, std::int64_t rows) {
    cases.push_back(
        {fmt::format("{} into {}", shape, rows), {{shape}}, [=](Tape&, std::span<const Var> x) {
           return scatter_add_rows(x[0], index, rows);
         }});
  };
  add({5, 3}, indices({5}, {2, 0, 2, -1, 1}), 4);
  add({2, 2, 2}, indices({2}, {1, 1}), 2);
  add({4}, indices({4}, {1, 1, 0, -1}), 3);
  add({1, 1}, indices({1}, {0}), 1);
  add({0, 3}, indices({0}, {}), 2);
  add({40, 11}, scattered({40}, 23), 23);
  return cases;
}

Tensor TakeColumns::forward(Forward& in, const Attributes&) {
  require_columns(name, in[0], in[1]);
  Tensor y = Tensor::empty(in[1].shape(), in[0].dtype(), in[0].device());
  kernels(y.device()).take_columns(in[0], in[1], y);
  return y;
}
void TakeColumns::backward(Backward& b, const Attributes&) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).put_columns(b.dy(), b.input(1), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> TakeColumns::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, const Tensor& index) {
    cases.push_back({fmt::format("{} by {}", shape, index.shape()),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return take_columns(x[0], index); }});
  };
  add({3, 4}, indices({3, 2}, {1, 3, 2, 2, -1, 0}));
  add({2, 2}, indices({2, 3}, {1, 0, 1, 0, 0, -1}));
  add({1, 1}, indices({1, 1}, {0}));
  add({0, 3}, indices({0, 2}, {}));
  add({2, 3}, indices({2, 0}, {}));
  add({19, 13}, scattered({19, 5}, 13));
  return cases;
}

Tensor PutColumns::forward(Forward& in, const Attributes& p) {
  require_columns(name, in[0], in[1]);
  if (!(in[0].shape() == in[1].shape())) {
    fail(name, "x has shape {} and the index {}. The shapes must agree.", in[0].shape(),
         in[1].shape());
  }
  Tensor y = Tensor::empty({in[0].size(0), p.columns}, in[0].dtype(), in[0].device());
  kernels(y.device()).put_columns(in[0], in[1], y);
  return y;
}
void PutColumns::backward(Backward& b, const Attributes&) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).take_columns(b.dy(), b.input(1), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> PutColumns::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Tensor& index, std::int64_t columns) {
    cases.push_back(
        {fmt::format("{} into {} columns", index.shape(), columns),
         {{index.shape()}},
         [=](Tape&, std::span<const Var> x) { return put_columns(x[0], index, columns); }});
  };
  add(indices({3, 2}, {1, 3, 2, 2, -1, 0}), 4);
  add(indices({1, 1}, {0}), 1);
  add(indices({0, 2}, {}), 3);
  add(indices({2, 0}, {}), 3);
  add(scattered({43, 5}, 13), 13);
  return cases;
}

std::vector<OperationCase> Embedding::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& table, const Tensor& ids) {
    cases.push_back({fmt::format("{} by {}", table, ids.shape()),
                     {{table}},
                     [=](Tape&, std::span<const Var> x) { return embedding(x[0], ids); }});
  };
  add({5, 3}, indices({2, 3}, {4, 0, 1, 1, 4, 2}));
  add({5, 3}, indices({}, {2}));
  add({1, 1}, indices({1}, {0}));
  add({5, 3}, indices({0}, {}));
  add({0, 3}, indices({2, 0}, {}));
  return cases;
}

std::vector<OperationCase> EmbeddingPadded::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& table, const Tensor& ids, std::int32_t padding) {
    cases.push_back({fmt::format("{} by {} without {}", table, ids.shape(), padding),
                     {{table}},
                     [=](Tape&, std::span<const Var> x) { return embedding(x[0], ids, padding); }});
  };
  add({5, 3}, indices({2, 3}, {4, 0, 1, 1, 4, 2}), 1);
  add({5, 3}, indices({3}, {2, 2, 2}), 2);
  add({5, 3}, indices({2}, {2, 3}), 0);
  add({1, 1}, indices({1}, {0}), 0);
  add({2, 0}, indices({2}, {1, 0}), 0);
  return cases;
}

Var gather_rows(Var x, const Tensor& index) {
  if (x.rank() < 1) fail(GatherRows::name, "x is a scalar. It needs rows; reshape it first.");
  require_indices(GatherRows::name, index, -1, x.size(0));
  require_rank(GatherRows::name, "the index", index.shape(), 1);
  return apply<GatherRows>({x, index_for(x, index)});
}

Var scatter_add_rows(Var x, const Tensor& index, std::int64_t rows) {
  if (rows < 0) fail(ScatterAddRows::name, "{} rows asked for. Use 0 or more.", rows);
  require_indices(ScatterAddRows::name, index, -1, rows);
  return apply<ScatterAddRows>({x, index_for(x, index)}, {rows});
}

Var embedding(Var table, const Tensor& ids, std::optional<std::int32_t> padding_id) {
  require_rank(Embedding::name, "the table", table.shape(), 2);
  require_indices(Embedding::name, ids, 0, table.size(0));
  Shape shape = ids.shape();
  shape.push_back(table.size(1));
  const Tensor index = ids.reshape({ids.numel()});
  if (!padding_id) return reshape(gather_rows(table, index), shape);
  const Tensor padding = Tensor::scalar(*padding_id).reshape({1});
  require_indices(Embedding::name, padding, 0, table.size(0));
  // Each place reads one of the two, and zeros of the other.
  const Tensor others = ids.to(Device::cpu).reshape(index.shape()).clone();
  const Tensor padded = Tensor::full(index.shape(), -1, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    if (others.data<std::int32_t>()[i] != *padding_id) continue;
    others.write<std::int32_t>()[i] = -1;
    padded.write<std::int32_t>()[i] = 0;
  }
  const Var row = stop_gradient(gather_rows(table, padding));
  return reshape(gather_rows(table, others) + gather_rows(row, padded), shape);
}

Var take_columns(Var x, const Tensor& index) {
  require_rank(TakeColumns::name, "x", x.shape(), 2);
  require_indices(TakeColumns::name, index, -1, x.size(1));
  return apply<TakeColumns>({x, index_for(x, index)});
}

Var put_columns(Var x, const Tensor& index, std::int64_t columns) {
  if (columns < 0) fail(PutColumns::name, "{} columns asked for. Use 0 or more.", columns);
  require_indices(PutColumns::name, index, -1, columns);
  return apply<PutColumns>({x, index_for(x, index)}, {columns});
}

}  // namespace moegrad
