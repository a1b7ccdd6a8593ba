"""Runs PyTorch code as it is, each step that no derivative passes recorded, replayed or drawn.

Two stacked modes of PyTorch's: one sees each operation as it is executed, the other which parts the
user runs without gradients. What is done with an operation follows from types and tags:

  select  inputs of floats, results that are not: topk, argmax, comparisons, casts to integers
  stop    detach, and all that runs under the user's no_grad (not: within a Function's forward)
  draw    random numbers (torch.Tag.nondeterministic_seeded)
  kink    the piece that each element lies in becomes part of the cell; see _rules.KINKS

Recording keeps the results of the first three, in order; replaying answers them, so that the
program between them is smooth; enumerating asks the engine for each outcome of a discrete draw.
Values that leave PyTorch (.item(), .numpy()) stay live: what passes there is seen by differences.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import _core
from ..decisions import Decision
from . import _rules
from ._draws import DRAWS
from ._rules import argument, aten, floating
from ._user import MODULE_CASTS, UserCalls, user_frame, within, within_function

Tensor = torch.Tensor
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Recording:
    """The decisions of one program, in order."""

    decisions: list[Decision] = field(default_factory=list)
    lifted: int = 0


class _Known:
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


_known: dict[Any, _Known] = {}


# --- the modes -----------------------------------------------------------------------------------


class Frozen(TorchDispatchMode):
    """Records, replays or enumerates; a new one for each run."""

    def __init__(self, run: Any, recording: Recording | None, replaying: bool = False) -> None:
        super().__init__()
        self.run = run  # a _core.Run, or None: nobody asks for the cell
        self.recording = recording  # None: enumerating
        self.replaying = replaying
        self.next = 0
        self.user = UserCalls()
        self.seeded = False

    def __enter__(self) -> Frozen:
        self.user.__enter__()
        _active.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        result = super().__exit__(*error)
        _active.pop()
        self.user.__exit__(*error)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # programs run eagerly here; the guard would cost as much as an operation

    # One executed operation.
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        known = _known.get(func)
        if known is None:
            known = _known.setdefault(func, _Known(func))
        kwargs = kwargs or {}
        if known.internal:
            return func(*args, **kwargs)
        if kwargs and kwargs.get("dtype") in _NARROW:
            kwargs = self._lifted(known, args, kwargs)
        reads_floats = _any_floating(args) or (bool(kwargs) and _any_floating(kwargs.values()))
        kind = self._kind(known, reads_floats)
        if known.may_drop and kind == "draw":
            kind = self._kind_of_attention(func, args, kwargs)
        if known.kink is not None and kind is None and self.run is not None:
            self._note_kink(known, func, args, kwargs)
        if self.recording is None:
            return self._enumerate(known, func, args, kwargs, kind, reads_floats)
        if self.replaying:
            return self._replay(known, func, args, kwargs, kind, reads_floats)
        return self._record(known, func, args, kwargs, kind, reads_floats)

    def _lifted(self, known: _Known, args: tuple, kwargs: dict) -> dict:
        """Casts and new tensors of narrower floats stay in float64."""
        if known.casts and not floating(args[0]):
            return kwargs
        if self.recording is not None and not self.replaying:
            self.recording.lifted += 1
        return {**kwargs, "dtype": torch.float64}

    def _kind(self, known: _Known, reads_floats: bool) -> str | None:
        """ "draw", "stop", or None; a selection shows by its results."""
        if known.draws:
            return "draw"
        if not reads_floats or known.leaves:
            return None
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return "stop" if known.stops else None
        if self.user.enabled and within_function():
            return None
        return None if known.casts and within(MODULE_CASTS) else "stop"

    def _kind_of_attention(self, func: Any, args: tuple, kwargs: dict) -> str | None:
        if argument(func, args, kwargs, "dropout_p", 0.0) != 0.0:
            return "draw"
        return None if torch.is_grad_enabled() else "stop"

    # --- recording

    def _record(
        self, known: _Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind == "draw" and self.user.enabled and not torch.is_inference_mode_enabled():
            _refuse_unfreezable(known, func)
        margin = _rules.margin(func, args, kwargs) if kind is None and reads_floats else None
        out = func(*args, **kwargs)
        results = _results(known, args, kwargs, out)
        if kind is None and _selects(reads_floats, results):
            kind = "select"
        if kind is not None and results:
            kept = [r.clone() for r in results]
            self.recording.decisions.append(
                Decision(
                    kind,
                    known.name,
                    kept,
                    user_frame(),
                    margin,
                    known.stops and not self.user.detaches,
                )
            )
        return out

    # --- replaying

    def _replay(
        self, known: _Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind is None and reads_floats and known.gathers:
            indices = self._answer("select", known.name)[1].clone()
            return (_rules.gathered(func, args, kwargs, indices), indices)
        if kind == "draw" and func in _rules.PATHWISE:
            return _rules.PATHWISE[func](args, kwargs, self._answer(kind, known.name))
        if kind is not None and not known.writes and known.gives_tensors:
            return self._frozen(known, func, args, kwargs, kind)
        out = func(*args, **kwargs)
        if kind is None and not reads_floats:
            return out
        results = _results(known, args, kwargs, out)
        if not results or (kind is None and not _selects(reads_floats, results)):
            return out
        kept = self._answer(kind or "select", known.name)
        if known.writes:
            for result, value in zip(results, kept, strict=True):
                _overwrite(result, value)
            return out
        return self._swapped(out, kept)

    def _frozen(self, known: _Known, func: Any, args: tuple, kwargs: dict, kind: str) -> Any:
        """What was kept, of an operation that writes nothing."""
        kept = [value.clone() for value in self._answer(kind, known.name)]
        if known.views:  # what is written there goes on to what it is a view of
            live = tree_flatten(func(*args, **kwargs))[0]
            for value, view in zip(kept, live, strict=True):
                value._moegrad_view = view
        return known.as_returned(kept)

    def _swapped(self, out: Any, kept: list[Tensor]) -> Any:
        """The results with frozen integers; of floats beside them the live ones, in this cell."""
        leaves, spec = tree_flatten(out)
        mixed = any(floating(leaf) for leaf in leaves)
        places = iter(kept)
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                continue
            value = next(places)
            if floating(leaf):
                continue
            if mixed and not torch.equal(leaf, value):
                raise _core.ReplayMismatch("another choice of an operation that gives floats too")
            leaves[i] = value.clone()
        return tree_unflatten(leaves, spec)

    def _answer(self, kind: str, name: str) -> list[Tensor]:
        decisions = self.recording.decisions
        if self.next == len(decisions):
            raise _core.ReplayMismatch(
                f"replayed, the program asks for decision {self.next + 1} ({kind} {name}, "
                f"{user_frame()}), and only {len(decisions)} were recorded"
            )
        kept = decisions[self.next]
        self.next += 1
        if (kept.kind, kept.operation) != (kind, name):
            raise _core.ReplayMismatch(
                f"replayed, decision {self.next} is {kind} {name} ({user_frame()}), where "
                f"{kept.kind} {kept.operation} ({kept.where}) was recorded"
            )
        return kept.outputs

    def finish(self) -> None:
        if self.replaying and self.next != len(self.recording.decisions):
            left = self.recording.decisions[self.next]
            raise _core.ReplayMismatch(
                f"replayed, the program asked for {self.next} of "
                f"{len(self.recording.decisions)} decisions; the next was {left.kind} "
                f"{left.operation} ({left.where})"
            )

    # --- what the user's code says itself (mgt.cell, mgt.decide)

    def note_cell(self, value: Tensor) -> None:
        if self.run is not None:
            self.run.signature(_word(value.detach()))

    def decide(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if self.recording is None:
            return compute()
        if self.replaying:
            return self._answer("decide", name)[0].clone()
        value = compute()
        self.recording.decisions.append(
            Decision("decide", name, [value.detach().clone()], user_frame())
        )
        return value

    # --- enumerating

    def _enumerate(
        self, known: _Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind == "draw":
            draw = DRAWS.get(func)
            if draw is not None:
                return draw(self.run, func, args, kwargs)
            self._seed()
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if kind is None and reads_floats:
            for result in _results(known, args, kwargs, out):
                if not floating(result):
                    self.run.signature(_word(result))
        return out

    def _seed(self) -> None:
        """Noise that cannot be enumerated comes from the engine's generator."""
        if not self.seeded:
            torch.default_generator.manual_seed(self.run.seed() >> 1)
            self.seeded = True

    # --- kinks

    def _note_kink(self, known: _Known, func: Any, args: tuple, kwargs: dict) -> None:
        if not floating(args[0]):
            return
        piece, distance = known.kink(lambda name: argument(func, args, kwargs, name))
        self.run.signature(_word(piece))
        if distance.numel():
            self.run.distance(float(distance.min()))


_active: list[Frozen] = []


def active() -> Frozen | None:
    """The mode that this thread's program runs under, if any."""
    return _active[-1] if _active else None


# --- helpers -------------------------------------------------------------------------------------


def _word(x: Tensor) -> int:
    """A word that differs where the elements do."""
    if x.is_floating_point():
        x = x.double() + 0.0  # -0 is 0
    data = x.contiguous().numpy().tobytes()
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _any_floating(values: Any) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                return True
        elif isinstance(value, (list, tuple)) and _any_floating(value):
            return True
    return False


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in _tensors(item)]
    return []


def _results(known: _Known, args: tuple, kwargs: dict, out: Any) -> list[Tensor]:
    """The tensors that a call gave: those that it wrote, or those that it returned."""
    if not known.writes:
        return _tensors(out)
    return [
        x
        for place, name in known.written
        for x in _tensors(args[place] if place < len(args) else kwargs.get(name))
    ]


def _selects(reads_floats: bool, results: list[Tensor]) -> bool:
    return reads_floats and any(not floating(r) and not r.is_complex() for r in results)


def _overwrite(target: Tensor, value: Tensor) -> None:
    """In place, and in what the target is a frozen view of."""
    with torch.no_grad():
        while target is not None:
            target.copy_(value)
            target = getattr(target, "_moegrad_view", None)


def _refuse_unfreezable(known: _Known, func: Any) -> None:
    what = "attention with dropout" if known.may_drop else _rules.UNFREEZABLE.get(func)
    if what is not None:
        raise _core.Error(
            f"[moegrad.torch] {known.name} ({user_frame()}) passes a gradient through its own "
            f"random numbers and cannot be frozen; it is behind {what}. Draw the noise outside of "
            "the program and give it as an input."
        )
