"""A program as a straight line of smooth operations, with every step that no derivative passes kept.

Recording walks the jaxpr at the base point. What does not move with the inputs is a constant of the
line, and so is what is decided:

  select  inputs of floats, results that are not: argmax, comparisons, casts to integers. top_k and
          sort keep the places that they chose, and give the floats of these places
  stop    stop_gradient
  draw    mgj.categorical and mgj.bernoulli

Loops have run as often, and conditions have taken the branch, as at the base point. Replaying
computes the line at other inputs, and tells in which of its pieces each kinked operation is. What
only leads to constants is not on it: the maximum that a softmax subtracts is no kink.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _rules
from ._draws import DRAWS, RANDOM
from ._walk import (
    CALLS,
    OPAQUE,
    Function,
    Walker,
    casts,
    equations,
    floating,
    in_float64,
    is_narrow,
    narrows,
    refuse,
    where,
)


@dataclass
class Decision:
    """One step that no derivative passes."""

    kind: str  # "select", "stop", "draw"
    operation: str
    outputs: list[Any] = field(repr=False)  # arrays
    where: str  # file:line of the user's
    margin: float | None = None  # how far the inputs were from another selection

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(str(o.dtype), tuple(o.shape)) for o in self.outputs]


class Value:
    """An array at the base point; one that `moves` is computed again by a replay."""

    __slots__ = ("array", "moves")

    def __init__(self, array: Any, moves: bool = False) -> None:
        self.array = array
        self.moves = moves


@dataclass
class _Step:
    function: Function
    inputs: Sequence[Value]
    outputs: list[Value]
    kink: Callable | None = None


class Line(Walker):
    """Records closed(*inputs); `draw` answers for operations with random numbers."""

    def __init__(
        self,
        closed: Any,
        inputs: Sequence,
        draw: Callable[[Any, list], list | None] | None = None,
        margins: bool = False,
    ) -> None:
        self.decisions: list[Decision] = []
        self.lifted = 0
        self.opaque: list[str] = []
        self._draw = draw
        self._margins = margins
        self._smooth: dict[int, bool] = {}
        self._steps: list[_Step] = []
        self._inputs = [Value(x, moves=True) for x in inputs]
        self._outputs = self(closed, self._inputs)
        self._drop_what_leads_nowhere()
        self._compiled: Callable | None = None

    @property
    def outputs(self) -> list[Any]:
        """At the base point."""
        return [value.array for value in self._outputs]

    # --- recording

    def constant(self, x: Any) -> Value:
        return Value(super().constant(x))

    def array(self, value: Value) -> Any:
        return value.array

    def apply(
        self, function: Function, values: Sequence[Value], kink: Callable | None = None
    ) -> list[Value]:
        arrays = function(*(v.array for v in values))
        if not any(v.moves for v in values):
            return [Value(a) for a in arrays]
        outputs = [Value(a, moves=floating(a)) for a in arrays]
        self._steps.append(_Step(function, values, outputs, kink))
        return outputs

    def whole(self, eqn: Any) -> bool:
        """Without a decision, a kink or a cast within, also at other inputs."""
        if id(eqn) not in self._smooth:
            self._smooth[id(eqn)] = all(map(_smooth, equations(eqn)))
        return self._smooth[id(eqn)]

    def leaf(self, eqn: Any, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        moved = any(v.moves for v in values)
        self.lifted += narrows(eqn)
        if self._draw is not None:
            drawn = self._draw(eqn, [v.array for v in values])
            if drawn is not None:
                return [Value(a) for a in drawn]
        if name in DRAWS:
            return self._decide("draw", eqn, values)
        if not moved:
            return self.apply(in_float64(eqn), values)
        if name in _rules.UNFREEZABLE:
            refuse(
                f"{name} ({where(eqn)}) passes a gradient through its own random numbers and "
                f"cannot be frozen; it is behind {_rules.UNFREEZABLE[name]}",
                "Draw the noise outside of the program and give it as an input.",
            )
        if name == "stop_gradient":
            return self._decide("stop", eqn, values)
        if name == "sort":
            return self._sort(eqn, values)
        if name == "custom_linear_solve":
            return self.apply(_rules.linear_solve(eqn), values)
        axis = _rules.top_k_axis(eqn)
        if axis is not None:
            places = self._decide("select", eqn, values)[1]
            return [*self.apply(_rules.take(axis), [values[0], places]), places]
        if not any(floating(v.aval) for v in eqn.outvars):
            return self._decide("select", eqn, values) if eqn.outvars else self._run(eqn, values)
        if name in OPAQUE:
            self.opaque.append(f"{name} ({where(eqn)})")
        return self._smooth_or_mixed(eqn, values)

    def _run(self, eqn: Any, values: list[Value]) -> list[Value]:
        """Once, for what else it does: a debug callback."""
        return [Value(a) for a in in_float64(eqn)(*(v.array for v in values))]

    def _note(self, kind: str, eqn: Any, values: list[Value], outputs: list) -> None:
        margin = None
        if self._margins and kind == "select":
            margin = _rules.margin(eqn, [v.array for v in values])
        self.decisions.append(Decision(kind, eqn.primitive.name, outputs, where(eqn), margin))

    def _decide(self, kind: str, eqn: Any, values: list[Value]) -> list[Value]:
        outputs = in_float64(eqn)(*(v.array for v in values))
        self._note(kind, eqn, values, outputs)
        return [Value(a) for a in outputs]

    def _sort(self, eqn: Any, values: list[Value]) -> list[Value]:
        places = Value(_rules.sorted_places(eqn, [v.array for v in values]))
        if any(v.moves for v in values[: eqn.params["num_keys"]]):
            self._note("select", eqn, values, [places.array])
        take = _rules.take(eqn.params["dimension"])
        return [self.apply(take, [v, places])[0] for v in values]

    def _smooth_or_mixed(self, eqn: Any, values: list[Value]) -> list[Value]:
        """What gives integers beside floats is another piece where the integers are others."""
        function, kink = in_float64(eqn), _rules.kink(eqn)
        integers = [i for i, v in enumerate(eqn.outvars) if not floating(v.aval)]
        if integers:
            kink = _integers_of(function, integers)
        outputs = self.apply(function, values, kink)
        if integers:
            self._note("select", eqn, values, [outputs[i].array for i in integers])
        return outputs

    def _drop_what_leads_nowhere(self) -> None:
        needed = {id(v) for v in self._outputs}
        live = []
        for step in reversed(self._steps):
            if any(v.moves and id(v) in needed for v in step.outputs):
                live.append(step)
                needed.update(id(v) for v in step.inputs if v.moves)
        self._steps = live[::-1]

    # --- replaying

    def replay(self, inputs: Sequence, run: Any) -> list[np.ndarray]:
        """The outputs at these inputs; run.signature and run.distance hear of the pieces."""
        if self._compiled is None:
            self._compile()
        outputs, pieces, distance = self._compiled(list(inputs), self._kept)
        if run is not None:
            for piece in pieces:
                run.signature(word(piece))
            run.distance(float(distance))
        return [np.asarray(x) for x in outputs]

    def _compile(self) -> None:
        kept: dict[int, Any] = {}
        used = [v for step in self._steps for v in step.inputs] + list(self._outputs)
        kept.update((id(v), v.array) for v in used if not v.moves)
        self._kept = {str(place): array for place, array in kept.items()}

        def line(inputs: list, constants: dict) -> tuple:
            known: dict[int, Any] = {id(v): x for v, x in zip(self._inputs, inputs, strict=True)}
            known.update((int(place), array) for place, array in constants.items())
            pieces, distance = [], jnp.asarray(math.inf)
            for step in self._steps:
                given = [known[id(v)] for v in step.inputs]
                if step.kink is not None:
                    piece, gaps = step.kink(*given)
                    pieces.append(piece)
                    distance = jnp.minimum(distance, _least(gaps))
                results = step.function(*given)
                for value, result in zip(step.outputs, results, strict=True):
                    known[id(value)] = result if value.moves else value.array
            return [known[id(v)] for v in self._outputs], pieces, distance

        self._compiled = jax.jit(line)

    def pieces(self) -> tuple[list[Any], Any]:
        """At the base point: the pieces of kinked operations and what was selected; the distance."""
        pieces, distance = [], jnp.asarray(math.inf)
        for step in self._steps:
            if step.kink is not None:
                piece, gaps = step.kink(*(v.array for v in step.inputs))
                pieces.append(piece)
                distance = jnp.minimum(distance, _least(gaps))
        selected = [d.outputs for d in self.decisions if d.kind == "select"]
        return pieces + [array for arrays in selected for array in arrays], distance


_OWN_RULES = {"while", "cond", "stop_gradient", "sort", "custom_linear_solve"}


def _smooth(eqn: Any) -> bool:
    """Nothing of this operation is to be recorded, whatever its inputs are."""
    name = eqn.primitive.name
    if name in _OWN_RULES or name in RANDOM or name in OPAQUE:
        return False
    if name in _rules.KINKED or name in _rules.UNFREEZABLE or is_narrow(eqn) or casts(eqn):
        return False
    if name in CALLS or name == "scan":
        return True  # if what is within is
    reads = any(floating(v.aval) for v in eqn.invars)
    return not reads or all(floating(v.aval) for v in eqn.outvars)


def _integers_of(function: Function, places: list[int]) -> Callable:
    def kink(*arrays: Any) -> tuple:
        results = function(*arrays)
        piece = jnp.concatenate([results[i].reshape(-1).astype(jnp.int64) for i in places])
        return piece, jnp.full((1,), math.inf)

    return kink


def _least(gaps: Any) -> Any:
    """The smallest distance; of NaN nothing is known."""
    return jnp.min(jnp.where(jnp.isnan(gaps), math.inf, gaps), initial=math.inf)


def word(x: Any) -> int:
    """A word that differs where the elements do."""
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.floating):
        x = x + 0.0  # -0 is 0
    data = x.tobytes()
    return zlib.crc32(data) << 32 | zlib.adler32(data)
