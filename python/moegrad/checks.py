"""The checks for programs in NumPy, and the reports of all checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _core
from ._core import InputReport
from .notebook import pairs, table

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Expectation", "Report", "expectation", "gradcheck"]


@dataclass(frozen=True)
class Report:
    """What a gradient check found. True in a condition where, and only where, it passed."""

    verdict: str  # "pass", "inconclusive" or "fail"
    max_error: float  # the largest relative error of all inputs
    inputs: dict[str, InputReport]
    wall: float  # distance to the nearest kink
    culprit: str  # on failure: the first node of a tape whose own check fails
    left_out: int  # outputs that are the same infinity at all points
    core_text: str = field(repr=False)
    decisions: tuple = ()  # what was recorded and held, in order
    lifted: int = 0  # casts to a narrower type that stayed in float64
    notes: tuple[str, ...] = ()

    @property
    def dead(self) -> list[str]:
        """Inputs whose gradient and differences are zero everywhere: nothing is learned there."""
        return [name for name, found in self.inputs.items() if found.dead]

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    def __str__(self) -> str:
        return "\n".join([self.core_text.rstrip(), *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        header = ("input", "verdict", "relative error", "analytic", "numeric", "reason")
        rows = [
            (name, r.verdict, r.relative_error, r.analytic, r.numeric, r.reason)
            for name, r in self.inputs.items()
        ]
        notes = [f"dead: {', '.join(self.dead)}"] if self.dead else []
        if self.culprit:
            notes.append(f"first node whose own check fails: {self.culprit}")
        return table(header, rows, f"gradcheck: {self.verdict}", [*notes, *self.notes])


def _report(core: _core.CoreReport, **more: Any) -> Report:
    return Report(
        verdict=core.verdict,
        max_error=core.max_error,
        inputs={found.name: found for found in core.inputs},
        wall=core.wall,
        culprit=core.culprit,
        left_out=core.left_out,
        core_text=core.text(),
        **more,
    )


@dataclass(frozen=True)
class Expectation:
    """Moments of a loss L and of its gradient estimate g over all random numbers of a program."""

    loss: float  # E[L]
    loss_variance: float
    gradient: dict[str, np.ndarray]  # E[g], by input
    variance: dict[str, np.ndarray]  # Var[g], by element
    true_gradient: dict[str, np.ndarray]  # d E[L], by differences; NaN where unknown
    error: dict[str, np.ndarray]  # how far gradient - true_gradient may be from the bias
    bias: float  # ||E[g] - d E[L]||, over all inputs
    bias_error: float  # a bias up to this is not distinguishable from 0
    true_norm: float  # ||d E[L]||
    total_variance: float  # E ||g - E[g]||^2
    exact: bool  # every random number was enumerated; else Monte Carlo
    noise: bool  # random numbers outside of enumerated draws
    outcomes: int  # enumerated outcomes, or samples
    loss_confidence: float  # Monte Carlo: half width of the 95 % interval of the loss
    biased: bool  # some element's bias is larger than its error
    differing: str  # the element whose bias is most larger than its error
    unknown: str  # the first element whose bias is unknown, and why
    core_text: str = field(repr=False)

    def __str__(self) -> str:
        return self.core_text

    def _repr_html_(self) -> str:
        names = ("loss", "loss_variance", "bias", "bias_error", "true_norm", "total_variance")
        more = ("biased", "exact", "outcomes", "differing", "unknown")
        values = {name: getattr(self, name) for name in names + more}
        return pairs({n: v for n, v in values.items() if v != ""}, "expectation")


def _expectation(core: _core.Expectation, names: Sequence[str]) -> Expectation:
    def by_name(arrays: Sequence[Any]) -> dict[str, np.ndarray]:
        # Integer inputs have no gradient; without `bias` there are no true gradients.
        return {n: a for n, a in zip(names, arrays, strict=False) if a is not None}

    fields = {
        name: getattr(core, name)
        for name in Expectation.__dataclass_fields__
        if name not in ("gradient", "variance", "true_gradient", "error", "core_text")
    }
    return Expectation(
        gradient=by_name(core.gradient),
        variance=by_name(core.variance),
        true_gradient=by_name(core.true_gradient),
        error=by_name(core.error),
        core_text=core.text(),
        **fields,
    )


def gradcheck(
    program: Callable,
    *inputs: Any,
    names: Sequence[str] = (),
    hold: str = "all",
    relative: float = 1e-7,
    error_factor: float = 4.0,
    elementwise_limit: int = 200,
    directions: int = 5,
    cotangents: int = 3,
    seed: int = 1,
) -> Report:
    """Checks a vjp against differences of the same program with its decisions frozen.

    program(run, *arrays) returns (y, vjp): an array of float64, and dL/dx for each input given
    dL/dy (None where it is zero; None in place of vjp where y depends on no input). Selections,
    stopped values and draws go through run.decide, run.categorical, run.bernoulli, run.normal;
    what else the program keeps must not change what it computes.

    hold="nothing" holds no decision: for what claims to be the exact derivative.
    """
    return _report(
        _core.gradcheck(
            program,
            list(inputs),
            list(names),
            hold=hold,
            relative=relative,
            error_factor=error_factor,
            elementwise_limit=elementwise_limit,
            directions=directions,
            cotangents=cotangents,
            seed=seed,
        )
    )


def expectation(
    program: Callable,
    *inputs: Any,
    names: Sequence[str] = (),
    truth: Callable | None = None,
    max_outcomes: int = 100_000,
    samples: int = 20_000,
    bias: bool = True,
    seed: int = 1,
) -> Expectation:
    """Exact moments of a sampling program's loss and gradient, over all outcomes of its draws.

    program(run, *arrays) returns (loss, vjp), as for gradcheck. The bias is that to the derivative
    of the expected loss: of the program itself, or of `truth`, another program of these inputs.
    Numbers of run.normal and the like cannot be enumerated: then it is Monte Carlo, and `exact` is
    False.
    """
    core = _core.expectation(
        program,
        list(inputs),
        truth=truth,
        max_outcomes=max_outcomes,
        samples=samples,
        bias=bias,
        seed=seed,
    )
    return _expectation(core, list(names) + [f"input {i}" for i in range(len(names), len(inputs))])


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; equal infinities and NaN are none."""
    same = (a == b) | ((a != a) & (b != b))
    if same.all():
        return 0.0
    return float(abs(a[~same] - b[~same]).max())


def _close(a: np.ndarray, b: np.ndarray, relative: float) -> bool:
    """Whether a and b differ by no more than `relative` times both norms together."""
    if a.shape != b.shape:
        return False
    size = sum(float((x[abs(x) < float("inf")] ** 2).sum()) ** 0.5 for x in (a, b))
    return _apart(a, b) <= relative * max(size, 1e-300)
