"""What is known of single operations of PyTorch, by name: kinks, selections, margins, noise.

Everything else follows from types and tags (see _frozen.py). Names that this PyTorch does not have
are left out of the tables.
"""

from __future__ import annotations

import math
from typing import Any

import torch

aten = torch.ops.aten
Tensor = torch.Tensor


def floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def argument(func: Any, args: tuple, kwargs: dict, name: str, default: Any = None) -> Any:
    """The argument of this name in a call of an operation; its schema's default where left out."""
    for place, declared in enumerate(func._schema.arguments):
        if declared.name == name:
            if place < len(args):
                return args[place]
            if name in kwargs:
                return kwargs[name]
            return declared.default_value if declared.has_default_value() else default
    return default


def overloads(table: dict[str, Any]) -> dict[Any, Any]:
    """{"relu.default": ...} as {aten.relu.default: ...}, as far as they exist."""
    found = {}
    for name, value in table.items():
        operation, overload = name.split(".")
        packet = getattr(aten, operation, None)
        if packet is not None and overload in packet.overloads():
            found[getattr(packet, overload)] = value
    return found


# --- kinks: for the inputs of a call, where in its pieces each element lies, and the distances to
# the borders -------------------------------------------------------------------------------------


def _steps(x: Tensor, *borders: float) -> tuple[Tensor, Tensor]:
    """Number of borders below x; -1, 0, 1 at a single one. A border is a piece of its own."""
    piece = torch.zeros_like(x)
    distance = torch.full_like(x, math.inf)
    for border in borders:
        piece += (x - border).sign()
        distance = torch.minimum(distance, (x - border).abs())
    return piece, distance


def _at(*borders: float):
    return lambda call: _steps(call("self"), *borders)


def _bounds(call: Any, low: str, high: str) -> tuple[Tensor, Tensor]:
    x = call("self")
    piece, distance = torch.zeros_like(x), torch.full_like(x, math.inf)
    for name in (low, high):
        bound = call(name) if name else None
        if bound is None:
            continue
        gap = x - bound
        piece = piece + gap.sign()
        distance = torch.minimum(distance.expand_as(gap), gap.abs())
    return piece, distance


def _places(call: Any, largest: bool) -> tuple[Tensor, Tensor]:
    """The places of the extreme elements along the reduced axes; the gap to the next."""
    x = call("self")
    axes = call("dim")
    axes = list(range(x.dim())) if axes is None or axes == [] else axes
    axes = [axes] if isinstance(axes, int) else list(axes)
    if x.dim() == 0 or x.numel() == 0:
        return x.new_zeros(()), x.new_full((), math.inf)
    extreme = x.amax(axes, keepdim=True) if largest else x.amin(axes, keepdim=True)
    here = x == extreme
    gap = (extreme - x).abs().masked_fill(here, math.inf)
    return here, gap


def _flat(step: Any):
    """Piecewise constant: the value is the piece; `step` of it is the distance to the next."""
    return lambda call: (step[0](call("self")), step[1](call("self")))


def _divided(whole: Any):
    """Of x by a divisor, rounded: the integer is the piece."""

    def piece(call: Any) -> tuple[Tensor, Tensor]:
        if call("rounding_mode") is None and whole is None:
            return call("self").new_zeros(()), call("self").new_full((), math.inf)
        ratio = call("self") / call("other")
        cut = whole or (torch.floor if call("rounding_mode") == "floor" else torch.trunc)
        return cut(ratio), _to_integers(ratio)

    return piece


def _pair(call: Any) -> tuple[Tensor, Tensor]:
    gap = call("self") - call("other")
    return gap.sign(), gap.abs()


def _to_integers(x: Tensor) -> Tensor:
    return (x - x.round()).abs()


def _to_halves(x: Tensor) -> Tensor:
    return ((x - 0.5) - (x - 0.5).round()).abs()


_RELU = _at(0.0)
KINKS = overloads(
    {
        **{
            f"{name}_.{kind}": _pair
            for name in ("gt", "ge", "lt", "le")
            for kind in ("Tensor", "Scalar")
        },
        **{f"remainder.{kind}": _divided(torch.floor) for kind in ("Tensor", "Scalar")},
        **{f"fmod.{kind}": _divided(torch.trunc) for kind in ("Tensor", "Scalar")},
        **{f"div.{kind}_mode": _divided(None) for kind in ("Tensor", "Scalar")},
        "floor_divide.default": _divided(torch.floor),
        "relu.default": _RELU,
        "relu_.default": _RELU,
        "abs.default": _RELU,
        "abs_.default": _RELU,
        "prelu.default": _RELU,
        "_prelu_kernel.default": _RELU,
        "leaky_relu.default": _RELU,
        "leaky_relu_.default": _RELU,
        "elu.default": _RELU,
        "elu_.default": _RELU,
        "rrelu_with_noise.default": _RELU,
        "sign.default": _flat((torch.sign, torch.abs)),
        "sgn.default": _flat((torch.sign, torch.abs)),
        "round.default": _flat((torch.round, _to_halves)),
        "round_.default": _flat((torch.round, _to_halves)),
        "floor.default": _flat((torch.floor, _to_integers)),
        "floor_.default": _flat((torch.floor, _to_integers)),
        "ceil.default": _flat((torch.ceil, _to_integers)),
        "ceil_.default": _flat((torch.ceil, _to_integers)),
        "trunc.default": _flat((torch.trunc, _to_integers)),
        "trunc_.default": _flat((torch.trunc, _to_integers)),
        "frac.default": _flat((torch.floor, _to_integers)),
        "heaviside.default": _RELU,
        "threshold.default": lambda call: _steps(call("self"), call("threshold")),
        "threshold_.default": lambda call: _steps(call("self"), call("threshold")),
        "hardtanh.default": lambda call: _bounds(call, "min_val", "max_val"),
        "hardtanh_.default": lambda call: _bounds(call, "min_val", "max_val"),
        "hardsigmoid.default": _at(-3.0, 3.0),
        "hardsigmoid_.default": _at(-3.0, 3.0),
        "hardswish.default": _at(-3.0, 3.0),
        "hardswish_.default": _at(-3.0, 3.0),
        "hardshrink.default": lambda call: _steps(call("self"), call("lambd"), -call("lambd")),
        "softshrink.default": lambda call: _steps(call("self"), call("lambd"), -call("lambd")),
        "clamp.default": lambda call: _bounds(call, "min", "max"),
        "clamp.Tensor": lambda call: _bounds(call, "min", "max"),
        "clamp_.default": lambda call: _bounds(call, "min", "max"),
        "clamp_.Tensor": lambda call: _bounds(call, "min", "max"),
        "clamp_min.default": lambda call: _bounds(call, "min", ""),
        "clamp_min.Tensor": lambda call: _bounds(call, "min", ""),
        "clamp_min_.default": lambda call: _bounds(call, "min", ""),
        "clamp_max.default": lambda call: _bounds(call, "max", ""),
        "clamp_max.Tensor": lambda call: _bounds(call, "max", ""),
        "clamp_max_.default": lambda call: _bounds(call, "max", ""),
        "maximum.default": _pair,
        "minimum.default": _pair,
        "fmax.default": _pair,
        "fmin.default": _pair,
        "smooth_l1_loss.default": lambda call: _steps(
            call("self") - call("target"), call("beta"), -call("beta")
        ),
        "huber_loss.default": lambda call: _steps(
            call("self") - call("target"), call("delta"), -call("delta")
        ),
        "amax.default": lambda call: _places(call, True),
        "amin.default": lambda call: _places(call, False),
        "max.default": lambda call: _places(call, True),
        "min.default": lambda call: _places(call, False),
    }
)

# --- (values, indices): the values again, from frozen indices ------------------------------------


def _along(func: Any, args: tuple, kwargs: dict, indices: Tensor, reduces: bool) -> Tensor:
    x, dim = args[0], argument(func, args, kwargs, "dim", -1)
    if x.dim() == 0:
        return x.clone()
    if reduces and not argument(func, args, kwargs, "keepdim", False):
        return x.gather(dim, indices.unsqueeze(dim)).squeeze(dim)
    return x.gather(dim, indices)


_REDUCING = {"kthvalue", "max", "min", "median", "nanmedian", "mode"}
_INDEXED = overloads(
    {
        "topk.default": False,
        "sort.default": False,
        "sort.stable": False,
        "cummax.default": False,
        "cummin.default": False,
        "kthvalue.default": True,
        "max.dim": True,
        "min.dim": True,
        "median.dim": True,
        "nanmedian.dim": True,
        "mode.default": True,
    }
)


def gathers(func: Any) -> bool:
    """Whether the call returns (values, indices), with values that are gathered by the indices."""
    return func in _INDEXED


def gathered(func: Any, args: tuple, kwargs: dict, indices: Tensor) -> Tensor:
    return _along(func, args, kwargs, indices, _INDEXED[func])


# --- margins: how far a selection is from another outcome ----------------------------------------


def _smallest(x: Tensor) -> float:
    x = x[torch.isfinite(x)]
    return float(x.min()) if x.numel() else math.inf


def _compared(call: Any) -> float:
    other = call("other")
    if other is None:
        return math.inf
    return _smallest((call("self") - other).abs().double())


def _top_gap(call: Any) -> float:
    x, k, dim = call("self"), call("k"), call("dim")
    if x.dim() == 0 or k in (0, x.shape[dim]):
        return math.inf
    ordered = x.sort(dim, descending=bool(call("largest"))).values
    return _smallest((ordered.select(dim, k - 1) - ordered.select(dim, k)).abs())


def _extreme_gap(largest: bool):
    def gap(call: Any) -> float:
        x, dim = call("self"), call("dim")
        x, dim = (x.reshape(-1), 0) if dim is None else (x, dim)
        if x.dim() == 0 or x.shape[dim] < 2:
            return math.inf
        two = x.topk(2, dim, largest=largest).values
        return _smallest((two.select(dim, 0) - two.select(dim, 1)).abs())

    return gap


def _order_gap(call: Any) -> float:
    x, dim = call("self"), call("dim")
    if x.dim() == 0 or x.shape[dim] < 2:
        return math.inf
    return _smallest(x.sort(dim).values.diff(dim=dim).abs())


_MARGINS = overloads(
    {
        **{
            f"{name}.{kind}": _compared
            for name in ("gt", "ge", "lt", "le", "eq", "ne")
            for kind in ("Tensor", "Scalar")
        },
        "topk.default": _top_gap,
        "argmax.default": _extreme_gap(True),
        "argmin.default": _extreme_gap(False),
        "max.dim": _extreme_gap(True),
        "min.dim": _extreme_gap(False),
        "sort.default": _order_gap,
        "sort.stable": _order_gap,
        "argsort.default": _order_gap,
        "argsort.stable": _order_gap,
    }
)


def margin(func: Any, args: tuple, kwargs: dict) -> float | None:
    """How far the inputs are from another selection; None where that is not known."""
    of = _MARGINS.get(func)
    if of is None:
        return None
    return of(lambda name: argument(func, args, kwargs, name))


def rows(func: Any, args: tuple, kwargs: dict) -> int:
    """Of a selection along an axis: how many were made; -1 for others."""
    of = _MARGINS.get(func)
    if of is None or of is _compared or not args[0].numel():
        return -1
    x, dim = args[0], argument(func, args, kwargs, "dim")
    return 1 if dim is None or x.dim() == 0 else x.numel() // x.shape[dim]


# --- noise that the value depends on besides: the value again, from the frozen noise -------------


def _dropout(args: tuple, kwargs: dict, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    x, p, mask = args[0], args[1], outputs[1]
    if p in (0, None) or bool(mask.all()):
        return x.clone(), mask.clone()
    return x * mask.to(x.dtype) / (1.0 - p), mask.clone()


PATHWISE = overloads({"native_dropout.default": _dropout})
# Their gradient passes the draw itself, by a formula of the distribution's.
UNFREEZABLE = overloads(
    {
        "_standard_gamma.default": "torch.distributions.Gamma, Dirichlet, Beta, StudentT",
        "_sample_dirichlet.default": "torch.distributions.Dirichlet, Beta",
        "rrelu_with_noise.default": "torch.nn.functional.rrelu in training",
        "rrelu_with_noise_.default": "torch.nn.functional.rrelu in training",
    }
)
