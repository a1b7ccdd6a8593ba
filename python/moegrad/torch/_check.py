"""gradcheck, decisions, equal, expectation, unbiased for PyTorch code as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import _core
from ..checks import Expectation, Report, _close, _expectation, _report
from ..decisions import Decisions
from ._frozen import Frozen, Recording, active
from ._program import Program, flat, outputs_of, quiet_environment

Tensor = torch.Tensor


def _vjp(outputs: list[Tensor], leaves: list[Tensor]) -> Callable | None:
    """dL/d leaves of dL/d outputs, by PyTorch itself."""
    out = flat(outputs)
    if not out.requires_grad:
        return None

    def vjp(cotangent: np.ndarray) -> list[np.ndarray | None]:
        c = torch.from_numpy(np.array(cotangent)).reshape(out.shape)
        gradients = torch.autograd.grad(out, leaves, c, retain_graph=True, allow_unused=True)
        return [None if g is None else _array(g, leaf) for g, leaf in zip(gradients, leaves)]

    return vjp


def _array(gradient: Tensor, leaf: Tensor) -> np.ndarray:
    array = gradient.detach().to(torch.float64).to_dense().contiguous().numpy()
    return array.reshape(-1) if leaf.dim() > 5 else array


class _Checked:
    """What the engine calls: the program, recorded at first and replayed then."""

    def __init__(
        self, program: Program, surrogate: Program | None, seed: int, holds: bool = True
    ) -> None:
        self.program = program
        self.surrogate = surrogate
        self.seed = seed
        self.holds = holds
        self.recording = Recording()  # of the program that differences are taken of

    def __call__(self, run: Any, *arrays: np.ndarray) -> tuple:
        if run.mode == "record":
            return self._record(run, arrays)
        outputs = self._run(self.differentiated, arrays, run, self.recording, replaying=True)[0]
        return flat(outputs).detach().numpy(), None

    @property
    def differentiated(self) -> Program:
        return self.surrogate or self.program

    def _run(
        self,
        program: Program,
        arrays: tuple,
        run: Any,
        recording: Recording,
        replaying: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        leaves = program.leaves(arrays)
        torch.default_generator.manual_seed(self.seed)
        with Frozen(run, recording, replaying, leaves, self.holds) as frozen:
            result = program(leaves)
        frozen.finish()
        return outputs_of(result), leaves

    def _record(self, run: Any, arrays: tuple) -> tuple:
        self.recording = Recording()
        outputs, leaves = self._run(self.differentiated, arrays, run, self.recording)
        value = flat(outputs).detach().numpy()
        # Hidden state that changes decisions is told here, with its place in the user's file.
        self._run(self.differentiated, arrays, None, self.recording, replaying=True)
        if self.surrogate is None:
            return value, _vjp(outputs, leaves)
        stated = [tuple(x.shape) for x in outputs]
        outputs, leaves = self._run(self.program, arrays, None, Recording())
        if [tuple(x.shape) for x in outputs] != stated:
            raise _core.Error(
                f"[moegrad.torch] the surrogate returns {stated}, the function "
                f"{[tuple(x.shape) for x in outputs]}. Return the same shapes."
            )
        return value, _vjp(outputs, leaves)


def gradcheck(
    function: Callable,
    *inputs: Any,
    surrogate: Callable | None = None,
    hold: str = "all",
    relative: float = 1e-7,
    error_factor: float = 4.0,
    elementwise_limit: int = 32,
    directions: int = 5,
    cotangents: int = 3,
    seed: int = 1,
    **kwargs: Any,
) -> Report:
    """Checks what PyTorch's backward gives for function(*inputs, **kwargs), with nothing marked.

    Floating tensors among the inputs, and the parameters of a Module, are the inputs; all is
    computed in float64. The gradient is held against differences of the same program with its
    selections, draws and stopped gradients frozen. `surrogate`: another function of these inputs,
    whose derivative the gradient claims to be. hold="nothing" freezes draws alone: for what claims
    to be the exact derivative, within the cell of its selections.

    A pass means: PyTorch's gradient is that of the program between its decisions. It does not say
    that this is a good gradient: see `dead`, mgt.decisions and mgt.expectation.
    """
    with quiet_environment():
        program = Program(function, inputs, kwargs)
        stated = None if surrogate is None else Program(surrogate, inputs, kwargs)
        if stated is not None and len(stated.arrays) != len(program.arrays):
            raise _core.Error(
                f"[gradcheck] the surrogate has {len(stated.arrays)} inputs and parameters, the "
                f"function {len(program.arrays)}. Give a function of the same inputs."
            )
        holds = hold == "all"
        checked = _Checked(program, stated, seed, holds)
        found = _core.gradcheck(
            checked,
            program.arrays,
            program.names,
            hold=hold,
            relative=relative,
            error_factor=error_factor,
            elementwise_limit=elementwise_limit,
            directions=directions,
            cotangents=cotangents,
            seed=seed,
        )
    lifted, made = checked.recording.lifted, Decisions(checked.recording.decisions)
    notes = tuple(program.notes + (made if holds else Decisions([])).notes(lifted, "mgt"))
    return _report(found, decisions=tuple(made), lifted=lifted, notes=notes)


def decisions(function: Callable, *inputs: Any, seed: int = 1, **kwargs: Any) -> Decisions:
    """Every step of the program that no derivative passes: kind, operation, result, rows, margin,
    line.

    The rows are how many choices it made side by side. The margin is how far the inputs were from
    another outcome, over all rows; inf where there is no other, empty where it is not known.
    """
    with quiet_environment():
        program = Program(function, inputs, kwargs)
        recording = Recording()
        torch.default_generator.manual_seed(seed)
        with Frozen(None, recording):
            program(program.leaves(tuple(program.arrays)))
    return Decisions(recording.decisions)


def _loss_of(program: Program) -> Callable:
    def call(run: Any, *arrays: np.ndarray) -> tuple:
        leaves = program.leaves(arrays)
        with Frozen(run, None):
            result = program(leaves)
        outputs = outputs_of(result)
        if len(outputs) != 1 or outputs[0].numel() != 1:
            raise _core.Error(
                f"[expectation] the program returns {[tuple(x.shape) for x in outputs]}. Return a "
                "loss: one number."
            )
        loss = outputs[0].reshape(())
        return loss.detach().to(torch.float64).numpy(), _vjp([loss], leaves)

    return call


def expectation(
    function: Callable,
    *inputs: Any,
    truth: Callable | None = None,
    max_outcomes: int = 100_000,
    samples: int = 2_000,
    bias: bool = True,
    seed: int = 1,
    **kwargs: Any,
) -> Expectation:
    """Exact moments of a sampled loss and of PyTorch's gradient for it.

    torch.multinomial and torch.bernoulli, with what is made of them, are enumerated: the program is
    run once for each outcome of its draws. Other random numbers are integrated by Monte Carlo;
    `exact` is False then. `truth`: another program of these inputs, the derivative of which the
    bias is to.
    """
    with quiet_environment():
        program = Program(function, inputs, kwargs)
        other = None if truth is None else Program(truth, inputs, kwargs)
        found = _core.expectation(
            _loss_of(program),
            program.arrays,
            truth=None if other is None else _loss_of(other),
            max_outcomes=max_outcomes,
            samples=samples,
            bias=bias,
            seed=seed,
        )
    return _expectation(found, program.names)


def unbiased(function: Callable, *inputs: Any, **options: Any) -> bool:
    """Whether the mean of PyTorch's gradient is the derivative of the expected loss, as far as this
    can be told (see expectation: bias_error)."""
    found = expectation(function, *inputs, **options)
    return not found.biased and not found.unknown


def equal(
    function: Callable,
    other: Callable,
    *inputs: Any,
    relative: float = 1e-9,
    seed: int = 1,
    **kwargs: Any,
) -> bool:
    """Whether two programs give the same values and the same gradients, with the same random
    numbers, at these inputs; an Error says where they do not agree in shape."""
    with quiet_environment():
        found = []
        for f in (function, other):
            program = Program(f, inputs, kwargs)
            leaves = program.leaves(tuple(program.arrays))
            torch.default_generator.manual_seed(seed)
            with Frozen(None, Recording()):
                outputs = outputs_of(program(leaves))
            found.append((outputs, leaves))
        (a, leaves_a), (b, leaves_b) = found
        if [x.shape for x in leaves_a] != [x.shape for x in leaves_b]:
            raise _core.Error(
                f"[equal] the programs have {len(leaves_a)} and {len(leaves_b)} inputs and "
                "parameters, or such of other shapes. Compare programs of the same ones."
            )
        if [x.shape for x in a] != [x.shape for x in b]:
            raise _core.Error(
                f"[equal] the programs return {[tuple(x.shape) for x in a]} and "
                f"{[tuple(x.shape) for x in b]}. Compare programs of the same outputs."
            )
        cotangents = np.random.default_rng(seed).uniform(-1.0, 1.5, (3, flat(a).numel()))
        if not _close(flat(a).detach().numpy(), flat(b).detach().numpy(), relative):
            return False
        for c in cotangents:
            for x, y in zip(_gradients(a, leaves_a, c), _gradients(b, leaves_b, c), strict=True):
                if not _close(x, y, relative):
                    return False
    return True


def _gradients(outputs: list[Tensor], leaves: list[Tensor], cotangent: np.ndarray) -> list:
    vjp = _vjp(outputs, leaves)
    gradients = [None] * len(leaves) if vjp is None else vjp(cotangent)
    return [np.zeros(tuple(leaf.shape)) if g is None else g for g, leaf in zip(gradients, leaves)]


def cell(value: Tensor) -> Tensor:
    """For code that PyTorch's operations do not show (Triton, NumPy on floats): the selection that
    it made, as integers. Another value is another cell of the check. Returns it."""
    frozen = active()
    if frozen is not None:
        frozen.note_cell(value)
    return value


def decide(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """compute(), kept when a check records and answered when it replays: for code whose selection
    PyTorch's operations do not show."""
    frozen = active()
    return compute() if frozen is None else frozen.decide(name, compute)
