"""mgt.MoE against a loop over experts in plain PyTorch, and as a Module among others."""

import copy
import io
import pickle

import moegrad as mg
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import moegrad.torch as mgt  # noqa: E402
from torch_moe_modules import D, E, H, K, N, gradients, module, numbers, top_k  # noqa: E402


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("activation", ["relu", "silu", "swiglu"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_against_a_loop(dtype, tolerance, activation, renormalise):
    moe = module(dtype, activation=activation, renormalise=renormalise)
    x = numbers(dtype=dtype)
    y, _, selected = top_k(moe, x, renormalise)
    torch.testing.assert_close(moe(x), y, rtol=tolerance, atol=tolerance)
    assert torch.equal(moe.selected.sort().values, selected.int().sort().values)
    assert torch.equal(moe.load, torch.bincount(selected.ravel(), minlength=E).double())
    ours = gradients(moe, x, lambda x: moe(x).square().sum().sqrt())
    theirs = gradients(moe, x, lambda x: top_k(moe, x, renormalise)[0].square().sum().sqrt())
    assert len(ours) == len(list(moe.parameters())) + 1
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype and b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_auxiliary_losses():
    moe = module(aux=0.3, z_loss=0.2)
    x = numbers()

    def plain(x):
        y, p, selected = top_k(moe, x)
        f = torch.bincount(selected.ravel(), minlength=E).double() / selected.numel()
        z = (x @ moe.router.weight + moe.router.bias).logsumexp(-1).square().mean()
        return y, 0.3 * E * (f * p.mean(0)).sum() + 0.2 * z

    moe(x)
    torch.testing.assert_close(moe.auxiliary, plain(x)[1], rtol=1e-12, atol=0)
    assert moe.auxiliary.requires_grad

    def both(x):
        y = moe(x)
        return y.square().sum() + 2.0 * moe.auxiliary

    cases = [
        (both, lambda x: plain(x)[0].square().sum() + 2.0 * plain(x)[1]),
        (lambda x: (moe(x), moe.auxiliary)[1], lambda x: plain(x)[1]),
        (lambda x: moe(x).square().sum(), lambda x: plain(x)[0].square().sum()),
    ]
    for ours, theirs in cases:
        for a, b in zip(gradients(moe, x, ours), gradients(moe, x, theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    none = module()
    none(x)
    assert none.auxiliary.item() == 0
    (none(x).sum() + none.auxiliary).backward()
    assert module(aux=0.1).eval()(x).shape == (N, 3)


def test_leading_shapes():
    moe = module()
    x = numbers(2, 3, 2, D)
    y = moe(x)
    assert y.shape == (2, 3, 2, 3) and moe.selected.shape == (2, 3, 2, K)
    torch.testing.assert_close(y.reshape(-1, 3), moe(x.reshape(-1, D)), rtol=0, atol=0)
    one = moe(x[0, 0, 0])
    assert one.shape == (3,) and moe.selected.shape == (K,)
    torch.testing.assert_close(one, y[0, 0, 0], rtol=1e-13, atol=0)
    turned = x.permute(1, 0, 2, 3)  # not contiguous
    torch.testing.assert_close(moe(turned), y.permute(1, 0, 2, 3), rtol=1e-13, atol=1e-15)
    straight = gradients(moe, x, lambda x: moe(x).square().sum())
    for a, b in zip(
        gradients(moe, x, lambda x: moe(x.permute(2, 1, 0, 3)).square().sum()),
        straight,
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_sequences_are_rows_of_the_batch():
    moe = mgt.MoE(mg.Layer(D, H, E, 1, router="soft-moe"), dtype=torch.float64)
    x = numbers(3, 4, D)
    y = moe(x)
    torch.testing.assert_close(y[1:2], moe(x[1:2]), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(moe(x, sequence=12), y)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:] = False
    masked = moe(x, mask=mask)
    assert not masked[1, 2:].any() and torch.equal(masked[0], y[0])
    torch.testing.assert_close(masked[1, :2], moe(x[1:2, :2])[0], rtol=1e-12, atol=1e-14)
    with pytest.raises(mg.Error, match=r"mask is \[4, 3\].*\[3, 4\]"):
        moe(x, mask=mask.T)
    ids = mgt.MoE(mg.Layer(D, H, E, 1, router="hash"), dtype=torch.float64)
    assert torch.equal(
        ids(x, ids=torch.arange(12).reshape(3, 4)), ids(x, ids=np.arange(12).reshape(3, 4))
    )


@pytest.mark.parametrize("router", ["top-k", "moesart", "loss-free", "sparsemixer-v2"])
def test_training_reduces_a_loss(router):
    moe = module(torch.float32, router=router, hidden=32)
    torch.manual_seed(3)
    x = torch.randn(64, D)
    goal = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x[:, 3]], -1)
    optimizer = torch.optim.AdamW(moe.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (moe(x) - goal).square().mean()
        (loss + moe.auxiliary).backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_state_is_written_in_training_alone():
    moe = module(router="loss-free")
    x = numbers()
    moe.eval()(x)
    assert not moe.router.balance.any()
    moe.train()
    y = moe(x)
    assert moe.router.balance.any()
    y.sum().backward()  # the pass read the state as it was
    before = moe.router.balance.clone()
    with torch.no_grad():
        moe(x)
    assert not torch.equal(moe.router.balance, before)
    same = mg.Layer(**moe.layer.config)
    w = {name: value.detach().numpy() for name, value in moe.state_dict().items()}
    moe(x)
    updates = same(x.numpy(), w).updates
    # state_dict() shares memory with the buffer: the array shows what was written.
    assert np.array_equal(w["router.balance"], moe.router.balance.numpy())
    assert list(updates) == ["router.balance"]


def test_state_dict_round_trip(tmp_path):
    moe, other = module(router="loss-free", shared=1), module(router="loss-free", shared=1, seed=9)
    x = numbers()
    moe(x)
    assert list(moe.state_dict()) == list(moe.layer.init())
    assert not torch.equal(moe.eval()(x), other.eval()(x))
    file = io.BytesIO()
    torch.save(moe.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(moe(x), other(x))
    mg.save(tmp_path / "w.safetensors", {k: v.numpy() for k, v in moe.state_dict().items()})
    out = moe.layer(x.numpy(), mg.load(tmp_path / "w.safetensors"), training=False)
    assert np.array_equal(out.y, moe(x).detach().numpy())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_copies():
    moe = module(router="loss-free", aux=0.1)
    x = numbers()
    moe(x)
    for other in (copy.deepcopy(moe), pickle.loads(pickle.dumps(moe))):
        assert other.auxiliary is None and other.layer == moe.layer
        before = moe.router.balance.clone()
        with torch.no_grad():
            other.experts.w1.zero_()
        other(x).sum().backward()
        assert other.experts.w2.grad is not None and moe.experts.w2.grad is None
        assert moe.experts.w1.abs().max() > 0 and torch.equal(moe.router.balance, before)
        assert not torch.equal(other.router.balance, before)
    assert moe.auxiliary is not None
    assert moe.float()(x.float()).dtype == torch.float32
    assert "router='loss-free'" in repr(moe)


def test_seeds_come_from_torch():
    moe = module(router="moesart")
    x = numbers(100, D)
    torch.manual_seed(5)
    a, b = moe(x), moe(x)
    torch.manual_seed(5)
    assert torch.equal(moe(x), a) and torch.equal(moe(x), b) and not torch.equal(a, b)
    fresh = copy.deepcopy(moe)
    fresh._random = None
    torch.manual_seed(5)
    assert torch.equal(fresh(x), a)  # the first pass of all too
    torch.manual_seed(5)
    first = mgt.MoE(mg.Layer(D, H, E, K))
    torch.manual_seed(5)
    again = mgt.MoE(mg.Layer(D, H, E, K))
    assert torch.equal(first.experts.w1, again.experts.w1)
    assert torch.equal(
        mgt.MoE(mg.Layer(D, H, E, K), seed=1).experts.w1,
        torch.from_numpy(mg.Layer(D, H, E, K).init(seed=1)["experts.w1"]),
    )
    # What draws nothing takes nothing from the generator.
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    moe.eval()(x), module_without_draws(x)
    assert torch.equal(torch.rand(3), expected)


def module_without_draws(x):
    state = torch.get_rng_state()
    moe = module()
    torch.set_rng_state(state)
    return moe(x)


def test_gradients_where_they_are_wanted():
    moe = module()
    x = numbers()
    moe.experts.requires_grad_(False)
    moe.router.bias.requires_grad_(False)
    moe(x).sum().backward()
    assert moe.experts.w1.grad is None and moe.router.bias.grad is None
    assert moe.router.weight.grad is not None
    whole = gradients(module(), x, lambda x: module()(x).sum())
    frozen = module()
    frozen.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    frozen(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, whole[0], rtol=1e-14, atol=0)
    for without in (frozen(x), torch.no_grad()(module())(x)):
        assert not without.requires_grad and without.grad_fn is None
    with torch.inference_mode():
        assert torch.equal(module()(x), module()(x))


def test_writing_between_forward_and_backward_is_found():
    for change in (
        lambda moe, x: moe.experts.w1.mul_(2),
        lambda moe, x: moe.router.weight.add_(1),
        lambda moe, x: x.add_(1),
        lambda moe, x: torch.optim.SGD(moe.parameters(), lr=0.1).step(),
    ):
        moe = module()
        x = numbers().requires_grad_() * 1.0
        for p in moe.parameters():
            p.grad = torch.ones_like(p)
        loss = moe(x).square().sum()
        with torch.no_grad():
            change(moe, x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_the_result_may_be_written():
    moe = module(output=D)
    x = numbers()

    def residual(x):
        y = moe(x)
        y += x
        y.mul_(2.0)
        return y.square().sum()

    expected = gradients(moe, x, lambda x: (2 * (moe(x) + x)).square().sum())
    for a, b in zip(gradients(moe, x, residual), expected, strict=True):
        assert torch.equal(a, b)


def test_graphs_that_are_kept_and_freed():
    moe = module(aux=0.1)
    x = numbers().requires_grad_()
    y = moe(x)
    loss = y.square().sum() + moe.auxiliary
    first = torch.autograd.grad(loss, [x, moe.experts.w1], retain_graph=True)
    second = torch.autograd.grad(loss, [x, moe.experts.w1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        moe.auxiliary.backward()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (g,) = torch.autograd.grad(moe(x).square().sum(), x, create_graph=True)
        g.sum().backward()
    # Two passes in one graph; gradients add up.
    moe.zero_grad()
    a, b = moe(x), moe(2 * x)
    (a.sum() + b.sum()).backward()
    both = moe.experts.w1.grad.clone()
    moe.zero_grad()
    moe(x).sum().backward()
    moe(2 * x).sum().backward()
    torch.testing.assert_close(both, moe.experts.w1.grad, rtol=1e-13, atol=1e-15)
