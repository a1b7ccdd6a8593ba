"""Studies: questions about routers and estimators, answered by rows of numbers and a figure."""

from __future__ import annotations

import json
import math
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _core
from ._core import Error
from ._needs import device_name, keywords_for_flags, package, path_text
from .notebook import Line, table
from .train import Run, _text

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

__all__ = ["Study", "bias", "fidelity"]

# What is drawn together, under one name.
_FIGURES = {
    "gradient_bias": ("dense_bias", "own_bias"),
    "direction": ("cosine", "norm_ratio"),
    "fidelity": ("cosine_real", "norm_ratio_real"),
}
_MOST_SHOWN = 50


@dataclass(frozen=True)
class Study:
    """The rows of a study."""

    rows: list[dict[str, Any]]  # None: undefined, or not measured
    left_out: tuple[str, ...] = ()  # why some cells have no row
    of: tuple[str, ...] = field(default=("router", "estimator"), repr=False)  # what a series is

    def frame(self) -> pandas.DataFrame:
        """The rows as a DataFrame of pandas."""
        return package("pandas", "frame", ".rows, a list of dicts").DataFrame(self.rows)

    def plot(
        self,
        figure: str = "",
        *,
        over: str | None = None,
        ax: matplotlib.axes.Axes | None = None,
    ) -> matplotlib.axes.Axes:
        """Draws a column, or "gradient_bias" (both biases), "direction" (cosine and norm ratio to
        the dense layer's) or "fidelity": bars, of each router and estimator the mean over its rows;
        or, `over` a column such as "experts", lines. Undefined values are left out."""
        figure = figure or ("gradient_bias" if "dense_bias" in self.rows[0] else "fidelity")
        columns = _FIGURES.get(figure, (figure,))
        self._require(columns, figure)
        if over is not None and over not in self.rows[0]:
            raise Error(f"[plot] there is no column '{over}'. Use: {', '.join(self.rows[0])}.")
        if ax is None:
            pyplot = package("matplotlib.pyplot", "plot", ".rows, a list of dicts")
            ax = pyplot.subplots(layout="constrained")[1]
        (self._bars if over is None else self._lines)(ax, columns, over)
        ax.set_ylabel(figure.replace("_", " "))
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend(frameon=False)
        return ax

    def _require(self, columns: Sequence[str], figure: str) -> None:
        numbers = [n for n, v in self.rows[0].items() if not isinstance(v, (str, bool))]
        if any(c not in numbers for c in columns):
            figures = [f for f, needed in _FIGURES.items() if set(needed) <= set(numbers)]
            raise Error(f"[plot] there is no '{figure}'. Draw: {', '.join(figures + numbers)}.")

    def _series(self) -> dict[str, list[dict[str, Any]]]:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            by_name.setdefault("\n".join(row[n] for n in self.of), []).append(row)
        return by_name

    def _bars(self, ax: Any, columns: Sequence[str], _: None) -> None:
        series = self._series()
        width = 0.8 / len(columns)
        for i, column in enumerate(columns):
            heights = [_mean(rows, column) for rows in series.values()]
            places = [n + (i - (len(columns) - 1) / 2) * width for n in range(len(series))]
            ax.bar(places, heights, width, label=column.replace("_", " "))
        ax.set_xticks(range(len(series)), list(series))
        ax.set_xlim(-0.5, len(series) - 0.5)  # also beside bars that are left out
        ax.tick_params("x", rotation=0 if len(series) < 6 else 90)

    def _lines(self, ax: Any, columns: Sequence[str], over: str) -> None:
        for name, rows in self._series().items():
            places = list(dict.fromkeys(row[over] for row in rows))
            for column in columns:
                means = [_mean([r for r in rows if r[over] == p], column) for p in places]
                label = name.replace("\n", ", ")
                if len(columns) > 1:
                    label += ": " + column.replace("_", " ")
                ax.plot(places, means, marker="o", label=label)
        ax.set_xlabel(over.replace("_", " "))

    def __len__(self) -> int:
        return len(self.rows)

    def _repr_html_(self) -> str:
        header = list(self.rows[0])
        rows = [[row.get(n) for n in header] for row in self.rows[:_MOST_SHOWN]]
        more = len(self.rows) - len(rows)
        notes = [f"and {more} more rows"] if more else []
        return table(header, rows, notes=[*notes, *(f"left out: {r}" for r in self.left_out)])


def _mean(rows: Iterable[Mapping[str, Any]], column: str) -> float:
    values = [row[column] for row in rows if row.get(column) is not None]
    return sum(values) / len(values) if values else math.nan


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise Error(f"[study] '{name}' is {value!r}. Give a whole number from {low} to {high}.")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (bool, str)) or not 0 <= number <= 1e6:
        raise Error(f"[study] '{name}' is {value!r}. Give a number from 0 to 1e6.")
    return number


def _list(value: Any) -> list:
    """What is given, one or several of them."""
    several = isinstance(value, Iterable) and not isinstance(value, (str, os.PathLike, Run))
    return list(value) if several and getattr(value, "ndim", 1) else [value]


def _names(name: str, value: Any) -> list[str]:
    names = _list(value)
    if not all(isinstance(n, str) for n in names):
        raise Error(f"[study] '{name}' is {value!r}. Give names: ['top-k', ...].")
    return names


def _progress(progress: bool | Callable) -> Callable | None:
    if callable(progress):
        return progress
    line = Line() if progress else None
    if line is not None:
        return lambda done, total: line.show(f"{done} of {total} cells")
    if not progress or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        text = f"\r{done} of {total} cells" + ("\n" if done == total else "")
        print(text, end="", file=sys.stderr, flush=True)

    return show


def bias(
    *,
    routers: str | Sequence[str] = (),
    estimators: str | Sequence[str] = (),
    experts: int | Sequence[int] = (4, 8, 16),
    active: int | Sequence[int] = (1, 2, 4),
    scale: float | Sequence[float] = (0.5, 1.5, 4.0),
    loss: str | Sequence[str] = (),
    draws: int = 2,
    seed: int = 1,
    outcomes: int = 1000,
    samples: int = 500,
    own: bool | None = None,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    progress: bool | Callable[[int, int], Any] = True,
) -> Study:
    """Bias and variance of router gradients and combine weights on one token; `moegrad study bias`.

    Exact by enumeration up to so many `outcomes`, else Monte Carlo of so many `samples`. A row for
    each router, estimator, number of experts and of active ones, scale of the logits and loss
    (linear, quadratic, cubic, mlp; all by default), the mean over `draws` of logits. Of the mean
    router gradient E[G]: dense_bias is its distance to that of the softmax mixture of all experts,
    own_bias that to the derivative of the layer's own expected loss. None: not measured;
    `own` True does it in every row, False in none. `device`: where the layers are, of mg.devices().

    `progress`: a callable is called with (cells done, cells); what it raises ends the study, as
    Ctrl-C does.
    """
    most = 1_000_000
    with keywords_for_flags():
        rows, left_out = _core.study_bias(
            _names("routers", routers),
            _names("estimators", estimators),
            experts=[_integer("experts", n, 1, 65536) for n in _list(experts)],
            active=[_integer("active", n, 1, 65536) for n in _list(active)],
            scales=[_number("scale", n) for n in _list(scale)],
            losses=_names("loss", loss),
            options={name: _text(name, value) for name, value in (options or {}).items()},
            draws=_integer("draws", draws, 1, most),
            seed=_integer("seed", seed, 0, 2**64 - 1),
            outcomes=_integer("outcomes", outcomes, 1, most),
            samples=_integer("samples", samples, 2, most),
            own=None if own is None else bool(own),
            device=device_name(device),
            progress=_progress(progress),
        )
    return Study([json.loads(row) for row in rows], tuple(left_out))


def fidelity(
    checkpoint: str | os.PathLike | Run | Sequence[str | os.PathLike | Run],
    *,
    estimators: str | Sequence[str] = (),
    batch: int | None = None,
    seed: int | None = None,
    data: str | os.PathLike | None = None,
    device: str = "cpu",
) -> Study:
    """How each estimator's router gradient follows ste-dense's in a trained model; `moegrad study
    fidelity`. A row for each checkpoint (of a Run its newest) and estimator, those that need no
    router of their own by default, on a batch of the training data (512 examples, of text 16): of
    the run's own seed and folder, where none are given. `device`: where the model is, of
    mg.devices()."""
    with keywords_for_flags():
        rows = _core.study_fidelity(
            [_checkpoint(c) for c in _list(checkpoint)],
            _names("estimators", estimators),
            batch=0 if batch is None else _integer("batch", batch, 1, 65536),
            seed=None if seed is None else _integer("seed", seed, 0, 2**53 - 1),
            data=None if data is None else path_text("study", data),
            device=device_name(device),
        )
    return Study([json.loads(row) for row in rows], of=("estimator",))


def _checkpoint(given: Any) -> str:
    path = given.checkpoint if isinstance(given, Run) else given
    if path is None:
        raise Error(f"[study] {given!r} has no checkpoint yet. Train it for a step at least.")
    return path_text("study", path)
