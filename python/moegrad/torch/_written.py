"""Writes that autograd does not see: under no_grad, through .data, .detach() or views of these.

Autograd goes on with the gradient of what was there before: y = y + sg(new - y). When recording,
the written values are kept before and after; when replaying, y = after + (y - before).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass
class Alias:
    """A tensor without a gradient that shares its memory with another one, in the program. When
    replayed it is a frozen copy, and what is written to one is to be written to the other."""

    tensor: Tensor
    live: Tensor | None = None  # replayed: the view that `tensor` is a copy of
    source: Tensor | None = None  # replayed: what `live` is a view of


class Aliases:
    """Of one run, by the memory that they share."""

    def __init__(self) -> None:
        self._groups: dict[int, list[Alias]] = {}

    def add(self, alias: Alias) -> None:
        tensors = [alias.tensor] if alias.live is None else [alias.live, alias.tensor]
        places = [_memory(x) for x in tensors]
        group = next((self._groups[p] for p in places if p in self._groups), [])
        group.append(alias)
        for place in places:
            self._groups[place] = group

    def of(self, tensors: Iterable[Tensor]) -> list[Alias]:
        """Those that share memory with one of the tensors."""
        if not self._groups:
            return []
        groups = [self._groups.get(_memory(x), []) for x in tensors]
        return [alias for i, g in enumerate(groups) if g not in groups[:i] for alias in g]


class Written:
    """What a replayed write leaves in a tensor."""

    def __init__(self, tensor: Tensor, passes: bool) -> None:
        self.tensor = tensor
        self.before = tensor.detach().clone() if passes else None  # None: what is there is lost

    def put(self, before: Tensor, after: Tensor) -> None:
        if self.before is not None:
            same = (self.before == before) | (self.before.isnan() & before.isnan())
            after = torch.where(same, after, after + (self.before - before))
        self.tensor.data.copy_(after)  # .data: autograd counts the program's own writes only


def share_memory(a: Tensor, others: Iterable[Tensor]) -> bool:
    return any(_memory(a) == _memory(b) for b in others)


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata if x.layout is torch.strided else id(x)
