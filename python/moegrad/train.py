"""Training the engine's small classifiers, and the folders of such runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _core
from ._core import Error, Progress
from ._needs import device_name, keywords_for_flags, package, path_text
from .notebook import Line, pairs

if TYPE_CHECKING:
    import pandas

__all__ = ["Progress", "Run", "train"]


def _text(name: str, value: Any) -> str:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (str, os.PathLike)):
        return path_text("train", value)
    raise Error(f"[train] '{name}' is {value!r}. Give a text, a number, True or False.")


def _settings(options: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> list:
    if not isinstance(options, (Mapping, type(None))):
        raise Error(f"[train] 'options' is {options!r}. Give a dict: {{'shared': 1}}.")
    of_options = {f"options.{name}": value for name, value in (options or {}).items()}
    return [(name, _text(name, value)) for name, value in {**settings, **of_options}.items()]


def _notebook_line(line: Line) -> Callable[[Progress], None]:
    shown = 0.0

    def show(view: Progress) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= 0.2 or view.step == view.steps:
            shown = now
            line.show(str(view))

    return show


def _progress(progress: bool | Callable) -> tuple[bool, Callable | None]:
    """Whether the engine shows it on stderr; what is called after a step."""
    if callable(progress):
        return False, progress
    line = Line() if progress else None
    return bool(progress) and line is None, None if line is None else _notebook_line(line)


def _threads(threads: Any) -> int:
    if not isinstance(threads, int) or isinstance(threads, bool) or not 0 <= threads <= 1024:
        raise Error(f"[train] 'threads' is {threads!r}. Give a number to 1024; 0: all.")
    return threads


def train(
    task: str,
    *,
    out: str | os.PathLike = "",
    force: bool = False,
    threads: int = 0,
    device: str = "cpu",
    maths: str = "exact",
    capture: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool | Callable[[Progress], Any] = True,
    **settings: Any,
) -> Run:
    """Trains a small classifier with a mixture-of-experts layer; `moegrad train` in Python.

    settings: those of the command, with underscores: router, estimator, experts, active, epochs,
    lr, checkpoint_every, ...; `options` are those of router, estimator and layer. The run is
    written to the folder `out`, else runs/TASK-ROUTER-ESTIMATOR; with `force` over a run that is
    there. `device`: where it is computed, of mg.devices(). On "cuda" `maths` may be "tf32" or
    "bf16", how products of f32 are rounded, and with `capture` a step is launched as one CUDA
    graph, to the same bits.

    `progress`: True shows a line; a callable is called after each step with a Progress (epoch,
    step, loss, seconds_left, ...). Where it returns False, or raises, the run stops after the step:
    a checkpoint is written, and Run(out).resume() goes on to the same bits. So with Ctrl-C.
    """
    shown, callback = _progress(progress)
    with keywords_for_flags():
        folder = _core.train(
            _settings(options, {"task": task, **settings}),
            out=path_text("train", out),
            resume=False,
            force=bool(force),
            threads=_threads(threads),
            device=device_name(device),
            maths=str(maths),
            capture=bool(capture),
            shown=shown,
            callback=callback,
        )
    return Run(folder)


class Run:
    """The folder of a run: what was asked for, what was measured, and where it can go on."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(path_text("run", folder))
        if not (self.folder / "config.json").is_file():
            raise Error(f"[run] there is no run in '{self.folder}'. Start one with train().")

    @property
    def config(self) -> dict[str, Any]:
        """Every setting."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def result(self) -> dict[str, Any] | None:
        """Test accuracy, loss, expert load, ... of a run that has finished; else None."""
        file = self.folder / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; of kind "step" or "evaluation"."""
        file = self.folder / "metrics.jsonl"
        text = file.read_text() if file.is_file() else ""
        # A line that is being written has no end yet.
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint."""
        newest = _core.newest_checkpoint(str(self.folder))
        return None if newest is None else Path(newest)

    def frame(self) -> pandas.DataFrame:
        """The metrics as a DataFrame of pandas."""
        return package("pandas", "frame", ".metrics, a list of dicts").DataFrame(self.metrics)

    def resume(
        self,
        *,
        threads: int = 0,
        device: str = "cpu",
        maths: str = "exact",
        capture: bool = False,
        options: Mapping[str, Any] | None = None,
        progress: bool | Callable[[Progress], Any] = True,
        **settings: Any,
    ) -> Run:
        """Goes on from the newest checkpoint, and returns this run. `settings` may be those that
        change no parameter (log_every, keep, ...), and more epochs: from the next step on the
        learning rate is then that of a run of so many."""
        shown, callback = _progress(progress)
        with keywords_for_flags():
            _core.train(
                _settings(options, settings),
                out=str(self.folder),
                resume=True,
                force=False,
                threads=_threads(threads),
                device=device_name(device),
                maths=str(maths),
                capture=bool(capture),
                shown=shown,
                callback=callback,
            )
        return self

    def _summary(self) -> dict[str, Any]:
        config, result = self.config, self.result
        summary = {name: config[name] for name in ("task", "router", "estimator", "epochs")}
        if result is not None:
            summary |= {n: result[n] for n in ("steps", "test_accuracy", "test_loss")}
        return summary

    def __repr__(self) -> str:
        summary = self._summary()
        end = (
            f"test accuracy {summary['test_accuracy']:.4f}"
            if "test_accuracy" in summary
            else "not finished"
        )
        what = ", ".join(str(summary[n]) for n in ("task", "router", "estimator"))
        return f"<Run '{self.folder}': {what}; {end}>"

    def _repr_html_(self) -> str:
        return pairs(self._summary(), f"Run '{self.folder}'")
