"""Checks of PyTorch code as it is: nothing is marked, nothing is edited.

import moegrad.torch as mgt
report = mgt.gradcheck(router, x)      # a function, a Module, an autograd.Function's apply
print(mgt.decisions(router, x))        # what no derivative passes, with file and line
print(mgt.expectation(loss, logits))   # exact bias and variance of a sampled loss
"""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError(
        "[moegrad.torch] PyTorch is not installed. Install it: pip install torch"
    ) from error

_OLDEST = (2, 6)
if tuple(int(part) for part in _torch.__version__.split(".")[:2]) < _OLDEST:
    raise ImportError(
        f"[moegrad.torch] PyTorch {_torch.__version__} is older than 2.6, the oldest that is "
        "served. Install a newer one: pip install --upgrade torch"
    )

from ..checks import Expectation, Report
from ..decisions import Decision, Decisions
from ._check import (
    cell,
    decide,
    decisions,
    equal,
    expectation,
    gradcheck,
    unbiased,
)
from ._moe import MoE

__all__ = [
    "Decision",
    "Decisions",
    "Expectation",
    "MoE",
    "Report",
    "cell",
    "decide",
    "decisions",
    "equal",
    "expectation",
    "gradcheck",
    "unbiased",
]
