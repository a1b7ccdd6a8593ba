"""Draws that an expectation enumerates: jax.random.categorical and bernoulli as operations of their
own, which a jaxpr shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


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
        size = next(x.shape[axis] for x, axis in zip(values, axes, strict=True) if axis is not None)
        values = [
            jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
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
    return _categorical.bind(_array(key), jnp.asarray(logits), axis=int(axis), shape=shape, batch=0)


def bernoulli(key: Any, p: Any = 0.5, shape: Sequence[int] | None = None) -> Any:
    """jax.random.bernoulli(key, p, shape), whose outcomes mgj.expectation enumerates."""
    shape = None if shape is None else tuple(shape)
    p = jnp.asarray(p)
    p = p if jnp.issubdtype(p.dtype, jnp.floating) else p.astype(jnp.float32)
    return _bernoulli.bind(_array(key), p, shape=shape, batch=0)


def _array(key: Any) -> Any:
    return key if isinstance(key, jax.Array) else jnp.asarray(key)


DRAWS = {"categorical", "bernoulli"}
NOISE = {"random_bits", "random_gamma"}
RANDOM = DRAWS | NOISE
