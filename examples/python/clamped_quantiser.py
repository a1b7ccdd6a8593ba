"""A straight-through quantiser whose gradient a change of clamp switched off (torchao issue 4806).

Rounded values that saturate lie exactly on clamp's bounds; a clamp whose gradient there is zero
takes it from all of them.
"""

import moegrad.torch as mgt
import torch

SCALE, LOW, HIGH = 0.1, -8, 7


class Round(torch.autograd.Function):
    """round, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, dy):
        return dy


def quantise(x):
    return torch.clamp(Round.apply(x / SCALE), LOW, HIGH) * SCALE


def stated(x):  # the identity up to where rounding leaves the range
    return x.clamp((LOW - 0.5) * SCALE, (HIGH + 0.5) * SCALE)


inside = torch.tensor([-0.52, -0.13, 0.27, 0.61])
saturated = torch.tensor([-0.83, -0.78, 0.68, 0.73])
for name, x in (("inside", inside), ("saturated", saturated)):
    print(f"{name}:", mgt.gradcheck(quantise, x, surrogate=stated))
