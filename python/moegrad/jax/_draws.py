"""Draws that an expectation enumerates: jax.random.categorical and bernoulli as operations of their
own, which a jaxpr shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .. import _core
from ._walk import where


def _primitive(name: str, function: Callable) -> Primitive:
    """function(key, weights, **options) as an operation; `batch` leading axes are vmapped."""

    def compute(key: Any, weights: Any, *, batch: int, **options: Any) -> Any:
        call = partial(function, **options)
        for _ in range(batch):
            call = jax.vmap(call)
        return call(key, weights)

    def shape_of(key: Any, weights: Any, **options: Any) -> ShapedArray:
        given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (key, weights)]
        found = jax.eval_shape(partial(compute, **options), *given)
        return ShapedArray(found.shape, found.dtype)

    def batched(values: Sequence, axes: Sequence, *, batch: int, **options: Any) -> tuple:
        size = next(
            x.shape[axis]
            for x, axis in zip(values, axes, strict=True)
            if axis is not batching.not_mapped
        )
        values = [
            jnp.broadcast_to(x, (size, *x.shape))
            if axis is batching.not_mapped
            else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(values, axes, strict=True)
        ]
        return primitive.bind(*values, batch=batch + 1, **options), 0

    def without_tangent(primals: Sequence, tangents: Sequence, **options: Any) -> tuple:
        drawn = primitive.bind(*primals, **options)
        return drawn, ad.Zero(ShapedArray(drawn.shape, jax.dtypes.float0))

    primitive = Primitive(name)
    primitive.def_impl(compute)
    primitive.def_abstract_eval(shape_of)
    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = without_tangent
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return primitive


_categorical = _primitive("categorical", jax.random.categorical)
_bernoulli = _primitive("bernoulli", jax.random.bernoulli)


def categorical(key: Any, logits: Any, axis: int = -1, shape: Sequence[int] | None = None) -> Any:
    """jax.random.categorical(key, logits, axis, shape), whose outcomes mgj.expectation enumerates.

    Draws of the same key and logits are the same draw; other keys draw independently.
    """
    shape = None if shape is None else tuple(shape)
    return _categorical.bind(
        _array(key), jnp.asarray(logits), axis=int(axis), shape=shape, batch=0
    )


def bernoulli(key: Any, p: Any = 0.5, shape: Sequence[int] | None = None) -> Any:
    """jax.random.bernoulli(key, p, shape), whose outcomes mgj.expectation enumerates."""
    shape = None if shape is None else tuple(shape)
    p = jnp.asarray(p)
    p = p if jnp.issubdtype(p.dtype, jnp.floating) else p.astype(jnp.float32)
    return _bernoulli.bind(_array(key), p, shape=shape, batch=0)


def _array(key: Any) -> Any:
    return key if isinstance(key, jax.Array) else jnp.asarray(key)


DRAWS = {"categorical", "bernoulli"}
_NOISE = {"random_bits", "random_gamma"}
RANDOM = DRAWS | _NOISE


# --- enumerating ---------------------------------------------------------------------------------


class Enumerated:
    """Answers draws of one run of an expectation: those above with each of their outcomes, other
    random numbers by the engine's generator. A draw of a key and weights that were drawn before is
    that draw: a backward pass may make it again."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._made: dict[tuple, list[tuple[np.ndarray, Any]]] = {}
        self._seed: int | None = None

    def end(self) -> None:
        """From now on only what was drawn is answered."""
        self._run = None

    def __call__(self, eqn: Any, arrays: list) -> list | None:
        name = eqn.primitive.name
        if name in _NOISE:
            return self._noise(eqn, arrays)
        if name not in DRAWS:
            return None
        key, weights = arrays
        drawn_before = self._made.setdefault((name, str(eqn.params), _bits(key)), [])
        weights = np.asarray(weights, np.float64)
        for before, drawn in drawn_before:
            if before.shape == weights.shape and np.allclose(before, weights, 1e-9, 1e-12):
                return [drawn]
        if self._run is None:
            raise _core.Error(
                f"[expectation] the backward pass draws {name} ({where(eqn)}) with a key or weights "
                "that the forward pass did not. Draw once, and pass the result on."
            )
        draw = _draw_categorical if name == "categorical" else _draw_bernoulli
        aval = eqn.outvars[0].aval
        drawn = jnp.asarray(draw(self._run, weights, aval.shape, eqn.params), aval.dtype)
        drawn_before.append((weights, drawn))
        return [drawn]

    def _noise(self, eqn: Any, arrays: list) -> list:
        """With keys of this run: the same in it for the same key."""
        if self._seed is None:
            self._seed = self._run.seed() & 0x7FFFFFFF
        fold = jax.random.fold_in
        for _ in range(arrays[0].ndim):
            fold = jax.vmap(fold, (0, None))
        out = eqn.primitive.bind(fold(arrays[0], self._seed), *arrays[1:], **eqn.params)
        return list(out) if eqn.primitive.multiple_results else [out]


def _bits(key: Any) -> bytes:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return np.asarray(key).tobytes()


def _draw_categorical(run: Any, logits: np.ndarray, shape: tuple, params: dict) -> np.ndarray:
    axis, batch = params["axis"], params["batch"]
    rows = np.moveaxis(logits, axis + batch if axis >= 0 else axis, -1)
    outcomes = rows.shape[-1]
    prefix = len(shape) - (rows.ndim - 1)
    rows = rows.reshape(*rows.shape[:batch], *(1,) * prefix, *rows.shape[batch:])
    rows = np.broadcast_to(rows, (*shape, outcomes)).reshape(-1, outcomes)
    p = np.exp(rows - rows.max(-1, keepdims=True))
    return run.categorical("categorical", p / p.sum(-1, keepdims=True)).reshape(shape)


def _draw_bernoulli(run: Any, p: np.ndarray, shape: tuple, params: dict) -> np.ndarray:
    batch, missing = params["batch"], len(shape) - p.ndim
    p = p.reshape(*p.shape[:batch], *(1,) * missing, *p.shape[batch:])
    flat = np.broadcast_to(p, shape).reshape(-1).copy()
    return run.bernoulli("bernoulli", flat).reshape(shape)
