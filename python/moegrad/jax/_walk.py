"""Evaluates jaxprs equation by equation, with every float in float64, whatever its declared type.

Calls are entered and loops are run one by one where a subclass wants to see what is within.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .. import _core

Function = Callable[..., list]
source_info_util.register_exclusion(__file__.rsplit("/", 1)[0] + "/")

# Operations that are entered, and the parameters that hold their jaxpr.
CALLS = {
    "jit": ("jaxpr",),
    "pjit": ("jaxpr",),
    "closed_call": ("call_jaxpr",),
    "core_closed_call": ("call_jaxpr",),
    "core_call": ("call_jaxpr",),
    "remat": ("jaxpr",),
    "remat2": ("jaxpr",),
    "checkpoint": ("jaxpr",),
    "composite": ("jaxpr",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
    "custom_vjp_call_jaxpr": ("fun_jaxpr", "call_jaxpr"),
    "custom_vmap_call": ("call",),
}
_MOST_COMPILED = 200  # operations
_LOOPS = {"scan", "while", "cond"}
# Code that jaxprs do not show, or not in operations of arrays; it gets the types that it declared.
OPAQUE = {
    "pure_callback",
    "io_callback",
    "pallas_call",
    "ffi_call",
    "custom_call",
    "tpu_custom_call",
    "triton_kernel_call",
    "custom_partitioning",
    "shard_map",
    "xla_pmap",
}
_STATEFUL = {"get", "swap", "addupdate", "new_ref", "mutable_array", "ref", "run_state", "freeze"}
# What JAX raises where Python asks for a value that is traced.
NOT_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def refuse(what: str, cure: str) -> None:
    raise _core.Error(f"[moegrad.jax] {what}. {cure}")


def floating(x: Any) -> bool:
    """Of an array, an aval or a ShapeDtypeStruct: whether derivatives pass it. Complex is too."""
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _wide(dtype: Any) -> np.dtype:
    return np.dtype(np.complex128 if jnp.issubdtype(dtype, np.complexfloating) else np.float64)


def narrow(x: Any) -> bool:
    return floating(x) and x.dtype != _wide(x.dtype)


def lifted(x: Any) -> Any:
    return lax.convert_element_type(x, _wide(x.dtype)) if narrow(x) else x


def _parts(jaxpr: Jaxpr | ClosedJaxpr) -> tuple[Jaxpr, Sequence]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def jaxprs_within(value: Any) -> Iterator[Jaxpr]:
    """The jaxprs in the parameters of an operation."""
    if isinstance(value, (Jaxpr, ClosedJaxpr)):
        yield _parts(value)[0]
    elif isinstance(value, dict):
        for part in value.values():
            yield from jaxprs_within(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from jaxprs_within(part)


def equations(eqn: Any) -> Iterator[Any]:
    """The equation and all within it."""
    yield eqn
    for jaxpr in jaxprs_within(eqn.params):
        for inner in jaxpr.eqns:
            yield from equations(inner)


def is_narrow(eqn: Any) -> bool:
    return any(narrow(v.aval) for v in (*eqn.invars, *eqn.outvars))


# --- one operation as a function of arrays -------------------------------------------------------


def bound(eqn: Any, params: dict | None = None) -> Function:
    """The operation as it is."""
    primitive = eqn.primitive
    params = eqn.params if params is None else params

    def call(*arrays: Any) -> list:
        given = primitive.get_bind_params(params)
        subfuns, given = given if isinstance(given, tuple) else ((), given)
        out = primitive.bind(*subfuns, *arrays, **given)
        return list(out) if primitive.multiple_results else [out]

    return call


def casts(eqn: Any) -> bool:
    """A cast from floats to floats, or what stands for one: the identity in float64."""
    if eqn.primitive.name == "convert_element_type":
        before, after = eqn.invars[0].aval, eqn.outvars[0].aval
        return floating(before) and floating(after) and _wide(before.dtype) == _wide(after.dtype)
    return eqn.primitive.name == "reduce_precision"


def narrows(eqn: Any) -> bool:
    """A cast that would lose digits."""
    if not casts(eqn):
        return False
    if eqn.primitive.name == "reduce_precision":
        return True
    before, after = (jnp.finfo(v.aval.dtype) for v in (eqn.invars[0], eqn.outvars[0]))
    return after.nmant < before.nmant


def in_float64(eqn: Any) -> Function:
    """The operation with all its floats in float64."""
    if casts(eqn):
        return lambda x: [x]
    if not is_narrow(eqn):
        return bound(eqn)
    declared = [v.aval for v in eqn.invars]
    bits = eqn.primitive.name == "bitcast_convert_type"
    if bits or eqn.primitive.name in OPAQUE or not any(map(floating, declared)):
        call = bound(eqn)

        def as_declared(*arrays: Any) -> list:
            given = [
                lax.convert_element_type(x, aval.dtype) if narrow(aval) else x
                for x, aval in zip(arrays, declared, strict=True)
            ]
            return [lifted(y) for y in call(*given)]

        return as_declared
    call = bound(eqn, {name: _lifted_parameter(value) for name, value in eqn.params.items()})
    return lambda *arrays: [lifted(y) for y in call(*arrays)]


def _lifted_parameter(value: Any) -> Any:
    if isinstance(value, (np.dtype, type)) and _is_narrow_type(value):
        return _wide(value)
    if type(value).__name__.startswith("DotAlgorithm"):
        return None
    if isinstance(value, ClosedJaxpr):
        return _lifted_jaxpr(value)
    if isinstance(value, Jaxpr):
        return value if value.constvars else _lifted_jaxpr(ClosedJaxpr(value, ())).jaxpr
    if isinstance(value, tuple):
        parts = [_lifted_parameter(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _is_narrow_type(value: Any) -> bool:
    try:
        return jnp.issubdtype(value, jnp.inexact) and np.dtype(value) != _wide(value)
    except TypeError:
        return False


def _lifted_jaxpr(closed: ClosedJaxpr) -> ClosedJaxpr:
    given = [
        jax.ShapeDtypeStruct(aval.shape, _wide(aval.dtype) if floating(aval) else aval.dtype)
        for aval in closed.in_avals
    ]
    return jax.make_jaxpr(lambda *xs: Walker().walk(closed.jaxpr, closed.consts, xs))(*given)


def compile_short(function: Callable, *args: Any) -> Callable | None:
    """The function compiled; None where Python asks for its values, or where loops that were run
    step by step have made it too long for a compiler."""
    try:
        traced = jax.make_jaxpr(function)(*args)
    except NOT_TRACED:
        return None
    return jax.jit(function) if len(traced.jaxpr.eqns) <= _MOST_COMPILED else None


# --- the walk ------------------------------------------------------------------------------------


class Walker:
    """Computes a jaxpr in float64. Subclasses compute with something else than arrays."""

    def __call__(self, closed: ClosedJaxpr, values: Sequence) -> list:
        return self.walk(closed.jaxpr, [self.constant(c) for c in closed.consts], values)

    def plain(self, closed: ClosedJaxpr) -> bool:
        """Whether nothing in it is to be computed in another way than JAX would."""
        return all(map(self.whole, closed.jaxpr.eqns))

    # What a subclass answers.

    def constant(self, x: Any) -> Any:
        return lifted(jnp.asarray(np.asarray(x) if floating(x) else x))

    def array(self, value: Any) -> Any:
        return value

    def apply(self, function: Function, values: Sequence) -> list:
        return function(*values)

    def leaf(self, eqn: Any, values: list) -> list:
        return in_float64(eqn)(*values)

    def whole(self, eqn: Any) -> bool:
        """Whether an operation, call or loop is computed as JAX computes it."""
        return not any(is_narrow(inner) or casts(inner) for inner in equations(eqn))

    # Jaxprs, calls and loops.

    def walk(self, jaxpr: Jaxpr, consts: Sequence, values: Sequence) -> list:
        known: dict[Any, Any] = {}

        def read(v: Any) -> Any:
            if isinstance(v, Literal):
                return self.constant(np.asarray(v.val, v.aval.dtype))
            return known[v]

        known.update(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, values, strict=True))
        for eqn in jaxpr.eqns:
            with _context(eqn):
                results = self.equation(eqn, [read(v) for v in eqn.invars])
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, values: list) -> list:
        name = eqn.primitive.name
        if name in _STATEFUL:
            refuse(
                f"{name} ({where(eqn)}) reads or writes a mutable array",
                "Give functions of immutable arrays.",
            )
        if (name not in CALLS and name not in _LOOPS) or self.whole(eqn):
            return self.leaf(eqn, values)
        if name == "scan":
            return self._scan(eqn.params, values)
        if name == "while":
            return self._while(eqn.params, values)
        if name == "cond":
            return self._cond(eqn.params, values)
        held = next(eqn.params[p] for p in CALLS[name] if p in eqn.params)
        return self._enter(held, values)

    def _enter(self, held: Jaxpr | ClosedJaxpr, values: Sequence) -> list:
        jaxpr, consts = _parts(held)
        return self.walk(jaxpr, [self.constant(c) for c in consts], values)

    def _scan(self, params: dict, values: list) -> list:
        first, carried, length = params["num_consts"], params["num_carry"], params["length"]
        consts, carry = values[:first], values[first : first + carried]
        rows = values[first + carried :]
        order = range(length - 1, -1, -1) if params["reverse"] else range(length)
        steps: list[list] = []
        for t in order:
            at = [self.apply(_at(t), [row])[0] for row in rows]
            out = self._enter(params["jaxpr"], [*consts, *carry, *at])
            carry = out[:carried]
            steps.append(out[carried:])
        if params["reverse"]:
            steps.reverse()
        avals = _parts(params["jaxpr"])[0].outvars[carried:]
        stacked = []
        for place, v in enumerate(avals):
            if steps:
                stacked += self.apply(_stack, [step[place] for step in steps])
            else:
                stacked.append(self.constant(np.zeros((0, *v.aval.shape), v.aval.dtype)))
        return [*carry, *stacked]

    def _while(self, params: dict, values: list) -> list:
        asks, does = params["cond_nconsts"], params["body_nconsts"]
        of_cond, of_body = values[:asks], values[asks : asks + does]
        carry = values[asks + does :]
        while bool(self.array(self._enter(params["cond_jaxpr"], [*of_cond, *carry])[0])):
            carry = self._enter(params["body_jaxpr"], [*of_body, *carry])
        return carry

    def _cond(self, params: dict, values: list) -> list:
        branches = params["branches"]
        taken = min(max(int(self.array(values[0])), 0), len(branches) - 1)
        return self._enter(branches[taken], values[1:])


def _at(t: int) -> Function:
    return lambda x: [lax.index_in_dim(x, t, keepdims=False)]


def _stack(*rows: Any) -> list:
    return [jnp.stack(rows)]


def _context(eqn: Any) -> Any:
    context = getattr(getattr(eqn, "ctx", None), "manager", None)
    return contextlib.nullcontext() if context is None else context


def name_of(eqn: Any) -> str:
    return f"{eqn.primitive.name} ({where(eqn)})"


def where(eqn: Any) -> str:
    """file:line of the user's."""
    place = source_info_util.summarize(eqn.source_info).split(" ")[0]
    parts = place.rsplit("/", 1)[-1].split(":")
    return ":".join(parts[:2]) if len(parts) > 1 else "?"
