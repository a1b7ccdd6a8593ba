"""mgt.MoE with checkpoints, torch.func, torch.compile, threads, and under the checks."""

import copy
import subprocess
import sys
import threading
import warnings

import moegrad as mg
import pytest

torch = pytest.importorskip("torch")
import moegrad.torch as mgt  # noqa: E402
from torch_moe_modules import D, E, H, K, N, gradients, module, numbers, top_k  # noqa: E402


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
    assert table[0].shapes == [("int32", (N, K))] and "test_torch_moe_use" in table[0].where
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
