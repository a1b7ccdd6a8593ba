"""Check a straight-through torch.autograd.Function against what it claims to be."""

import moegrad.torch as mgt
import torch


class Sign(torch.autograd.Function):
    """The sign; backward, the derivative of clamp(x, -1, 1) (arXiv:1602.02830)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x.abs() <= 1)


x = torch.linspace(-1.7, 1.7, 8)
print(mgt.gradcheck(Sign.apply, x))
print(mgt.gradcheck(Sign.apply, x, surrogate=lambda x: x.clamp(-1, 1)))
