"""A fused Function against the same thing written out: values and gradients, same decisions."""

import moegrad.torch as mgt
import torch


class TopSoftmax(torch.autograd.Function):
    """softmax over the k largest, zero elsewhere."""

    @staticmethod
    def forward(ctx, logits, k):
        kept = logits.topk(k).indices
        mask = torch.zeros_like(logits).scatter(1, kept, 1.0).bool()
        p = torch.softmax(logits.masked_fill(~mask, -torch.inf), -1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, dy):
        (p,) = ctx.saved_tensors
        return p * (dy - (p * dy).sum(-1, keepdim=True)), None


def written_out(logits, k):
    top, kept = logits.topk(k)
    return torch.zeros_like(logits).scatter(1, kept, torch.softmax(top, -1))


torch.manual_seed(0)
logits = torch.randn(4, 6)
print("equal:", mgt.equal(TopSoftmax.apply, written_out, logits, 2))
print("fused:", mgt.gradcheck(TopSoftmax.apply, logits, 2).verdict)
