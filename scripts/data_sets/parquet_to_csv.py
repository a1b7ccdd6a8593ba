"""Prints a parquet file as CSV. Run by the interpreter that has pyarrow."""

import csv
import io
import sys

import pyarrow.parquet


def main(path):
    table = pyarrow.parquet.read_table(path)
    # pandas keeps the numbers of rows as a column of such a name.
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    out = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows(zip(*(table[name].to_pylist() for name in names)))
    out.flush()


main(sys.argv[1])
