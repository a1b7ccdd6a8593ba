"""What the checks of PyTorch and JAX code record: the steps that no derivative passes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .notebook import table, text_table

__all__ = ["Decision", "Decisions"]


@dataclass
class Decision:
    """One step that no derivative passes."""

    kind: str  # "select", "stop", "draw"; "decide" where the user's code says so itself
    operation: str
    outputs: list[Any] = field(repr=False)  # tensors or arrays
    where: str  # file:line of the user's
    margin: float | None = None  # how far the inputs were from another selection
    internal: bool = False  # the framework's own, of a value that it saves for its backward pass
    # Before and after: of what a step wrote, and of all that shares memory with it.
    written: list[tuple[Any, Any]] = field(default_factory=list, repr=False)
    rows: int = -1  # choices that were made side by side; of a stop or draw, rows of the result

    def __post_init__(self) -> None:
        if self.rows < 0:
            shape = tuple(self.outputs[0].shape) if self.outputs else ()
            self.rows = math.prod(shape[:-1] if len(shape) > 1 else shape)

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(str(o.dtype).removeprefix("torch."), tuple(o.shape)) for o in self.outputs]


class Decisions(list[Decision]):
    """A program's decisions in order, without internal ones; shown as a table."""

    HEADER = ("kind", "operation", "output", "rows", "margin", "where")

    def __init__(self, decisions: Iterable[Decision]) -> None:
        super().__init__(d for d in decisions if not d.internal)

    def rows(self) -> Iterator[tuple[str, ...]]:
        for d in self:
            output = ", ".join(f"{dtype} {list(shape)}" for dtype, shape in d.shapes)
            margin = "" if d.margin is None else f"{d.margin:.3g}"
            yield d.kind, d.operation, output, str(d.rows), margin, d.where

    def notes(self, lifted: int, package: str) -> list[str]:
        """Lines for a report; `package` is that whose decisions() lists them."""
        notes = []
        if self:
            counts = Counter(d.kind for d in self)
            frozen = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
            notes.append(f"frozen: {frozen} ({package}.decisions lists them)")
        if lifted:
            notes.append(f"lifted: {lifted} casts to narrower floats stayed in float64")
        return notes

    def __str__(self) -> str:
        return text_table(self.HEADER, list(self.rows()))

    def _repr_html_(self) -> str:
        return table(self.HEADER, list(self.rows()))
