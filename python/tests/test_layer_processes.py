"""mg.Layer in other processes and threads; what it leaves behind."""

import multiprocessing
import os
import sys
import threading

import numpy as np
import pytest
from layers import busy, digest, run_python, same


def test_spawned_processes():
    job = busy()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(digest, [job]) == [digest(job)]


FORK = """
import os, signal, sys
sys.path[:0] = {path!r}
import moegrad as mg
from layers import busy, digest

job = busy()
with mg.threads({threads}):
    expected = digest(job)  # starts the engine's threads
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if digest(job) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
assert digest(job) == expected
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_fork_after_use(threads):
    """In a process of its own: threads of other packages would make the fork unsafe."""
    found = run_python(FORK.format(path=[os.path.dirname(__file__), *sys.path], threads=threads))
    assert found.returncode == 0, found.stderr


def test_two_threads_at_once():
    layer, x = busy()
    w = layer.init()
    shared = layer(x, w, seed=9)
    dy = np.ones_like(shared.y)
    expected = [(layer(x, w, seed=s).y.copy(), shared.backward(dy)) for s in range(4)]
    wrong = []

    def work(seed):
        for _ in range(5):
            y, g = expected[seed]
            if not np.array_equal(layer(x, w, seed=seed).y, y):
                wrong.append(("y", seed))
            if not same(shared.backward(dy), g):  # of one tape
                wrong.append(("g", seed))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_nothing_leaks_at_exit():
    found = run_python(
        "import moegrad as mg, numpy as np\n"
        "layer = mg.Layer(4, 4, 4, 2)\n"
        "w = layer.init()\n"
        "out = layer(np.ones((3, 4), np.float32), w)\n"
        "y, tape, g = out.y, out.tape, out.backward(np.ones_like(out.y))\n"
        "try: layer(1, w)\n"
        "except mg.Error as e: kept = e\n"
        "cycle = [out, layer]; cycle.append(cycle)\n"
        "row = mg.check_operation('relu')\n"
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_memory_does_not_grow():
    layer, x = busy()
    w = layer.init()

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def pass_():
        out = layer(x, w)
        out.backward(out.y)

    for _ in range(20):
        pass_()
    before = resident()
    for _ in range(200):
        pass_()
    assert resident() - before < 8e6  # one pass holds about a megabyte
