"""moegrad.jax: what is enumerated, and the moments that come of it."""

import functools

import moegrad as mg
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
mgj = pytest.importorskip("moegrad.jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
KEY = jax.random.key(5)


def custom(forward, backward):
    """A function with a backward pass (inputs, cotangent) -> cotangents."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *xs: (forward(*xs), xs), backward)
    return f


REWARD = jnp.array([1.0, -2.0, 0.5, 3.0])
LOGITS = jnp.array([0.1, 0.5, -0.3, 0.2])


def score_function(logits, key=KEY):
    i = mgj.categorical(key, logits)
    log_p = jax.nn.log_softmax(logits)[i]
    return REWARD[i] * (1.0 + log_p - lax.stop_gradient(log_p))


def straight_through(logits, key=KEY):
    p = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(mgj.categorical(key, logits), logits.size, dtype=p.dtype)
    return ((p + lax.stop_gradient(hard - p)) ** 2 * REWARD[: logits.size]).sum()


@pytest.mark.parametrize("logits", [LOGITS, jnp.zeros(4)], ids=["apart", "equal"])
@pytest.mark.parametrize(
    "around", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"]
)
def test_expectation(around, logits):
    found = mgj.expectation(around(score_function), logits)
    assert found.exact and found.outcomes == 4 and not found.biased and found.bias < 1e-9
    assert list(found.gradient) == ["logits"] and not found.unknown
    p = jax.nn.softmax(np.float64(logits))
    truth = p * (REWARD - (p * REWARD).sum())
    np.testing.assert_allclose(found.true_gradient["logits"], truth, atol=1e-7)
    np.testing.assert_allclose(found.gradient["logits"], truth, atol=1e-7)


def test_unbiased():
    assert mgj.unbiased(score_function, LOGITS)
    assert not mgj.unbiased(straight_through, LOGITS[:2])


def test_expectation_of_several_draws():
    def loss(p, logits):
        a, b = jax.random.split(KEY)
        gates = mgj.bernoulli(a, p)
        i = mgj.categorical(b, logits, shape=(2,))
        return (gates * REWARD[:3]).sum() * (1 - gates[0]) + REWARD[i].sum() + 0 * p.sum()

    p, logits = np.array([0.2, 0.5, 0.7]), np.array([0.3, -0.2])
    found = mgj.expectation(loss, p, logits, bias=False)
    q = np.exp(logits) / np.exp(logits).sum()
    reward = np.asarray(REWARD, float)
    expected = (1 - p[0]) * (p[1:] @ reward[1:3]) + 2 * (q @ reward[:2])
    assert found.exact and found.outcomes == 8 * 4
    assert found.loss == pytest.approx(expected)


def test_expectation_through_a_custom_vjp():
    """The forward rule draws again, with the same key: the same draw."""

    def hard(logits):
        return jax.nn.one_hot(mgj.categorical(KEY, logits), 4, dtype=logits.dtype)

    def backward(r, dy):
        p = jax.nn.softmax(r[0])
        return (p * (dy - (p * dy).sum()),)

    sample = custom(hard, backward)
    found = mgj.expectation(lambda logits: (sample(logits) * REWARD).sum(), LOGITS)
    assert found.exact and found.outcomes == 4
    assert not found.biased  # of a loss that is linear in the sample it is the exact gradient


def test_expectation_under_vmap_scan_and_narrow_types():
    def chain(logits):
        def body(carry, key):
            i = mgj.categorical(key, logits + carry)
            log_p = jax.nn.log_softmax(logits + carry)[i]
            return lax.stop_gradient(0.3 * REWARD[i]).astype(carry.dtype), (REWARD[i], log_p)

        keys = jax.random.split(KEY, 2)
        _, (cost, log_p) = lax.scan(body, jnp.zeros((), logits.dtype), keys)
        log_p = log_p.sum().astype(jnp.float32)
        return cost.sum() * (1 + log_p - lax.stop_gradient(log_p))

    found = mgj.expectation(chain, LOGITS)
    assert found.outcomes == 16 and not found.biased and found.bias < 1e-8

    def rows(logits):
        i = jax.vmap(mgj.categorical)(jax.random.split(KEY, 2), logits)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), i[:, None], 1).sum()
        return REWARD[i].prod() * (1 + log_p - lax.stop_gradient(log_p))

    found = mgj.expectation(rows, jnp.stack([LOGITS, -LOGITS])[:, :3])
    assert found.outcomes == 9 and not found.biased and found.bias < 1e-8


def test_expectation_of_draws_that_branch():
    """A second draw only where the first is 0."""

    def loss(logits):
        first, second = jax.random.split(KEY)

        def again(_):
            j = mgj.categorical(second, logits)
            return REWARD[j], jax.nn.log_softmax(logits)[j]

        i = mgj.categorical(first, logits)
        nothing = jnp.zeros((), REWARD.dtype), jnp.zeros((), logits.dtype)
        cost, log_p = lax.cond(i == 0, again, lambda _: nothing, None)
        log_p = log_p + jax.nn.log_softmax(logits)[i]
        return (cost + REWARD[i]) * (1 + log_p - lax.stop_gradient(log_p))

    found = mgj.expectation(loss, LOGITS)
    assert found.outcomes == 3 + 4 and not found.biased and found.bias < 1e-9


def test_expectation_in_own_types():
    def loss(x):
        logits = lax.dot(W.T, x)  # mixed types raise
        i = mgj.categorical(KEY, logits)
        log_p = jax.nn.log_softmax(logits)[i]
        return jnp.arange(5.0)[i] ** 2 * (1 + log_p - lax.stop_gradient(log_p))

    found = mgj.expectation(loss, LOGITS)
    assert found.outcomes == 5 and not found.biased and found.bias < 1e-8


def test_one_key_is_one_draw():
    def loss(logits):
        i, j = (mgj.categorical(KEY, logits) for _ in range(2))
        return REWARD[i] * REWARD[j] + 0 * logits.sum()

    found = mgj.expectation(loss, LOGITS, bias=False)
    p = jax.nn.softmax(np.float64(LOGITS))
    assert found.outcomes == 4 and found.loss == pytest.approx(p @ REWARD**2)


def test_backward_passes_that_draw():
    draws = custom(lambda x: x * 1.0, lambda r, dy: (dy * mgj.bernoulli(KEY, r[0] * 0 + 0.5),))
    with pytest.raises(mg.Error, match="backward pass draws bernoulli"):
        mgj.expectation(lambda x: draws(x).sum(), LOGITS)
    noisy = custom(lambda x: x * 1.0, lambda r, dy: (dy + jax.random.normal(KEY, dy.shape),))
    found = mgj.expectation(lambda x: (noisy(x) ** 2).sum(), LOGITS, samples=200, bias=False)
    assert not found.exact and found.total_variance == pytest.approx(4, rel=0.5)


def test_expectation_with_noise_is_monte_carlo():
    def loss(x):
        return (x * jax.random.normal(KEY, (3,))).sum() ** 2

    found = mgj.expectation(loss, np.array([0.5, 1.0, -0.3]), samples=200)
    assert not found.exact and found.noise and not found.biased
    fixed = jax.random.normal(KEY, (3,))  # drawn outside: a constant
    found = mgj.expectation(lambda x: (x * fixed).sum() ** 2, np.ones(3))
    assert found.exact and found.outcomes == 1


def test_truth():
    def top(x):
        return lax.top_k(x, 1)[0].sum()

    found = mgj.expectation(top, np.array([0.3, 0.1]), truth=jnp.mean)
    assert found.biased and found.bias == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("shape", [None, (6, "rest")])
def test_categorical_is_that_of_jax(axis, shape):
    logits = jnp.asarray(RNG.normal(size=(2, 3)))
    rest = np.delete(logits.shape, axis)
    shape = None if shape is None else (6, *map(int, rest))
    expected = jax.random.categorical(KEY, logits, axis, shape)
    assert (mgj.categorical(KEY, logits, axis, shape) == expected).all()
    jitted = jax.jit(functools.partial(mgj.categorical, axis=axis, shape=shape))
    assert (jitted(KEY, logits) == expected).all()
    assert (mgj.categorical(jax.random.PRNGKey(5), logits, axis, shape) == expected).all()
    keys, many = jax.random.split(KEY, 4), jnp.stack([logits, logits * 2, -logits, logits], 1)

    def draw(categorical):
        call = functools.partial(categorical, axis=axis, shape=shape)
        return jax.vmap(call, (0, 1))(keys, many), jax.vmap(call, (None, 1))(KEY, many)

    for ours, theirs in zip(draw(mgj.categorical), draw(jax.random.categorical), strict=True):
        assert (ours == theirs).all() and ours.dtype == theirs.dtype


def test_bernoulli_is_that_of_jax():
    p = jnp.array([0.2, 0.9])
    for args in ((KEY,), (KEY, 0.3), (KEY, p), (KEY, p, (5, 2))):
        ours, theirs = mgj.bernoulli(*args), jax.random.bernoulli(*args)
        assert (ours == theirs).all() and ours.dtype == theirs.dtype
    with pytest.raises((TypeError, ValueError)):
        mgj.categorical(KEY, X, shape=(5,))
