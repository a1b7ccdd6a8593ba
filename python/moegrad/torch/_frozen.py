"""Runs PyTorch code as it is, each step that no derivative passes recorded, replayed or drawn.

Two stacked modes of PyTorch's: one sees each operation as it is executed, the other which parts the
user runs without gradients. What is done with an operation follows from types and tags:

  select  inputs of floats, results that are not: topk, argmax, comparisons, casts to integers
  stop    detach, and all that runs under the user's no_grad (not: within a Function's forward)
  draw    random numbers (torch.Tag.nondeterministic_seeded)
  kink    the piece that each element lies in becomes part of the cell; see _rules.KINKS

Recording keeps the results of the first three, in order; replaying answers them, so that the
program between them is smooth; enumerating asks the engine for each outcome of a discrete draw.
What is written in place where a stop is, goes on by a rule of its own: see _written.py. Values that
leave PyTorch (.item(), .numpy()) stay live: what passes there is seen by differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import _core
from ..decisions import Decision
from . import _rules
from ._draws import DRAWS
from ._operation import (
    Known,
    any_floating,
    known_of,
    refuse_unfreezable,
    results_of,
    selects,
    tensors_of,
    word,
)
from ._rules import argument, floating
from ._user import MODULE_CASTS, UserCalls, user_frame, within, within_function
from ._written import Alias, Aliases, Written, share_memory

Tensor = torch.Tensor
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Recording:
    """The decisions of one program, in order."""

    decisions: list[Decision] = field(default_factory=list)
    lifted: int = 0


# --- the modes -----------------------------------------------------------------------------------


class Frozen(TorchDispatchMode):
    """Records, replays or enumerates; a new one for each run."""

    def __init__(
        self,
        run: Any,
        recording: Recording | None,
        replaying: bool = False,
        leaves: Sequence[Tensor] = (),
        holds: bool = True,
    ) -> None:
        super().__init__()
        self.run = run  # a _core.Run, or None: nobody asks for the cell
        self.recording = recording  # None: enumerating
        self.replaying = replaying
        self.leaves = {id(leaf) for leaf in leaves}
        self.holds = holds  # False: a replay computes all but draws anew, within this cell
        self.aliases = Aliases()
        self.next = 0
        self.user = UserCalls(self)
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
        known = known_of(func)
        kwargs = kwargs or {}
        if known.internal or known.reshapes:
            return func(*args, **kwargs)
        if kwargs and kwargs.get("dtype") in _NARROW:
            kwargs = self._lifted(known, args, kwargs)
        reads_floats = any_floating(args) or (bool(kwargs) and any_floating(kwargs.values()))
        kind = self._kind(known, reads_floats)
        if known.may_drop and kind == "draw":
            kind = self._kind_of_attention(func, args, kwargs)
        if known.kink is not None and kind is None and self.run is not None:
            self._note_kink(known, func, args, kwargs)
        if self.recording is None:
            return self._enumerate(known, func, args, kwargs, kind, reads_floats)
        if self.replaying and (self.holds or kind == "draw"):
            return self._replay(known, func, args, kwargs, kind, reads_floats)
        return self._record(known, func, args, kwargs, kind, reads_floats)

    def _lifted(self, known: Known, args: tuple, kwargs: dict) -> dict:
        """Casts and new tensors of narrower floats stay in float64."""
        if known.casts and not floating(args[0]):
            return kwargs
        if self.recording is not None and not self.replaying:
            self.recording.lifted += 1
        return {**kwargs, "dtype": torch.float64}

    def _kind(self, known: Known, reads_floats: bool) -> str | None:
        """ "draw", "stop", or None; a selection shows by its results."""
        if known.draws:
            return "draw"
        if not reads_floats or known.leaves:
            return None
        if not self._off():
            return "stop" if known.stops and torch.is_grad_enabled() else None
        return None if known.casts and within(MODULE_CASTS) else "stop"

    def _off(self) -> bool:
        """Whether the user has switched gradients off; within a Function they are not."""
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return False
        return not (self.user.enabled and within_function())

    def _kind_of_attention(self, func: Any, args: tuple, kwargs: dict) -> str | None:
        if argument(func, args, kwargs, "dropout_p", 0.0) != 0.0:
            return "draw"
        return None if torch.is_grad_enabled() else "stop"

    # --- recording

    def _record(
        self, known: Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind == "draw" and self.user.enabled and not torch.is_inference_mode_enabled():
            refuse_unfreezable(known, func)
        margin, rows = None, -1
        if kind is None and reads_floats:
            margin, rows = _rules.margin(func, args, kwargs), _rules.rows(func, args, kwargs)
        if known.writes:
            written = results_of(known, args, kwargs, None)
            shared = [alias.tensor for alias in self.aliases.of(written)]
            if kind is not None or shared:
                before = [x.clone() for x in (*written, *shared)]
        out = func(*args, **kwargs)
        results = written if known.writes else tensors_of(out)
        internal = known.stops and not self.user.detaches
        if kind is None and selects(reads_floats, results):
            kind = "select"
        elif kind is None and known.writes and shared:
            kind = "stop"
            internal = any(x.requires_grad for x in results)  # then it is a stop for aliases alone
        if kind is not None and results:
            kept = [r.clone() for r in results]
            made = Decision(kind, known.name, kept, user_frame(), margin, internal, rows=rows)
            if known.writes and kind != "select":
                made.written = list(zip(before, [*kept, *(x.clone() for x in shared)], strict=True))
            self._keep(made)
            if self._aliases(known, kind):
                for result in results:
                    self.aliases.add(Alias(result))
        return out

    def _keep(self, made: Decision) -> None:
        if not self.replaying:
            self.recording.decisions.append(made)
            return
        kept = self._answer(made.kind, made.operation)  # and nothing is held
        for now, then in zip(made.outputs, kept.outputs, strict=True):
            if not floating(then) and not torch.equal(now, then):
                raise _core.ReplayMismatch(
                    f"replayed, {made.operation} ({made.where}) selects otherwise"
                )

    def _aliases(self, known: Known, kind: str | None) -> bool:
        """Whether the results share memory with what was given, unseen by autograd."""
        return kind == "stop" and known.views and not known.writes

    # --- replaying

    def _replay(
        self, known: Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind is None and reads_floats and known.gathers:
            indices = self._answer("select", known.name).outputs[1].clone()
            return (_rules.gathered(func, args, kwargs, indices), indices)
        if kind == "draw" and func in _rules.PATHWISE:
            return _rules.PATHWISE[func](args, kwargs, self._answer(kind, known.name).outputs)
        if known.writes:
            return self._replay_write(known, func, args, kwargs, kind, reads_floats)
        if kind is not None and known.gives_tensors:
            return self._frozen(known, func, args, kwargs, kind)
        out = func(*args, **kwargs)
        if kind is None and not reads_floats:
            return out
        results = tensors_of(out)
        if not results or (kind is None and not selects(reads_floats, results)):
            return out
        return self._swapped(out, self._answer(kind or "select", known.name).outputs)

    def _frozen(self, known: Known, func: Any, args: tuple, kwargs: dict, kind: str) -> Any:
        """What was kept, of an operation that writes nothing."""
        kept = [value.clone() for value in self._answer(kind, known.name).outputs]
        if self._aliases(known, kind):
            source = tensors_of(args)[0]
            for value, view in zip(kept, tensors_of(func(*args, **kwargs)), strict=True):
                self.aliases.add(Alias(value, view, source))
        return known.as_returned(kept)

    def _replay_write(
        self, known: Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        results = results_of(known, args, kwargs, None)
        shared = self.aliases.of(results)
        if kind is None and selects(reads_floats, results):
            kind = "select"
        elif not results or (kind is None and not shared):
            return func(*args, **kwargs)
        unseen = kind == "stop" or (kind == "draw" and self._off())
        written = [[Written(x, unseen and self._live(x))] for x in results]
        for alias in shared:
            both = [(alias.tensor, True)]
            if alias.live is not None:
                both.append((alias.live, self._live(alias.source)))
            written.append(
                [Written(x, passes) for x, passes in both if not share_memory(x, results)]
            )
        out = func(*args, **kwargs)
        kept = self._answer(kind or "stop", known.name)
        states = kept.written or [(None, value) for value in kept.outputs]
        for place, (tensors, state) in enumerate(zip(written, states, strict=False)):
            if kind is not None or place >= len(results):  # else autograd saw it: it stays live
                for tensor in tensors:
                    tensor.put(*state)
        return out

    def assign(self, data: Callable, x: Tensor, value: Tensor) -> None:
        """x.data = value, by `data`: another memory with what a write would leave there."""
        if self.recording is None or not floating(x):
            return data(x, value)
        with _disable_current_modes():
            if not (self.replaying and self.holds):
                before = x.detach().clone()
                data(x, value)
                after = x.detach().clone()
                made = Decision("stop", "data", [after], user_frame(), written=[(before, after)])
                self._keep(made)
                return self.aliases.add(Alias(value))
            before, after = self._answer("stop", "data").written[0]
            written = Written(x, self._live(x) and before.shape == after.shape)
            data(x, after.clone())
            written.put(before, after)
            self.aliases.add(Alias(value, x.data, x))

    def detach(self, detach: Callable, x: Tensor) -> Tensor:
        """x.detach_(), by `detach`."""
        detach(x)
        if self.recording is not None and (self._off() or torch.is_grad_enabled()):
            with _disable_current_modes():
                if self.replaying and self.holds:
                    x.copy_(self._answer("stop", "detach_").outputs[0])
                else:
                    self._keep(Decision("stop", "detach_", [x.clone()], user_frame()))
        return x

    def _live(self, x: Tensor) -> bool:
        """Whether derivatives pass; leaves that are not the program's are constants."""
        root = x if x._base is None else x._base
        return x.requires_grad and (not root.is_leaf or id(root) in self.leaves)

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

    def _answer(self, kind: str, name: str) -> Decision:
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
        return kept

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
            self.run.signature(word(value.detach()))

    def decide(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if self.recording is None:
            return compute()
        if self.replaying and self.holds:
            return self._answer("decide", name).outputs[0].clone()
        with _disable_current_modes():  # its own operations are part of it
            value = compute()
            kept = value.detach().clone()
        self._keep(Decision("decide", name, [kept], user_frame()))
        return value

    # --- enumerating

    def _enumerate(
        self, known: Known, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool
    ) -> Any:
        if kind == "draw":
            draw = DRAWS.get(func)
            if draw is not None:
                return draw(self.run, func, args, kwargs)
            self._seed()
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if kind is None and reads_floats:
            for result in results_of(known, args, kwargs, out):
                if not floating(result):
                    self.run.signature(word(result))
        return out

    def _seed(self) -> None:
        """Noise that cannot be enumerated comes from the engine's generator."""
        if not self.seeded:
            torch.default_generator.manual_seed(self.run.seed() >> 1)
            self.seeded = True

    # --- kinks

    def _note_kink(self, known: Known, func: Any, args: tuple, kwargs: dict) -> None:
        if not floating(args[0]):
            return
        piece, distance = known.kink(lambda name: argument(func, args, kwargs, name))
        self.run.signature(word(piece))
        if distance.numel():
            self.run.distance(float(distance.min()))


_active: list[Frozen] = []


def active() -> Frozen | None:
    """The mode that this thread's program runs under, if any."""
    return _active[-1] if _active else None
