#pragma once

#include <vector>

#include "autograd/operation_check.h"
#include "ops/ops.h"

namespace moegrad {

// Every operation with a backward pass of its own. Element-wise ones come from the lists of their
// functors; a new structured one gets its line here.
template <class... Lists>
struct Joined;
template <class... A>
struct Joined<TypeList<A...>> {
  using type = TypeList<A...>;
};
template <class... A, class... B, class... Rest>
struct Joined<TypeList<A...>, TypeList<B...>, Rest...> {
  using type = typename Joined<TypeList<A..., B...>, Rest...>::type;
};

template <template <class> class Op, class List>
struct Mapped;
template <template <class> class Op, class... F>
struct Mapped<Op, TypeList<F...>> {
  using type = TypeList<Op<F>...>;
};

using StructuredOps = TypeList<
    // products
    Matmul, CausalAttention, PackedAttention, Rotary,
    // along an axis
    Sum, Mean, Max, LogSumExp, Norm, CumulativeSum, Softmax, LogSoftmax, LayerNorm, RmsNorm,
    // shapes and places
    Reshape, Transpose, Concat, Slice, Transfer, GatherRows, ScatterAddRows, TakeColumns,
    PutColumns,
    // selection and chance
    Where, StraightThrough, Dropout,
    // images, losses
    Conv2d, MaxPool2d, CrossEntropy>;

using AllOps = Joined<Mapped<Unary, UnaryFunctors>::type, Mapped<Binary, BinaryFunctors>::type,
                      StructuredOps>::type;

// Functions composed of the above that have a name, a claim and cases of their own.
using ComposedFunctions =
    TypeList<TopKValues, StopGradient, Embedding, EmbeddingPadded, Mse, BceWithLogits>;

// One entry for each of both lists: what is checked, timed and documented.
std::vector<OperationEntry> all_operations();

}  // namespace moegrad
