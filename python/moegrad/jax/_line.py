"""A program as a straight line of smooth operations; every step that no derivative passes is kept.

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
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..decisions import Decision
from . import _rules
from ._draws import DRAWS, RANDOM
from ._walk import (
    CALLS,
    OPAQUE,
    Function,
    Walker,
    casts,
    compile_short,
    equations,
    floating,
    in_float64,
    is_narrow,
    name_of,
    narrows,
    refuse,
    where,
)

_PART = 48  # steps that are compiled at once


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
    rounds: str = ""  # an operation that computes in narrower floats


@dataclass
class _Decided:
    kind: str
    eqn: Any
    inputs: list[Value]
    outputs: list[Value]

    def told(self) -> Decision:
        margin = None
        if self.kind == "select":
            margin = _rules.margin(self.eqn, [v.array for v in self.inputs])
        outputs = [v.array for v in self.outputs]
        name, rows = self.eqn.primitive.name, _rules.rows(self.eqn)
        return Decision(self.kind, name, outputs, where(self.eqn), margin, rows=rows)


class _Part:
    """Some steps, compiled; compilers take too long over many at once."""

    def __init__(self, steps: list[_Step], inputs: list[Value], outputs: list[Value]) -> None:
        self.inputs = inputs
        self.outputs = outputs

        def part(arrays: list) -> tuple:
            known = {id(v): x for v, x in zip(inputs, arrays, strict=True)}
            for step in steps:
                results = step.function(*(known[id(v)] for v in step.inputs))
                pairs = zip(step.outputs, results, strict=True)
                known.update((id(v), x) for v, x in pairs if v.moves)
            return [known[id(v)] for v in outputs], *_pieces(steps, lambda v: known[id(v)])

        self.compiled = jax.jit(part)


class Line(Walker):
    """Records closed(*inputs); `draw` answers for operations with random numbers."""

    def __init__(
        self, closed: Any, inputs: Sequence, draw: Callable[[Any, list], list | None] | None = None
    ) -> None:
        self.lifted = 0
        self._decided: list[_Decided] = []
        self.opaque: list[str] = []
        self._draw = draw
        self._smooth: dict[int, bool] = {}
        self._steps: list[_Step] = []
        self._inputs = [Value(x, moves=True) for x in inputs]
        self._outputs = self(closed, self._inputs)
        self._drop_what_leads_nowhere()
        self._parts: list[_Part] | None = None

    @classmethod
    def recorded(cls, closed: Any, inputs: Sequence) -> Line:
        """At concrete inputs: compiled, or operation by operation where values control the flow."""
        made: list[Line] = []

        def record(inputs: list) -> list:
            made[:] = [cls(closed, inputs)]
            return made[0]._take_arrays()

        compiled = compile_short(record, list(inputs))
        if compiled is None:
            return cls(closed, inputs)
        arrays = compiled(list(inputs))
        for value, array in zip(made[0]._needed(), arrays, strict=True):
            value.array = array
        return made[0]

    def _needed(self) -> list[Value]:
        """Whose arrays are asked for after recording."""
        decided = [v for d in self._decided for v in (*d.inputs, *d.outputs)]
        return decided + [v for s in self._steps for v in s.inputs if not v.moves] + self._outputs

    def _take_arrays(self) -> list[Any]:
        """Of _needed(); none that is traced stays behind."""
        needed = self._needed()
        arrays = [value.array for value in needed]
        moving = [v for step in self._steps for v in (*step.inputs, *step.outputs)]
        for value in (*needed, *moving, *self._inputs):
            value.array = None
        return arrays

    @property
    def outputs(self) -> list[Any]:
        """At the base point."""
        return [value.array for value in self._outputs]

    @property
    def decisions(self) -> list[Decision]:
        return [decided.told() for decided in self._decided]

    # --- recording

    def constant(self, x: Any) -> Value:
        return Value(super().constant(x))

    def array(self, value: Value) -> Any:
        return value.array

    def apply(
        self,
        function: Function,
        values: Sequence[Value],
        kink: Callable | None = None,
        rounds: str = "",
    ) -> list[Value]:
        arrays = function(*(v.array for v in values))
        if not any(v.moves for v in values):
            return [Value(a) for a in arrays]
        outputs = [Value(a, moves=floating(a)) for a in arrays]
        self._steps.append(_Step(function, values, outputs, kink, rounds))
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
            self._note_opaque(eqn)
        return self._smooth_or_mixed(eqn, values)

    def _run(self, eqn: Any, values: list[Value]) -> list[Value]:
        """Once: its results do not move."""
        return [Value(a) for a in in_float64(eqn)(*(v.array for v in values))]

    def _note_opaque(self, eqn: Any) -> None:
        if any(inner.primitive.name == "stop_gradient" for inner in equations(eqn)):
            refuse(
                f"{name_of(eqn)} holds a stop_gradient, which cannot be frozen there",
                "Check the function that it maps by itself.",
            )
        self.opaque.append(name_of(eqn))

    def _decide(self, kind: str, eqn: Any, values: list[Value]) -> list[Value]:
        outputs = self._run(eqn, values)
        self._decided.append(_Decided(kind, eqn, values, outputs))
        return outputs

    def _sort(self, eqn: Any, values: list[Value]) -> list[Value]:
        places = Value(_rules.sorted_places(eqn, [v.array for v in values]))
        if any(v.moves for v in values[: eqn.params["num_keys"]]):
            self._decided.append(_Decided("select", eqn, values, [places]))
        take = _rules.take(eqn.params["dimension"])
        return [self.apply(take, [v, places])[0] for v in values]

    def _smooth_or_mixed(self, eqn: Any, values: list[Value]) -> list[Value]:
        """What gives integers beside floats is another piece where the integers are others."""
        function, kink = in_float64(eqn), _rules.kink(eqn)
        integers = [i for i, v in enumerate(eqn.outvars) if not floating(v.aval)]
        if integers:
            kink = _integers_of(function, integers)
        rounds = name_of(eqn) if eqn.primitive.name in OPAQUE and is_narrow(eqn) else ""
        outputs = self.apply(function, values, kink, rounds)
        if integers:
            chosen = [outputs[i] for i in integers]
            self._decided.append(_Decided("select", eqn, values, chosen))
        return outputs

    def _drop_what_leads_nowhere(self) -> None:
        needed = {id(v) for v in self._outputs}
        live = []
        for step in reversed(self._steps):
            if any(v.moves and id(v) in needed for v in step.outputs):
                live.append(step)
                needed.update(id(v) for v in step.inputs if v.moves)
        self._steps = live[::-1]
        for step in self._steps:
            if step.rounds:
                refuse(
                    f"{step.rounds} computes in floats narrower than float64, whose rounding hides "
                    "what differences would show",
                    "Check it without the cast before it: inputs come in float64.",
                )

    # --- replaying

    def replay(self, inputs: Sequence, run: Any) -> list[np.ndarray]:
        """The outputs at these inputs; run.signature and run.distance hear of the pieces."""
        if self._parts is None:
            self._parts = self._split()
        known = {id(v): x for v, x in zip(self._inputs, inputs, strict=True)}
        for part in self._parts:
            given = [known[id(v)] if v.moves else v.array for v in part.inputs]
            results, pieces, distance = part.compiled(given)
            known.update((id(v), x) for v, x in zip(part.outputs, results, strict=True))
            for piece in pieces:
                run.signature(word(piece))
            run.distance(float(distance))
        return [np.asarray(known[id(v)] if v.moves else v.array) for v in self._outputs]

    def _split(self) -> list[_Part]:
        needed = {id(v) for v in self._outputs}
        parts = []
        for start in reversed(range(0, len(self._steps), _PART)):
            steps = self._steps[start : start + _PART]
            made = {id(v): v for step in steps for v in step.outputs if v.moves}
            read = {id(v): v for step in steps for v in step.inputs if id(v) not in made}
            outputs = [v for place, v in made.items() if place in needed]
            needed.update(read)
            parts.append(_Part(steps, list(read.values()), outputs))
        return parts[::-1]

    def pieces(self) -> tuple[list[Any], Any]:
        """At the base point: the pieces of kinked operations, what was selected; the distance."""
        pieces, distance = _pieces(self._steps, lambda v: v.array)
        selected = [v.array for d in self._decided if d.kind == "select" for v in d.outputs]
        return pieces + selected, distance


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


def _pieces(steps: list[_Step], array: Callable[[Value], Any]) -> tuple[list[Any], Any]:
    """Of kinked steps: which piece each element is in, and the least distance to another."""
    pieces, distance = [], jnp.asarray(math.inf)
    for step in steps:
        if step.kink is not None:
            piece, gaps = step.kink(*(array(v) for v in step.inputs))
            pieces.append(piece)
            distance = jnp.minimum(distance, _least(gaps))
    return pieces, distance


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
