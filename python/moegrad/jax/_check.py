"""gradcheck, decisions, equal, expectation, unbiased for JAX code as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from ..checks import Expectation, Report, _apart, _close, _expectation, _report
from ..decisions import Decisions
from ._line import Line
from ._program import Program, flat, in_float64
from ._sampled import loss_of
from ._walk import Walker


class _Checked:
    """What the engine calls: the program, recorded at first and replayed then."""

    def __init__(self, program: Program, surrogate: Program | None) -> None:
        self.program = program
        self.surrogate = surrogate
        self.line: Line | None = None

    def __call__(self, run: Any, *arrays: np.ndarray) -> tuple:
        differentiated = self.surrogate or self.program
        inputs = differentiated.inputs(arrays)
        recording = run.mode == "record"
        if recording:
            self.line = Line.recorded(differentiated.traced.forward, inputs)
        value = flat(self.line.replay(inputs, run))
        return value, self._vjp(inputs, value) if recording else None

    def _vjp(self, inputs: list, value: np.ndarray) -> Callable:
        def vjp(cotangent: np.ndarray) -> list[np.ndarray]:
            outputs, gradients = self.program.pull_back(inputs, cotangent)
            if self.surrogate is None and not _close(flat(outputs), value, 1e-9):
                raise _core.Error(
                    f"[gradcheck] where its gradient is asked for, the function returns other "
                    f"values: by {_apart(flat(outputs), value):.3g}. Look for a custom_vjp whose "
                    "fwd is not its function, or for hidden state."
                )
            return gradients

        return vjp


def gradcheck(
    function: Callable,
    *inputs: Any,
    surrogate: Callable | None = None,
    relative: float = 1e-7,
    error_factor: float = 4.0,
    elementwise_limit: int = 200,
    directions: int = 5,
    cotangents: int = 3,
    seed: int = 1,
    **kwargs: Any,
) -> Report:
    """Checks what jax.vjp gives for function(*inputs, **kwargs), with nothing marked.

    The arrays of floats among the inputs, and in trees of them, are the inputs; all is computed in
    float64. The gradient is held against differences of the same program with its selections, draws
    and stopped gradients frozen. `surrogate`: another function of these inputs, whose derivative
    the gradient claims to be. Arrays of integers, PRNG keys and what is drawn from them, Python's
    numbers and what the function closes over are constants.

    A pass means: JAX's gradient is that of the program between its decisions. It does not say that
    this is a good gradient: see `dead`, mgj.decisions and mgj.expectation.
    """
    with in_float64() as x64:
        program = Program(function, inputs, kwargs, x64)
        stated = None if surrogate is None else Program(surrogate, inputs, kwargs, x64)
        if stated is not None and stated.shapes != program.shapes:
            raise _core.Error(
                f"[moegrad.jax] the surrogate returns {stated.shapes}, the function "
                f"{program.shapes}. Return the same shapes."
            )
        checked = _Checked(program, stated)
        found = _core.gradcheck(
            checked,
            program.arrays,
            program.names,
            hold="all",
            relative=relative,
            error_factor=error_factor,
            elementwise_limit=elementwise_limit,
            directions=directions,
            cotangents=cotangents,
            seed=seed,
        )
        line = checked.line
        made, notes = tuple(line.decisions), tuple(_notes(line))
    return _report(found, decisions=made, lifted=line.lifted, notes=notes)


def _notes(line: Line) -> list[str]:
    return Decisions(line.decisions).notes(line.lifted, "mgj") + [
        f"opaque: {name} runs as it is; what it selects is not frozen"
        for name in dict.fromkeys(line.opaque)
    ]


def decisions(function: Callable, *inputs: Any, **kwargs: Any) -> Decisions:
    """Every step of the program that no derivative passes: kind, operation, result, rows, margin,
    line.

    The rows are how many choices it made side by side. The margin is how far the inputs were from
    another outcome, over all rows; inf where there is no other, empty where it is not known.
    """
    with in_float64() as x64:
        program = Program(function, inputs, kwargs, x64)
        line = Line.recorded(program.traced.forward, program.inputs(program.arrays))
    return Decisions(line.decisions)


def expectation(
    function: Callable,
    *inputs: Any,
    truth: Callable | None = None,
    max_outcomes: int = 100_000,
    samples: int = 2_000,
    bias: bool = True,
    seed: int = 1,
    **kwargs: Any,
) -> Expectation:
    """Exact moments of a sampled loss and of JAX's gradient for it.

    mgj.categorical and mgj.bernoulli are enumerated: the program is run once for each outcome of
    its draws. Other random numbers are integrated by Monte Carlo over their keys; `exact` is False
    then. To hold them, draw them outside of the program. `truth`: another program of these inputs,
    to whose derivative the bias is.
    """
    with in_float64() as x64:
        program = Program(function, inputs, kwargs, x64)
        other = None if truth is None else Program(truth, inputs, kwargs, x64)
        found = _core.expectation(
            loss_of(program),
            program.arrays,
            truth=None if other is None else loss_of(other),
            max_outcomes=max_outcomes,
            samples=samples,
            bias=bias,
            seed=seed,
        )
    return _expectation(found, program.names)


def unbiased(function: Callable, *inputs: Any, **options: Any) -> bool:
    """Whether the mean of JAX's gradient is the derivative of the expected loss, as far as this can
    be told (see expectation: bias_error)."""
    found = expectation(function, *inputs, **options)
    return not found.biased and not found.unknown


def equal(
    function: Callable,
    other: Callable,
    *inputs: Any,
    relative: float = 1e-9,
    seed: int = 1,
    **kwargs: Any,
) -> bool:
    """Whether two programs give the same values and the same gradients, with the same random
    numbers, at these inputs; an Error says where they do not agree in shape."""
    with in_float64() as x64:
        a, b = (Program(f, inputs, kwargs, x64) for f in (function, other))
        if a.shapes != b.shapes:
            raise _core.Error(
                f"[equal] the programs return {a.shapes} and {b.shapes}. Compare programs of the "
                "same outputs."
            )
        x = a.inputs(a.arrays)
        values = [flat(Walker()(p.traced.forward, x)) for p in (a, b)]
        if not _close(*values, relative):
            return False
        for c in np.random.default_rng(seed).uniform(-1.0, 1.5, (3, values[0].size)):
            pulled = [p.pull_back(x, c)[1] for p in (a, b)]
            if not all(_close(u, v, relative) for u, v in zip(*pulled, strict=True)):
                return False
    return True
