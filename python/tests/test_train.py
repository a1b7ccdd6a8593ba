"""mg.train and mg.Run: runs that are stopped, resumed and read."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import moegrad as mg
import numpy as np
import pytest

SMALL = {"experts": 4, "width": 16, "hidden": 16, "progress": False}


def has(package):
    return importlib.util.find_spec(package) is not None


def parameters_of(run):
    return run.checkpoint.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two epochs, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return mg.train("synthetic", epochs=2, out=out, **SMALL)


def test_a_run_tells_what_it_did(whole):
    assert whole.result["steps"] == 128 and whole.result["test_accuracy"] > 0.3
    assert whole.config["router"] == "top-k" and whole.config["experts"] == 4
    assert whole.checkpoint.name == "step-00000128.safetensors"
    kinds = [line["kind"] for line in whole.metrics]
    assert kinds.count("step") == 6 and kinds.count("evaluation") == 2
    assert "synthetic, top-k, sparse; test accuracy" in repr(whole)
    assert "test_accuracy" in whole._repr_html_()
    again = mg.Run(str(whole.folder))
    assert again.result == whole.result and again.metrics == whole.metrics


def test_settings_are_the_engines(tmp_path):
    run = mg.train(
        "synthetic",
        router="noisy-top-k",
        estimator="sparse",
        options={"shared": 1},
        epochs=np.int64(1),
        lr=np.float32(0.5),
        nesterov=True,
        optimiser="sgd",
        dtype="f64",
        out=tmp_path / "a",
        **SMALL,
    )
    config = run.config
    assert config["router"] == "noisy-top-k" and config["options"] == {"shared": "1"}
    assert config["lr"] == 0.5 and config["nesterov"] is True and config["dtype"] == "f64"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epoch": 3}, "no setting 'epoch'. Did you mean 'epochs'"),
        ({"epochs": 2.5}, "'epochs' of train is '2.5'"),
        ({"epochs": True}, "'epochs' of train is 'true'"),
        ({"lr": float("nan")}, "'lr' of train is 'nan'"),
        ({"lr": None}, "'lr' is None. Give a text, a number"),
        ({"active": 9}, "9"),
        ({"router": "top"}, "no router 'top'. Did you mean 'top-k'"),
        ({"options": {"aux": 0.1}}, "a setting of its own. Use aux 0.1"),
        ({"options": {"sharde": 1}}, "Did you mean 'shared'"),
        ({"options": 3}, "'options' is 3"),
        ({"threads": -1}, "'threads' is -1"),
        ({"data": "\udce4"}, "'.udce4' is no path of UTF-8"),
        ({"router": "top\0k"}, "zero byte"),
    ],
)
def test_settings_that_are_none(tmp_path, settings, text):
    with pytest.raises(mg.Error, match=text):
        mg.train("synthetic", out=tmp_path / "a", **{**SMALL, **settings})
    assert not (tmp_path / "a" / "config.json").exists()


def test_tasks_and_folders_that_are_none(tmp_path, whole):
    with pytest.raises(mg.Error, match="sinthetic"):
        mg.train("sinthetic", out=tmp_path / "a")
    with pytest.raises(mg.Error, match="Go on with resume, start over with force, or choose"):
        mg.train("synthetic", out=whole.folder, **SMALL)
    for out in ("\udce4", 3):
        with pytest.raises(mg.Error, match="is no path of UTF-8"):
            mg.train("synthetic", out=out, **SMALL)
    with pytest.raises(mg.Error, match="there is no run in"):
        mg.Run(tmp_path)
    with pytest.raises(mg.Error, match="lr 0.5 contradicts the run"):
        whole.resume(lr=0.5, progress=False)


def test_force_starts_over(tmp_path):
    run = mg.train("synthetic", epochs=1, out=tmp_path, **SMALL)
    run = mg.train("synthetic", epochs=1, seed=2, out=tmp_path, force=True, **SMALL)
    assert run.config["seed"] == 2


def test_false_stops_and_resume_goes_on_to_the_same_bits(tmp_path, whole):
    seen = []

    def until_50(view):
        seen.append((view.epoch, view.step, view.loss, view.seconds_left))
        return view.step < 50

    run = mg.train("synthetic", epochs=2, out=tmp_path, **{**SMALL, "progress": until_50})
    assert run.result is None and "not finished" in repr(run)
    assert run.checkpoint.name == "step-00000050.safetensors"
    assert [s[1] for s in seen] == list(range(1, 51)) and seen[0][0] == 1
    assert seen[0][2] == pytest.approx(np.log(4), abs=0.3) and seen[0][3] >= 0
    assert run.resume(progress=False) is run
    assert parameters_of(run) == parameters_of(whole)
    assert run.result["test_accuracy"] == whole.result["test_accuracy"]


def test_a_callback_that_raises_stops_too(tmp_path, whole):
    class Mine(Exception):
        pass

    kept = []

    def raising(view):
        kept.append(view)
        if view.step == 70:
            raise Mine("enough")

    with pytest.raises(Mine, match="enough"):
        mg.train("synthetic", epochs=2, out=tmp_path, **{**SMALL, "progress": raising})
    run = mg.Run(tmp_path)
    assert run.checkpoint.name == "step-00000070.safetensors" and len(kept) == 70
    assert (kept[0].step, kept[-1].step) == (1, 70)  # each is a copy
    assert str(kept[-1]).startswith("epoch 2/2  step 70/128  loss")
    assert parameters_of(run.resume(progress=False)) == parameters_of(whole)


def test_more_epochs_extend_a_run(tmp_path):
    run = mg.train("synthetic", epochs=1, out=tmp_path, **SMALL)
    first = run.result
    run.resume(epochs=2, progress=False)
    assert run.config["epochs"] == 2 and run.result["steps"] == 2 * first["steps"]


def interrupt_after(seconds, sent):
    def kill():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, kill)
    timer.start()
    return timer


@pytest.mark.parametrize("progress", [False, lambda view: None])
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_bits(tmp_path, progress):
    setting = {**SMALL, "epochs": 10}
    sent = []
    timer = interrupt_after(0.15, sent)
    with pytest.raises(KeyboardInterrupt):
        mg.train(
            "synthetic", out=tmp_path / "a", **{**setting, "epochs": 2000, "progress": progress}
        )
    assert time.monotonic() - sent[0] < 0.5
    timer.join()
    run = mg.Run(tmp_path / "a")
    assert run.result is None
    stopped = int(run.checkpoint.stem.removeprefix("step-"))
    assert stopped > 0

    # The same, to the epoch behind that step: stopped there by a callback, once and twice.
    def until(step):
        return lambda view: view.step < step

    run.resume(progress=until(stopped + 20))
    there = mg.train(
        "synthetic",
        out=tmp_path / "b",
        **{**setting, "epochs": 2000, "progress": until(stopped + 20)},
    )
    assert run.checkpoint.name == there.checkpoint.name
    assert parameters_of(run) == parameters_of(there)


def test_other_threads_run_meanwhile(tmp_path, others_run):
    others_run(lambda: mg.train("synthetic", epochs=8, out=tmp_path, **SMALL))


def test_two_threads_train_at_once(tmp_path, whole):
    runs = {}

    def one(name):
        runs[name] = mg.train("synthetic", epochs=2, out=tmp_path / name, **SMALL)

    threads = [threading.Thread(target=one, args=(n,)) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parameters_of(runs["a"]) == parameters_of(runs["b"]) == parameters_of(whole)


def test_progress_goes_to_stderr_where_it_is_wanted(tmp_path):
    code = (
        "import moegrad as mg; mg.train('synthetic', epochs=1, experts=4, width=16, hidden=16, "
        "out={out!r}, progress={progress})"
    )
    texts = []
    for progress in (True, False):
        out = str(tmp_path / str(progress))
        done = subprocess.run(
            [sys.executable, "-c", code.format(out=out, progress=progress)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == ""
        texts.append(done.stderr)
    assert "epoch 1/1: test accuracy" in texts[0] and texts[1] == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals")
def test_a_terminal_gets_a_bar(tmp_path):
    ours, theirs = os.openpty()
    code = f"import moegrad; moegrad.train('synthetic', epochs=40, out={str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    text = b""
    while b"/2560" not in text:
        text += os.read(ours, 1000)
    child.send_signal(signal.SIGINT)
    try:
        while part := os.read(ours, 1000):
            text += part
    except OSError:  # the terminal's end
        pass
    os.close(ours)
    assert child.wait() != 0
    assert b"stopped after step" in text and b"KeyboardInterrupt" in text


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    run = mg.train("synthetic", epochs=1, out=tmp_path, **SMALL)
    lines = len(run.metrics)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "st')
    assert len(run.metrics) == lines


def test_a_notebook_gets_a_line_that_is_redrawn(tmp_path, monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return Handle()

    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    mg.train("synthetic", epochs=2, out=tmp_path, **{**SMALL, "progress": True})
    assert shown[0].startswith("epoch 1/2") and "step 128/128" in shown[-1]


def test_the_frame_of_pandas(whole, monkeypatch):
    if has("pandas"):
        frame = whole.frame()
        assert len(frame) == len(whole.metrics) and frame["test_accuracy"].notna().sum() == 2
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas, or use .metrics"):
        whole.frame()
