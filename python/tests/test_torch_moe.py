"""mgt.MoE against a loop over experts in plain PyTorch, and as a Module among others."""

import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings

import moegrad as mg
import numpy as np
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


def test_checkpointing():
    from torch.utils.checkpoint import checkpoint

    moe = module(router="moesart")
    x = numbers()
    for reentrant in (False, True):
        torch.manual_seed(4)
        plain = gradients(moe, x, lambda x: moe(x).square().sum())[0]
        torch.manual_seed(4)
        leaf = x.clone().requires_grad_()
        checkpoint(moe, leaf, use_reentrant=reentrant).square().sum().backward()
        assert torch.equal(leaf.grad, plain)


def test_functional_call():
    moe = module()
    x = numbers()
    doubled = {name: 2 * p.detach() for name, p in moe.named_parameters()}
    other = copy.deepcopy(moe)
    other.load_state_dict(doubled)
    assert torch.equal(torch.func.functional_call(moe, doubled, (x,)), other(x))
    leaf = {name: p.requires_grad_() for name, p in doubled.items()}
    torch.func.functional_call(moe, leaf, (x,)).sum().backward()
    assert leaf["experts.w1"].grad.abs().max() > 0 and moe.experts.w1.grad is None


def test_other_parameters():
    """A bias that is none, weights that are made of others, and shared ones."""
    moe = module()
    x = numbers()
    zero = copy.deepcopy(moe)
    with torch.no_grad():
        zero.router.bias.zero_()
    moe.router.bias = None
    assert torch.equal(moe(x), zero(x)) and "router.bias" not in moe.state_dict()

    class Doubled(torch.nn.Module):
        def forward(self, w):
            return 2 * w

    torch.nn.utils.parametrize.register_parametrization(moe.experts, "w1", Doubled())
    with torch.no_grad():
        zero.experts.w1 *= 2
    assert torch.equal(moe(x), zero(x))
    moe(x).sum().backward()
    zero(x).sum().backward()
    original = moe.experts.parametrizations.w1.original
    torch.testing.assert_close(original.grad, 2 * zero.experts.w1.grad, rtol=1e-13, atol=0)
    zero.router.weight = moe.router.weight
    (moe(x).sum() + zero(x).sum()).backward()
    assert zero.router.weight.grad is moe.router.weight.grad


def test_compiled():
    moe = module()
    x = numbers()
    compiled = torch.compile(lambda x: moe(x * 2.0) + 1.0, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(compiled(x), moe(x * 2.0) + 1.0, rtol=0, atol=0)
    leaf = x.clone().requires_grad_()
    compiled(leaf).square().sum().backward()
    expected = gradients(moe, x, lambda x: (moe(x * 2.0) + 1.0).square().sum())[0]
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "x,text",
    [
        (lambda: numbers(dtype=torch.bfloat16), "x is torch.bfloat16.*x.float()"),
        (lambda: numbers(dtype=torch.float32), "x is torch.float32 and parameter 'router.weight'"),
        (lambda: numbers().long(), "x is torch.int64"),
        (lambda: numbers().to_sparse(), "layout torch.sparse_coo"),
        (lambda: numbers().to("meta"), "x is on meta"),
        (lambda: numbers(N, D + 1), r"x is \[12, 7\]. It must be \[..., 6\]"),
        (lambda: numbers()[:0], "0 tokens"),
        (lambda: torch.tensor(1.0, dtype=torch.float64), r"x is \[\]"),
        (lambda: numbers().numpy(), "x is of type ndarray"),
        (
            lambda: torch.nested.nested_tensor([numbers()], layout=torch.jagged),
            "layout torch.jagged",
        ),
    ],
)
def test_errors(x, text):
    with pytest.raises(mg.Error, match=text):
        module()(x())


def test_errors_of_modules():
    with pytest.raises(mg.Error, match="parameter 'router.weight' torch.bfloat16"):
        module().bfloat16()(numbers())
    with pytest.raises(mg.Error, match="router.weight is on meta"):
        module().to("meta")(numbers())
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(mg.Error, match="bfloat16"):
        module()(torch.nn.Linear(D, D)(numbers(dtype=torch.float32)))
    with pytest.raises(mg.Error, match="dtype is torch.float16"):
        mgt.MoE(mg.Layer(D, H, E, K), dtype=torch.float16)
    with pytest.raises(mg.Error, match="of type str"):
        mgt.MoE("top-k")
    reinforce = mg.Layer(D, H, E, 1, router="categorical", estimator="reinforce", baseline="none")
    with pytest.raises(mg.Error, match="reinforce is made of the loss of each row"):
        mgt.MoE(reinforce)
    with pytest.warns(UserWarning, match="the combine weights are constants"):
        mgt.MoE(mg.Layer(D, H, E, 1, router="categorical"))
    with pytest.raises(TypeError):
        module()(numbers(), maks=None)
    with pytest.raises(mg.Error, match="no parameter 'experts.w2'"):
        broken = module()
        broken.experts.w2 = None
        broken(numbers())


def test_threads_change_nothing():
    before = torch.get_num_threads()
    moe = mgt.MoE(mg.Layer(32, 64, 8, 2, router="moesart", estimator="expert-group"))
    x = torch.randn(500, 32)
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(1)
            results.append(gradients(moe, x, lambda x: moe(x).square().sum()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_threads_at_once():
    moe = module(aux=0.1)
    xs = [numbers(seed=s) for s in range(4)]
    expected = [gradients(moe, x, lambda x: moe(x).square().sum()) for x in xs]
    wrong = []

    def work(x, expected):
        for _ in range(10):
            found = gradients(moe, x, lambda x: moe(x).square().sum())
            if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=job) for job in zip(xs, expected, strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# --- under the checks: the layer's decisions are the check's


CHECKED = [
    ("top-k", "sparse", {}),
    ("moesart", "expert-group", {"weighting": "large"}),  # sampled, a surrogate
    ("categorical", "gumbel-st", {}),  # straight-through
    ("noisy-top-k", "ste-dense", {}),  # continuous noise
    ("loss-free", "default-ema", {}),  # state of both
]


@pytest.mark.parametrize("router,estimator,options", CHECKED)
def test_gradcheck(router, estimator, options):
    k = 1 if router == "categorical" else K
    moe = module(router=router, estimator=estimator, active=k, **options)
    before = {name: value.clone() for name, value in moe.state_dict().items()}
    few = {"elementwise_limit": 6, "directions": 1, "cotangents": 1}
    report = mgt.gradcheck(moe, numbers(4, D), **few)
    assert report and report.max_error < 1e-6, str(report)
    assert "router.weight" in report.inputs and "router.weight" not in report.dead
    assert all(torch.equal(before[name], value) for name, value in moe.state_dict().items())


def test_gradcheck_sees_an_error_of_a_thousandth(monkeypatch):
    backward = mgt._moe._Pass.backward

    def wrong(ctx, dy, auxiliary):
        nothing, x, *others = backward(ctx, dy, auxiliary)
        return nothing, x, *(None if g is None else 1.001 * g for g in others)

    monkeypatch.setattr(mgt._moe._Pass, "backward", staticmethod(wrong))
    moe = module(hidden=2)
    moe.experts.requires_grad_(False)
    report = mgt.gradcheck(moe, numbers(3, D), cotangents=1)
    assert report.inputs["router.weight"].verdict == "fail" and report.inputs["x"].verdict == "pass"


def test_decisions_and_equal():
    moe = module()
    table = mgt.decisions(moe, numbers())
    assert [(d.kind, d.operation) for d in table] == [("decide", "moegrad.MoE")]
    assert table[0].shapes == [("int32", (N, K))] and "test_torch_moe" in table[0].where
    assert mgt.equal(lambda x: moe(x), lambda x: top_k(moe, x)[0], numbers())
    assert not mgt.equal(lambda x: moe(x), lambda x: top_k(moe, x, True)[0], numbers())
    sampled = module(router="moesart")
    assert mgt.equal(sampled, sampled, numbers())


def test_expectation_enumerates_our_draws():
    moe = module(router="unordered-set", model=3, hidden=2, output=2)
    moe.requires_grad_(False)
    x = numbers(1, 3)
    found = mgt.expectation(lambda x: moe(x).sum(), x)
    assert found.exact and found.outcomes == 12 and not found.noise and not found.biased
    assert found.total_variance > 0
    dense = module(router="softmax", model=3, hidden=2, output=2, active=E)
    dense.load_state_dict(moe.state_dict())
    assert found.loss == pytest.approx(dense(x).sum().item(), rel=1e-12)


def test_nothing_leaks_at_exit():
    code = (
        "import torch, moegrad as mg, moegrad.torch as mgt\n"
        "moe = mgt.MoE(mg.Layer(4, 4, 4, 2, aux=0.1))\n"
        "x = torch.ones(3, 4)\n"
        "y = moe(x); kept = moe.auxiliary\n"
        "z = moe(x); (z.sum() + moe.auxiliary).backward()\n"
        "r = mgt.gradcheck(moe, x, elementwise_limit=2, directions=1, cotangents=1)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_memory_is_freed_after_backward():
    """The last pass's graph, which `auxiliary` keeps, holds no tape any more."""
    moe = module(aux=0.1)
    x = numbers().requires_grad_()
    y = moe(x)
    call = y.grad_fn.call
    assert call.output is not None
    (y.sum() + moe.auxiliary).backward()
    assert call.output is None
    del y
    moe(x)
    held = moe.auxiliary.grad_fn.call.output
    assert held is not None and held is not call.output
