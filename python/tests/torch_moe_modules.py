"""Modules that several tests of mgt.MoE run, and the same in plain PyTorch."""

import moegrad as mg
import pytest

torch = pytest.importorskip("torch")
import moegrad.torch as mgt  # noqa: E402

N, D, H, E, K = 12, 6, 7, 4, 2
ACTIVATIONS = {"relu": torch.relu, "silu": torch.nn.functional.silu}


def module(dtype=torch.float64, seed=0, **more):
    torch.manual_seed(seed)
    settings = {"model": D, "hidden": H, "experts": E, "active": K, "output": 3, **more}
    moe = mgt.MoE(mg.Layer(**settings), dtype=dtype)
    with torch.no_grad():
        for p in moe.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return moe


def numbers(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*(shape or (N, D)), generator=torch.Generator().manual_seed(seed)).to(dtype)


def experts_loop(moe, x, selected, weights):
    """sum over the selected experts, expert by expert."""
    e = moe.experts
    swiglu = moe.layer.config["activation"] == "swiglu"
    act = ACTIVATIONS["silu" if swiglu else moe.layer.config["activation"]]
    y = x.new_zeros(len(x), e.w2.shape[2])
    for i in range(E):
        token, place = torch.where(selected == i)
        h = act(x[token] @ e.w1[i] + e.b1[i])
        if swiglu:
            h = h * (x[token] @ e.w3[i] + e.b3[i])
        out = h @ e.w2[i] + e.b2[i]
        y = y.index_add(0, token, out * weights[token, place, None])
    return y


def top_k(moe, x, renormalise=False):
    logits = x @ moe.router.weight + moe.router.bias
    p = logits.softmax(-1)
    values, selected = p.topk(K)
    weights = values / values.sum(-1, keepdim=True) if renormalise else values
    return experts_loop(moe, x, selected, weights), p, selected


def gradients(moe, x, loss_of):
    leaf = x.clone().requires_grad_()
    inputs = [leaf, *moe.parameters()]
    return torch.autograd.grad(loss_of(leaf), inputs, materialize_grads=True)
