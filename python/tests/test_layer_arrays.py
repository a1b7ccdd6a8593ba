"""mg.Layer: whose memory arrays are, and bad ones."""

import gc

import moegrad as mg
import numpy as np
import pytest
from layers import D, E, H, N, layer_of, numbers, same


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
