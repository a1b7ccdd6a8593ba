"""Proofs that kernels are free of races and that their barriers are met by all, on the PTX of nvcc.

    python3 races.py SOURCE_FOLDER NVCC FOLDER_FOR_TOOLS [PART_OF_A_NAME]

By sentryward, a verifier of PTX from PyPI, at one launch each: partial tiles, two blocks and more.
Then barriers and waits for copies are taken out of a kernel, one at a time, four of them where
there are more, and the proof must fail. Ends with 77 where the verifier is not to be had.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = "--ptx -arch=compute_90 -std=c++20 -fmad=false -DFMT_USE_CONSTEXPR=1"
FLAGS += " --expt-relaxed-constexpr --extended-lambda"


def pointer(name, at, parameter=0):
    return {
        "parameter": parameter,
        "offset": at,
        "type": "pointer",
        "space": "global",
        "object": name,
    }


def number(kind, value, at=0, parameter=0):
    return {"parameter": parameter, "offset": at, "type": kind, "value": value}


def product(rows, cols, depth):
    """Of struct Product in races.cu."""
    pointers = [pointer("x", 0), pointer("w", 8), pointer("y", 16)]
    sizes = [number("s64", n, 24 + 8 * i) for i, n in enumerate([rows, cols, depth])]
    return pointers + sizes


def word_product(rows, cols, depth, whole):
    """Of structs WordProduct and TransposedProduct."""
    return product(rows, cols, depth) + [number("u8", whole, 48 + i) for i in range(2)]


def mma_product(rows, cols, depth):
    aligned = [number("u8", int(cols % 4 == 0 and depth % 4 == 0), 0, 1 + i) for i in range(2)]
    return product(rows, cols, depth) + aligned


def grouped(rows, cols, depth):
    offsets = [number("s32", n, 48 + 4 * i) for i, n in enumerate(rows)]
    return product(rows[-1], cols, depth) + offsets


def squares(sizes):
    """Of Parts in cuda/optimiser.cu: 32 parts of 56 bytes, the first chunk of each, their count."""
    chunks = [0]
    fields = [pointer("partial", 0, 1)]
    for i, n in enumerate(sizes):
        chunks.append(chunks[-1] + -(-n // 4096))
        fields += [pointer(f"gradient{i}", 56 * i + 8), number("s64", n, 56 * i + 32)]
    fields += [number("s64", n, 56 * 32 + 8 * i) for i, n in enumerate(chunks)]
    return [*fields, number("s32", len(sizes), 56 * 32 + 8 * 33)]


def softmax(lines, n):
    """Of the functor of each_line in cuda/softmax.cu: x, y, and the sizes of an AxisView."""
    sizes = [number("s64", size, 16 + 8 * i, 1) for i, size in enumerate([lines, n, 1])]
    return [number("u64", lines), pointer("x", 0, 1), pointer("y", 8, 1), *sizes]


def attention(pointers):
    """Of struct Sequences in cuda/attention.cu, causal [2, 7, 3] in tiles of 4, and tensors."""
    sizes = [number("s64", size, 8 * i) for i, size in enumerate([2, 7, 3, 7])]
    starts = [number("s32", 4, 32), number("u64", 0, 40), number("s64", 1, 48)]
    tensors = [pointer(f"t{i}", 0, 1 + i) for i in range(pointers)]
    return [*sizes, *starts, *tensors]


# Source, what the readable name of the kernel has, blocks, threads, shared memory, parameters.
KERNELS = [
    ("tests/gpu/races.cu", "product_kernel<64.*, Product>", 4, 256, 0, product(70, 100, 37)),
    ("tests/gpu/races.cu", "product_kernel<16.*, Product>", 6, 64, 0, product(20, 40, 35)),
    (
        "tests/gpu/races.cu",
        "product_kernel<.*WordProduct>",
        4,
        256,
        0,
        word_product(70, 100, 36, 1),
    ),
    ("tests/gpu/races.cu", "product_kernel<.*WordProduct>", 1, 256, 0, word_product(50, 9, 130, 0)),
    (
        "tests/gpu/races.cu",
        "product_kernel<.*TransposedProduct>",
        2,
        256,
        0,
        word_product(72, 50, 36, 1),
    ),
    (
        "tests/gpu/races.cu",
        "product_kernel<64.*, GroupedProduct>",
        6,
        256,
        0,
        grouped([0, 3, 3, 70, 75], 9, 40),
    ),
    (
        "tests/gpu/races.cu",
        "product_kernel<16.*, GroupedProduct>",
        7,
        64,
        0,
        grouped([0, 3, 3, 20, 21], 9, 20),
    ),
    ("tests/gpu/races.cu", "mma_product_kernel.*MmaProduct", 2, 128, 0, mma_product(70, 60, 36)),
    ("tests/gpu/races.cu", "scan_form", 1, 256, 0, [pointer("x", 0), pointer("y", 0, 1)]),
    ("cuda/softmax.cu", "each_warp_kernel.*10softmax_asIfE", 2, 128, 0, softmax(7, 70)),
    ("cuda/attention.cu", "attend<float>", 4, 128, 20000, attention(5)),
    ("cuda/attention.cu", "attend_backward<float, true>", 4, 128, 20000, attention(9)),
    ("cuda/attention.cu", "attend_backward<float, false>", 4, 128, 20000, attention(9)),
    ("cuda/optimiser.cu", "squares_kernel<float>", 3, 256, 0, squares([5000, 300])),
]
# Their last barrier is for what comes behind them, and nothing does here.
LAST_IS_FOR_OTHERS = ["scan_form"]


def verifier(folder):
    """Python of a virtual environment that has sentryward; None where there is none to be had."""
    python = folder / "bin/python"
    try:
        if not (folder / "bin/sentryward").exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
            pip = [python, "-m", "pip", "install", "--quiet", "sentryward==0.1.1"]
            subprocess.run(pip, check=True, capture_output=True, timeout=300)
        subprocess.run([python, "-c", "import sentryward"], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return folder / "bin/sentryward"


def entry_of(ptx, part):
    names = re.findall(r"\.entry (\S+?)\(", ptx)
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True
    ).stdout
    found = [n for n, shown in zip(names, text.split("\n"), strict=False) if re.search(part, shown)]
    if len(found) != 1:
        sys.exit(f"{len(found)} kernels are named {part}")
    return found[0]


def without_one(ptx, entry):
    """The PTX without one barrier or wait of an entry, of some, first and last included."""
    start = ptx.index(f".entry {entry}(")
    end = ptx.find(".entry ", start + 1)
    pattern = re.compile(r"^\s*(?:bar(?:rier)?\.sync|cp\.async\.wait).*;$", re.M)
    waits = list(pattern.finditer(ptx, start, end if end > 0 else len(ptx)))
    some = {round(i * (len(waits) - 1) / 3) for i in range(4)} if waits else {}
    return [ptx[: waits[i].start()] + ptx[waits[i].end() :] for i in sorted(some)]


def verdict(tool, folder, ptx, entry, blocks, threads, shared, fields):
    pointers = [f for f in fields if f["type"] == "pointer"]
    (folder / "kernel.ptx").write_text(ptx)
    launch = {
        "grid_dim": [blocks, 1, 1],
        "block_dim": [threads, 1, 1],
        "dynamic_shared_bytes": shared,
    }
    (folder / "input.json").write_text(
        json.dumps(
            {
                "schema": "spverify.kernel-input/v1",
                "entry": entry,
                "launch": launch,
                "declarations": pointers,
                "arguments": [f for f in fields if f not in pointers],
            }
        )
    )
    command = [tool, folder / "kernel.ptx", "--input", folder / "input.json", "--timeout", "100"]
    result = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    why = "; ".join(d.get("message", d.get("code", "")) for d in result.get("diagnostics", []))
    return result["result"], why


def main(root, nvcc, tools, part=""):
    tool = verifier(tools)
    if tool is None:
        print("skipped: sentryward is not here, and PyPI does not give it")
        return 77
    faults, sources = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for source, name, blocks, threads, shared, fields in KERNELS:
            if part not in name:
                continue
            if source not in sources:
                out = folder / "source.ptx"
                subprocess.run(
                    [nvcc, *FLAGS.split(), f"-I{root}", root / source, "-o", out], check=True
                )
                sources[source] = out.read_text()
            ptx = sources[source]
            entry = entry_of(ptx, name)
            result, why = verdict(tool, folder, ptx, entry, blocks, threads, shared, fields)
            faults += result != "race_free"
            print(f"{name}, {blocks} x {threads}: {result} {why[:300]}")
            found = []
            for broken in without_one(ptx, entry):
                found.append(
                    verdict(tool, folder, broken, entry, blocks, threads, shared, fields)[0]
                )
            faults += found.count("race_free") != (name in LAST_IS_FOR_OTHERS)
            print(f"  without one of its waits: {', '.join(found)}")
    print(f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
