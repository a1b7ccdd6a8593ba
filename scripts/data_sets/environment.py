"""The environment of scripts/data: pip, and what reads parquet. Made when it is first needed."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from .errors import Problem, say

PYARROW = "22.0.0"


def succeeds(*command):
    return subprocess.run(command, capture_output=True).returncode == 0


@functools.cache
def python():
    """Its interpreter, which has pip."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "moegrad" / "data"
    program = folder / "bin" / "python"
    if not (program.exists() and succeeds(program, "-m", "pip", "--version")):
        say(f"making an environment in {folder}")
        made = [sys.executable, "-m", "venv", "--clear", folder]
        if subprocess.run(made, stdout=subprocess.DEVNULL).returncode != 0:
            raise Problem(
                "python3 -m venv does not work, see above. Install it: apt-get install python3-venv"
            )
    return program


def python_with_pyarrow():
    program = python()
    if not succeeds(program, "-c", f"import pyarrow; assert pyarrow.__version__ == '{PYARROW}'"):
        say(f"installing pyarrow {PYARROW}, which reads parquet")
        install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        install += ["--only-binary=:all:", f"pyarrow=={PYARROW}"]
        if subprocess.run([program, "-m", "pip", *install]).returncode != 0:
            raise Problem(
                f"could not install pyarrow {PYARROW}, see above. Check the network and try again."
            )
    return program
