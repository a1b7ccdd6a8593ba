"""What is known of single operations of JAX, by name: kinks, selections, margins.

Everything else follows from types (see _line.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ._walk import Function, Walker, floating, in_float64

Array = Any

# --- kinks ---------------------------------------------------------------------------------------
# Of the inputs of a call, where in its pieces each element lies, and the distances to the borders.
# A border itself is a piece of its own.


def _gap(a: Array, b: Array) -> tuple[Array, Array]:
    """Which is larger, and by how much."""
    piece = (a > b).astype(jnp.int8) - (a < b).astype(jnp.int8)
    return piece, jnp.where(a == b, 0.0, jnp.abs(a - b))  # two infinities are equal


def _larger(params: dict, a: Array, b: Array) -> tuple[Array, Array]:
    return _gap(a, b)


def _sign(params: dict, x: Array) -> tuple[Array, Array]:
    return _gap(x, jnp.zeros_like(x))


def _clamp(params: dict, low: Array, x: Array, high: Array) -> tuple[Array, Array]:
    (below, to_low), (above, to_high) = _gap(x, low), _gap(x, high)
    return below + above, jnp.minimum(to_low, to_high)


def _to_integers(x: Array) -> Array:
    return jnp.abs(x - jnp.round(x))


def _floor(params: dict, x: Array) -> tuple[Array, Array]:
    return jnp.floor(x), _to_integers(x)


def _ceil(params: dict, x: Array) -> tuple[Array, Array]:
    return jnp.ceil(x), _to_integers(x)


def _round(params: dict, x: Array) -> tuple[Array, Array]:
    return jnp.round(x), _to_integers(x - 0.5)


def _remainder(params: dict, x: Array, y: Array) -> tuple[Array, Array]:
    turns = x / y
    return jnp.trunc(turns), _to_integers(turns) * jnp.abs(y)


def _extreme(sign: float) -> Callable:
    def kink(params: dict, x: Array) -> tuple[Array, Array]:
        if x.size == 0:
            return jnp.zeros((0,)), jnp.zeros((0,))
        largest = (sign * x).max(params["axes"], keepdims=True)
        here = sign * x == largest
        return here, jnp.where(here, jnp.inf, largest - sign * x)

    return kink


def _running(sign: float) -> Callable:
    def kink(params: dict, x: Array) -> tuple[Array, Array]:
        axis, reverse = params["axis"], params["reverse"]
        best = lax.cummax(sign * x, axis, reverse)
        size = x.shape[axis]
        later = lax.slice_in_dim(sign * x, 0 if reverse else 1, size - reverse, axis=axis)
        before = lax.slice_in_dim(best, int(reverse), size - (not reverse), axis=axis)
        return _gap(later, before)

    return kink


def _by_gradient(eqn: Any) -> Callable:
    """Of what picks elements: which elements it picks. How far the next is, is not known."""
    call = in_float64(eqn)

    def kink(params: dict, *arrays: Array) -> tuple[Array, Array]:
        places = [i for i, a in enumerate(arrays) if floating(a)]

        def of(*floats: Array) -> Array:
            given = list(arrays)
            for i, a in zip(places, floats, strict=True):
                given[i] = a
            return call(*given)[0]

        y, vjp = jax.vjp(of, *(arrays[i] for i in places))
        picked = vjp(jnp.arange(1.0, y.size + 1.0).reshape(y.shape))
        return jnp.concatenate([p.reshape(-1) for p in picked]), jnp.full((1,), jnp.inf)

    return kink


_KINKS: dict[str, Callable] = {
    "max": _larger,
    "min": _larger,
    "abs": _sign,
    "sign": _sign,
    "clamp": _clamp,
    "floor": _floor,
    "ceil": _ceil,
    "round": _round,
    "rem": _remainder,
    "reduce_max": _extreme(1.0),
    "reduce_min": _extreme(-1.0),
    "cummax": _running(1.0),
    "cummin": _running(-1.0),
}
_PICKS = {"reduce_window_max", "reduce_window_min", "scatter-max", "scatter-min"}
KINKED = _KINKS.keys() | _PICKS


def kink(eqn: Any) -> Callable | None:
    """arrays -> (pieces, distances), of an operation that is smooth in pieces."""
    name = eqn.primitive.name
    rule = _by_gradient(eqn) if name in _PICKS else _KINKS.get(name)
    if rule is None:
        return None
    return lambda *arrays: rule(eqn.params, *arrays)


# --- selections that give floats beside integers: the floats again, from frozen places -----------


def take(axis: int) -> Function:
    return lambda x, places: [jnp.take_along_axis(x, places, axis)]


def top_k_axis(eqn: Any) -> int | None:
    """The axis along which places were selected; None for other operations."""
    if eqn.primitive.name == "top_k":
        return eqn.params.get("axis", -1)
    if eqn.primitive.name == "approx_top_k":
        return eqn.params["reduction_dimension"]
    return None


def sorted_places(eqn: Any, arrays: list) -> Array:
    """The permutation that a sort of these makes."""
    axis = eqn.params["dimension"]
    places = lax.broadcasted_iota(jnp.int32, arrays[0].shape, axis)
    keys = eqn.params["num_keys"]
    ordered = lax.sort([*arrays, places], axis, eqn.params["is_stable"], keys)
    return ordered[-1]


# --- lax.custom_linear_solve: its own solver may use a factorisation under stop_gradient ---------


def linear_solve(eqn: Any) -> Function:
    """Solves matvec(x) = b for the matrix that matvec is."""
    matvec, consts = eqn.params["jaxprs"].matvec, eqn.params["const_lengths"]

    def call(*arrays: Array) -> list:
        b = arrays[sum(consts) :]
        flat, shaped = ravel_pytree(list(b))

        def product(x: Array) -> Array:
            out = Walker()(matvec, [*arrays[: consts.matvec], *shaped(x)])
            return ravel_pytree(out)[0]

        columns = [product(row) for row in jnp.eye(flat.size)]
        return shaped(jnp.linalg.solve(jnp.stack(columns, 1), flat))

    return call


# --- margins: how far a selection is from another outcome ----------------------------------------


def _smallest(x: np.ndarray) -> float:
    x = x[np.isfinite(x)]
    return float(x.min()) if x.size else math.inf


def _neighbours(x: np.ndarray, axis: int) -> Array:
    return np.diff(np.sort(x, axis), axis=axis)


def _top_gap(eqn: Any, x: np.ndarray) -> float:
    axis, k = top_k_axis(eqn), eqn.params["k"]
    size = x.shape[axis]
    if k in (0, size):
        return math.inf
    gaps = _neighbours(x if eqn.params.get("is_max_k", True) else -x, axis)
    return _smallest(gaps.take(size - k - 1, axis))


def _extreme_gap(largest: bool) -> Callable:
    def gap(eqn: Any, x: np.ndarray) -> float:
        axis = eqn.params["axes"][0]
        size = x.shape[axis]
        if size < 2:
            return math.inf
        return _smallest(_neighbours(x, axis).take(size - 2 if largest else 0, axis))

    return gap


def _order_gap(eqn: Any, x: np.ndarray, *others: np.ndarray) -> float:
    axis = eqn.params["dimension"]
    if eqn.params["num_keys"] != 1:
        return math.nan
    return _smallest(_neighbours(x, axis)) if x.shape[axis] > 1 else math.inf


def _compared(eqn: Any, a: np.ndarray, b: np.ndarray) -> float:
    if eqn.invars[0] is eqn.invars[1]:  # x != x asks for NaN
        return math.inf
    return _smallest(np.abs(a - b))


_MARGINS: dict[str, Callable] = {
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _compared),
    "top_k": _top_gap,
    "approx_top_k": _top_gap,
    "argmax": _extreme_gap(True),
    "argmin": _extreme_gap(False),
    "sort": _order_gap,
}


def margin(eqn: Any, arrays: list) -> float | None:
    """How far the inputs are from another selection; None where that is not known."""
    of = _MARGINS.get(eqn.primitive.name)
    if of is None:
        return None
    with np.errstate(invalid="ignore"):
        found = of(eqn, *(np.asarray(a, np.float64) for a in arrays))
    return None if math.isnan(found) else found


def rows(eqn: Any) -> int:
    """Of a selection along an axis: how many were made; -1 for others."""
    shape = eqn.invars[0].aval.shape
    if eqn.primitive.name in ("argmax", "argmin"):
        axis = eqn.params["axes"][0]
    else:
        axis = eqn.params["dimension"] if eqn.primitive.name == "sort" else top_k_axis(eqn)
    if axis is None or not math.prod(shape):
        return -1
    return math.prod(shape) // shape[axis]


# Their gradient passes the draw itself, by a formula of the distribution's.
UNFREEZABLE = {"random_gamma": "jax.random.gamma, beta, dirichlet, t and what is made of them"}
