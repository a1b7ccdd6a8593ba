"""moegrad: gradients of routers, estimators and whatever else selects, samples or stops, checked.

Checks of PyTorch code are in moegrad.torch, of JAX code in moegrad.jax.
"""

from ._core import Error, InputReport, ReplayMismatch, __version__
from .checks import Expectation, Report, expectation, gradcheck

__all__ = [
    "Error",
    "Expectation",
    "InputReport",
    "ReplayMismatch",
    "Report",
    "__version__",
    "expectation",
    "gradcheck",
]
