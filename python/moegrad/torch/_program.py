"""A PyTorch function or Module as a program of float64 inputs, whatever its own types are."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import _core
from ._rules import floating

Tensor = torch.Tensor
_MOST_AXES = 5  # of the engine's tensors


def _refuse(what: str, cure: str) -> None:
    raise _core.Error(f"[moegrad.torch] {what}. {cure}")


def _require_served(name: str, x: Tensor) -> None:
    if x.layout is not torch.strided:
        _refuse(f"{name} has the layout {x.layout}", "Give a dense one: .to_dense().")
    if x.is_nested:
        _refuse(f"{name} is a nested tensor", "Give a padded one: .to_padded_tensor(0.0).")
    if x.device.type != "cpu":
        _refuse(f"{name} is on {x.device}", "Checks run on the CPU: give a copy made by .cpu().")
    if x.is_complex():
        _refuse(f"{name} is {x.dtype}", "Give its real and imaginary parts: torch.view_as_real().")
    if x.is_quantized or "float8" in str(x.dtype):
        _refuse(f"{name} is {x.dtype}", "Convert it: .float().")


def _argument_names(function: Any, inputs: tuple, kwargs: dict) -> list[str]:
    """The names of the arguments by the function's signature, "input 0" where it has none."""
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        bound = inspect.signature(target).bind(*inputs, **kwargs).arguments
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return [f"input {i}" for i in range(len(inputs))]
    names: list[str] = []
    for name in bound:
        several = parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        if parameters[name].kind is inspect.Parameter.VAR_KEYWORD or name in kwargs:
            continue
        names += [f"input {len(names) + i}" for i in range(len(bound[name]))] if several else [name]
    return names


class Program:
    """function(*inputs, **kwargs): its floating tensors, and a Module's parameters, are inputs."""

    def __init__(self, function: Callable, inputs: tuple, kwargs: dict) -> None:
        if not callable(function):
            _refuse(f"{type(function).__name__} cannot be called", "Give a function or a Module.")
        self.function = function
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []  # float64, as the engine takes them
        self.shapes: list[torch.Size] = []
        self._strides: list[tuple[int, ...]] = []  # a Function may go by them
        self._hooks: list[list[Callable]] = []  # that the user's tensors have
        self.notes: list[str] = []
        self._leaves, self._spec = tree_flatten((inputs, kwargs))
        self._places: list[int] = []  # of those leaves that are inputs
        self._take_inputs(inputs, kwargs)
        self._take_parameters()
        if not self.arrays:
            _refuse(
                "no input is a floating tensor and no parameter requires a gradient",
                "Give a tensor of floats, or call requires_grad_() on the module.",
            )

    def _take_inputs(self, inputs: tuple, kwargs: dict) -> None:
        names = iter(_argument_names(self.function, inputs, kwargs))
        labels: list[str] = []
        for value in inputs:
            name = next(names, f"input {len(labels)}")
            count = len(tree_flatten(value)[0])
            labels += [name] if count == 1 else [f"{name}[{i}]" for i in range(count)]
        for name, value in kwargs.items():
            count = len(tree_flatten(value)[0])
            labels += [name] if count == 1 else [f"{name}[{i}]" for i in range(count)]
        for place, leaf in enumerate(self._leaves):
            if not isinstance(leaf, Tensor):
                continue
            _require_served(labels[place], leaf)
            if floating(leaf):
                self._places.append(place)
                self._add(labels[place], leaf)

    def _take_parameters(self) -> None:
        self._module = self.function if isinstance(self.function, torch.nn.Module) else None
        self._parameters: list[Tensor] = []
        self._state: list[Tensor] = []
        if self._module is None:
            return
        held = 0
        for name, parameter in self._module.named_parameters():
            _require_served(name, parameter)
            if parameter.requires_grad and floating(parameter):
                self._parameters.append(parameter)
                self._add(name, parameter)
            else:
                held += 1
                self._state.append(parameter)
        if held:
            self.notes.append(f"{held} parameters do not require a gradient: they are constants")
        for name, buffer in self._module.named_buffers():
            _require_served(name, buffer)
            self._state.append(buffer)

    def _add(self, name: str, x: Tensor) -> None:
        self.names.append(name)
        self.shapes.append(x.shape)
        self._strides.append(torch.empty_like(x, memory_format=torch.preserve_format).stride())
        self._hooks.append(list((x._backward_hooks or {}).values()))
        if getattr(x, "_post_accumulate_grad_hooks", None):
            self.notes.append(f"{name} has a post-accumulate hook, which is not run here")
        array = x.detach().to(torch.float64).contiguous().numpy().copy()
        self.arrays.append(array.reshape(-1) if array.ndim > _MOST_AXES else array)

    def leaves(self, arrays: tuple) -> list[Tensor]:
        """Tensors that require a gradient, of arrays of the program's shapes."""
        leaves = []
        for a, shape, strides, hooks in zip(
            arrays, self.shapes, self._strides, self._hooks, strict=True
        ):
            leaf = torch.empty_strided(shape, strides, dtype=torch.float64)
            leaf.copy_(torch.from_numpy(np.asarray(a)).reshape(shape))
            leaves.append(leaf.requires_grad_())
            for hook in hooks:
                leaf.register_hook(hook)
        return leaves

    def __call__(self, leaves: list[Tensor]) -> Any:
        given = [x.clone() if isinstance(x, Tensor) else x for x in self._leaves]
        for place, leaf in zip(self._places, leaves, strict=False):
            given[place] = leaf.clone()  # the program may write it, as it may a layer's output
        inputs, kwargs = tree_unflatten(given, self._spec)
        with self._swapped(leaves[len(self._places) :]):
            try:
                return self.function(*inputs, **kwargs)
            except RuntimeError as error:
                if "dtype" not in str(error):
                    raise
                raise _core.Error(
                    f"[moegrad.torch] {error}. All of a program is float64 in a check: give what "
                    "it reads of other types as inputs, or the Module that holds it."
                ) from error

    @contextlib.contextmanager
    def _swapped(self, parameters: list[Tensor]) -> Iterator[None]:
        """The module with these parameters and float64 copies of its other state."""
        if self._module is None:
            yield
            return
        new = dict(zip(map(id, self._parameters), parameters, strict=True))
        for x in self._state:
            copy = x.detach().clone()
            new[id(x)] = copy.double() if floating(copy) else copy
        before = []
        try:
            for module in self._module.modules():
                for store in (module._parameters, module._buffers):
                    for name, x in store.items():
                        if x is not None:
                            before.append((store, name, x))
                            store[name] = new[id(x)]
                _refresh(module)
            yield
        finally:
            for store, name, x in before:
                store[name] = x
            for module in self._module.modules():
                _refresh(module)


def _refresh(module: torch.nn.Module) -> None:
    """Recurrent modules keep their weights in a list besides."""
    if "_flat_weights_names" in module.__dict__:
        module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def outputs_of(result: Any) -> list[Tensor]:
    """The floating tensors that a program returned."""
    if dataclasses.is_dataclass(result) and not isinstance(result, dict):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)]
    leaves = tree_flatten(result)[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    for x in tensors:
        if x.is_complex():
            _refuse(f"the program returns {x.dtype}", "Return torch.view_as_real() of it.")
    found = [x for x in tensors if floating(x)]
    if not found:
        _refuse(
            f"the program returns {_described(result)}", "Return a tensor of floats, or several."
        )
    return found


def _described(result: Any) -> str:
    if result is None:
        return "nothing"
    if isinstance(result, Tensor):
        return f"a tensor of {result.dtype}"
    return f"a {type(result).__name__} without a tensor of floats"


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1).to(torch.float64) for x in tensors])


@contextlib.contextmanager
def quiet_environment() -> Iterator[None]:
    """What a check changes of PyTorch's state, and puts back: random numbers, types, modes."""
    default, threads = torch.get_default_dtype(), torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(1)  # programs are small: a barrier costs more than an operation
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            torch.set_num_threads(threads)
