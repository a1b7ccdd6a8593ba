"""moegrad.torch: what is frozen, what stays live."""

import contextlib
import dataclasses

import moegrad as mg
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
F = torch.nn.functional
from torch_programs import W, X, gate, no_grad, router  # noqa: E402

torch.manual_seed(3)

# --- programs whose gradient is that of the program between its decisions ------------------------

NOT_WRONG = {
    "gate": lambda x: gate(x),
    "top-k router": lambda x: router(x, W.double()),
    "argmax gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "max along": lambda x: x.max(1).values * 2.0,
    "max of all": lambda x: x.max() * x,
    "sort": lambda x: x.sort(1).values * torch.arange(6.0),
    "median": lambda x: x.median(1).values,
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "cummax": lambda x: x.cummax(1).values,
    "where": lambda x: torch.where(x > 0.1, x * x, -x),
    "masked": lambda x: x.masked_fill(x < 0, 0.0) * x,
    "nonzero": lambda x: x[x > 0.2] ** 2,
    "cast to integers": lambda x: x * (x * 10).long(),
    "relu, clamp, abs": lambda x: F.relu(x) + x.clamp(-0.5, 0.5) + x.abs(),
    "floor": lambda x: x * x.floor() + x.round() + x.sign(),
    "leaky, hardtanh": lambda x: F.leaky_relu(x) + F.hardtanh(x) + F.hardswish(x),
    "elu, threshold": lambda x: F.elu(x) + F.threshold(x, 0.2, 1.0) + F.softshrink(x),
    "amax": lambda x: x.amax(1, keepdim=True) * x + x.amin(0),
    "dropout": lambda x: F.dropout(x, 0.4),
    "gumbel softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "noise": lambda x: x * torch.randn_like(x) + torch.rand(6),
    "in-place noise": lambda x: x * torch.empty(4, 6).normal_(),
    "bernoulli gate": lambda x: torch.bernoulli(torch.sigmoid(x)).detach() * x,
    "multinomial": lambda x: x.gather(1, torch.multinomial(torch.softmax(x, 1), 2)),
    "max pool": lambda x: F.max_pool1d(x[None], 2),
    "one hot": lambda x: F.one_hot(x.argmax(1), 6) * x,
    "no_grad": lambda x: x * no_grad(x),
    "data": lambda x: x * x.data,
    "float32 section": lambda x: torch.softmax(x.float(), -1).to(x.dtype) * x,
    "bf16 section": lambda x: x.bfloat16().tanh().to(x.dtype),
    "softmax dtype": lambda x: torch.softmax(x, -1, dtype=torch.float32).to(x.dtype),
    "in-place": lambda x: x.mul(2).add_(x).relu_() * 2,
    "masked write": lambda x: masked_write(x),
    "index_add": lambda x: torch.zeros_like(x).index_add_(0, torch.tensor([1, 0, 2, 1]), x),
    "vmap": lambda x: torch.vmap(lambda row: row.topk(2).values.sum() * row)(x),
    "tuple": lambda x: (x * 2, {"b": x.tanh(), "n": 3}),
    "empty": lambda x: torch.cat([x[:0].reshape(-1), x.reshape(-1)]),
    "searchsorted": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])) * x,
    "quantile": lambda x: torch.quantile(x, 0.3, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1) + torch.log_softmax(x, 1).sum(),
    "inference mode": lambda x: x * inference(x),
    "no_grad view": lambda x: x * no_grad_view(x),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(
        lambda z: F.dropout(gate(z), 0.3), x, use_reentrant=False
    ),
    "written input": lambda x: x.mul_(torch.empty_like(x).uniform_(0.9, 1.1)).tanh(),
    "gradient within": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0] * x,
    "gradient as a constant": lambda x: torch.autograd.grad((x**3).sum(), x)[0] * x,
    "setup_context": lambda x: Cube.apply(x).relu(),
    "compared in place": lambda x: x * x.clone().detach().gt_(0.1),
    "divided": lambda x: torch.div(x, 0.3, rounding_mode="floor") * x + x % 0.7 + x.fmod(0.4),
    "functional_call": lambda x: torch.func.functional_call(LINEAR, {"weight": x[:2] * 2}, (x,)),
    "enable_grad": lambda x: no_grad_enable(x),
    "decorated": lambda x: decorated(x) * x,
    "func.grad": lambda x: torch.func.grad(lambda z: (z.sin() * x).sum())(x.detach()) * x,
    "generator": lambda x: x * torch.rand(6, generator=torch.Generator().manual_seed(3)),
    "unique": lambda x: torch.unique(x.detach().round(), return_inverse=True)[1].reshape(4, 6) * x,
    "compiled": lambda x: COMPILED(x),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None] * 2),
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, W.double()).relu(),
    "autocast": lambda x: autocast(x),
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "cross entropy": lambda x: F.cross_entropy(x, torch.tensor([0, 3, 1, 5])),
    "smooth l1": lambda x: F.smooth_l1_loss(x, torch.zeros(4, 6)) + F.huber_loss(x, x.detach() * 0),
}


LINEAR = torch.nn.Linear(6, 2, bias=False)
COMPILED = torch.compile(lambda x: x.topk(2).values.exp())


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.detach() ** 3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        return 3 * ctx.saved_tensors[0] ** 2 * dy


@torch.no_grad()
def decorated(x):
    return torch.softmax(x, -1) - x.mean()


def no_grad_enable(x):
    with torch.no_grad():
        held = x.sin()
        with torch.enable_grad():
            live = x.cos()
    return held * live


def no_grad_view(x):
    with torch.no_grad():
        v = x.view(-1).view(4, 6)
    return v


def inference(x):
    with torch.inference_mode():
        top = x.topk(2).indices
    return F.one_hot(top.clone(), 6).sum(1)


def masked_write(x):
    y = x.clone()
    y[y > 0.3] = 1.5
    return y * x


def autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return torch.relu(x @ W.to(x.dtype))


@pytest.mark.parametrize("name", NOT_WRONG)
def test_passes(name):
    report = mgt.gradcheck(NOT_WRONG[name], X)
    assert report, str(report)
    assert report.max_error < 1e-6


# --- wrong gradients, and values that leak past PyTorch ------------------------------------------


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.topk(2, -1).values * 3.0

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, dy * 2.9)


class Step(torch.autograd.Function):
    """Hard forward, identity backward within [-1, 1]."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x.abs() <= 1)


def leaking(x):
    return x * float(x.sum().item())


def through_numpy(x):
    with contextlib.suppress(RuntimeError):
        return x * torch.from_numpy(np.tanh(x.detach().numpy().copy()))
    return x


WRONG = {
    "Function": Wrong.apply,
    "hard without a surrogate": Step.apply,
    ".item()": leaking,
    "by strides": lambda x: ByStrides.apply(x),
    "hook": lambda x: hooked(x),
    "clipped where large": lambda x: clipped(x, lambda g: g.clamp(-50, 50)),
    "zero where small": lambda x: clipped(x, lambda g: torch.where(g.abs() < 1e-5, 0.0, g)),
    "gradient of a gate, scaled": lambda x: scaled(gate(x)),
}


def hooked(x):
    y = x * 2.0
    y.register_hook(lambda g: g * 1.01)
    return y.tanh()


def clipped(x, how):
    y = x * 2.0
    y.register_hook(how)
    return y.tanh()


class ByStrides(torch.autograd.Function):
    """Right where its input is contiguous."""

    @staticmethod
    def forward(ctx, x):
        ctx.contiguous = x.is_contiguous()
        return x * 3.0

    @staticmethod
    def backward(ctx, dy):
        return dy * (3.0 if ctx.contiguous else 2.0)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * 1.001


scaled = Scale.apply


@pytest.mark.parametrize("name", WRONG)
def test_fails(name):
    report = mgt.gradcheck(WRONG[name], X.t().contiguous().t() if name == "by strides" else X)
    assert report.verdict == "fail", str(report)


def test_hooks_of_an_input_and_of_a_parameter():
    x = X.clone().requires_grad_()
    x.register_hook(lambda g: g * 2)
    assert mgt.gradcheck(torch.sin, x).verdict == "fail"
    module = torch.nn.Linear(6, 3)
    module.weight.register_post_accumulate_grad_hook(lambda p: None)
    assert "weight has a post-accumulate hook" in str(mgt.gradcheck(module, X))


@dataclasses.dataclass
class Out:
    y: torch.Tensor
    n: int = 1


def test_dataclass_output():
    assert mgt.gradcheck(lambda x: Out(x.tanh()), X)


def test_surrogate():
    inside = X * 0.4
    assert mgt.gradcheck(Step.apply, inside, surrogate=lambda x: x.clamp(-1, 1))
    assert mgt.gradcheck(Step.apply, X * 3, surrogate=lambda x: x.clamp(-1, 1))
    assert mgt.gradcheck(Step.apply, X * 3, surrogate=lambda x: x * 1.0).verdict == "fail"
    with pytest.raises(mg.Error, match="Return the same shapes"):
        mgt.gradcheck(Step.apply, X, surrogate=lambda x: x[0])


def test_dead_gradient():
    weight = torch.randn(5, 6, dtype=torch.float64)

    def router_of_one(x, w):
        top = torch.softmax((x @ w.T).topk(1).values, -1)  # one score by itself is 1
        return x * top

    report = mgt.gradcheck(router_of_one, X, weight)
    assert report.dead == ["w"]
