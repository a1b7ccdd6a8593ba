"""The table of docs/python.md: mixture blocks of transformers, unedited and with a planted error."""

import os
import pathlib
import sys
import time

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

import moegrad.torch as mgt  # noqa: E402
import test_transformers as blocks  # noqa: E402


def timed(block):
    start = time.perf_counter()
    return mgt.gradcheck(block, blocks.HIDDEN), time.perf_counter() - start


print("| block | verdict | error | seconds | planted error | verdict | seconds |")
print("|---|---|---|---|---|---|---|")
for name in blocks.BLOCKS:
    right, seconds = timed(blocks.make(name))
    planted, wrong_seconds = timed(blocks.with_error(name))
    print(
        f"| {name} | {right.verdict} | {right.max_error:.0e} | {seconds:.1f} | "
        f"{blocks.BLOCKS[name][-1]} | {planted.verdict} | {wrong_seconds:.1f} |"
    )
