"""What the user's code does, apart from PyTorch within it: lines, gradient modes, detaching."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
_HERE = __file__.rsplit("/", 1)[0] + "/"
_TORCH = torch.__file__.rsplit("/", 1)[0] + "/"


def user_frame() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH)) and not name.startswith("<"):
            return f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _forward_codes(base: type, codes: set) -> set:
    for function in base.__subclasses__():
        forward = getattr(function.__dict__.get("forward"), "__func__", None)
        if hasattr(forward, "__code__"):
            codes.add(forward.__code__)
        _forward_codes(function, codes)
    return codes


def within(codes: set) -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def within_function() -> bool:
    """Whether a torch.autograd.Function's forward is being executed."""
    count = len(torch.autograd.Function.__subclasses__())
    if count not in _forwards:  # functions were defined since
        _forwards.clear()
        _forwards[count] = _forward_codes(torch.autograd.Function, set())
    return within(_forwards[count])


_forwards: dict[int, set] = {}


MODULE_CASTS = {torch.nn.Module._apply.__code__}  # module.to(dtype) works on parameters' data


_DETACHES = {Tensor.detach, torch.detach, Tensor.data.__get__}
_DETACHES_IN_PLACE = {Tensor.detach_, torch.detach_}
_ASSIGNS = Tensor.data.__set__


class UserCalls(TorchFunctionMode):
    """What the user's code asks for, apart from what PyTorch does within: whether gradients are
    enabled, and whether a tensor is being detached."""

    def __init__(self, frozen: Any) -> None:
        super().__init__()
        self.frozen = frozen  # asked for what is no operation of PyTorch's
        self.enabled = True
        self.detaches = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            self.enabled = bool(args[0])
        elif func in _DETACHES_IN_PLACE:
            return self.frozen.detach(func, *args)
        elif func == _ASSIGNS:
            return self.frozen.assign(func, *args)
        elif func in _DETACHES:
            self.detaches = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self.detaches = False
        return func(*args, **kwargs) if kwargs else func(*args)
