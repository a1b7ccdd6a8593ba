// A tape as a table and as a graph: autograd/print.cc.

#include <doctest/doctest.h>

#include "autograd/tape.h"
#include "ops/ops.h"
#include "tests/autograd/row.h"

using namespace moegrad;
using moegrad::test::row;

TEST_CASE("the table and the graph of a tape") {
  Tape t;
  const Var x = t.variable(Tensor::of<float>({2}, {1.0F, 0.0F}));
  const Var c = t.constant(Tensor::of<std::int32_t>({2}, {1, 0}));
  const Var y = apply<GatherRows>({x, c});
  const Var z = max(log(y), 0);
  CHECK(t.table() ==
        "node  operation    inputs  shape    saved bytes  finite\n"
        "0     variable             f32 [2]  0            yes\n"
        "1     constant             i32 [2]  0            yes\n"
        "2     gather_rows  0 1     f32 [2]  8            yes\n"
        "3     log          2       f32 [2]  0            NO\n"
        "4     max          3       f32 []   4            yes\n");
  CHECK(t.dot() ==
        "digraph tape {\n"
        "  node [shape=box];\n"
        "  n0 [label=\"0: variable\\nf32 [2]\"];\n"
        "  n1 [label=\"1: constant\\ni32 [2]\", style=dashed];\n"
        "  n2 [label=\"2: gather_rows\\nf32 [2]\"];\n"
        "  n0 -> n2;\n"
        "  n1 -> n2;\n"
        "  n3 [label=\"3: log\\nf32 [2]\"];\n"
        "  n2 -> n3;\n"
        "  n4 [label=\"4: max\\nf32 []\"];\n"
        "  n3 -> n4;\n"
        "}\n");
  t.backward(z);
  CHECK(t.table().find("3     log          2       f32 [2]  0            released\n") !=
        std::string::npos);
}
