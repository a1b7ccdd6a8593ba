"""A sampled loss as the engine's enumeration calls it: once for each outcome of its draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from ._draws import DRAWS, NOISE, RANDOM
from ._line import Line, word
from ._program import Program
from ._walk import Walker, compile_short, equations, name_of


class _Answers:
    """What the random numbers of one run are: each outcome of the draws that are enumerated, others
    by the engine's generator. A draw of a key and weights that were drawn before is that draw: a
    backward pass may make it again."""

    def __init__(self, run: Any, noisy: bool) -> None:
        self._run = run
        self._made: dict[tuple, list[tuple[np.ndarray, np.ndarray]]] = {}
        # Who asks for it makes an expectation a Monte Carlo one.
        self.seed = run.seed() & 0x7FFFFFFF if noisy else 0

    def end(self) -> None:
        """From now on only what was drawn is answered."""
        self._run = None

    def draw(self, eqn: Any, key: Any, weights: Any) -> np.ndarray:
        name = eqn.primitive.name
        place = (name, str(sorted(eqn.params.items())), np.asarray(key).tobytes())
        made = self._made.setdefault(place, [])
        weights = np.asarray(weights, np.float64)
        for before, drawn in made:
            if before.shape == weights.shape and np.allclose(before, weights, 1e-9, 1e-12):
                return drawn
        if self._run is None:
            raise _core.Error(
                f"[expectation] the backward pass draws {name_of(eqn)} with a key or weights "
                "that the forward pass did not. Draw once, and pass the result on."
            )
        aval = eqn.outvars[0].aval
        drawn = _DRAW[name](self._run, weights, aval.shape, eqn.params).astype(aval.dtype)
        made.append((weights, drawn))
        return drawn


def _draw_categorical(run: Any, logits: np.ndarray, shape: tuple, params: dict) -> np.ndarray:
    axis, batch = params["axis"], params["batch"]
    rows = np.moveaxis(logits, axis + batch if axis >= 0 else axis, -1)
    outcomes = rows.shape[-1]
    prefix = len(shape) - (rows.ndim - 1)
    rows = rows.reshape(*rows.shape[:batch], *(1,) * prefix, *rows.shape[batch:])
    rows = np.broadcast_to(rows, (*shape, outcomes)).reshape(-1, outcomes)
    p = np.exp(rows - rows.max(-1, keepdims=True))
    return run.categorical("categorical", p / p.sum(-1, keepdims=True)).reshape(shape)


def _draw_bernoulli(run: Any, p: np.ndarray, shape: tuple, params: dict) -> np.ndarray:
    batch, missing = params["batch"], len(shape) - p.ndim
    p = p.reshape(*p.shape[:batch], *(1,) * missing, *p.shape[batch:])
    flat = np.broadcast_to(p, shape).reshape(-1).copy()
    return run.bernoulli("bernoulli", flat).reshape(shape)


_DRAW = {"categorical": _draw_categorical, "bernoulli": _draw_bernoulli}


# --- random numbers as arguments -----------------------------------------------------------------


def _noise(eqn: Any, arrays: list, seed: Any) -> list:
    """With keys of this run: the same in it for the same key."""
    fold = jax.random.fold_in
    for _ in range(arrays[0].ndim):
        fold = jax.vmap(fold, (0, None))
    out = eqn.primitive.bind(fold(arrays[0], seed), *arrays[1:], **eqn.params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _data(key: Any) -> Any:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(key) if typed else key


class _Asked:
    """Answers from a list and notes what was asked for; zeros beyond its end."""

    def __init__(self, draws: list, seed: Any) -> None:
        self._draws = draws
        self._seed = seed
        self.draws: list[tuple] = []  # equation, key, weights

    def __call__(self, eqn: Any, arrays: list) -> list | None:
        if eqn.primitive.name in NOISE:
            return _noise(eqn, arrays, self._seed)
        if eqn.primitive.name not in DRAWS:
            return None
        place, aval = len(self.draws), eqn.outvars[0].aval
        self.draws.append((eqn, _data(arrays[0]), arrays[1]))
        known = place < len(self._draws)
        return [self._draws[place] if known else jnp.zeros(aval.shape, aval.dtype)]


class _Sampled:
    """compute(inputs, draw), with what `draw` answers taken from _Answers. It is compiled with its
    random numbers as arguments, and run once more for each draw, whose weights may depend on those
    before; where branches or loops depend on values it is run operation by operation."""

    def __init__(self, compute: Callable[[list, Callable], Any]) -> None:
        self._compute = compute
        self._compiled: Callable | None = None
        self._draws: list[Any] | None = None  # their equations; None: not known yet

    def __call__(self, inputs: list, answers: _Answers) -> Any:
        if self._draws is None:
            self._prepare(inputs)
        if self._compiled is None:
            return self._compute(inputs, lambda eqn, arrays: _eager(answers, eqn, arrays))
        avals = [eqn.outvars[0].aval for eqn in self._draws]
        draws = [np.zeros(aval.shape, aval.dtype) for aval in avals]
        for place, eqn in enumerate(self._draws):
            asked, _ = self._compiled(inputs, draws, answers.seed)
            draws[place] = answers.draw(eqn, *asked[place])
        return self._compiled(inputs, draws, answers.seed)[1]

    def _prepare(self, inputs: list) -> None:
        drawn: list[Any] = []

        def compute(inputs: list, draws: list, seed: Any) -> tuple:
            asked = _Asked(draws, seed)
            result = self._compute(inputs, asked)
            drawn[:] = [eqn for eqn, _, _ in asked.draws]
            return [(key, weights) for _, key, weights in asked.draws], result

        self._compiled = compile_short(compute, inputs, [], 0)
        self._draws = drawn


def _eager(answers: _Answers, eqn: Any, arrays: list) -> list | None:
    if eqn.primitive.name in NOISE:
        return _noise(eqn, arrays, answers.seed)
    if eqn.primitive.name not in DRAWS:
        return None
    return [jnp.asarray(answers.draw(eqn, _data(arrays[0]), arrays[1]))]


# --- the loss and its gradient -------------------------------------------------------------------


class _Drawn(Walker):
    """A backward pass whose random numbers are answered."""

    def __init__(self, draw: Callable) -> None:
        self._draw = draw

    def whole(self, eqn: Any) -> bool:
        random = any(inner.primitive.name in RANDOM for inner in equations(eqn))
        return not random and super().whole(eqn)

    def leaf(self, eqn: Any, values: list) -> list:
        drawn = self._draw(eqn, values)
        return super().leaf(eqn, values) if drawn is None else drawn


def loss_of(program: Program) -> Callable:
    """What the engine calls."""
    if len(program.shapes) != 1 or math.prod(program.shapes[0]) != 1:
        raise _core.Error(
            f"[expectation] the program returns {program.shapes}. Return a loss: one number."
        )

    def forward_of(inputs: list, draw: Callable) -> tuple:
        line = Line(program.traced.forward, inputs, draw)
        return line.outputs[0], *line.pieces()

    def backward_of(inputs: list, draw: Callable) -> list:
        one = jnp.ones(program.shapes[0])
        return _Drawn(draw)(program.traced.backward, [*inputs, one])[1:]

    every = (inner for eqn in program.traced.backward.jaxpr.eqns for inner in equations(eqn))
    noisy = any(eqn.primitive.name in NOISE for eqn in every)
    forward, backward = _Sampled(forward_of), _Sampled(backward_of)

    def call(run: Any, *arrays: np.ndarray) -> tuple:
        inputs, answers = program.inputs(arrays), _Answers(run, noisy)
        loss, pieces, distance = forward(inputs, answers)
        answers.end()
        for piece in pieces:
            run.signature(word(piece))
        run.distance(float(distance))

        def vjp(cotangent: np.ndarray) -> list[np.ndarray]:
            gradients = program.gradients(backward(inputs, answers))
            return [float(cotangent) * g for g in gradients]

        return np.asarray(loss, np.float64).reshape(()), vjp

    return call
