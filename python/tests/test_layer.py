"""mg.Layer: forward and backward in NumPy; what the engine lists; files; threads."""

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import moegrad as mg
import numpy as np
import pytest

N, D, H, E = 8, 6, 7, 4
ROUTERS = [entry["name"] for entry in mg.routers()]
ESTIMATORS = [entry["name"] for entry in mg.estimators()]
PAIRS = [(name, "sparse") for name in ROUTERS] + [
    (mg.estimators()[name]["routers"][0], name) for name in ESTIMATORS if name != "sparse"
]


def layer_of(router="top-k", estimator="sparse", **more):
    traits = mg.routers()[router]["traits"]
    active = max(traits["least_active"], min(2, traits["most_active"] or 2))
    active = E if router == "softmax" else active
    return mg.Layer(D, H, E, active, output=3, router=router, estimator=estimator, **more)


def numbers(dtype="float64", rows=N, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(dtype)


def context(dtype="float64"):
    """What some routers and estimators read besides x."""
    attention = np.random.default_rng(1).normal(size=(2, N // 2, N // 2)).astype(dtype)
    return {"ids": np.arange(N), "sequence": N // 2, "attention": attention}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


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


def test_memory_of_outputs():
    layer = layer_of()
    w = layer.init()
    x = numbers("float32")
    out = layer(x, w)
    y, scores, load = out.y, out.scores, out.load
    g = out.backward(np.ones_like(y))
    kept = [a.copy() for a in (y, scores, load, g["x"])]
    del out, layer, w, x
    gc.collect()
    junk = [np.random.default_rng(i).normal(size=(N, 3)) for i in range(100)]
    for i in range(100):  # the engine's pool hands out what was given back
        layer_of()(numbers("float32", seed=i), layer_of().init())
    assert all(np.array_equal(a, b) for a, b in zip((y, scores, load, g["x"]), kept, strict=True))
    assert len(junk) == 100
    for array in (y, scores, load):
        assert not array.flags.writeable
        with pytest.raises(ValueError):
            array[...] = 0
    g["x"] += 1  # nobody else's


def test_nothing_is_copied_in_and_writing_is_found():
    layer = layer_of()
    w = layer.init()
    x = numbers("float32")
    out = layer(x, w)
    first = out.backward(np.ones_like(out.y))
    for name in ("x", "experts.w1", "router.bias"):
        array = x if name == "x" else w[name]
        before = array.copy()
        array.flat[-1] += 1
        with pytest.raises(mg.Error, match=f"'{name}' was written after the pass"):
            out.backward(np.ones_like(out.y))
        array[...] = before
    assert same(out.backward(np.ones_like(out.y)), first)
    dy = np.ones_like(out.y)
    out.backward(dy)
    assert (dy == 1).all() and np.array_equal(x, numbers("float32"))


def test_arrays_of_any_strides():
    layer = layer_of()
    w = layer.init(dtype="float64")
    x = numbers()
    out = layer(x, w)
    dy = np.random.default_rng(3).normal(size=(N, 3))
    g = out.backward(dy)
    odd = {name: np.asfortranarray(value) for name, value in w.items()}
    wide = np.zeros((N, 2 * D))
    wide[:, ::2] = x
    backwards = wide[::-1, ::2][::-1]
    other = layer(backwards, odd)
    assert np.array_equal(other.y, out.y)
    assert same(other.backward(np.asfortranarray(dy)), g)
    frozen = {name: value.copy() for name, value in w.items()}
    for value in frozen.values():
        value.flags.writeable = False
    assert np.array_equal(layer(x, frozen).y, out.y)
    one = np.broadcast_to(x[:1], x.shape)
    assert np.array_equal(layer(one, w).y, layer(one.copy(), w).y)


@pytest.mark.parametrize(
    "change,text",
    [
        ({"router": "top-l"}, r"no router 'top-l'. Did you mean 'top-k'"),
        ({"estimator": "spars"}, r"no estimator 'spars'. Did you mean 'sparse'"),
        ({"routers": "top-k"}, r"no.*option 'routers'. Did you mean 'router'"),
        ({"renormalize": True}, r"option 'renormalize'. Did you mean 'renormalise'"),
        ({"zloss": 1}, r"Did you mean 'z-loss'"),
        ({"z_loss": -1}, r"'z-loss' of layer is '-1'"),
        ({"z_loss": None}, r"option 'z_loss' is of type NoneType"),
        ({"z_loss": 1, "options": {"z-loss": 2}}, r"'z-loss' is given twice"),
        ({"active": 9}, r"k is 9 with 4 experts"),
        ({"active": 1.5}, r"active is 1.5. Give an integer"),
        ({"active": None}, r"active is not given"),
        ({"model": 0}, r"the width is 0"),
        ({"hidden": 2**70}, r"64 bits"),
        ({"activation": "tanh"}, r"no activation 'tanh'"),
        ({"activation": None}, r"activation is None"),
        ({"router": 3}, r"router is 3. Give a name"),
        ({"router": "expert-choice", "causal": True}, r"looks at other tokens"),
        ({"router_gradient": "expert-grou"}, r"no estimator 'expert-grou'"),
    ],
)
def test_errors_of_layers(change, text):
    with pytest.raises(mg.Error, match=text):
        mg.Layer(**{"model": D, "hidden": H, "experts": E, "active": 2, **change})


def test_errors_of_passes():
    layer = layer_of()
    w = layer.init(dtype="float64")
    x = numbers()
    single = layer.init()

    def refused(text, *arguments, **more):
        with pytest.raises(mg.Error, match=text):
            layer(*arguments, **more)

    refused("'router.weight' is f32 and x is f64", x, single)
    refused("'router.weight' is f64 and x is f32", numbers("float32"), w)
    refused("x is of int64", numbers().astype(int), w)
    refused("x is of float16", numbers("float16"), w)
    refused("x is i32", numbers().astype(np.int32), w)
    refused(r"x is \[8\]. It must be \[tokens, 6\]", x[:, 0], w)
    refused(r"input is \[8, 5\]", x[:, :5], w)
    refused("0 tokens", x[:0], w)
    refused("x is of type list", x.tolist(), w)
    refused("x is of type NoneType", None, w)
    refused("weights are of type list", x, list(w))
    refused("no parameter 'experts.w2'", x, {k: v for k, v in w.items() if k != "experts.w2"})
    refused("'expert.w1' is no parameter.*'experts.w1'", x, {**w, "expert.w1": w["experts.w1"]})
    refused(
        r"'experts.w1' is \[4, 7, 6\] and should be",
        x,
        {**w, "experts.w1": w["experts.w1"].swapaxes(1, 2)},
    )
    refused("do not divide into sequences of 3", x, w, sequence=3)
    refused("sequences of 0", x, w, sequence=0)
    refused("sequence is 1.5. Give an integer", x, w, sequence=1.5)
    refused("mask", x, w, mask=np.full(N, 2))
    refused("mask", x, w, mask=np.zeros(N, int))
    refused("mask is of float64. Give integers", x, w, mask=np.ones(N))
    refused(r"ids are \[3\] for 8 rows", x, w, ids=np.arange(3))
    refused("beyond int32", x, w, ids=np.full(N, 2**40))
    refused("attention is f32. Give f64", x, w, attention=np.zeros((2, 4, 4), np.float32))
    out = layer(x, w)
    for dy, text in [
        (np.ones((N, 4)), r"dy is f64 \[8, 4\] and should be f64 \[8, 3\]"),
        (np.ones((N, 3), np.float32), "dy is f32"),
        (None, "there is no dy, and no auxiliary loss"),
    ]:
        with pytest.raises(mg.Error, match=text):
            out.backward(dy)
    with pytest.raises(mg.Error, match="estimator sparse needs none"):
        out.backward(np.ones((N, 3)), losses=np.ones(N))
    with pytest.raises(mg.Error, match="made without gradients"):
        layer(x, w, gradients=False).backward(np.ones((N, 3)))
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(mg.Error, match="holds nan at element 13"):
        layer(bad, w, check_finite=True)
    with pytest.raises(mg.Error, match="dtype is 'float16'"):
        layer.init(dtype="float16")
    assert layer.init(dtype=np.float64)["experts.w1"].dtype == np.float64


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


def test_a_layer_is_its_configuration():
    layer = layer_of(
        "moesart", "expert-group", weighting="large", lasso=0.1, z_loss=1e-3, activation="swiglu"
    )
    assert layer.losses == "lasso=0.1, z-loss=0.001"
    for other in (
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
        copy.copy(layer),
        eval(repr(layer), {"Layer": mg.Layer}),
        mg.Layer(**layer.config),
    ):
        assert other == layer and hash(other) == hash(layer) and repr(other) == repr(layer)
        assert same(other.init(), layer.init())
    assert layer != layer_of("moesart")
    clash = mg.Layer(4, 4, 4, 2, estimator="attention", options={"causal": True})
    assert eval(repr(clash), {"Layer": mg.Layer}) == clash
    assert clash.config["options"] == {"causal": "true"} and not clash.config["causal"]
    numpy_sizes = mg.Layer(
        np.int64(4), np.int32(5), 4, 2, replacement=np.bool_(True), router="moesart"
    )
    assert eval(repr(numpy_sizes), {"Layer": mg.Layer}) == numpy_sizes
    assert mg.Layer(4, 4, 4, router="softmax").config["active"] == 4
    assert not layer_of("categorical").router_learns and layer.router_learns


def test_the_tape_shows_itself():
    out = layer_of()(numbers(), layer_of().init(dtype="float64"))
    head, *rows = out.tape.rows()
    assert head[:2] == ["node", "operation"] and len(rows) == len(out.tape)
    lines = str(out.tape).splitlines()
    assert len(lines) == len(rows) + 1 and "softmax" in str(out.tape)
    assert out.tape.dot().startswith("digraph") and out.tape.bytes_saved > 0
    before = len(out.tape)
    out.backward(np.ones_like(out.y))
    assert len(out.tape) == before and "NO" not in str(out.tape)
    assert repr(out) == "<LayerOutput: y [8, 3], router top-k, estimator sparse>"


def test_what_the_engine_lists():
    assert {"top-k", "moesart", "soft-moe"} <= set(mg.routers().names)
    assert {"sparse", "expert-group"} <= set(mg.estimators().names)
    assert {"matmul", "softmax"} <= set(mg.operations().names)
    entry = mg.routers()["moesart"]
    for key in ("name", "summary", "source", "claim", "formula", "options", "traits"):
        assert entry[key], key
    assert [o["default"] for o in entry["options"] if o["name"] == "weighting"] == ["small-random"]
    assert mg.routers()[0]["name"] == "softmax" and len(mg.routers()) == len(ROUTERS)
    assert len(str(mg.routers()).splitlines()) == len(ROUTERS) + 1
    assert mg.layer_options().names == ["aux", "z-loss", "shared"]
    with pytest.raises(KeyError):
        mg.routers()["top"]
    # No option is reached by an argument's name, except through `options`.
    arguments = set(mg.Layer(4, 4, 4, 2).config)
    options = {o["name"] for e in [*mg.routers(), *mg.estimators()] for o in e["options"]}
    assert arguments & options == {"causal", "experts"}


def test_tables_in_a_notebook():
    for shown in (mg.routers(), mg.operations(), mg.layer_options()):
        html = shown._repr_html_()
        assert html.count("<tr") == len(shown) + 1
    out = layer_of()(numbers(), layer_of().init(dtype="float64"))
    assert out.tape._repr_html_().count("<tr") == len(out.tape) + 1


def test_the_engine_checks_itself():
    row = mg.check_router("top-k")
    assert row and row.verdict == "pass" and row.cases > 10 and 0 < row.max_error < 1e-6
    assert row.kind == "router" and row.claim == "exact on the cell" and "top-k" in str(row)
    assert mg.check_operation("softmax") and mg.check_estimator("sparse")
    for check, name, near in [
        (mg.check_router, "top_k", "top-k"),
        (mg.check_estimator, "spars", "sparse"),
        (mg.check_operation, "matmull", "matmul"),
    ]:
        with pytest.raises(mg.Error, match=f"Did you mean '{near}'"):
            check(name)


def test_files(tmp_path):
    path = tmp_path / "w.safetensors"
    w = {**layer_of().init(), "wide": np.arange(6.0).reshape(2, 3).T, "none": np.zeros((0, 3))}
    w["words"] = np.arange(4, dtype=np.int32)
    mg.save(path, w)
    found = mg.load(str(path))
    assert same(found, w) and all(found[k].dtype == w[k].dtype for k in w)
    assert all(a.flags.writeable for a in found.values())
    found["wide"] += 1
    assert same(mg.load(path), w)
    mg.save(path, found)  # over what was read
    assert np.array_equal(mg.load(path)["wide"], w["wide"] + 1)
    with pytest.raises(mg.Error, match="'a' is of int64"):
        mg.save(path, {"a": np.arange(3)})
    with pytest.raises(mg.Error, match="a name is 3"):
        mg.save(path, {3: np.ones(3)})
    with pytest.raises(mg.Error, match="of type float"):
        mg.save(path, {"a": 1.0})
    with pytest.raises(mg.Error):
        mg.load(tmp_path / "missing.safetensors")
    path.write_bytes(b"\x00" * 4)
    with pytest.raises(mg.Error):
        mg.load(path)
    with pytest.raises(mg.Error):
        mg.save(tmp_path / "no" / "such.safetensors", w)


def digest(job):
    """For other processes: the bytes of a pass."""
    layer, x = job
    out = layer(x, layer.init(seed=4), seed=5)
    return out.y.tobytes() + out.backward(out.y)["experts.w1"].tobytes()


def busy():
    layer = mg.Layer(32, 64, 8, 2, router="moesart")
    return layer, np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32)


def test_spawned_processes():
    job = busy()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(digest, [job]) == [digest(job)]


FORK = """
import os, signal, sys
sys.path[:0] = {path!r}
import moegrad as mg
from test_layer import busy, digest

job = busy()
with mg.threads({threads}):
    expected = digest(job)  # starts the engine's threads
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if digest(job) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
assert digest(job) == expected
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_fork_after_use(threads):
    """In a process of its own: threads of other packages would make the fork unsafe."""
    found = run_python(FORK.format(path=[os.path.dirname(__file__), *sys.path], threads=threads))
    assert found.returncode == 0, found.stderr


def test_two_threads_at_once():
    layer, x = busy()
    w = layer.init()
    shared = layer(x, w, seed=9)
    dy = np.ones_like(shared.y)
    expected = [(layer(x, w, seed=s).y.copy(), shared.backward(dy)) for s in range(4)]
    wrong = []

    def work(seed):
        for _ in range(5):
            y, g = expected[seed]
            if not np.array_equal(layer(x, w, seed=seed).y, y):
                wrong.append(("y", seed))
            if not same(shared.backward(dy), g):  # of one tape
                wrong.append(("g", seed))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_nothing_leaks_at_exit():
    found = run_python(
        "import moegrad as mg, numpy as np\n"
        "layer = mg.Layer(4, 4, 4, 2)\n"
        "w = layer.init()\n"
        "out = layer(np.ones((3, 4), np.float32), w)\n"
        "y, tape, g = out.y, out.tape, out.backward(np.ones_like(out.y))\n"
        "try: layer(1, w)\n"
        "except mg.Error as e: kept = e\n"
        "cycle = [out, layer]; cycle.append(cycle)\n"
        "row = mg.check_operation('relu')\n"
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_memory_does_not_grow():
    layer, x = busy()
    w = layer.init()

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def pass_():
        out = layer(x, w)
        out.backward(out.y)

    for _ in range(20):
        pass_()
    before = resident()
    for _ in range(200):
        pass_()
    assert resident() - before < 8e6  # one pass holds about a megabyte
