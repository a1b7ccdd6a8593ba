"""mg.Layer: forward and backward in NumPy."""

import gc
import os

import moegrad as mg
import numpy as np
import pytest
from layers import ESTIMATORS, ROUTERS, D, E, H, N, context, layer_of, numbers, same

PAIRS = [(name, "sparse") for name in ROUTERS] + [
    (mg.estimators()[name]["routers"][0], name) for name in ESTIMATORS if name != "sparse"
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("router,estimator", PAIRS)
def test_every_router_and_estimator(router, estimator, dtype):
    layer = layer_of(router, estimator)
    w = layer.init(seed=2, dtype=dtype)
    x = numbers(dtype)
    for training in (True, False):
        out = layer(x, w, seed=3, training=training, **context(dtype))
        assert out.y.shape == (N, 3) and out.y.dtype == dtype and np.isfinite(out.y).all()
        assert out.scores.shape[-1] == E and out.load.shape == (E,)
        assert out.selected.dtype == np.int32 and out.selected.max() < E
        assert out.weights.shape == out.selected.shape
        assert out.auxiliary is None or np.isfinite(out.auxiliary)
        more = {"losses": np.ones(N, dtype)} if training and layer.needs_losses else {}
        g = out.backward(np.ones_like(out.y), **more)
        trained = [p["name"] for p in layer.parameters() if p["trained"]]
        assert list(g) == ["x", *trained]
        for name, value in g.items():
            assert value.shape == {"x": x, **w}[name].shape and value.dtype == dtype
            assert np.isfinite(value).all()
        assert np.abs(g["experts.w2"]).max() > 0
        assert same(g, out.backward(np.ones_like(out.y), **more))
        again = layer(x, w, seed=3, training=training, **context(dtype))
        assert np.array_equal(again.y, out.y)
        assert same(again.backward(np.ones_like(out.y), **more), g)


def test_the_definition():
    """y = sum over the k largest of softmax(x W + b) of w_i relu(x w1 + b1) w2 + b2."""
    layer = layer_of()
    w = layer.init(seed=5, dtype="float64")
    rng = np.random.default_rng(2)
    w = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in w.items()}
    x = numbers()
    out = layer(x, w)
    logits = x @ w["router.weight"] + w["router.bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = np.argsort(-logits, axis=1)[:, :2]
    assert np.array_equal(np.sort(out.selected), np.sort(chosen))
    y = np.zeros((N, 3))
    for t in range(N):
        for e in chosen[t]:
            h = np.maximum(x[t] @ w["experts.w1"][e] + w["experts.b1"][e], 0)
            y[t] += p[t, e] * (h @ w["experts.w2"][e] + w["experts.b2"][e])
    np.testing.assert_allclose(out.y, y, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(out.scores, p, rtol=1e-13)
    assert np.array_equal(out.load, np.bincount(chosen.ravel(), minlength=E))


@pytest.mark.parametrize(
    "router,estimator,options",
    [
        ("top-k", "sparse", {"z_loss": 0.1, "aux": 0.1, "activation": "gelu"}),
        ("moesart", "expert-group", {"weighting": "large"}),
        ("categorical", "reinmax", {}),
        ("noisy-top-k", "ste-dense", {"activation": "swiglu", "shared": 1}),
    ],
)
def test_gradients_pass_the_check(router, estimator, options):
    """As a program of mg.gradcheck, whose decisions the layer's are: draws, selections, kinks."""
    layer = layer_of(router, estimator, **options)
    w = layer.init(seed=2, dtype="float64")
    dy = np.random.default_rng(4).normal(size=(N, 3))
    names = ["x", *w]

    def program(run, *arrays, scale=1.0):
        given = dict(zip(names, arrays, strict=True))
        out = layer(given.pop("x"), given, run=run, gradients=run.saves)
        loss = np.array([(out.y * dy).sum(), out.auxiliary or 0.0])

        def vjp(c):
            g = out.backward(c[0] * dy, auxiliary=c[1])
            return [scale * g[name] for name in names]

        return loss, vjp if run.saves else None

    def check(f):
        inputs = [numbers(), *w.values()]
        return mg.gradcheck(f, *inputs, names=names, elementwise_limit=8, directions=1)

    report = check(program)
    assert report and report.max_error < 1e-6 and "router.weight" not in report.dead
    if router != "noisy-top-k":  # a failure is looked at from many sides, which takes a while
        assert check(lambda run, *a: program(run, *a, scale=1.001)).verdict == "fail"


def test_a_run_ends_with_its_call():
    layer = layer_of("moesart")
    w = layer.init(dtype="float64")
    kept = []

    def program(run, x):
        kept.append((run, layer(x, w, run=run)))
        out = kept[-1][1]
        return out.y, lambda dy: [out.backward(dy)["x"]]

    assert mg.gradcheck(program, numbers())
    run, out = kept[0]
    with pytest.raises(mg.Error, match="it is over"):
        layer(numbers(), w, run=run)
    gc.collect()
    assert same(out.backward(out.y), out.backward(out.y))  # what it recorded is its own


def test_draws_within_a_check_are_enumerated():
    """The unordered-set estimate of sum_i p_i E_i is unbiased: so says its enumeration."""
    layer = mg.Layer(3, 2, 4, 2, router="unordered-set", estimator="sparse")
    w = layer.init(seed=2, dtype="float64")
    x = np.random.default_rng(0).normal(size=(1, 3))
    names = ["x", *w]
    c = np.array([[1.0, -0.5, 0.25]])

    def program(run, *arrays):
        given = dict(zip(names, arrays, strict=True))
        out = layer(given.pop("x"), given, run=run)
        return np.array((out.y * c).sum()), lambda dy: list(out.backward(dy * c).values())

    found = mg.expectation(program, x, *w.values(), names=names)
    assert found.exact and not found.biased and found.outcomes == 12  # one after the other
    assert found.loss_variance > 0
    dense = mg.Layer(3, 2, 4, router="softmax")
    assert found.loss == pytest.approx((dense(x, w).y * c).sum(), rel=1e-12)


def test_losses_of_a_score_function():
    """The mean over all draws of reinforce's gradient is that of the expected loss."""
    layer = mg.Layer(2, 3, 3, 1, router="categorical", estimator="reinforce", baseline="none")
    dense = mg.Layer(2, 3, 3, router="softmax")
    w = layer.init(seed=1, dtype="float64")
    x = np.array([[0.4, -0.9]])
    probabilities = dense(x, w).scores[0]
    seen, mean = {}, np.zeros_like(w["router.weight"])
    for seed in range(200):
        out = layer(x, w, seed=seed)
        if out.selected[0, 0] in seen:
            continue
        losses = (out.y**2).sum(1)
        g = out.backward(2 * out.y, losses=losses)
        seen[out.selected[0, 0]] = losses[0]
        mean += probabilities[out.selected[0, 0]] * g["router.weight"]
    assert len(seen) == 3
    values = np.array([seen[e] for e in range(3)])
    expected = np.outer(x[0], probabilities * (values - probabilities @ values))
    np.testing.assert_allclose(mean, expected, rtol=1e-10, atol=1e-14)


def test_copies_of_tokens():
    layer = mg.Layer(
        D, H, E, 1, router="categorical", estimator="reinforce", baseline="leave-one-out", samples=3
    )
    w = layer.init(dtype="float64")
    out = layer(numbers(), w, seed=1)
    assert layer.samples == 3 and out.y.shape == (3 * N, D)
    g = out.backward(np.ones_like(out.y), losses=out.y.sum(1))
    assert g["x"].shape == (N, D)
    # Of equal losses the baseline leaves nothing to the router.
    zero = out.backward(np.zeros_like(out.y), losses=np.ones(3 * N))
    assert np.abs(zero["router.weight"]).max() == 0
    with pytest.raises(mg.Error, match=r"losses of shape \[24\]"):
        out.backward(np.ones_like(out.y))
    with pytest.raises(mg.Error, match="losses is f64 \\[8\\]"):
        out.backward(np.ones_like(out.y), losses=np.ones(N))
    assert layer(numbers(), w, training=False).y.shape == (N, D)


def test_seeds():
    layer = layer_of("moesart")
    w = layer.init()
    x = numbers("float32", rows=200)
    outs = [layer(x, w) for _ in range(3)]
    assert len({out.seed for out in outs}) == 3
    assert not np.array_equal(outs[0].selected, outs[1].selected)
    assert np.array_equal(layer(x, w, seed=outs[0].seed).y, outs[0].y)
    assert outs[0].random and not layer(x, w, training=False).random
    assert same(layer.init(seed=7), layer.init(seed=7))
    assert not same(layer.init(seed=7), layer.init(seed=8))
    largest = 2**64 - 1
    assert layer(x, w, seed=largest).seed == largest
    for seed in (-1, 2**64, 1.5, "1"):
        with pytest.raises(mg.Error, match="from 0 to"):
            layer(x, w, seed=seed)


def test_number_of_threads_changes_nothing():
    layer = mg.Layer(32, 64, 8, 2, router="moesart", estimator="expert-group")
    w = layer.init()
    x = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
    results = []
    before = mg.threads()
    for number in (1, 2, 3):
        with mg.threads(number):
            assert mg.threads() == number
            out = layer(x, w, seed=1)
            results.append({"y": out.y, **out.backward(out.y)})
    assert mg.threads() == before
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert 1 <= mg.processors() <= os.cpu_count()
    for number in (0, -1, 1025, 1.5, True, "2"):
        with pytest.raises(mg.Error, match="from 1 to 1024"):
            mg.threads(number)


def test_padding_counts_nowhere():
    layer = layer_of("expert-choice", aux=0.0)
    w = layer.init(dtype="float64")
    x = numbers()
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 1])
    out = layer(x, w, mask=mask)
    alone = layer(x[mask == 1], w)
    assert np.array_equal(out.y[mask == 1], alone.y) and not out.y[mask == 0].any()
    assert np.array_equal(out.selected[mask == 0], np.full((2, out.selected.shape[1]), -1))
    g, h = out.backward(np.ones_like(out.y)), alone.backward(np.ones_like(alone.y))
    assert np.array_equal(g["x"][mask == 1], h["x"]) and not g["x"][mask == 0].any()
    assert same({k: g[k] for k in w if k in g}, {k: h[k] for k in w if k in h})
    assert np.array_equal(layer(x, w, mask=mask.astype(bool)).y, out.y)


def test_auxiliary_loss_and_state():
    layer = layer_of("loss-free", z_loss=0.5)
    w = layer.init(dtype="float64")
    out = layer(numbers(), w)
    assert out.auxiliary == pytest.approx(0.5 * out.losses["z-loss"])
    none = out.backward(np.zeros_like(out.y), auxiliary=0.0)
    assert not any(g.any() for g in none.values())
    once, twice = (out.backward(None, auxiliary=c) for c in (1.0, 2.0))
    np.testing.assert_allclose(2 * once["router.weight"], twice["router.weight"], rtol=1e-13)
    both = out.backward(np.ones_like(out.y))
    np.testing.assert_allclose(
        both["router.weight"],
        out.backward(np.ones_like(out.y), auxiliary=0)["router.weight"] + once["router.weight"],
        rtol=1e-12,
    )
    state = [p["name"] for p in layer.parameters() if not p["trained"]]
    assert list(out.updates) == state == ["router.balance"]
    w.update(out.updates)
    assert not np.array_equal(layer(numbers(), w).updates["router.balance"], w["router.balance"])
    # State may be written in place: the pass read a copy.
    state = layer.init(dtype="float64")
    out = layer(numbers(), state)
    state["router.balance"] += 1.0
    out.backward(np.ones_like(out.y))


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none(router, value):
    """Whatever x holds: an Error, or a result; nothing worse."""
    layer = layer_of(router)
    x = numbers()
    x[1, 2] = value
    try:
        out = layer(x, layer.init(dtype="float64"), seed=1, **context())
    except mg.Error:
        return
    out.backward(np.ones_like(out.y))
    assert out.y.shape == (N, 3)


def test_what_may_be_left_out():
    layer = layer_of("loss-free")
    w = layer.init(dtype="float64")
    few = {k: v for k, v in w.items() if k in ("router.weight", "experts.w1", "experts.w2")}
    out = layer(numbers(), few)
    assert np.array_equal(out.y, layer(numbers(), w).y)  # at first biases and state are zero
    assert list(out.backward(np.ones_like(out.y))) == ["x", *few]
    assert "experts.b1" not in layer_of(biases=False).init()
