"""The gallery: each program runs, and prints what the documents quote."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "python").glob("*.py"))
QUOTE = re.compile(r"<!-- output of examples/python/(\w+)\.py -->\n```text\n(.*?)```", re.S)


def quotes(name):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [text for page in pages for of, text in QUOTE.findall(page.read_text()) if of == name]


def without_numbers(text):
    """Numbers as one sign and blanks as one blank: what machines and widths change."""
    text = re.sub(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def needs(path):
    names = re.findall(r"^(?:import|from) (?:moegrad\.)?(\w+)", path.read_text(), re.M)
    return [name for name in names if name not in ("moegrad", "numpy") and not _found(name)]


def _found(name):
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    missing = needs(path)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    environment = {**os.environ, "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    ran = subprocess.run(
        [sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
    for quote in quotes(path.stem):
        printed, quoted = without_numbers(ran.stdout), without_numbers(quote)
        places = range(len(printed) - len(quoted) + 1)
        assert any(printed[i : i + len(quoted)] == quoted for i in places), ran.stdout


def test_every_quote_is_of_a_program():
    names = {path.stem for path in EXAMPLES}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    quoted = {name for page in pages for name, _ in QUOTE.findall(page.read_text())}
    assert quoted and quoted <= names
