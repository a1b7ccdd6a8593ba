"""moegrad: gradients of routers, estimators and whatever else selects, samples or stops, checked.

Checks of PyTorch code are in moegrad.torch, of JAX code in moegrad.jax.
"""

from . import study
from ._core import Error, InputReport, ReplayMismatch, __version__
from .checks import Expectation, Report, expectation, gradcheck
from .operation import CheckRow, Operation, mutations, operation
from .train import Progress, Run, train

__all__ = [
    "CheckRow",
    "Error",
    "Expectation",
    "InputReport",
    "Operation",
    "Progress",
    "ReplayMismatch",
    "Report",
    "Run",
    "__version__",
    "expectation",
    "gradcheck",
    "mutations",
    "operation",
    "study",
    "train",
]
