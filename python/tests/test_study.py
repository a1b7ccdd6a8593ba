"""mg.study: rows, figures, and Ctrl-C."""

import importlib.util
import json
import math
import sys
import threading
from pathlib import Path

import moegrad as mg
import numpy as np
import pytest

SMALL = {"experts": 4, "active": 2, "scale": 1.5, "loss": "linear", "progress": False}


def has(package):
    return importlib.util.find_spec(package) is not None


@pytest.fixture(scope="module")
def study():
    return mg.study.bias(routers=["top-k", "unordered-set"], **{**SMALL, "experts": [4, 5]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    return mg.train("synthetic", epochs=1, seed=3, experts=4, width=16, out=out, progress=False)


def test_rows_are_what_the_engine_measures(study):
    cells = [(row["router"], row["estimator"], row["experts"]) for row in study.rows]
    assert cells == [(router, "sparse", n) for router in ("top-k", "unordered-set") for n in (4, 5)]
    assert len(study) == 4 and study.left_out == ()
    topk, _, unbiased, _ = study.rows
    # Of a deterministic router: no variance, one outcome, and the gradient is that of its loss.
    assert topk["outcomes"] == 1 and topk["gradient_variance"] == 0 and topk["own_bias"] < 1e-9
    assert unbiased["exact"] and unbiased["outcomes"] > 1 and unbiased["gradient_variance"] > 0
    # Its weights are an unbiased estimate of the softmax ones (Kool et al. 2020).
    assert unbiased["weight_bias_l1"] < 1e-12 < topk["weight_bias_l1"]
    json.dumps(study.rows)


def test_the_same_rows_again(study):
    again = mg.study.bias(routers=["top-k", "unordered-set"], **{**SMALL, "experts": [4, 5]})
    assert again.rows == study.rows
    other = mg.study.bias(routers="top-k", seed=2, **SMALL)
    assert other.rows[0]["dense_bias"] != study.rows[0]["dense_bias"]


def test_options_and_estimators(study):
    rows = mg.study.bias(estimators="expert-group", **SMALL).rows
    assert {row["estimator"] for row in rows} == {"expert-group"}
    (other,) = mg.study.bias(routers="top-k", options={"renormalise": True}, **SMALL).rows
    assert other["dense_bias"] != study.rows[0]["dense_bias"]
    assert len(mg.study.bias(routers="top-k", **{**SMALL, "loss": (), "scale": 1}).rows) == 4


def test_cells_that_a_layer_refuses_are_left_out():
    found = mg.study.bias(routers="top-k", **{**SMALL, "active": np.array([2, 7])})
    assert [row["active"] for row in found.rows] == [2]
    assert len(found.left_out) == 1 and "7" in found.left_out[0]
    with pytest.raises(mg.Error, match="nothing to measure: .*7"):
        mg.study.bias(routers="top-k", **{**SMALL, "active": 7})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"routers": "topk"}, "Did you mean 'top-k'"),
        ({"routers": 3}, "'routers' is 3. Give names"),
        ({"estimators": ["spars"]}, "Did you mean 'sparse'"),
        ({"loss": "linar"}, "Did you mean 'linear'"),
        ({"experts": 0}, "'experts' is 0"),
        ({"experts": 2.0}, "'experts' is 2.0"),
        ({"experts": 10**9}, "from 1 to 65536"),
        ({"active": True}, "'active' is True"),
        ({"scale": -1}, "'scale' is -1"),
        ({"scale": float("nan")}, "'scale' is nan"),
        ({"scale": "1"}, "'scale' is '1'"),
        ({"draws": 0}, "'draws' is 0"),
        ({"seed": -1}, "'seed' is -1"),
        ({"seed": 2**64}, "'seed' is"),
        ({"samples": 1}, "'samples' is 1"),
        ({"draws": 10**6, "outcomes": 10**6}, "lower draws, outcomes or samples"),
        ({"options": {"no_such": 1}}, "no_such"),
    ],
)
def test_arguments_that_are_none(arguments, text):
    with pytest.raises(mg.Error, match=text):
        mg.study.bias(**{"routers": "top-k", **SMALL, **arguments})


def test_progress_is_told_on_this_thread():
    seen = []

    def progress(done, total):
        seen.append((done, total, threading.get_ident()))

    # Told of twenty times a second: this takes longer.
    work = {**SMALL, "routers": "unordered-set", "scale": [1, 2, 3, 4], "draws": 20}
    mg.study.bias(**{**work, "progress": progress})
    assert seen and all(s[1:] == (4, threading.get_ident()) for s in seen)
    assert [s[0] for s in seen] == sorted({s[0] for s in seen})

    class Mine(Exception):
        pass

    def raising(done, total):
        raise Mine("enough")

    with pytest.raises(Mine, match="enough"):
        mg.study.bias(**{**work, "progress": raising})


def threads_of_this_process():
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_ctrl_c_ends_a_study_and_its_threads(run, interrupted):
    def bias():  # one cell: many passes in one place
        mg.study.bias(routers="gshard", own=True, draws=500_000, **{**SMALL, "experts": 16})

    def cells():
        mg.study.bias(own=True, progress=False)

    def fidelity():
        mg.study.fidelity([run] * 1000)

    for work in (bias, cells, fidelity):
        interrupted(work)
        before = threads_of_this_process()
        assert min(interrupted(work) for _ in range(2)) < 0.5
        assert threads_of_this_process() <= before
    assert mg.study.bias(routers="top-k", **SMALL).rows  # and goes on working


def test_other_threads_run_meanwhile(others_run):
    grid = {**SMALL, "experts": [5, 6], "scale": [1, 2]}
    others_run(lambda: mg.study.bias(routers="unordered-set", draws=10, **grid))


def test_fidelity_of_a_run(run):
    found = mg.study.fidelity(run, estimators=["ste-dense", "sparse"], batch=64)
    same, sparse = found.rows
    assert same["cosine_real"] == pytest.approx(1) and same["output_error"] < 1e-6
    assert sparse["cosine_real"] < 0.9999 and sparse["output_error"] == pytest.approx(1)
    assert same["step"] == 64
    by_path = mg.study.fidelity(str(run.checkpoint), estimators=["ste-dense", "sparse"], batch=64)
    assert by_path.rows == found.rows
    # By default on the data of the run's own seed, which is 3.
    assert mg.study.fidelity(run, estimators="sparse", batch=64, seed=3).rows == [sparse]
    assert mg.study.fidelity(run, estimators="sparse", batch=64, seed=4).rows != [sparse]
    assert len(mg.study.fidelity([run, run.checkpoint], batch=8).rows) % 2 == 0


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "text"),
    [
        ("nowhere.safetensors", {}, "nowhere.safetensors"),
        ([], {}, "no checkpoint is given"),
        (3, {}, "3 is no path"),
        (None, {}, "None has no checkpoint"),
        ("run", {"data": 3}, "3 is no path"),
        ("run", {"estimators": "spars"}, "Did you mean 'sparse'"),
        ("run", {"batch": 0}, "'batch' is 0"),
        ("run", {"estimators": "moesart"}, "moesart"),
    ],
)
def test_fidelities_that_are_none(run, checkpoint, arguments, text):
    with pytest.raises(mg.Error, match=text):
        mg.study.fidelity(run if checkpoint == "run" else checkpoint, **arguments)


def test_a_run_without_a_checkpoint(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(run.config))
    with pytest.raises(mg.Error, match="has no checkpoint yet"):
        mg.study.fidelity(mg.Run(tmp_path))


def test_a_figure(study, monkeypatch, tmp_path):
    if has("matplotlib"):
        monkeypatch.setenv("MPLBACKEND", "agg")
        ax = study.plot("gradient_bias")
        assert len(ax.patches) == 4  # two routers, two biases each
        heights = sorted(p.get_height() for p in ax.patches)
        rows = [r for r in study.rows if r["router"] == "top-k"]
        assert any(
            math.isclose(h, (rows[0]["dense_bias"] + rows[1]["dense_bias"]) / 2) for h in heights
        )
        lines = study.plot("dense_bias", over="experts").get_lines()
        assert [list(line.get_xdata()) for line in lines] == [[4, 5], [4, 5]]
        assert lines[0].get_ydata()[1] == rows[1]["dense_bias"]
        assert study.plot("cosine", ax=ax) is ax
        ax.figure.savefig(tmp_path / "a.svg")
        assert (tmp_path / "a.svg").stat().st_size > 1000
    for figure in ("bias", "router", "exact"):
        with pytest.raises(mg.Error, match=f"no '{figure}'. Draw: gradient_bias, direction, "):
            study.plot(figure)
    with pytest.raises(mg.Error, match="no column 'expert'"):
        study.plot(over="expert")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib, or use .rows"):
        study.plot()


def test_the_frame_of_pandas(study, monkeypatch):
    if has("pandas"):
        assert list(study.frame()["experts"]) == [4, 5, 4, 5]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas, or use .rows"):
        study.frame()
