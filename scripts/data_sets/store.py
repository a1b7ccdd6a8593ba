"""The folder data/: what is in it is whole and has the sums of SHA256SUMS, or it is not there."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from .errors import Problem, say

SUMS = Path(__file__).with_name("SHA256SUMS")


def sums_of(name):
    """{file: SHA-256} of the data set."""
    lines = (line.split(maxsplit=1) for line in SUMS.read_text().splitlines())
    return {
        path.removeprefix(f"{name}/"): digest
        for digest, path in lines
        if path.startswith(f"{name}/")
    }


def is_there(folder, sums):
    try:
        for file, digest in sums.items():
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
                return False
    except OSError:
        return False
    return bool(sums)


def check(name, files, sums):
    """A Problem unless these are the files of the sums."""
    made = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    wrong = [
        f"{made.get(file, 'missing')}  {name}/{file}"
        for file in sorted(made.keys() | sums.keys())
        if made.get(file) != sums.get(file)
    ]
    if wrong:
        raise Problem(
            f"files of {name} differ from those expected:\n  " + "\n  ".join(wrong) + "\n"
            f"The package has changed, or the download was damaged: try again. Nothing is put into "
            f"data/{name}."
        )


def put(folder, files, temporary):
    """Makes folder of these files, at once: a kill leaves the old one, none or the new one."""
    new = temporary / f"{folder.name}.new"
    new.mkdir()
    for file, content in files.items():
        (new / file).parent.mkdir(parents=True, exist_ok=True)
        (new / file).write_bytes(content)
    if folder.exists():
        folder.rename(temporary / f"{folder.name}.old")
    new.rename(folder)


@contextlib.contextmanager
def workspace(data):
    """A folder in data/ for work in progress, gone afterwards. One process has it at a time, and
    what a killed one has left goes too."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data, os.O_RDONLY)
    except OSError as error:
        raise Problem(f"{error}. {data} must be a folder that can be written.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another scripts/data is at work here: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in data.glob(".new.*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".new.", dir=data) as temporary:
            yield Path(temporary)
    finally:
        os.close(lock)
