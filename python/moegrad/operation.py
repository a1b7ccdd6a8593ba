"""Operations written in NumPy, checked and mutated like the engine's own."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _core
from ._core import CheckRow, Error

__all__ = ["Operation", "mutations", "operation"]

_NEEDS = ("nothing", "inputs", "output", "inputs_and_output")
_CLAIMS = ("exact", "exact on the cell", "surrogate")


def mutations() -> tuple[str, ...]:
    """The names of the defects that a check can put into a backward pass."""
    return tuple(_core.mutations())


class Operation:
    """An operation in NumPy; made by the decorator `operation`. Called, it runs forward."""

    def __init__(
        self, functions: type, claim: str, needs: str, cases: Sequence, never_empty: str
    ) -> None:
        functools.update_wrapper(self, functions, updated=())
        self.name = functions.__name__
        self.claim = _one_of(self.name, "claim", claim, _CLAIMS)
        self.needs = _one_of(self.name, "needs", needs, _NEEDS)
        self.never_empty = never_empty
        self._functions = functions
        for part in ("forward", "backward"):
            if not callable(getattr(functions, part, None)):
                raise Error(f"[{self.name}] there is no function {part}. Define it in the class.")
        self._require(claim == "surrogate", "surrogate", "the function whose derivative it claims")
        self._require(claim == "exact on the cell", "cell", "its integers and distance")
        parameters = _parameters(functions.forward)
        self.options = {p.name: p.default for p in parameters if p.default is not p.empty}
        self._inputs = [p for p in parameters if p.name not in self.options]
        self.cases = [_case(self.name, c) for c in cases]
        for label, inputs in self.cases:
            self._require_count(len(inputs), f"the case {label} has")

    def _require(self, claimed: bool, part: str, what: str) -> None:
        there = hasattr(self._functions, part)
        if claimed and not there:
            raise Error(f"[{self.name}] it claims '{self.claim}'. Define {part}(): {what}.")
        if part == "surrogate" and there and not claimed:
            raise Error(
                f"[{self.name}] it has a surrogate() and claims '{self.claim}'. Claim 'surrogate'."
            )

    def _require_count(self, count: int, what: str) -> None:
        if any(p.kind is p.VAR_POSITIONAL for p in self._inputs):
            enough = count >= len(self._inputs) - 1
        else:
            enough = count == len(self._inputs)
        if not enough:
            names = ", ".join(p.name for p in self._inputs)
            raise Error(f"[{self.name}] {what} {count} inputs. forward takes: {names}.")

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name not in self.options:
                there = ", ".join(self.options) or "none"
                raise Error(f"[{self.name}] there is no option '{name}'. There are: {there}.")
        return {**self.options, **options}

    def _floats(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        self._require_count(len(arrays), "it is given")
        inputs = [np.asarray(a) for a in arrays]
        types = {a.dtype for a in inputs}
        if len(types) != 1 or not types <= {np.dtype("float64"), np.dtype("float32")}:
            there = ", ".join(str(a.dtype) for a in inputs)
            raise Error(f"[{self.name}] inputs of {there}. Give float64, or float32, alone.")
        return inputs

    def _result(self, part: str, value: Any, like: np.ndarray) -> np.ndarray:
        result = np.asarray(value)
        if result.dtype != like.dtype:
            raise Error(
                f"[{self.name}] {part} gives {result.dtype} for inputs of {like.dtype}. Keep the "
                "type: make arrays with dtype=x.dtype, and give NumPy no float64 to promote to."
            )
        return result

    def _forward(self, inputs: Sequence[np.ndarray], options: dict[str, Any]) -> np.ndarray:
        return self._result("forward", self._functions.forward(*inputs, **options), inputs[0])

    def _surrogate(self, inputs: Sequence[np.ndarray], options: dict[str, Any]) -> np.ndarray:
        s = self._result("surrogate", self._functions.surrogate(*inputs, **options), inputs[0])
        y = self._forward(inputs, options)
        if s.shape != y.shape:
            raise Error(
                f"[{self.name}] surrogate gives the shape {s.shape}, forward {y.shape}. They must "
                "agree."
            )
        return s

    def _backward(
        self,
        dy: np.ndarray,
        needed: Sequence[np.ndarray],
        shapes: Sequence[Sequence[int]],
        options: dict[str, Any],
    ) -> list[np.ndarray | None]:
        given = self._functions.backward(dy, *needed, **options)
        if isinstance(given, (np.ndarray, np.generic)) and len(shapes) == 1:
            given = (given,)
        if not isinstance(given, (tuple, list)) or len(given) != len(shapes):
            there = f"{len(given)}" if isinstance(given, (tuple, list)) else type(given).__name__
            raise Error(
                f"[{self.name}] backward gives {there} for {len(shapes)} inputs. Return a tuple "
                "with a gradient, or None, for each."
            )
        gradients: list[np.ndarray | None] = []
        for i, (g, shape) in enumerate(zip(given, shapes, strict=True)):
            if g is not None:
                g = self._result("backward", g, dy)
                if g.shape != tuple(shape):
                    raise Error(
                        f"[{self.name}] the gradient of input {i} has the shape {g.shape}, the "
                        f"input {tuple(shape)}. They must agree: sum over what was broadcast."
                    )
            gradients.append(g)
        return gradients

    def _cell(self, inputs: Sequence[np.ndarray], options: dict[str, Any]) -> tuple[int, float]:
        found = self._functions.cell(*inputs, **options)
        if not isinstance(found, tuple) or len(found) != 2:
            raise Error(f"[{self.name}] cell gives {found!r}. Return a pair: integers, distance.")
        integers = np.asarray(found[0])
        if integers.dtype.kind not in "biu":
            raise Error(
                f"[{self.name}] cell gives integers of {integers.dtype}. Give an array that is "
                "another one in another cell: x > 0, or the places of maxima."
            )
        text = str((integers.dtype, integers.shape)).encode() + integers.tobytes()
        word = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        return word, float(found[1])

    def __call__(self, *arrays: Any, **options: Any) -> np.ndarray:
        return self._forward(self._floats(arrays), self._with_defaults(options))

    def vjp(self, *arrays: Any, **options: Any) -> tuple[np.ndarray, Callable]:
        """(y, vjp): the output, and a function from dL/dy to the tuple of dL/dx (None: zero)."""
        inputs = self._floats(arrays)
        options = self._with_defaults(options)
        y = self._forward(inputs, options)
        needed = [] if self.needs in ("nothing", "output") else list(inputs)
        if "output" in self.needs:
            needed.append(y)
        shapes = [x.shape for x in inputs]

        def vjp(dy: Any) -> tuple[np.ndarray | None, ...]:
            cotangent = self._result("the cotangent", dy, y)
            if cotangent.shape != y.shape:
                raise Error(
                    f"[{self.name}] the cotangent has the shape {cotangent.shape}, the output "
                    f"{y.shape}. They must agree."
                )
            return tuple(self._backward(cotangent, needed, shapes, options))

        return y, vjp

    def check(self, mutation: str | None = None, input: int = 0, **options: Any) -> CheckRow:
        """Checks the backward pass on all cases: its claim against differences, and what every
        backward must be: linear in dy, repeatable, right for f(x, x) and for any set of wanted
        gradients; float32 close to float64; sizes 0 and 1 among the cases.

        `mutation`, one of mutations(), breaks the gradient of `input` on purpose; a check that
        passes then would be worth nothing. Options are those of forward.
        """
        options = self._with_defaults(options)
        if not 0 <= input < max((len(inputs) for _, inputs in self.cases), default=1):
            raise Error(f"[{self.name}] there is no input {input}. Count from 0.")
        has_cell = hasattr(self._functions, "cell")
        # Inputs are moved beyond the domain, on purpose.
        with np.errstate(all="ignore"):
            return _core.check_own_operation(
                self.name,
                claim=self.claim,
                needs=self.needs,
                cases=self.cases,
                never_empty=self.never_empty,
                forward=lambda inputs: self._forward(inputs, options),
                backward=lambda dy, needed, shapes: self._backward(dy, needed, shapes, options),
                cell=(lambda inputs: self._cell(inputs, options)) if has_cell else None,
                surrogate=(lambda inputs: self._surrogate(inputs, options))
                if self.claim == "surrogate"
                else None,
                mutation=mutation or "",
                input=input,
            )

    def __repr__(self) -> str:
        return f"<operation {self.name}: {self.claim}, {len(self.cases)} cases>"

    def __reduce__(self) -> str:
        return self.__qualname__


def operation(
    *, claim: str, needs: str, cases: Sequence, never_empty: str = ""
) -> Callable[[type], Operation]:
    """Makes an operation of a class of functions of NumPy arrays:

        forward(*inputs, **options) -> y            options are the parameters with defaults
        backward(dy, *needed, **options) -> (dx, ...)   needed: what `needs` names; None: zero
        surrogate(*inputs, **options) -> s          with the claim "surrogate": backward is s's
        cell(*inputs, **options) -> (integers, distance)   for kinks: which piece, and how far its
                                                    nearest wall is

    claim: "exact", "exact on the cell" or "surrogate". needs: "nothing", "inputs", "output" or
    "inputs_and_output". A case is an input or a tuple of them; an input is a shape, (4, 3), or a
    shape and the range of its values, ((4, 3), 0.5, 2.0), from -2 to 2 where there is none. Sizes 0
    and 1 must be among them; `never_empty` says why there is no size 0. Inputs are read-only while
    it is checked.
    """
    return lambda functions: Operation(functions, claim, needs, cases, never_empty)


def _parameters(function: Callable) -> list[inspect.Parameter]:
    if isinstance(function, np.ufunc):
        kind = inspect.Parameter.POSITIONAL_ONLY
        return [inspect.Parameter(f"x{i}", kind) for i in range(function.nin)]
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is not p.VAR_KEYWORD]


def _one_of(name: str, what: str, given: str, known: Sequence[str]) -> str:
    if given not in known:
        raise Error(f"[{name}] {what} is {given!r}. Give one of: {', '.join(known)}.")
    return given


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in value
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _input(value: Any) -> tuple[list[int], float, float] | None:
    if _is_shape(value):
        return [int(n) for n in value], -2.0, 2.0
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not _is_shape(value[0]):
        return None
    low, high = value[1:]
    if not _is_number(low) or not _is_number(high) or not low < high:
        return None
    return [int(n) for n in value[0]], float(low), float(high)


def _case(name: str, value: Any) -> tuple[str, list[tuple[list[int], float, float]]]:
    """Its label; shape, low and high of each input."""
    whole = _input(value)
    inputs = [whole]
    if whole is None and isinstance(value, (tuple, list)):
        inputs = [_input(v) for v in value]
    if any(i is None for i in inputs):
        raise Error(
            f"[{name}] the case {value!r} is none. Give a shape, (4, 3); a shape and a range, "
            "((4, 3), 0.5, 2.0); or a tuple of these, one for each input."
        )
    return str(value), inputs
