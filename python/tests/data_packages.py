"""Packages as scripts/data downloads them, for its tests; makes it importable."""

import io
import random
import sys
import tarfile
import zipfile
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def prose(size, seed):
    """Words of which no 50 bytes are repeated."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(size // 6)]
    return " ".join(words)[: size - 1].encode() + b"."


def damaged(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
