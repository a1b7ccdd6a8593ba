"""The engine's mixture layer as a Module: parameters of PyTorch's, kernels of the engine's."""

from __future__ import annotations

import atexit
import contextlib
import warnings
import weakref
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _disable_current_modes

from .._core import Error
from ..layer import Layer, _words
from ._check import decide
from ._frozen import active

Tensor = torch.Tensor
_TYPES = {torch.float32: "float32", torch.float64: "float64"}


def _keeps_graph() -> bool:
    """Whether the backward pass that is running leaves its graph for another one."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if ask is None else ask()


def _array(name: str, x: Tensor) -> np.ndarray:
    try:
        return x.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise Error(
            f"[MoE] {name} is on {x.device}, with layout {x.layout}. The layer works on the CPU: "
            "move the module and its inputs there, .cpu()."
        ) from error


class _Pass(torch.autograd.Function):
    """x and parameters -> y and the auxiliary loss, by one pass of the engine."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        needed = zip(("x", *call.trained), ctx.needs_input_grad[1:], strict=True)
        ctx.names = [name if needs else None for name, needs in needed]
        y, auxiliary = call(x, parameters, [name for name in ctx.names if name])
        ctx.call = call
        ctx.save_for_backward(x, *parameters)
        ctx.set_materialize_grads(False)
        return y, auxiliary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, auxiliary: Tensor | None) -> tuple:
        ctx.saved_tensors  # noqa: B018 - an error here where one was written, or all were freed
        nothing = (None,) * (len(ctx.names) + 1)
        coefficient = 0.0 if auxiliary is None else float(auxiliary)
        if dy is None and coefficient == 0.0:
            return nothing
        keeps = _keeps_graph()
        given = None if dy is None else dy.contiguous().numpy()
        gradients = ctx.call.output._backward(
            given, coefficient, None, keeps, torch.get_num_threads()
        )
        if not keeps:
            ctx.call.output = None
        return None, *(
            None if name is None else torch.from_numpy(gradients[name]) for name in ctx.names
        )


# Graphs that live to the end of the program keep what they hold for ever.
_passes: weakref.WeakSet[_Call] = weakref.WeakSet()


@atexit.register
def _release() -> None:
    for call in list(_passes):
        call.output = call.layer = None


class _Call:
    """What one pass is given besides tensors with a gradient, and what it gave besides y."""

    def __init__(self, layer: Layer, trained: list[str], state: dict[str, Tensor]) -> None:
        self.layer = layer
        self.trained = trained
        self.state = state
        self.random: bool | None = None  # whether random numbers are asked for, once it is known
        self.training = True
        self.settings: dict[str, Any] = {}
        self.output: Any = None
        self.selected: Tensor
        self.load: Tensor
        _passes.add(self)

    def __call__(
        self, x: Tensor, parameters: tuple[Tensor, ...], wanted: list[str]
    ) -> tuple[Tensor, Tensor]:
        frozen = active()
        with contextlib.nullcontext() if frozen is None else _disable_current_modes():
            return self._run(x, parameters, wanted, frozen)

    def _run(
        self, x: Tensor, parameters: tuple[Tensor, ...], wanted: list[str], frozen: Any
    ) -> tuple[Tensor, Tensor]:
        weights = {n: _array(n, p) for n, p in zip(self.trained, parameters, strict=True)}
        weights.update((n, _array(n, buffer)) for n, buffer in self.state.items())
        array = _array("x", x)
        if frozen is not None:
            self.output = self._pass(array, weights, wanted, _seed_of(frozen), frozen.run)
        elif not self.training or self.random is False:
            self.output = self._pass(array, weights, wanted, 0)
        else:
            if self.random is None:
                self.output = self._pass(array, weights, wanted, 0)
                self.random = self.output.random
            if self.random:
                seed = int(torch.empty((), dtype=torch.int64).random_())
                self.output = self._pass(array, weights, wanted, seed)
        y, auxiliary, selected, load, updates = self.output._copies()
        if self.training:
            for name, value in updates.items():
                self.state[name].copy_(torch.from_numpy(value))
        self.selected = torch.from_numpy(selected)
        self.load = torch.from_numpy(load)
        return torch.from_numpy(y), torch.from_numpy(auxiliary)

    def _pass(
        self, x: np.ndarray, weights: dict, wanted: list[str], seed: int, run: Any = None
    ) -> Any:
        return self.layer._core.forward(
            x,
            weights,
            seed=seed,
            training=self.training,
            check_finite=False,
            wanted=wanted,
            guard=False,
            run=run,
            threads=torch.get_num_threads(),
            **self.settings,
        )


def _seed_of(frozen: Any) -> int:
    """Of a check's run that nobody holds the draws of: the same in each such run."""
    frozen.passes = getattr(frozen, "passes", 0) + 1
    return (torch.initial_seed() + frozen.passes) % 2**64


class MoE(torch.nn.Module):
    """A sparse mixture of experts, x [..., D] -> y [..., Dout], on the CPU in float32 or float64.

    Parameters and buffers have the names of layer.init(), so that state_dict() is what mg.Layer
    and mg.save take. After a pass: `auxiliary`, the balance losses as a tensor of the graph (zero
    where there are none) to be added to the loss; `load` [E]; `selected`, int32 [..., k]. In
    training the state (moving averages, biases) is written into the buffers, and draws take one
    number from PyTorch's generator.

    Under mgt.gradcheck and mgt.expectation the layer's selections and draws are those of the check:
    a surrogate is checked as what it is, and draws are enumerated.
    """

    auxiliary: Tensor | None
    load: Tensor | None
    selected: Tensor | None

    def __init__(
        self, layer: Layer, *, dtype: torch.dtype | None = None, seed: int | None = None
    ) -> None:
        """seed: of the parameters; from PyTorch's generator unless given."""
        super().__init__()
        if not isinstance(layer, Layer):
            raise Error(f"[MoE] the layer is of type {type(layer).__name__}. Give a moegrad.Layer.")
        if layer.needs_losses:
            raise Error(
                f"[MoE] estimator {layer.config['estimator']} is made of the loss of each row, "
                "which a Module does not see. Use moegrad.Layer and its output's "
                "backward(dy, losses=...)."
            )
        if not layer.router_learns:
            warnings.warn(
                f"[{layer.config['router']}] with k = {layer.config['active']} and these options "
                "the combine weights are constants, and the estimator gives the router no gradient "
                "of the task.",
                stacklevel=2,
            )
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in _TYPES:
            raise Error(f"[MoE] dtype is {dtype}. Use torch.float32 or torch.float64.")
        if seed is None:
            seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        self.layer = layer
        self._random: bool | None = None
        self._trained: list[tuple[str, torch.nn.Module, str]] = []  # name, and where it is
        self._state: list[tuple[str, torch.nn.Module, str]] = []
        values = layer.init(seed, _TYPES[dtype])
        for entry in layer.parameters():
            self._add(entry["name"], torch.from_numpy(values[entry["name"]]), entry["trained"])
        self._remember(None, None, None)

    def _add(self, name: str, value: Tensor, trained: bool) -> None:
        *folders, key = name.split(".")
        owner: torch.nn.Module = self
        for folder in folders:
            if folder not in owner._modules:
                owner.add_module(folder, torch.nn.Module())
            owner = owner._modules[folder]
        if trained:
            owner.register_parameter(key, torch.nn.Parameter(value))
            self._trained.append((name, owner, key))
        else:
            owner.register_buffer(key, value)
            self._state.append((name, owner, key))

    def _remember(self, auxiliary: Any, load: Any, selected: Any) -> None:
        # Neither parameters nor buffers: Module.__setattr__ need not look at them.
        self.__dict__.update(auxiliary=auxiliary, load=load, selected=selected)

    def __getstate__(self) -> dict[str, Any]:
        # A tensor of a graph can be neither copied nor sent away.
        return {**self.__dict__, "auxiliary": None, "load": None, "selected": None}

    def extra_repr(self) -> str:
        return repr(self.layer)

    @torch.compiler.disable
    def forward(
        self,
        x: Tensor,
        *,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        sequence: int | None = None,
        attention: Tensor | None = None,
        dropless: bool = False,
    ) -> Tensor:
        """ids and mask (0: padding) have the leading shape of x. Of x [..., L, D] L rows are a
        sequence, unless `sequence` says otherwise; of x [N, D] each row is. attention: the averaged
        scores [..., L, L], a constant."""
        self._remember(None, None, None)  # the last pass's graph ends here
        trained = _found(self._trained)
        self._require_served(x, trained)
        parameters = trained.values()
        width = self.layer._config["model"]
        call = _Call(self.layer, list(trained), _found(self._state))
        call.random = self._random
        call.training = self.training
        length = x.shape[-2] if x.dim() > 2 else 1
        call.settings = {
            "ids": self._per_row("ids", ids, x),
            "mask": self._per_row("mask", mask, x),
            "sequence": length if sequence is None else sequence,
            "attention": None if attention is None else self._scores(attention, x),
            "dropless": dropless,
        }
        rows = x if x.dim() == 2 else x.reshape(-1, width)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
            y, auxiliary = _Pass.apply(call, rows, *parameters)
        else:
            y, auxiliary = call(rows, tuple(parameters), [])
        if self._random is None:
            self._random = call.random
        selected = decide("moegrad.MoE", lambda: call.selected)
        self._remember(auxiliary, call.load, _with_leading(selected, x))
        return _with_leading(y, x)

    def _require_served(self, x: Any, trained: dict[str, Tensor]) -> None:
        if not isinstance(x, Tensor):
            raise Error(f"[MoE] x is of type {type(x).__name__}. Give a tensor.")
        width = self.layer._config["model"]
        if x.layout is not torch.strided or x.is_nested:
            raise Error(f"[MoE] x has layout {x.layout}. Give a dense tensor: .to_dense().")
        if x.device.type != "cpu":
            raise Error(f"[MoE] x is on {x.device}. The layer works on the CPU: x.cpu().")
        if x.dtype not in _TYPES:
            raise Error(f"[MoE] x is {x.dtype}. The layer is float32 or float64: x.float().")
        if x.dim() < 1 or x.shape[-1] != width:
            raise Error(f"[MoE] x is {list(x.shape)}. It must be [..., {width}].")
        for name, parameter in trained.items():
            if parameter.dtype is not x.dtype:
                raise Error(
                    f"[MoE] x is {x.dtype} and parameter '{name}' {parameter.dtype}. Convert one "
                    f"of them: x.to({parameter.dtype}), or moe.to({x.dtype})."
                )

    def _per_row(self, name: str, value: Any, x: Tensor) -> np.ndarray | None:
        if value is None:
            return None
        value = torch.as_tensor(value)
        if value.shape != x.shape[:-1]:
            raise Error(
                f"[MoE] {name} is {list(value.shape)} for x {list(x.shape)}. Give one for each row "
                f"of x: {list(x.shape[:-1])}."
            )
        return _words(name, _array(name, value.reshape(-1)))

    def _scores(self, attention: Tensor, x: Tensor) -> np.ndarray:
        scores = _array("attention", torch.as_tensor(attention).to(x.dtype))
        return scores.reshape(-1, *scores.shape[-2:])


def _found(places: list[tuple[str, torch.nn.Module, str]]) -> dict[str, Tensor]:
    """Tensors by name; a bias may have been set to None."""
    values = ((name, getattr(owner, key)) for name, owner, key in places)
    return {name: value for name, value in values if value is not None}


def _with_leading(rows: Tensor, x: Tensor) -> Tensor:
    """[N, ...] with the leading shape of x, where there is a row for each of its."""
    leading = x.shape[:-1]
    if len(leading) == 1 or rows.shape[0] != leading.numel():
        return rows  # a router that works on other rows than the tokens
    return rows.reshape(*leading, *rows.shape[1:])
