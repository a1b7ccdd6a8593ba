"""What the sections need: the command, tables in Markdown, sections of one study."""

import json
import os
import shlex
import statistics
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

PROGRAM = os.environ.get("MOEGRAD", "build/release/moegrad")
RUNS = Path("runs/results")


class Problem(Exception):
    """Ends the script with its text."""


def moegrad(*arguments, text=False):
    """Runs the command, whose messages are shown; what it prints, where `text` asks for it."""
    ended = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE if text else subprocess.DEVNULL,
        text=True,
    )
    if ended.returncode != 0:
        raise Problem(f"moegrad {shlex.join(map(str, arguments))} ended with {ended.returncode}.")
    return ended.stdout


def table(rows):
    """Rows of texts, the first of them the header."""
    header, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *rest]) + "\n"


def digits(value, n):
    """A number as the tables show it: a dash for what is not known."""
    return "-" if value is None else f"{value:.{n}f}"


@dataclass
class Section:
    name: str  # the argument that makes it alone
    title: str
    text: str  # what is asked, and what was published

    def folder(self, quick):
        return RUNS / ("quick" if quick else "") / self.name

    def words(self):
        return textwrap.dedent(self.text).strip() + "\n"


@dataclass
class Study(Section):
    """One study: its command, and the tables that it prints."""

    arguments: list
    without: tuple = ("s/step",)  # columns that the page leaves out
    measures: tuple = ()  # of the runs' results, beside the losses: mean and deviation over seeds
    can_be_quick: bool = True
    reuses: tuple = ()  # sections whose runs of the same configuration it need not make again

    def make(self, quick):
        folder = self.folder(quick)
        arguments = [*self.arguments, "--out", folder]
        for name in self.reuses:
            if (folder.with_name(name) / "runs").exists():
                arguments += ["--reuse", folder.with_name(name)]
        if quick and self.can_be_quick:
            arguments.append("--quick")
        moegrad("study", *arguments)
        report = json.loads((folder / "report.json").read_text())
        command = shlex.join(["moegrad", "study", *map(str, self.arguments)])
        parts = [self.words(), f"`{command}`\n"]
        parts += [table(self.shown(rows)) for rows in report["tables"]]
        parts += self.measured(folder)
        parts.append(f"{self.made_of(folder)}{report['machine']}, {report['version']}.\n")
        return "\n".join(parts)

    def shown(self, rows):
        left = [i for i, name in enumerate(rows[0]) if name not in self.without]
        return [[row[i] for i in left] for row in rows]

    def results(self, folder):
        """Of each method, by its name, the results of its runs."""
        by_method = {}
        for path in sorted((folder / "runs").glob("*/result.json")):
            method = path.parent.name.rpartition("-s")[0]
            by_method.setdefault(method, []).append(json.loads(path.read_text()))
        return by_method

    def measured(self, folder):
        if not self.measures:
            return []
        rows = [["method", *(name.replace("_", " ") for name in self.measures)]]
        lines = (folder / "rows.jsonl").read_text().splitlines()
        planned = {json.loads(line).get("method") for line in lines}
        for method, results in self.results(folder).items():
            if method not in planned:
                continue
            row = [method]
            for name in self.measures:
                values = [r[f"test_{name}"] for r in results]
                if None in values:
                    row.append("-")
                    continue
                spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                row.append(f"{statistics.mean(values):.4f}{spread}")
            rows.append(row)
        return [
            "At the end of training, mean and standard deviation over the seeds:\n",
            table(rows),
        ]

    def made_of(self, folder):
        results = [r for runs in self.results(folder).values() for r in runs]
        if not results:
            return ""
        minutes = sum(r["train_seconds"] for r in results) / 60
        return f"{len(results)} runs, {minutes:.1f} minutes of training in all, one core a run. "
