"""What nvcc has made of the kernels: no spills, no stack, no atomic operations on floats; in those
of tensor cores their instructions, and copies of 16 bytes that bypass the registers.

    python3 code.py FOLDER_OF_OBJECTS FOLDER_FOR_TOOLS

Reads the machine code of every object below the first folder by cuobjdump and nvdisasm, which come
from PyPI where the second folder has none. Prints registers, shared memory and theoretical occupancy
of the kernels that are of more than one thread an element. Ends with 77 where the tools are not to be had.
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
}
READ = "sm_90"  # of the others the resources alone: the code of all would take minutes


def tools(folder):
    """The folder of cuobjdump, which calls nvdisasm beside it; None where there is none to be had."""
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
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout
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
            yield arch, kernel, int(match[1]), stack, int(match[3])


def threads_of(name):
    """Those of a block of these kernels."""
    if "mma_product_kernel" in name:
        return 128
    return 64 if "<16, 2" in name else 256


def occupancy(registers, shared, threads):
    """The part of sm_90's 64 warps that can be resident, by registers and shared memory."""
    warps = threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = 227 * 1024 // (shared + 1024)
    return min(by_registers, by_shared, 64 // warps, 32) * warps / 64


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


def main(objects, tool_folder):
    bin_folder = tools(tool_folder)
    if bin_folder is None:
        print("skipped: cuobjdump and nvdisasm are not here, and PyPI does not give them")
        return 77
    faults, rows, count, seen = [], [], 0, 0
    archs = set()
    for obj in sorted(objects.rglob("*.cu.o")):
        found = list(resources(obj, bin_folder))
        codes = code_of(obj, bin_folder)
        names = readable(sorted({kernel for _, kernel, *_ in found} | set(codes)))
        seen += sum("mma_product_kernel" in names[kernel] for kernel in codes)
        allowed = {k for k, name in names.items() if any(part in name for part in STACK)}
        for arch, kernel, registers, stack, shared in found:
            archs.add(arch)
            count += 1
            if stack > 0 and kernel not in allowed:
                faults.append(f"{arch} {names[kernel]}: {stack} bytes of stack or spills")
            if arch == READ and shared > 0:
                threads = threads_of(names[kernel])
                rows.append((names[kernel], registers, shared, occupancy(registers, shared, threads)))
        for kernel, code in codes.items():
            if kernel not in allowed:
                name = names[kernel]
                faults += [f"{READ} {name}: {what}" for what in code_faults(name, code)]
    if seen == 0:
        faults.append("no kernel of tensor cores")
    print(f"{count} kernels for {', '.join(sorted(archs))}")
    for name, registers, shared, part in sorted(rows):
        print(f"{registers:4} registers {shared:6} bytes shared {part:5.0%}  {name[:100]}")
    for fault in sorted(set(faults)):
        print("FAULT", fault[:300])
    return 1 if faults or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
