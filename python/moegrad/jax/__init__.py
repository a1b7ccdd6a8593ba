"""Checks of JAX code as it is: nothing is marked, nothing is edited.

    import moegrad.jax as mgj
    report = mgj.gradcheck(router, params, x)   # any function that JAX can trace
    print(mgj.decisions(router, params, x))     # what no derivative passes, with file and line
    print(mgj.expectation(loss, logits))        # exact bias and variance of a sampled loss

PRNG keys are constants: what gradcheck sees of jax.random.normal(key, ...) is one fixed array.
"""

try:
    import jax as _jax
except ImportError as error:
    raise ImportError("[moegrad.jax] JAX is not installed. Install it: pip install jax") from error

_OLDEST = (0, 4, 35)
if _jax.__version_info__[:3] < _OLDEST:
    raise ImportError(
        f"[moegrad.jax] JAX {_jax.__version__} is older than 0.4.35, the oldest that is served. "
        "Install a newer one: pip install --upgrade jax"
    )

from ..checks import Expectation, Report
from ..decisions import Decision, Decisions
from ._check import decisions, equal, expectation, gradcheck, unbiased
from ._draws import bernoulli, categorical

__all__ = [
    "Decision",
    "Decisions",
    "Expectation",
    "Report",
    "bernoulli",
    "categorical",
    "decisions",
    "equal",
    "expectation",
    "gradcheck",
    "unbiased",
]
