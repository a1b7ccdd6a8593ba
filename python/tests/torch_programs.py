"""Programs that several tests of moegrad.torch check."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

torch.manual_seed(3)
X = torch.randn(4, 6)
W = torch.randn(6, 5)


def gate(x):
    hard, soft = (x > 0).to(x.dtype), torch.sigmoid(x)
    return soft + (hard - soft).detach()


def router(x, w, k=2):
    values, indices = torch.topk(x @ w, k)
    p = torch.softmax(values, -1)
    return torch.zeros(x.shape[0], w.shape[1]).scatter(1, indices, p.to(torch.get_default_dtype()))


def no_grad(x):
    with torch.no_grad():
        return x.softmax(-1) * 3
