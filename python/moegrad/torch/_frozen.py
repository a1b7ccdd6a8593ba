"""Runs PyTorch code as it is, with every step that no derivative passes recorded, replayed or drawn.

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

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import _core
from . import _rules
from ._rules import argument, aten, floating

Tensor = torch.Tensor
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_HERE = __file__.rsplit("/", 1)[0] + "/"
_TORCH = torch.__file__.rsplit("/", 1)[0] + "/"


@dataclass
class Decision:
    """One step that no derivative passes."""

    kind: str  # "select", "stop", "draw", "decide"
    operation: str
    outputs: list[Tensor] = field(repr=False)
    where: str  # file:line of the user's
    margin: float | None = None  # how far the inputs were from another selection

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(str(o.dtype).removeprefix("torch."), tuple(o.shape)) for o in self.outputs]


@dataclass
class Recording:
    """The decisions of one program, in order."""

    decisions: list[Decision] = field(default_factory=list)
    lifted: int = 0


# --- where in the user's program ---------------------------------------------------------------------


def _user_frame() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH)) and not name.startswith("<"):
            return f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _forward_codes(base: type, codes: set) -> set:
    for function in base.__subclasses__():
        forward = getattr(function.__dict__.get("forward"), "__func__", None)
        if hasattr(forward, "__code__"):
            codes.add(forward.__code__)
        _forward_codes(function, codes)
    return codes


def _within_function() -> bool:
    """Whether a torch.autograd.Function's forward is being executed."""
    codes = _forward_codes(torch.autograd.Function, set())
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


class _UserGradMode(TorchFunctionMode):
    """Remembers what the user's code made of the gradient mode, apart from PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            self.enabled = bool(args[0])
        return func(*args, **(kwargs or {}))


# --- the modes ------------------------------------------------------------------------------------------


class Frozen(TorchDispatchMode):
    """Records, replays or enumerates; a new one for each run."""

    def __init__(self, run: Any, recording: Recording | None, replaying: bool = False) -> None:
        super().__init__()
        self.run = run  # a _core.Run, or None: nobody asks for the cell
        self.recording = recording  # None: enumerating
        self.replaying = replaying
        self.next = 0
        self.grad_mode = _UserGradMode()
        self.seeded = False

    def __enter__(self) -> Frozen:
        self.grad_mode.__enter__()
        _active.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        result = super().__exit__(*error)
        _active.pop()
        self.grad_mode.__exit__(*error)
        return result

    # One executed operation.
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func.namespace == "prim":
            return func(*args, **kwargs)
        self._lift(func, args, kwargs)
        reads_floats = any(floating(a) for a in tree_flatten((args, kwargs))[0])
        kind = self._kind(func, kwargs, reads_floats)
        if self.recording is None:
            return self._enumerate(func, args, kwargs, kind, reads_floats)
        if kind is None:
            self._note_kink(func, args, kwargs)
        if self.replaying:
            return self._replay(func, args, kwargs, kind, reads_floats)
        return self._record(func, args, kwargs, kind, reads_floats)

    def _lift(self, func: Any, args: tuple, kwargs: dict) -> None:
        """Casts and new tensors of narrower floats stay in float64."""
        if kwargs.get("dtype") in _NARROW:
            if func is not aten._to_copy.default or floating(args[0]):
                kwargs["dtype"] = torch.float64
                if self.recording is not None and not self.replaying:
                    self.recording.lifted += 1

    def _kind(self, func: Any, kwargs: dict, reads_floats: bool) -> str | None:
        """"draw", "stop", or None; a selection shows by its results."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            return "draw"
        if not reads_floats or func is aten._local_scalar_dense.default:
            return None
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return "stop" if func is aten.detach.default else None
        within = self.grad_mode.enabled and _within_function()
        return None if within else "stop"

    # --- recording

    def _record(self, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool) -> Any:
        if kind == "draw":
            _refuse_unfreezable(func)
        margin = _rules.margin(func, args, kwargs) if kind is None and reads_floats else None
        out = func(*args, **kwargs)
        results = _results(func, args, kwargs, out)
        if kind is None and _selects(reads_floats, results):
            kind = "select"
        if kind is not None and results:
            kept = [r.clone() for r in results]
            self.recording.decisions.append(
                Decision(kind, _name(func), kept, _user_frame(), margin)
            )
        return out

    # --- replaying

    def _replay(self, func: Any, args: tuple, kwargs: dict, kind: Any, reads_floats: bool) -> Any:
        if kind is None and reads_floats and _rules.gathers(func):
            indices = self._answer("select", func)[1].clone()
            values = _rules.gathered(func, args, kwargs, indices)
            return _like_results(func, [values, indices])
        if kind == "draw" and func in _rules.PATHWISE:
            kept = self._answer(kind, func)
            return _rules.PATHWISE[func](args, kwargs, kept)
        if kind is not None and not _writes(func):
            return self._frozen(func, args, kwargs, kind)
        out = func(*args, **kwargs)
        results = _results(func, args, kwargs, out)
        if kind is None and not _selects(reads_floats, results):
            return out
        if not results:
            return out
        kept = self._answer(kind or "select", func)
        if _writes(func):
            for result, value in zip(results, kept, strict=True):
                _overwrite(result, value)
            return out
        return self._swapped(out, kept)

    def _frozen(self, func: Any, args: tuple, kwargs: dict, kind: str) -> Any:
        """What was kept, of an operation that writes nothing."""
        if not any("Tensor" in str(r.type) for r in func._schema.returns):
            return func(*args, **kwargs)
        kept = [value.clone() for value in self._answer(kind, func)]
        if func._schema.returns[0].alias_info is not None:  # a view: what is written there goes on
            live = tree_flatten(func(*args, **kwargs))[0]
            for value, view in zip(kept, live, strict=True):
                value._moegrad_view = view
        return _like_results(func, kept)

    def _swapped(self, out: Any, kept: list[Tensor]) -> Any:
        """The results with the frozen integers; of floats beside them the live ones, in this cell."""
        leaves, spec = tree_flatten(out)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        mixed = any(floating(t) for t in tensors)
        places = iter(kept)
        swapped = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                swapped.append(leaf)
                continue
            value = next(places)
            if floating(leaf):
                swapped.append(leaf)
                continue
            if mixed and not torch.equal(leaf, value):
                raise _core.ReplayMismatch("another choice of an operation that gives floats too")
            swapped.append(value.clone())
        return tree_unflatten(swapped, spec)

    def _answer(self, kind: str, func: Any) -> list[Tensor]:
        decisions = self.recording.decisions
        name = func if isinstance(func, str) else _name(func)
        if self.next == len(decisions):
            raise _core.ReplayMismatch(
                f"replayed, the program asks for decision {self.next + 1} ({kind} {name}, "
                f"{_user_frame()}), and only {len(decisions)} were recorded"
            )
        kept = decisions[self.next]
        self.next += 1
        if (kept.kind, kept.operation) != (kind, name):
            raise _core.ReplayMismatch(
                f"replayed, decision {self.next} is {kind} {name} ({_user_frame()}), where "
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
            Decision("decide", name, [value.detach().clone()], _user_frame())
        )
        return value

    # --- enumerating

    def _enumerate(self, func: Any, args: tuple, kwargs: dict, kind: Any, floats: bool) -> Any:
        if kind == "draw":
            draw = _DRAWS.get(func)
            if draw is not None:
                return draw(self, func, args, kwargs)
            self._seed()
            return func(*args, **kwargs)
        if kind is None:
            self._note_kink(func, args, kwargs)
        out = func(*args, **kwargs)
        results = _results(func, args, kwargs, out)
        if kind is None and _selects(floats, results):
            for result in results:
                if not floating(result):
                    self.run.signature(_word(result))
        return out

    def _seed(self) -> None:
        """Noise that cannot be enumerated comes from the engine's generator."""
        if not self.seeded:
            torch.manual_seed(self.run.seed() >> 1)
            self.seeded = True

    # --- kinks

    def _note_kink(self, func: Any, args: tuple, kwargs: dict) -> None:
        kink = _rules.KINKS.get(func)
        if kink is None or self.run is None or not floating(args[0]):
            return
        piece, distance = kink(lambda name: argument(func, args, kwargs, name))
        self.run.signature(_word(piece))
        if distance.numel():
            self.run.distance(float(distance.min()))


_active: list[Frozen] = []


def active() -> Frozen | None:
    """The mode that this thread's program runs under, if any."""
    return _active[-1] if _active else None


# --- helpers ----------------------------------------------------------------------------------------------


def _name(func: Any) -> str:
    return f"{func.namespace}.{func._schema.name.split('::')[-1]}"


def _word(x: Tensor) -> int:
    """A word that differs where the elements do."""
    if x.is_floating_point():
        x = x.double() + 0.0  # -0 is 0
    data = x.contiguous().numpy().tobytes()
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _writes(func: Any) -> bool:
    return func._schema.is_mutable


def _results(func: Any, args: tuple, kwargs: dict, out: Any) -> list[Tensor]:
    """The tensors that a call gave: those that it wrote, or those that it returned."""
    if not _writes(func):
        return [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
    written = []
    for place, declared in enumerate(func._schema.arguments):
        if declared.alias_info is None or not declared.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(declared.name)
        written += [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
    return written


def _selects(reads_floats: bool, results: list[Tensor]) -> bool:
    return reads_floats and any(not floating(r) and not r.is_complex() for r in results)


def _overwrite(target: Tensor, value: Tensor) -> None:
    """In place, and in what the target is a frozen view of."""
    with torch.no_grad():
        while target is not None:
            target.copy_(value)
            target = getattr(target, "_moegrad_view", None)


def _like_results(func: Any, values: list[Tensor]) -> Any:
    returns = func._schema.returns
    if len(returns) == 1:
        return values if "List" in str(returns[0].type) or "[]" in str(returns[0].type) else values[0]
    return tuple(values)


def _refuse_unfreezable(func: Any) -> None:
    what = _rules.UNFREEZABLE.get(func)
    if what is not None:
        raise _core.Error(
            f"[moegrad.torch] {_name(func)} ({_user_frame()}) passes a gradient through its own "
            f"random numbers and cannot be frozen; it is behind {what}. Draw the noise outside of "
            "the program and give it as an input."
        )


# --- draws that can be enumerated --------------------------------------------------------------------------


def _multinomial(mode: Frozen, func: Any, args: tuple, kwargs: dict) -> Tensor:
    weights = args[0].detach()
    draws = argument(func, args, kwargs, "num_samples")
    replacement = argument(func, args, kwargs, "replacement", False)
    rows = weights.reshape(-1, weights.shape[-1]).double().numpy().copy()
    chosen = []
    for _ in range(draws):
        p = rows / rows.sum(-1, keepdims=True)
        one = mode.run.categorical("multinomial", p)
        chosen.append(torch.from_numpy(one).long())
        if not replacement:
            rows[range(len(one)), one] = 0.0
    result = torch.stack(chosen, -1)
    return result.reshape(*weights.shape[:-1], draws)


def _bernoulli(mode: Frozen, p: Tensor) -> Tensor:
    # One by one: then each outcome has its own run.
    flat = p.detach().double().reshape(-1).numpy().copy()
    return torch.from_numpy(mode.run.bernoulli("bernoulli", flat)).reshape(p.shape)


def _bernoulli_of_self(mode: Frozen, func: Any, args: tuple, kwargs: dict) -> Tensor:
    return _bernoulli(mode, args[0]).to(args[0].dtype)


def _bernoulli_of_p(mode: Frozen, func: Any, args: tuple, kwargs: dict) -> Tensor:
    target, p = args[0], argument(func, args, kwargs, "p", 0.5)
    p = p if isinstance(p, Tensor) else torch.tensor(float(p), dtype=torch.float64)
    drawn = _bernoulli(mode, p.expand(target.shape)).to(target.dtype)
    if _writes(func):
        return target.copy_(drawn)
    return drawn


_DRAWS: dict[Any, Callable] = _rules._overloads(
    {
        "multinomial.default": _multinomial,
        "bernoulli.default": _bernoulli_of_self,
        "bernoulli.p": _bernoulli_of_p,
        "bernoulli.Tensor": _bernoulli_of_p,
        "bernoulli_.Tensor": _bernoulli_of_p,
        "bernoulli_.float": _bernoulli_of_p,
    }
)
