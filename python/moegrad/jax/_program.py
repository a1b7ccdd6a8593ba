"""A JAX function as a program of float64 inputs, whatever its own types are."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import keystr, tree_flatten_with_path, tree_leaves, tree_unflatten

from .. import _core
from ._walk import NOT_TRACED, Walker, floating, refuse

_MOST_AXES = 5  # of the engine's tensors
_BY_SIGNATURE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _argument_names(function: Callable, count: int) -> list[str]:
    """By the function's signature; "input 0" where it has none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    names = [p.name for p in parameters if p.kind in _BY_SIGNATURE][:count]
    return names + [f"input {i}" for i in range(len(names), count)]


@dataclass
class Traced:
    """A function as jaxprs, of inputs in float64 or in its own types."""

    forward: Any  # inputs -> outputs
    backward: Any  # inputs, cotangents -> outputs, gradients


class Program:
    """function(*inputs, **kwargs) with its floating arrays as inputs."""

    def __init__(self, function: Callable, inputs: tuple, kwargs: dict, x64: bool) -> None:
        if not callable(function):
            refuse(f"{type(function).__name__} cannot be called", "Give a function.")
        self.function = function
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []  # float64, as the engine takes them
        self._x64 = x64  # as the user has set it
        self._own: list[Any] = []
        self._places: list[int] = []
        leaves, self._tree = tree_flatten_with_path((inputs, kwargs))
        self._leaves = [leaf for _, leaf in leaves]
        names = _argument_names(function, len(inputs))
        for place, (path, leaf) in enumerate(leaves):
            self._take(place, _label(path, names), leaf)
        if not self.arrays:
            refuse("no input is an array of floats", "Give one, or a tree that holds some.")
        self.traced = self._trace()
        self._compiled = jax.jit(jaxpr_as_fun(self.traced.backward))

    def _take(self, place: int, name: str, leaf: Any) -> None:
        if isinstance(leaf, jax.core.Tracer):
            refuse(
                f"{name} is a value that JAX traces",
                "Call the check outside of jit, grad, vmap and scan.",
            )
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            return
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            refuse(f"{name} is {leaf.dtype}", "Give its real and imaginary parts.")
        if floating(leaf):
            self.names.append(name)
            self._places.append(place)
            self._own.append(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
            array = np.array(leaf, np.float64)
            self.arrays.append(array.reshape(-1) if array.ndim > _MOST_AXES else array)

    # --- jaxprs

    def _trace(self) -> Traced:
        in_float64 = [jax.ShapeDtypeStruct(x.shape, np.float64) for x in self._own]
        try:
            return self._traced(in_float64)
        except _core.Error:
            raise
        except Exception:
            pass
        # Code that insists on its own types; if it is wrong in these too, that is the error.
        try:
            with x64_set(self._x64):
                return self._traced(self._own)
        except NOT_TRACED as error:
            raise _core.Error(
                f"[moegrad.jax] JAX cannot trace the function: {str(error).splitlines()[0]} Use "
                "jax.numpy.where or jax.lax.cond where values decide, jax.numpy in place of numpy, "
                "and give what is static as a Python number."
            ) from error

    def _traced(self, given: list) -> Traced:
        forward, shapes = jax.make_jaxpr(self._call, return_shape=True)(*given)

        def backward(inputs: list, cotangents: list) -> tuple:
            outputs, vjp = jax.vjp(self._call, *inputs)
            return outputs, vjp(cotangents)

        return Traced(forward, jax.make_jaxpr(backward)(given, shapes))

    def _call(self, *floats: Any) -> list:
        given = list(self._leaves)
        for place, x in zip(self._places, floats, strict=True):
            given[place] = x
        inputs, kwargs = tree_unflatten(self._tree, given)
        return _outputs_of(self.function(*inputs, **kwargs))

    # --- values

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the outputs."""
        return [tuple(aval.shape) for aval in self.traced.forward.out_avals]

    def inputs(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """Arrays of the engine's in the shapes of the program's inputs."""
        return [
            jnp.asarray(np.asarray(a).reshape(own.shape))
            for a, own in zip(arrays, self._own, strict=True)
        ]

    def pull_back(self, inputs: list, cotangent: np.ndarray) -> tuple[list, list[np.ndarray]]:
        """The outputs, and dL/d inputs of dL/d outputs, by JAX itself."""
        given = [*inputs, *self._cotangents(cotangent)]
        backward, walker = self.traced.backward, Walker()
        plain = walker.plain(backward)
        found = self._compiled(*given) if plain else walker(backward, given)
        outputs = [np.asarray(x) for x in found[: len(self.shapes)]]
        return outputs, self.gradients(found[len(self.shapes) :])

    def gradients(self, found: Sequence) -> list[np.ndarray]:
        """As the engine takes them."""
        pairs = zip(found, self.arrays, strict=True)
        return [np.asarray(g, np.float64).reshape(a.shape) for g, a in pairs]

    def _cotangents(self, flat: np.ndarray) -> list[Any]:
        """In the shapes of the outputs."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = np.split(np.asarray(flat).reshape(-1), np.cumsum(sizes)[:-1])
        return [jnp.asarray(c.reshape(s)) for c, s in zip(parts, self.shapes, strict=True)]


def _label(path: tuple, names: list[str]) -> str:
    """x, params['w'], of the path in (inputs, kwargs)."""
    where, argument, rest = path[0].idx, path[1], path[2:]
    name = names[argument.idx] if where == 0 else str(argument.key)
    return name + keystr(rest)


def _outputs_of(result: Any) -> list[Any]:
    """The arrays of floats that a program returned."""
    arrays = [x for x in tree_leaves(result) if isinstance(x, (jax.Array, np.ndarray, np.generic))]
    for x in arrays:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            refuse(f"the program returns {x.dtype}", "Return its real and imaginary parts.")
    found = [jnp.asarray(x) for x in arrays if floating(x)]
    if not found:
        refuse(
            f"the program returns {_described(result)}", "Return an array of floats, or several."
        )
    return found


def _described(result: Any) -> str:
    if result is None:
        return "nothing"
    if isinstance(result, jax.Array):
        return f"an array of {result.dtype}"
    return f"a {type(result).__name__} without an array of floats"


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in arrays])


def x64_set(on: bool) -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64

    return enable_x64(on)


@contextlib.contextmanager
def in_float64() -> Iterator[bool]:
    """What a check changes of JAX's state, and puts back: types, the device. Gives jax_enable_x64
    as the user has it."""
    before = bool(jax.config.jax_enable_x64)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):  # no such platform
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        stack.enter_context(x64_set(True))
        stack.enter_context(jax.disable_jit(False))
        yield before
