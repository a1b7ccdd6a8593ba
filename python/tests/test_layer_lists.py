"""Configurations, tapes, what the engine lists, files."""

import copy
import pickle

import moegrad as mg
import numpy as np
import pytest
from layers import ROUTERS, layer_of, numbers, same


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
    assert mg.layer_options().names == [
        "aux",
        "z-loss",
        "simbal",
        "erc",
        "erc-alpha",
        "erc-normalised",
        "shared",
        "zero",
    ]
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
