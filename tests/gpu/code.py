"""What nvcc has made of the kernels: no spills, no stack, no atomic operations on floats; in those
of tensor cores their instructions, and copies of 16 bytes that bypass the registers; in the plain
products loads of 16 bytes.

    python3 code.py FOLDER_OF_OBJECTS FOLDER_FOR_TOOLS [--table]

Reads the machine code of every object below the first folder by cuobjdump and nvdisasm, which come
from PyPI where the second folder has none. Prints registers, shared memory and theoretical
occupancy of the kernels that are of more than one thread an element; with --table nothing but those
of each family of kernels, as docs/gpu.md has them. Ends with 77 where the tools are not to be had.
"""

import re
import subprocess
import sys
from pathlib import Path

# Kernels that keep something on the stack, and why.
STACK = {
    "functor::Sin": "the toolkit's sine of large arguments",
    "functor::Cos": "the toolkit's cosine of large arguments",
    "TopBiased": "two places in an array",
}
# What kernels with these words in their names must have.
NEEDS = {
    r"mma_product_kernel<.*<float, float>": [r"HMMA\.1688\.F32\.TF32", r"LDGSTS\.E\S*\.128"],
    r"mma_product_kernel<.*<unsigned int, float>": [
        r"HMMA\.16816\.F32\.BF16",
        r"LDGSTS\.E\S*\.128",
    ],
    r"product_kernel<64, .*InMemory": [r"LDG\.E\.128", r"LDS\.128"],
}
# Of a multiprocessor: warps, blocks, KiB of shared memory. All have 65,536 registers.
LIMITS = {"sm_80": (64, 32, 164), "sm_90": (64, 32, 228), "sm_120": (48, 24, 100)}
# Families of kernels, the first that a name fits: threads of a block, dynamic shared memory.
FAMILIES = [
    ("product, large tiles, f32", r" product_kernel<64, .*InMemory<\w+<float", 256, 0),
    ("product, large tiles, f64", r" product_kernel<64, .*InMemory<\w+<double", 256, 0),
    ("product, small tiles, f32", r" product_kernel<16, .*InMemory<\w+<float", 64, 0),
    ("product, small tiles, f64", r" product_kernel<16, .*InMemory<\w+<double", 64, 0),
    ("convolution, large tiles, f32", r" product_kernel<64, .*<float>", 256, 0),
    ("convolution, large tiles, f64", r" product_kernel<64, .*<double>", 256, 0),
    ("convolution, small tiles, f32", r" product_kernel<16, .*<float>", 64, 0),
    ("convolution, small tiles, f64", r" product_kernel<16, .*<double>", 64, 0),
    ("tensor cores, large tiles, tf32", r"mma_product_kernel<128, .*<float, float>", 128, 0),
    ("tensor cores, large tiles, bf16", r"mma_product_kernel<128, .*<unsigned int, float>", 128, 0),
    ("tensor cores, small tiles, tf32", r"mma_product_kernel<64, .*<float, float>", 128, 0),
    ("tensor cores, small tiles, bf16", r"mma_product_kernel<64, .*<unsigned int, float>", 128, 0),
    ("attention, 64 wide, f32", r"attend(_backward)?<float", 128, 35200),
    ("attention, 64 wide, f64", r"attend(_backward)?<double", 128, 53760),
    ("a plan's first slots", r"first_slots", 1024, 0),
    ("optimisers", r"(adamw|sgd|squares)_kernel", 256, 0),
    ("a warp a line, f32", r"each_warp_kernel<.*float|each_warp_kernelI.*If", 128, 0),
    ("a warp a line, f64", r"each_warp_kernel<.*double|each_warp_kernelI.*Id", 128, 0),
    ("a thread an element, f32", r"each_kernel<.*float|each_kernelI.*If", 256, 0),
    ("a thread an element, f64", r"each_kernel<.*double|each_kernelI.*Id", 256, 0),
]
READ = "sm_90"  # of the others the resources alone: the code of all would take minutes


def tools(folder):
    """The folder of cuobjdump, which calls nvdisasm beside it; None where there is none."""
    found = list(folder.glob("lib/*/site-packages/nvidia/*/bin/cuobjdump"))
    if not found:
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
            packages = ["nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm"]
            pip = [folder / "bin/pip", "install", "--quiet", *packages]
            subprocess.run(pip, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError):
            return None
        found = list(folder.glob("lib/*/site-packages/nvidia/*/bin/cuobjdump"))
    for tool in found[0].parent.iterdir():
        tool.chmod(0o755)
    return found[0].parent


def run(command, bin_folder):
    path = f"{bin_folder}:/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PATH": path}
    ).stdout


def readable(names):
    """Mangled names as a person reads them, without what all have."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True
    ).stdout
    cut = [re.sub(r"moegrad::|\(anonymous namespace\)::|cuda::", "", n) for n in text.split("\n")]
    return dict(zip(names, cut, strict=False))


def resources(obj, bin_folder):
    """(architecture, kernel, registers, stack, shared) of each kernel of an object."""
    arch, kernel = "", ""
    for line in run([bin_folder / "cuobjdump", "-res-usage", obj], bin_folder).split("\n"):
        if match := re.search(r"^arch = (\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function (\S+):", line):
            kernel = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            stack = int(match[2]) + int(match[4])
            shared = int(match[3])
            if shared > 0 and int(arch[3:]) >= 90:
                shared -= 1024  # what every block takes, which is not counted before sm_90
            yield arch, kernel, int(match[1]), stack, shared


def family_of(name):
    """The first one that a name fits: what it is called, threads, dynamic shared memory."""
    for family, pattern, threads, dynamic in FAMILIES:
        if re.search(pattern, name):
            return family, threads, dynamic
    return "others", 256, 0


def occupancy(arch, registers, shared, threads):
    """The part of a multiprocessor's warps that can be resident, by registers and shared memory."""
    most_warps, most_blocks, room = LIMITS[arch]
    warps = threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // 4 * 4 // warps
    by_shared = room * 1024 // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, most_warps // warps, most_blocks) * warps / most_warps


def table(found):
    """Lines of Markdown: of each family the most registers and shared memory, and the occupancy
    that these leave. `found` has (architecture, name, registers, shared)."""
    most = {}
    for arch, name, registers, shared in found:
        family, threads, dynamic = family_of(name)
        regs, room = most.get((family, arch), (0, 0))
        most[family, arch] = max(regs, registers), max(room, shared + dynamic)
    yield "| kernels | threads | registers | shared bytes | " + " | ".join(LIMITS) + " |"
    yield "|---|---|---|---|" + "---|" * len(LIMITS)
    for family, _, threads, _ in FAMILIES:
        of_arch = [most.get((family, arch)) for arch in LIMITS]
        if None in of_arch:
            continue
        regs = "/".join(dict.fromkeys(str(r) for r, _ in of_arch))
        room = max(r for _, r in of_arch)
        parts = (f"{occupancy(a, *m, threads):.0%}" for a, m in zip(LIMITS, of_arch, strict=True))
        yield f"| {family} | {threads} | {regs} | {room:,} | " + " | ".join(parts) + " |"


def code_of(obj, bin_folder):
    """The machine code of each kernel of an object."""
    sass = run([bin_folder / "cuobjdump", "-sass", "-arch", READ, obj], bin_folder)
    parts = re.split(r"Function : (\S+)", sass)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def code_faults(name, code):
    """What the code of a kernel has that it must not have, or lacks."""
    for match in re.finditer(r"\b(?:RED|ATOM)\w*\.\S*(?:F16|F32|F64)\S*", code):
        yield f"an atomic operation on floats: {match[0]}"
    if match := re.search(r"\b(?:LDL|STL)\b", code):
        yield f"local memory: {match[0]}"
    for kernel, needs in NEEDS.items():
        if re.search(kernel, name):
            yield from (f"lacks {need}" for need in needs if not re.search(need, code))


def main(objects, tool_folder, only_table=False):
    bin_folder = tools(tool_folder)
    if bin_folder is None:
        print("skipped: cuobjdump and nvdisasm are not here, and PyPI does not give them")
        return 77
    faults, rows, kernels, count, seen = [], [], [], 0, 0
    archs = set()
    for obj in sorted(objects.rglob("*.cu.o")):
        found = list(resources(obj, bin_folder))
        codes = {} if only_table else code_of(obj, bin_folder)
        names = readable(sorted({kernel for _, kernel, *_ in found} | set(codes)))
        seen += sum("mma_product_kernel" in names[kernel] for kernel in codes)
        allowed = {k for k, name in names.items() if any(part in name for part in STACK)}
        for arch, kernel, registers, stack, shared in found:
            archs.add(arch)
            count += 1
            if arch in LIMITS:
                kernels.append((arch, names[kernel], registers, shared))
            if stack > 0 and kernel not in allowed:
                faults.append(f"{arch} {names[kernel]}: {stack} bytes of stack or spills")
            if arch == READ and shared > 0:
                _, threads, dynamic = family_of(names[kernel])
                part = occupancy(READ, registers, shared + dynamic, threads)
                rows.append((names[kernel], registers, shared, part))
        for kernel, code in codes.items():
            if kernel not in allowed:
                name = names[kernel]
                faults += [f"{READ} {name}: {what}" for what in code_faults(name, code)]
    if only_table:
        print("\n".join(table(kernels)))
        return 0 if kernels else 1
    if seen == 0:
        faults.append("no kernel of tensor cores")
    print(f"{count} kernels for {', '.join(sorted(archs))}")
    for name, registers, shared, part in sorted(rows):
        print(f"{registers:4} registers {shared:6} bytes shared {part:5.0%}  {name[:100]}")
    for fault in sorted(set(faults)):
        print("FAULT", fault[:300])
    return 1 if faults or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "--table" in sys.argv[3:]))
