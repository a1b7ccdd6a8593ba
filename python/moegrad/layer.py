"""The mixture layer in NumPy: router, experts, estimator; forward and backward."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any

from . import _core
from ._core import Error, LayerOutput
from ._needs import device_name

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Layer", "LayerOutput"]


def _option(name: str, value: Any) -> str:
    """A value as the engine reads it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "true" if value else "false"
    try:
        return str(index(value))
    except TypeError:
        pass
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        raise Error(
            f"[layer] option '{name}' is of type {type(value).__name__}. Give a number, a bool or "
            "a text."
        ) from None


def _whole(name: str, value: Any) -> int:
    try:
        number = index(value)
    except TypeError:
        raise Error(f"[layer] {name} is {value!r}. Give an integer.") from None
    if not -(2**63) <= number < 2**63:
        raise Error(f"[layer] {name} is {number}. Give one that fits into 64 bits.")
    return number


def _words(name: str, value: Any) -> Any:
    """Integers and bools as int32."""
    if value is None:
        return None
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "biu":
        raise Error(f"[layer] {name} is of {array.dtype}. Give integers.")
    words = array.astype(np.int32)
    if array.dtype.kind != "b" and not np.array_equal(words, array):
        raise Error(f"[layer] {name} holds {array.max()}, beyond int32. Give smaller numbers.")
    return words


def _seed(value: int | None) -> int:
    if value is None:
        return int.from_bytes(os.urandom(8), "little")
    try:
        seed = index(value)
    except TypeError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise Error(f"[layer] the seed is {value!r}. Give an integer from 0 to 2^64 - 1.")
    return seed


class Layer:
    """A sparse mixture of experts: y = sum over the selected experts e of w_e E_e(x).

    router, estimator: names that mg.routers() and mg.estimators() list. Further keywords are
    options of the router, the estimator or the layer (aux, z_loss, shared, zero, ...), with _ for
    -; `options` takes those whose name is an argument's. output: the width of y, `model` unless
    given. active: k, the experts of a token; the router softmax uses all. A causal layer refuses
    what lets a token see later ones; `force` lets through combinations that make no sense. device:
    where it computes, of mg.devices(); arrays are given and got on the host.
    """

    def __init__(
        self,
        model: int,
        hidden: int,
        experts: int,
        active: int | None = None,
        *,
        output: int | None = None,
        router: str = "top-k",
        estimator: str = "sparse",
        router_gradient: str | None = None,
        expert_gradient: str | None = None,
        activation: str = "relu",
        biases: bool = True,
        causal: bool = False,
        force: bool = False,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        **further: Any,
    ) -> None:
        if active is None:
            if router != "softmax":
                raise Error("[layer] active is not given. Give the number of experts of a token.")
            active = experts
        self._config: dict[str, Any] = {
            "model": _whole("model", model),
            "hidden": _whole("hidden", hidden),
            "experts": _whole("experts", experts),
            "active": _whole("active", active),
            "output": _whole("output", model if output is None else output),
            "router": router,
            "estimator": estimator,
            "router_gradient": router_gradient,
            "expert_gradient": expert_gradient,
            "activation": activation,
            "biases": bool(biases),
            "causal": bool(causal),
            "force": bool(force),
            "device": device_name(device),
        }
        for name in ("router", "estimator", "router_gradient", "expert_gradient", "activation"):
            value = self._config[name]
            if not isinstance(value, str) and not (value is None and name.endswith("gradient")):
                raise Error(f"[layer] {name} is {value!r}. Give a name.")
        self._options: dict[str, str] = {}
        for name, value in {**further, **(options or {})}.items():
            key = name.replace("_", "-")
            if key in self._options:
                raise Error(f"[layer] option '{key}' is given twice. Give it once.")
            self._options[key] = _option(name, value)
        arguments = [name for name in inspect.signature(Layer).parameters if name != "further"]
        config = {k: "" if v is None else v for k, v in self._config.items()}
        self._core = _core.make_mixture(options=self._options, arguments=arguments, **config)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this layer; options under "options", as texts."""
        return {**self._config, "options": dict(self._options)}

    @property
    def router_learns(self) -> bool:
        """False where the router gets no gradient of the task: its weights are constants."""
        return self._core.router_learns

    @property
    def losses(self) -> str:
        """The balance losses that are added, "balance=0.01, aux=0.01"; "none"."""
        return self._core.losses

    @property
    def samples(self) -> int:
        """Copies of each token that run in training: rows n t to n t + n - 1 of y."""
        return self._core.samples

    @property
    def needs_losses(self) -> bool:
        """Whether the estimator's gradient is made of the loss of each row: backward(losses=)."""
        return self._core.needs_losses

    def parameters(self) -> list[dict[str, Any]]:
        """What it has, in order: name, shape, trained (or state), router, decays, rate."""
        return self._core.declared()

    def init(self, seed: int = 1, dtype: str = "float32") -> dict[str, np.ndarray]:
        """Fresh parameters, and state, by name."""
        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
        return self._core.init(_seed(seed), name)

    def __call__(
        self,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray],
        *,
        seed: int | None = None,
        training: bool = True,
        ids: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        sequence: int = 1,
        attention: np.ndarray | None = None,
        dropless: bool = False,
        gradients: bool = True,
        check_finite: bool = False,
        run: Any = None,
    ) -> LayerOutput:
        """One pass over x [N, D], float32 or float64 as the weights are; nothing is copied that
        lies contiguous, so x and weights stay as they are until the last backward.

        seed: of the draws; a new one each time unless given. ids: [N], for routers that read them.
        mask: [N], 0 for padding, which counts nowhere. sequence: L consecutive rows are one.
        attention: [N/L, L, L], averaged scores before the causal mask. dropless: at inference no
        choice is dropped. check_finite: an Error at the operation that makes the first NaN.
        run: within a program that mg.gradcheck or mg.expectation checks, what it was given: then
        the layer's selections, draws and kinks are the program's.
        """
        if not isinstance(weights, Mapping):
            raise Error(
                f"[layer] the weights are of type {type(weights).__name__}. Give a dict of arrays, "
                "as layer.init() makes it."
            )
        return self._core.forward(
            x,
            weights if type(weights) is dict else dict(weights),
            _seed(seed),
            bool(training),
            _words("ids", ids),
            _words("mask", mask),
            _whole("sequence", sequence),
            attention,
            bool(dropless),
            bool(check_finite),
            None if gradients else [],
            True,
            run,
            0,
        )

    def __repr__(self) -> str:
        defaults = inspect.signature(Layer).parameters
        shown = []
        for name, value in self._config.items():
            default = self._config["model"] if name == "output" else defaults[name].default
            if value != default:
                shown.append(f"{name}={value!r}")
        plain = {k.replace("-", "_"): v for k, v in self._options.items()}
        if any(name in defaults for name in plain):
            shown.append(f"options={self._options!r}")
        else:
            shown += [f"{name}={value!r}" for name, value in plain.items()]
        return f"Layer({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and self.config == other.config

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple:
        return _from_config, (self.config,)


def _from_config(config: dict[str, Any]) -> Layer:
    return Layer(**config)
