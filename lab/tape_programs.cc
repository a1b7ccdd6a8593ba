#include "lab/tape_programs.h"

#include "moe/layer.h"
#include "ops/ops.h"
#include "train/modules.h"

namespace moegrad {
namespace {

Var numbers(Tape& t, const Shape& shape, std::initializer_list<double> values) {
  return t.constant(Tensor::of<double>(shape, values));
}

Recorded cross_entropy_written_out(Tape& t) {
  const Var x = numbers(t, {2, 2}, {1.0, -0.5, 0.25, 2.0});
  const Var w = t.variable(Tensor::of<double>({2, 3}, {0.5, -1.0, 0.25, 1.0, 0.5, -0.75}));
  const Var logits = matmul(x, w);
  const Var p = softmax(logits);
  const Var log_p = log(p);
  const Var of_label = take_columns(log_p, Tensor::of<std::int32_t>({2, 1}, {0, 2}));
  const Var loss = -mean(of_label);
  return {loss,
          {{x, "x"},
           {w, "W"},
           {logits, "logits"},
           {p, "p"},
           {log_p, "log p"},
           {of_label, "log p of the label"},
           {loss, "loss"}}};
}

Recorded used_twice(Tape& t) {
  const Var x = t.variable(Tensor::of<double>({3}, {-1.0, 0.5, 2.0}));
  const Var tanh_x = tanh(x);
  const Var product = x * tanh_x;
  const Var loss = sum(product);
  return {loss, {{x, "x"}, {tanh_x, "tanh x"}, {product, "x tanh x"}, {loss, "loss"}}};
}

Recorded straight_through_sign(Tape& t) {
  const Var x = t.variable(Tensor::of<double>({4}, {-1.5, -0.25, 0.5, 2.0}));
  const Var hard = sign(x);
  const Var soft = tanh(x);
  const Var stopped = stop_gradient(hard - soft);
  const Var y = soft + stopped;
  const Var target = numbers(t, {4}, {1.0, -1.0, -1.0, 1.0});
  const Var loss = mean(square(y - target));
  return {loss,
          {{x, "x"},
           {soft, "soft"},
           {hard, "hard"},
           {stopped, "hard - soft, stopped"},
           {y, "y"},
           {target, "target"},
           {loss, "loss"}}};
}

// One token, four experts whose outputs are two numbers each.
struct OneToken {
  Var logits, p, outputs;
};
OneToken one_token(Tape& t) {
  const Var logits = t.variable(Tensor::of<double>({1, 4}, {0.5, 1.25, -0.5, 1.0}));
  return {logits, softmax(logits),
          t.variable(Tensor::of<double>({4, 2}, {1.0, 0.0, 0.5, -1.0, -2.0, 1.5, 0.0, 1.0}))};
}
// The loss of y [1, 2].
Var distance(Var y) { return sum(square(y - numbers(y.tape(), {1, 2}, {0.25, -0.5}))); }
// The sum of the two selected experts, with their scores.
Var sparse_output(const OneToken& one) {
  const Tensor selected = top_k_indices(one.logits, 2);
  const Var weights = take_columns(one.p, selected);
  return matmul(weights, gather_rows(one.outputs, selected.reshape({2})));
}

Recorded top_k_layer(Tape& t) {
  const OneToken one = one_token(t);
  const Var y = sparse_output(one);
  const Var loss = distance(y);
  return {loss,
          {{one.logits, "logits"},
           {one.p, "p"},
           {one.outputs, "outputs of experts"},
           {y, "y"},
           {loss, "loss"}}};
}

Recorded dense_gradient_layer(Tape& t) {
  const OneToken one = one_token(t);
  const Var sparse = sparse_output(one);
  const Var dense = matmul(one.p, one.outputs);
  const Var y = straight_through(sparse, dense);
  const Var loss = distance(y);
  return {loss,
          {{one.logits, "logits"},
           {one.p, "p"},
           {one.outputs, "outputs of experts"},
           {sparse, "y of two experts"},
           {dense, "y of all experts"},
           {y, "y"},
           {loss, "loss"}}};
}

Recorded score_function_draw(Tape& t) {
  const OneToken one = one_token(t);
  const Tensor drawn = t.decisions().categorical("expert", one.p.value(), t.rng());
  const Var log_p = log(take_columns(one.p, drawn.reshape({1, 1})));
  const Var loss = distance(gather_rows(one.outputs, drawn));
  const Var score = sum(log_p - stop_gradient(log_p));
  const Var objective = loss + stop_gradient(loss) * score;
  return {objective,
          {{one.logits, "logits"},
           {one.p, "p"},
           {one.outputs, "outputs of experts"},
           {log_p, "log p of the drawn"},
           {loss, "loss"},
           {score, "score, value 0"},
           {objective, "objective"}}};
}

}  // namespace

const std::vector<SmallProgram>& small_programs() {
  static const std::vector<SmallProgram> programs = {
      {"softmax", "a cross entropy, written out",
       "The mean of -log p of the label, with p = softmax(x W). Step backward to the logits: their "
       "adjoint is (p - "
       "1[label]) / 2, though no operation on the way knows that formula.",
       cross_entropy_written_out},
      {"twice", "a value that is used twice",
       "L = sum of x tanh x. Two operations use x, and each adds its part to the adjoint of x: "
       "step backward and see "
       "the sum grow.",
       used_twice},
      {"straight-through", "the sign of a number, with the gradient of a tanh",
       "y = soft + stop(hard - soft), hard = sign x, soft = tanh x. Its value is hard, whose "
       "derivative is 0. What is "
       "stopped is a constant for the backward pass, so the gradient is that of soft.",
       straight_through_sign},
      {"top-k", "two of four experts, by top-k",
       "y = the sum over the two largest scores p_e of p_e E_e. The outputs of the other two "
       "experts get no gradient, and "
       "their logits only one through the sum in the softmax: as if E_e = 0.",
       top_k_layer},
      {"dense-gradient", "two of four experts forward, all of them backward",
       "The value is that of two experts, the gradient that of all: the straight-through dense "
       "gradient. "
       "Compare the adjoint of the logits with that of the program top-k.",
       dense_gradient_layer},
      {"score-function", "one of four experts drawn, with the gradient of REINFORCE",
       "The expert is drawn: no gradient passes a draw. The second term of the objective has the "
       "value 0 and the "
       "gradient L d log p(drawn): unbiased over draws, and noisy.",
       score_function_draw}};
  return programs;
}

Recorded record_layer(Tape& tape, const LayerProgram& program, Parameters& parameters) {
  if (program.tokens < 1) fail("tape", "there are {} tokens. Give at least 1.", program.tokens);
  const LayerSize& size = program.config.size;
  Layer layer(program.config);
  layer.set_form(program.form);
  const Rng rng{program.seed};
  layer.declare("", parameters, rng);
  const std::int64_t copies = layer.estimator().samples();
  const auto normal = [&](std::string_view name, const Shape& shape) {
    Rng own = rng.named(name);
    return own.normal(shape, DType::f64);
  };
  // The router begins with small weights; for a lesson scores should differ.
  for (Parameter& p : parameters) {
    if (p.router && p.trained && p.decays) p.value = normal(p.name, p.value.shape());
  }
  const Var tokens = tape.variable(normal("x", {program.tokens, size.model}));
  const Var dy = tape.constant(normal("dy", {program.tokens, size.output}));
  Recorded out;
  out.names = {{tokens, "x"}, {dy, "dy"}};
  std::vector<std::int32_t> rows;
  for (std::int64_t i = 0; i < program.tokens * copies; ++i) {
    rows.push_back(static_cast<std::int32_t>(i / copies));
  }
  const Tensor row_ids =
      Tensor::of<std::int32_t>({program.tokens * copies}, std::span<const std::int32_t>(rows));
  const auto copied = [&](Var v) { return copies == 1 ? v : gather_rows(v, row_ids); };
  const Weights weights = bind(tape, parameters, "");
  for (const auto& [name, v] : weights) out.names.emplace_back(v, name);
  LayerInput input{copied(tokens), weights, true};
  input.sequence = program.tokens * copies;
  input.ids = row_ids;
  const LayerOutput layer_out = layer.forward(input);
  const Var losses = sum(layer_out.y * copied(dy), 1);
  const Var loss = sum(losses) / static_cast<double>(copies);
  out.output = loss;
  if (layer.estimator().needs_losses()) {
    out.output = static_cast<double>(program.tokens) * layer.objective(losses, layer_out, input);
  }
  if (layer_out.auxiliary.defined()) out.output = out.output + layer_out.auxiliary;
  const Routing& r = layer_out.routing;
  for (const auto& [v, name] : {std::pair(r.logits, "logits"),
                                {r.scores, "scores p"},
                                {r.weights, "combine weights"},
                                {layer_out.y, "y"},
                                {losses, "loss of each row"},
                                {loss, "loss"}}) {
    if (v.defined()) out.names.emplace_back(v, name);
  }
  if (out.output.index() != loss.index()) out.names.emplace_back(out.output, "objective");
  return out;
}

}  // namespace moegrad
