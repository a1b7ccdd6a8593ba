"""moegrad: gradients of routers, estimators and whatever else selects, samples or stops, checked.

Checks of PyTorch code are in moegrad.torch, of JAX code in moegrad.jax.
"""

from ._core import Error, InputReport, ReplayMismatch, __version__
from .checks import Expectation, Report, expectation, gradcheck
from .operation import CheckRow, Operation, mutations, operation

__all__ = [
    "CheckRow",
    "Error",
    "Expectation",
    "InputReport",
    "Operation",
    "ReplayMismatch",
    "Report",
    "__version__",
    "expectation",
    "gradcheck",
    "mutations",
    "operation",
]
