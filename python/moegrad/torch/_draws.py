"""Draws whose outcomes the engine enumerates: torch.multinomial, torch.bernoulli in all forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._rules import argument, overloads

Tensor = torch.Tensor


def _multinomial(run: Any, func: Any, args: tuple, kwargs: dict) -> Tensor:
    weights = args[0].detach()
    draws = argument(func, args, kwargs, "num_samples")
    replacement = argument(func, args, kwargs, "replacement", False)
    rows = weights.reshape(-1, weights.shape[-1]).double().numpy().copy()
    chosen = []
    for _ in range(draws):
        p = rows / rows.sum(-1, keepdims=True)
        one = run.categorical("multinomial", p)
        chosen.append(torch.from_numpy(one).long())
        if not replacement:
            rows[range(len(one)), one] = 0.0
    result = torch.stack(chosen, -1)
    return result.reshape(*weights.shape[:-1], draws)


def _bernoulli(run: Any, p: Tensor) -> Tensor:
    # One by one: then each outcome has its own run.
    flat = p.detach().double().reshape(-1).numpy().copy()
    return torch.from_numpy(run.bernoulli("bernoulli", flat)).reshape(p.shape)


def _bernoulli_of_self(run: Any, func: Any, args: tuple, kwargs: dict) -> Tensor:
    return _bernoulli(run, args[0]).to(args[0].dtype)


def _bernoulli_of_p(run: Any, func: Any, args: tuple, kwargs: dict) -> Tensor:
    target, p = args[0], argument(func, args, kwargs, "p", 0.5)
    p = p if isinstance(p, Tensor) else torch.tensor(float(p), dtype=torch.float64)
    drawn = _bernoulli(run, p.expand(target.shape)).to(target.dtype)
    if func._schema.is_mutable:
        return target.copy_(drawn)
    return drawn


DRAWS: dict[Any, Callable] = overloads(
    {
        "multinomial.default": _multinomial,
        "bernoulli.default": _bernoulli_of_self,
        "bernoulli.p": _bernoulli_of_p,
        "bernoulli.Tensor": _bernoulli_of_p,
        "bernoulli_.Tensor": _bernoulli_of_p,
        "bernoulli_.float": _bernoulli_of_p,
    }
)
