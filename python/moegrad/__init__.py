"""moegrad: gradients of routers, estimators and whatever else selects, samples or stops, checked.

Checks of PyTorch code are in moegrad.torch, of JAX code in moegrad.jax.
"""

from ._core import (
    CheckRow,
    Error,
    InputReport,
    ReplayMismatch,
    __version__,
    check_estimator,
    check_operation,
    check_router,
    load,
    processors,
    save,
)
from .checks import Expectation, Report, expectation, gradcheck
from .layer import Layer, LayerOutput
from .registry import Catalogue, estimators, layer_options, operations, routers, threads

__all__ = [
    "Catalogue",
    "CheckRow",
    "Error",
    "Expectation",
    "InputReport",
    "Layer",
    "LayerOutput",
    "ReplayMismatch",
    "Report",
    "__version__",
    "check_estimator",
    "check_operation",
    "check_router",
    "estimators",
    "expectation",
    "gradcheck",
    "layer_options",
    "load",
    "operations",
    "processors",
    "routers",
    "save",
    "threads",
]
