"""What is known of an operation whatever it is called with, and of the tensors of a call."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from .. import _core
from . import _rules
from ._rules import aten, floating
from ._user import user_frame

Tensor = torch.Tensor


class Known:
    """What is known of an operation whatever it is called with."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.name = f"{func.namespace}.{schema.name.split('::')[-1]}"
        self.internal = func.namespace == "prim"
        self.draws = torch.Tag.nondeterministic_seeded in func.tags
        self.stops = func is aten.detach.default
        self.leaves = func is aten._local_scalar_dense.default  # the tensor's world
        self.casts = func is aten._to_copy.default
        self.writes = schema.is_mutable
        self.reshapes = torch.Tag.inplace_view in func.tags  # itself, and writes nothing
        self.written = [
            (place, declared.name)
            for place, declared in enumerate(schema.arguments)
            if declared.alias_info is not None and declared.alias_info.is_write
        ]
        returned = [str(r.type) for r in schema.returns]
        self.gives_tensors = any("Tensor" in kind for kind in returned)
        self.gives_one = (
            len(returned) == 1 and "List" not in returned[0] and "[]" not in returned[0]
        )
        self.gives_list = len(returned) == 1 and not self.gives_one
        self.views = bool(schema.returns) and schema.returns[0].alias_info is not None
        # Attention draws only where it is to drop.
        self.may_drop = self.draws and any(a.name == "dropout_p" for a in schema.arguments)
        self.kink = _rules.KINKS.get(func)
        self.gathers = _rules.gathers(func)

    def as_returned(self, values: list[Tensor]) -> Any:
        if self.gives_one:
            return values[0]
        return values if self.gives_list else tuple(values)


_known: dict[Any, Known] = {}


def known_of(func: Any) -> Known:
    known = _known.get(func)
    return _known.setdefault(func, Known(func)) if known is None else known


def word(x: Tensor) -> int:
    """A word that differs where the elements do."""
    if x.is_floating_point():
        x = x.double() + 0.0  # -0 is 0
    data = x.contiguous().numpy().tobytes()
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def any_floating(values: Any) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                return True
        elif isinstance(value, (list, tuple)) and any_floating(value):
            return True
    return False


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in tensors_of(item)]
    return []


def results_of(known: Known, args: tuple, kwargs: dict, out: Any) -> list[Tensor]:
    """The tensors that a call gave: those that it wrote, or those that it returned."""
    if not known.writes:
        return tensors_of(out)
    return [
        x
        for place, name in known.written
        for x in tensors_of(args[place] if place < len(args) else kwargs.get(name))
    ]


def selects(reads_floats: bool, results: list[Tensor]) -> bool:
    return reads_floats and any(not floating(r) and not r.is_complex() for r in results)


def refuse_unfreezable(known: Known, func: Any) -> None:
    what = "attention with dropout" if known.may_drop else _rules.UNFREEZABLE.get(func)
    if what is not None:
        raise _core.Error(
            f"[moegrad.torch] {known.name} ({user_frame()}) passes a gradient through its own "
            f"random numbers and cannot be frozen; it is behind {what}. Draw the noise outside of "
            "the program and give it as an input."
        )
