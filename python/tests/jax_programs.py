"""Programs that several tests of moegrad.jax check."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
KEY = jax.random.key(5)


def gate(x):
    hard, soft = (x > 0).astype(x.dtype), jax.nn.sigmoid(x)
    return soft + lax.stop_gradient(hard - soft)


def router(x, w, k=2):
    values, indices = lax.top_k(x @ w, k)
    p = jax.nn.softmax(values)
    rows = jnp.arange(len(x))[:, None]
    return jnp.zeros((len(x), w.shape[1]), p.dtype).at[rows, indices].set(p)


def custom(forward, backward):
    """A function with a backward pass (residual inputs, cotangent) -> cotangents."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *xs: (forward(*xs), xs), backward)
    return f


step = custom(
    lambda x: (x > 0).astype(x.dtype), lambda r, dy: (dy * (jnp.abs(r[0]) <= 1),)
)  # hard forward, identity backward within [-1, 1]
tripled = custom(lambda x: x * 3, lambda r, dy: (dy * 2,))
scaled = custom(lambda x: x * 1.0, lambda r, dy: (dy * 1.001,))


def kernel_of(backward):
    from jax.experimental import pallas

    def sine_kernel(x_ref, y_ref):
        y_ref[...] = jnp.sin(x_ref[...])

    def forward(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(sine_kernel, out_shape=shape, interpret=True)(x)

    return custom(forward, backward)


kernel = kernel_of(lambda r, dy: (dy * jnp.cos(r[0]),))
