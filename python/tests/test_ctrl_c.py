"""Ctrl-C ends a check of what the engine knows by name, and of an operation in NumPy."""

import time

import moegrad as mg
import numpy as np
import pytest


@pytest.mark.parametrize(
    "check, name",
    [
        (mg.check_operation, "causal_attention"),
        (mg.check_router, "deepseek-v3"),
        (mg.check_estimator, "lsh-attention"),
    ],
)
def test_ctrl_c_ends_a_check(check, name, interrupted):
    started = time.monotonic()
    assert check(name)
    whole = time.monotonic() - started
    assert min(interrupted(lambda: check(name), after=0.05) for _ in range(3)) < 0.4 * whole
    assert check(name)  # and goes on working


def test_ctrl_c_ends_the_check_of_an_own_operation(interrupted):
    runs = []

    class slow:
        """sin(x)"""

        def forward(x):
            runs.append(1)
            time.sleep(0.01)
            return np.sin(x)

        def backward(dy, x):
            return (dy * np.cos(x),)

    declared = mg.operation(claim="exact", needs="inputs", cases=[(4, 3), (), (0, 3)])(slow)
    assert interrupted(declared.check) < 0.5
    assert len(runs) < 100
