"""moegrad.jax: right and wrong gradients."""

import moegrad as mg
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
mgj = pytest.importorskip("moegrad.jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from jax_programs import (  # noqa: E402
    KEY,
    RNG,
    W,
    X,
    custom,
    gate,
    kernel,
    kernel_of,
    router,
    scaled,
    step,
    tripled,
)


def gumbel_straight_through(x):
    p = jax.nn.softmax(x + jax.random.gumbel(KEY, x.shape))
    hard = jax.nn.one_hot(p.argmax(-1), x.shape[-1], dtype=p.dtype)
    return p + lax.stop_gradient(hard - p)


def switch(x, w):
    """Top-1 of Fedus et al. with a capacity of 1, thrice under scan."""

    @jax.jit
    def layer(x):
        p = jax.nn.softmax(x @ w)
        chosen = jax.nn.one_hot(p.argmax(-1), w.shape[1])
        place = (jnp.cumsum(chosen, 0) * chosen).sum(-1)
        weight = jnp.where(place <= 1, p.max(-1), 0.0)
        aux = (chosen.mean(0) * p.mean(0)).sum()
        return x + weight[:, None] * jnp.tanh(x), aux

    return lax.scan(lambda x, _: layer(x), x, None, length=3)


def dispatched(x, w):
    """Rows sorted by expert, one weight matrix an expert, and back by segment_sum."""
    p, e = lax.top_k(jax.nn.softmax(x @ w), 2)
    rows, e, p = jnp.repeat(jnp.arange(len(x)), 2), e.reshape(-1), p.reshape(-1)
    order = jnp.argsort(e)
    y = jnp.tanh(x[rows[order]] * (1.0 + e[order])[:, None])
    return jax.ops.segment_sum(y * p[order][:, None], rows[order], len(x))


def newton(x):
    """sqrt(exp(x)) by a loop whose length depends on floats, and one step to differentiate."""
    a = lax.stop_gradient(jnp.exp(x))
    y = lax.while_loop(
        lambda y: jnp.abs(y * y - a).max() > 1e-3, lambda y: 0.5 * (y + a / y), jnp.ones_like(x)
    )
    return y + (jnp.exp(x) - a) / (2 * y)


def ragged(x, dtype):
    e = x.argmax(1)
    w = jnp.sin(jnp.arange(32.0)).reshape(4, 4, 2)
    return lax.ragged_dot(
        x[jnp.argsort(e)].astype(dtype), w.astype(dtype), jnp.bincount(e, length=4)
    )


def root(x, scale=1.0):
    """y of y^3 + y = x, by Newton and the implicit function theorem."""

    def solve(f, y):
        return lax.fori_loop(0, 40, lambda i, y: y - f(y) / (3 * y**2 + 1), y)

    return lax.custom_root(
        lambda y: y**3 + y - x,
        jnp.zeros_like(x),
        solve,
        lambda g, y: scale * y / g(jnp.ones_like(y)),
    )


# --- programs whose gradient is that of the program between its decisions ------------------------

NOT_WRONG = {
    "gate": gate,
    "router": lambda x: router(x, W),
    "top-k of small": lambda x: -(lax.top_k(-x, 2)[0] ** 2),
    "gumbel": gumbel_straight_through,
    "switch": lambda x: switch(x, W),
    "dispatch": lambda x: dispatched(x, W),
    "argmax gather": lambda x: jnp.take_along_axis(x, x.argmax(1, keepdims=True), 1),
    "sort": lambda x: jnp.sort(x, 1) * jnp.arange(4.0),
    "sort of two": lambda x: lax.sort((x, x * x, jnp.ones((3, 4), int)), num_keys=1)[1],
    "argsort gather": lambda x: jnp.take_along_axis(x, jnp.argsort(-x, 1), 1)[:, :2] ** 2,
    "median, quantile": lambda x: jnp.median(x, 1) + jnp.quantile(x, 0.3, axis=1),
    "where": lambda x: jnp.where(x > 0.1, x * x, -x),
    "cast to integers": lambda x: x * (x * 10).astype(int),
    "one hot": lambda x: jax.nn.one_hot(x.argmax(1), 4) * x,
    "relu, clip, abs": lambda x: jax.nn.relu(x) + jnp.clip(x, -0.5, 0.5) + jnp.abs(x),
    "clamp": lambda x: lax.clamp(-0.5, x, 0.5) * x,
    "floor": lambda x: x * jnp.floor(x) + jnp.round(x) + jnp.sign(x) + jnp.ceil(x),
    "leaky, hard": lambda x: jax.nn.leaky_relu(x) + jax.nn.hard_tanh(x) + jax.nn.hard_swish(x),
    "remainder": lambda x: (x % 0.7) * x + jnp.fmod(x, 0.3),
    "max": lambda x: x.max(1, keepdims=True) * x + x.min(0),
    "cummax": lambda x: lax.cummax(x, 1) * x + lax.cummin(x, 0, reverse=True),
    "max pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
    "segment_sum": lambda x: jax.ops.segment_sum(x, jnp.array([1, 0, 1]), 2),
    "dropout": lambda x: jnp.where(jax.random.bernoulli(KEY, 0.6, x.shape), x / 0.6, 0.0),
    "noise": lambda x: x * jax.random.normal(KEY, x.shape) + jax.random.uniform(KEY, (4,)),
    "old key": lambda x: x * jax.random.normal(jax.random.PRNGKey(1), x.shape),
    "drawn by jax": lambda x: x[jnp.arange(3), jax.random.categorical(KEY, x)],
    "drawn": lambda x: x[jnp.arange(3), mgj.categorical(KEY, x)],
    "drawn gate": lambda x: x * mgj.bernoulli(KEY, jax.nn.sigmoid(x)),
    "drawn under vmap": jax.vmap(lambda row: row[mgj.categorical(KEY, row)] * row),
    "vmap": jax.vmap(lambda row: lax.top_k(row, 2)[0].sum() * row),
    "vmap of cond": jax.vmap(lambda r: lax.cond(r.sum() > 0, lambda r: r * r, lambda r: 3 * r, r)),
    "cond": lambda x: lax.cond(x.sum() > 0, lambda x: x * x, jnp.sin, x),
    "switch of three": lambda x: lax.switch(x[0].argmax(), [jnp.sin, jnp.cos, jnp.tanh], x),
    "while": newton,
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, c: jax.nn.relu(c) + x * i, x),
    "scan backwards": lambda x: lax.scan(lambda c, r: (gate(c + r), c * r), x[0], x, reverse=True),
    "smooth scan": lambda x: lax.scan(lambda c, r: (jnp.tanh(c + r), c), x[0], x)[1],
    "map": lambda x: lax.map(lambda r: r[jnp.argmax(r)] * r, x),
    "no steps": lambda x: lax.scan(lambda c, r: (jax.nn.relu(c + r), c), x[0], x[:0]),
    "associative scan": lambda x: lax.associative_scan(jnp.maximum, x),
    "jit in jit": jax.jit(lambda x: jax.jit(gate)(x) * 2),
    "remat": jax.checkpoint(lambda x: gate(jnp.sin(x)) * x),
    "remat with a policy": jax.checkpoint(
        lambda x: jnp.sin(x @ W) @ W.T, policy=jax.checkpoint_policies.dots_saveable
    ),
    "logsumexp": lambda x: jax.nn.logsumexp(x, 1) + jax.nn.log_softmax(x).sum(),
    "float32 section": lambda x: jax.nn.softmax(x.astype(jnp.float32)) * x,
    "bf16 section": lambda x: jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype) @ W,
    "bf16 product": lambda x: lax.dot(
        x.astype(jnp.bfloat16), W.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    ),
    "f16 scatter": lambda x: (
        jnp.zeros(4, jnp.float16).at[jnp.array([1, 1, 0])].add(x[:, 0].astype(jnp.float16))
    ),
    "f16 under scan": lambda x: lax.scan(
        lambda c, r: ((c * 0.5 + gate(r)).astype(jnp.float16), c), jnp.zeros(4, jnp.float16), x
    ),
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7) * x,
    "own types": lambda x: lax.dot(x, W) + lax.concatenate([x, W[:3, :1]], 1),
    "carry of float32": lambda x: lax.scan(lambda c, r: (c + r, r), jnp.zeros(4, jnp.float32), x),
    "solve": lambda x: jnp.linalg.solve(x[:, :3] + 4 * jnp.eye(3), x[:, 3]),
    "solve in float32": lambda x: jnp.linalg.solve(
        (x[:, :3] + 4 * jnp.eye(3)).astype(jnp.float32), x[:, 3].astype(jnp.float32)
    ),
    "inverse, det": lambda x: (
        jnp.linalg.inv(x[:, :3] + 4 * jnp.eye(3)) * jnp.linalg.slogdet(x[:, 1:])[1]
    ),
    "tree": lambda x: {"a": (x * 2, 3), "b": [jnp.tanh(x), x > 0]},
    "empty": lambda x: jnp.concatenate([x[:0].reshape(-1), x.reshape(-1)]),
    "searchsorted": lambda x: jnp.searchsorted(jnp.array([-1.0, 0.0, 1.0]), x) * x,
    "digits of floats": lambda x: (
        x * (lax.bitcast_convert_type(x, jnp.int64) & 1) if x.dtype == jnp.float64 else x
    ),
    "ties in a softmax": lambda x: jax.nn.softmax(x * 0.0 + 1.0) * x,
    "equal scores": lambda x: lax.top_k(x * 0.0, 2)[0] + x[:, :2],
    "masked scores": lambda x: jax.nn.softmax(jnp.where(jnp.arange(4) < 2, x, -jnp.inf)),
    "not a number": lambda x: jnp.where(jnp.isnan(x), 0.0, jnp.nan_to_num(x) * x),
    "complex within": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2,
    "complex64 within": lambda x: jnp.fft.ifft(jnp.fft.fft(x.astype(jnp.float32)) * (1 + 2j)).real,
    "gradient within": lambda x: jax.grad(lambda z: (jax.nn.relu(z) ** 3).sum())(x) * x,
    "hessian product": lambda x: jax.jvp(jax.grad(lambda z: (jnp.sin(z) * z[0]).sum()), (x,), (x,))[
        1
    ],
    "ragged_dot": lambda x: ragged(x, x.dtype),
    "ragged_dot in bf16": lambda x: ragged(x, jnp.bfloat16),
    "attention": lambda x: jax.nn.dot_product_attention(
        *[x.reshape(1, 3, 2, 2).astype(jnp.bfloat16)] * 3, is_causal=True
    ),
    "convolution in f16": lambda x: lax.conv(
        x[None, None].astype(jnp.float16), jnp.ones((2, 1, 2, 2), jnp.float16), (1, 1), "SAME"
    ),
    "eigenvalues": lambda x: jnp.linalg.eigvalsh(x.T @ x),
    "choice": lambda x: x[0, jax.random.choice(KEY, 4, (3,), p=jax.nn.softmax(x[0]))],
    "piecewise": lambda x: jnp.piecewise(x, [x < 0, x > 0.5], [jnp.square, jnp.sin, jnp.cos]),
    "platform": lambda x: lax.platform_dependent(x, cpu=jax.nn.relu, default=jnp.sin),
    "key of floats": lambda x: (
        x * jax.random.normal(jax.random.fold_in(KEY, (x.sum() * 100).astype(int)), x.shape)
    ),
    "product of segments": lambda x: (
        jnp.ones(4, jnp.bfloat16)
        .at[jnp.array([0, 1, 3])]
        .multiply(x[:, 0].astype(jnp.bfloat16), unique_indices=True)
    ),
    "longest of segments": lambda x: jax.ops.segment_max(x, jnp.array([0, 1, 0]), 2),
    "long": lambda x: lax.scan(
        lambda c, r: (jax.nn.relu(0.9 * c + r), None), x[0], jnp.arange(60.0)
    ),
    "root": root,
    "debug": lambda x: (jax.debug.callback(lambda v: None, x), x * gate(x))[1],
}


@pytest.mark.parametrize("name", NOT_WRONG)
def test_passes(name):
    report = mgj.gradcheck(NOT_WRONG[name], X)
    assert report, str(report)
    assert report.max_error < 1e-6


top_two_wrong = custom(
    lambda x: lax.top_k(x, 2)[0] * 3.0,
    lambda r, dy: (
        jnp.zeros_like(r[0]).at[jnp.arange(3)[:, None], lax.top_k(r[0], 2)[1]].set(dy * 2.9),
    ),
)


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


@jax.custom_jvp
def sine_wrong(x):
    return jnp.sin(x)


sine.defjvp(lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0]))
sine_wrong.defjvp(lambda p, t: (jnp.sin(p[0]), (jnp.cos(p[0]) + 1e-4) * t[0]))


def through_host(x):
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


leak = custom(lambda x: x * through_host(x), lambda r, dy: (dy * jnp.tanh(r[0]),))
host_right = custom(through_host, lambda r, dy: (dy * (1 - jnp.tanh(r[0]) ** 2),))


def io_leak(x):
    held = custom(
        lambda x: jax.experimental.io_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        lambda r, dy: (jnp.zeros_like(dy),),
    )
    return held(x) * x


blocked = jax.custom_jvp(lambda x: x * 1.0)
blocked.defjvp(lambda p, t: (p[0] * 1.0, jnp.zeros_like(t[0])))
stopped = custom(lambda x: x * 1.0, lambda r, dy: (jnp.zeros_like(dy),))
rounded = custom(lambda x: jnp.round(x), lambda r, dy: (dy,))
spectrum = custom(lambda x: jnp.fft.fft(x).real, lambda r, dy: (jnp.fft.fft(dy).real * 1.01,))
remade = jax.custom_vjp(jnp.sin)
remade.defvjp(
    lambda x: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x) * 1.01,), optimize_remat=True
)


@jax.custom_gradient
def cube_wrong(x):
    return x**3, lambda dy: dy * 3.01 * x**2


kernel_wrong = kernel_of(lambda r, dy: (dy * jnp.cos(r[0]) * 1.0001,))

WRONG = {
    "blocked tangent": blocked,
    "a stop that is not said": lambda x: stopped(x) * x,
    "round without a surrogate": rounded,
    "complex within": spectrum,
    "remade": jax.jit(remade),
    "custom_gradient": cube_wrong,
    "root": lambda x: root(x, 1.01),
    "kernel": kernel_wrong,
    "NaN of the branch not taken": lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0),
    "custom_vjp": top_two_wrong,
    "clipped where large": custom(lambda x: x * 2, lambda r, dy: (jnp.clip(dy * 2, -50, 50),)),
    "custom_jvp": sine_wrong,
    "hard without a surrogate": step,
    "pure_callback": leak,
    "io_callback": io_leak,
    "a gate's gradient, scaled": lambda x: scaled(gate(x)),
    "under jit": jax.jit(lambda x: scaled(x) * x),
    "under scan": lambda x: lax.scan(lambda c, r: (scaled(c) * r, c), x[0], x)[0],
    "under vmap": jax.vmap(lambda r: top_two_wrong(jnp.stack([r] * 3))),
    "under remat": jax.checkpoint(lambda x: scaled(jnp.sin(x))),
    "under cond": lambda x: lax.cond(x.sum() > -1e9, scaled, jnp.sin, x),
    "in bf16": lambda x: tripled(x.astype(jnp.bfloat16)),
    "in its own types": lambda x: scaled(lax.dot(x, W)),
    "after a selection": lambda x: scaled(jnp.sort(x)),
}


if jax.__version_info__ < (0, 5):
    del WRONG["io_callback"]  # not served within a custom_vjp


@pytest.mark.parametrize("name", WRONG)
def test_fails(name):
    report = mgj.gradcheck(WRONG[name], X)
    assert report.verdict == "fail", str(report)


def test_custom_rules_that_are_right():
    assert mgj.gradcheck(sine, X)
    report = mgj.gradcheck(host_right, X)
    assert report and any("pure_callback (test_jax.py:" in note for note in report.notes)
    assert mgj.gradcheck(kernel, X)
    with pytest.raises(ValueError, match="callbacks do not support JVP"):
        mgj.gradcheck(through_host, X)


def test_surrogate():
    def clipped(x):
        return jnp.clip(x, -1, 1)

    assert mgj.gradcheck(step, X * 0.4, surrogate=clipped)
    assert mgj.gradcheck(step, X * 3, surrogate=clipped)
    assert mgj.gradcheck(step, X * 3, surrogate=lambda x: x * 1.0).verdict == "fail"
    with pytest.raises(mg.Error, match="Return the same shapes"):
        mgj.gradcheck(step, X, surrogate=lambda x: x[0])


def test_dead_gradient():
    def router_of_one(x, w):
        return x * jax.nn.softmax(lax.top_k(x @ w, 1)[0])  # one score by itself is 1

    report = mgj.gradcheck(router_of_one, X, W)
    assert report.dead == ["w"]


def test_no_gradient_for_the_combine_weights():
    """AI-Hypercomputer/maxtext#5042: a fused combine whose backward forgets its weights."""

    def combine_of(backward):
        def combine(y, weights):
            return jnp.einsum("tkd,tk->td", y, weights)

        return custom(combine, backward)

    def of_y(r, d):
        return jnp.einsum("td,tk->tkd", d, r[1])

    forgets = combine_of(lambda r, d: (of_y(r, d), None))
    right = combine_of(lambda r, d: (of_y(r, d), jnp.einsum("td,tkd->tk", d, r[0])))
    y = jnp.asarray(RNG.normal(size=(3, 2, 4)), jnp.float32)
    report = mgj.gradcheck(forgets, y, X[:, :2])
    assert report.verdict == "fail" and "weights: fail" in str(report)
    assert report.inputs["y"].verdict == "pass"
    assert mgj.gradcheck(right, y, X[:, :2])


def test_forward_rule_of_other_values():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x) * 1.01, x), lambda x, dy: (dy * jnp.cos(x),))
    with pytest.raises(mg.Error, match="custom_vjp whose fwd is not its function"):
        mgj.gradcheck(f, X)
