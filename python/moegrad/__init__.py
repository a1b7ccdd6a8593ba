"""moegrad: gradients of routers, estimators and whatever else selects, samples or stops, checked.

Checks of PyTorch code are in moegrad.torch, of JAX code in moegrad.jax.
"""

from . import study
from ._core import (
    CheckRow,
    Error,
    InputReport,
    ReplayMismatch,
    __version__,
    check_estimator,
    check_operation,
    check_router,
    devices,
    load,
    processors,
    save,
)
from .checks import Expectation, Report, expectation, gradcheck
from .layer import Layer, LayerOutput
from .operation import Operation, mutations, operation
from .registry import Catalogue, estimators, layer_options, operations, routers, threads
from .train import Progress, Run, train

__all__ = [
    "Catalogue",
    "CheckRow",
    "Error",
    "Expectation",
    "InputReport",
    "Layer",
    "LayerOutput",
    "Operation",
    "Progress",
    "ReplayMismatch",
    "Report",
    "Run",
    "__version__",
    "check_estimator",
    "check_operation",
    "check_router",
    "devices",
    "estimators",
    "expectation",
    "gradcheck",
    "layer_options",
    "load",
    "mutations",
    "operation",
    "operations",
    "processors",
    "routers",
    "save",
    "study",
    "threads",
    "train",
]
