"""moegrad.torch: what is frozen, what stays live, and what a check says of it."""

import contextlib
import dataclasses

import moegrad as mg
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
F = torch.nn.functional

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


LINEAR_WITH_BIAS = torch.nn.Linear(6, 2)
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


def no_grad(x):
    with torch.no_grad():
        return x.softmax(-1) * 3


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


EXACT = {
    "a selection": lambda x: x.topk(2).values * 2.0,
    "a stop that changes nothing": lambda x: x.softmax(-1) * (x * 0).detach() + x.tanh(),
    "draws": lambda x: F.dropout(x, 0.4) * torch.randn_like(x),
    "a draw by a probability": lambda x: torch.bernoulli(torch.sigmoid(x)) * x,
    "noise in place of a value": lambda x: (x * 2.0).normal_() * x,
    "integers": lambda x: x * (x * 10).long(),
}
NOT_EXACT = {
    "straight-through": gate,
    "stop": lambda x: x * x.detach(),
    "no_grad": lambda x: x * no_grad(x),
    "detach_": lambda x: (x * 2.0).detach_() * x,
    "decide": lambda x: x * mgt.decide("held", lambda: x.detach() * 2.0),
    "unseen write": lambda x: written(x * 2.0, lambda y: y.data[0].mul_(2.0)) * x,
    "assigned": lambda x: written(x * 2.0, lambda y: setattr(y, "data", y.data * 2)) * x,
}


def written(y, how):
    how(y)
    return y


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_derivative(name):
    report = mgt.gradcheck(EXACT[name], X, hold="nothing")
    assert report, str(report)
    assert "frozen" not in str(report)


@pytest.mark.parametrize("name", NOT_EXACT)
def test_not_the_exact_derivative(name):
    assert mgt.gradcheck(NOT_EXACT[name], X)
    report = mgt.gradcheck(NOT_EXACT[name], X, hold="nothing")
    assert report.verdict == "fail", str(report)


def test_hold_is_named():
    with pytest.raises(mg.Error, match="hold is 'some'. Use 'all' or 'nothing'"):
        mgt.gradcheck(gate, X, hold="some")


def test_dead_gradient():
    weight = torch.randn(5, 6, dtype=torch.float64)

    def router_of_one(x, w):
        top = torch.softmax((x @ w.T).topk(1).values, -1)  # one score by itself is 1
        return x * top

    report = mgt.gradcheck(router_of_one, X, weight)
    assert report.dead == ["w"]


# --- modules -------------------------------------------------------------------------------------


class Mixture(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.router = torch.nn.Linear(6, 4)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(4))
        self.register_buffer("load", torch.zeros(4))
        self.calls = 0

    def forward(self, x):
        p = torch.softmax(self.router(x), -1)
        w, i = p.topk(2)
        self.load += F.one_hot(i, 4).sum((0, 1))
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows, place = (i == e).nonzero(as_tuple=True)
            y = y.index_add(0, rows, expert(x[rows]) * w[rows, place, None])
        return y


def test_module_parameters_are_inputs():
    block = Mixture()
    before = {k: v.clone() for k, v in block.state_dict().items()}
    report = mgt.gradcheck(block, X)
    assert report, str(report)
    assert set(report.inputs) == {"x", *(n for n, _ in block.named_parameters())}
    for name, value in block.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name
    assert all(isinstance(p, torch.nn.Parameter) for p in block.parameters())
    assert all(p.grad is None for p in block.parameters())


def test_module_held_parameters():
    block = Mixture()
    block.router.requires_grad_(False)
    report = mgt.gradcheck(block, X)
    assert report and "router.weight" not in report.inputs
    assert "2 parameters do not require a gradient" in str(report)
    with pytest.raises(mg.Error, match="no parameter requires a gradient"):
        mgt.gradcheck(block.requires_grad_(False), torch.arange(3))


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.MultiheadAttention(6, 2, batch_first=True),
        torch.nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
        torch.nn.LSTM(6, 3, batch_first=True),
        torch.nn.GRU(6, 3, batch_first=True),
    ],
    ids=lambda m: type(m).__name__,
)
def test_modules_of_torch(module):
    x = X[None]
    call = (x, x, x) if isinstance(module, torch.nn.MultiheadAttention) else (x,)
    report = mgt.gradcheck(module, *call)
    assert report, str(report)


def test_batch_norm():
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU())
    assert mgt.gradcheck(module, X)
    assert module[1].num_batches_tracked == 0


def test_parametrized_and_tied():
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 6))
    assert mgt.gradcheck(module, X)
    tied = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    assert mgt.gradcheck(tied, X)


# --- decisions, equal, expectation ---------------------------------------------------------------


def test_decisions_name_file_and_line():
    found = mgt.decisions(router, X, W)
    kinds = [d.kind for d in found]
    assert "select" in kinds
    top = next(d for d in found if d.operation == "aten.topk")
    assert top.where.startswith("test_torch.py:")
    logits = (X.double() @ W.double()).sort(descending=True).values
    assert top.margin == pytest.approx(float((logits[:, 1] - logits[:, 2]).min()))
    assert "aten.topk" in str(found) and "margin" in str(found)


@pytest.mark.parametrize(
    ("select", "rows"),
    [
        (lambda x: x.topk(2).values, 4),
        (lambda x: x.topk(2, 0).values, 6),
        (lambda x: x.argmax(-1) * x[:, 0], 4),
        (lambda x: x.argmax() * x, 1),
        (lambda x: (x > 0) * x, 4),
        (lambda x: x[:0].sort().values.sum() + x, 0),
        (lambda x: x.detach() * x, 4),
    ],
)
def test_decisions_tell_rows(select, rows):
    found = mgt.decisions(select, X)
    assert found[0].rows == rows
    header, line = str(found).splitlines()[:2]
    assert header.split()[3] == "rows" and line[header.index("rows") :].split()[0] == str(rows)


def test_equal():
    assert mgt.equal(lambda x: x.relu(), lambda x: torch.where(x > 0, x, 0.0 * x), X)
    assert not mgt.equal(lambda x: x * 2, lambda x: x * 2.0001, X)
    with pytest.raises(mg.Error, match="3 and 1 inputs and parameters"):
        mgt.equal(LINEAR_WITH_BIAS, lambda x: x[:, :2], X)
    assert not mgt.equal(
        lambda x: x.sigmoid(), lambda x: gate(x) - gate(x) + x.sigmoid().detach(), X
    )


REWARD = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def score_function(logits):
    draw = torch.distributions.Categorical(logits=logits)
    i = draw.sample()
    cost = REWARD[i]
    return cost.detach() + cost.detach() * (draw.log_prob(i) - draw.log_prob(i).detach())


def straight_through(logits):
    p = torch.softmax(logits, -1)
    hard = F.one_hot(torch.multinomial(p, 1)[0], 4).to(p.dtype)
    return ((hard - p).detach() + p).pow(2).mul(REWARD).sum()


def test_expectation():
    logits = torch.tensor([0.1, 0.5, -0.3, 0.2])
    found = mgt.expectation(score_function, logits)
    assert found.exact and found.outcomes == 4 and not found.biased and found.bias < 1e-9
    assert list(found.gradient) == ["logits"]
    assert mgt.unbiased(score_function, logits)
    assert not mgt.unbiased(straight_through, logits)
    # d E[L] is that of p . reward
    p = torch.softmax(logits.double(), -1)
    truth = p * (REWARD - (p * REWARD).sum())
    np.testing.assert_allclose(found.true_gradient["logits"], truth, atol=1e-8)


def test_expectation_of_bernoulli_and_without_replacement():
    def loss(p):
        b = torch.bernoulli(p.detach())
        return (b * REWARD).sum() * (1 - b[0]) + (p * 0).sum()

    found = mgt.expectation(loss, torch.tensor([0.2, 0.5, 0.7, 0.1]), bias=False)
    p = np.array([0.2, 0.5, 0.7, 0.1], np.float32).astype(float)
    assert found.exact and found.outcomes == 16
    assert found.loss == pytest.approx((1 - p[0]) * (p[1:] @ REWARD.numpy()[1:]))

    def pair(logits):
        i = torch.multinomial(torch.softmax(logits, -1), 2)
        return REWARD[i].sum() + logits.sum() * 0

    assert mgt.expectation(pair, torch.zeros(4), bias=False).outcomes == 12


def test_expectation_with_noise_is_monte_carlo():
    def loss(x):
        return (x * torch.randn(3)).square().sum()

    found = mgt.expectation(loss, torch.tensor([0.5, 1.0, -0.3]), samples=200)
    assert not found.exact and found.noise and not found.biased


def test_truth():
    def top(x):
        return x.topk(1).values.sum()

    found = mgt.expectation(top, torch.tensor([0.3, 0.1]), truth=lambda x: x.mean())
    assert found.biased and found.bias == pytest.approx(0.5**0.5)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mgt.gradcheck(lambda x: None, X), "returns nothing"),
        (lambda: mgt.gradcheck(lambda x: [1, 2], X), "a list without a tensor of floats"),
        (lambda: mgt.gradcheck(lambda x: x.argmax(), X), "torch.int64"),
        (lambda: mgt.gradcheck(lambda x: torch.complex(x, x), X), "view_as_real"),
        (lambda: mgt.gradcheck(lambda x: x, X.to_sparse()), "to_dense"),
        (lambda: mgt.gradcheck(lambda x: x, X.to("meta")), "cpu"),
        (lambda: mgt.gradcheck(lambda x: x, X.to(torch.complex64)), "view_as_real"),
        (lambda: mgt.gradcheck(3, X), "cannot be called"),
        (lambda: mgt.gradcheck(lambda x: x, 3), "no input is a floating tensor"),
        (lambda: mgt.expectation(lambda x: x, X), "one number"),
        (lambda: mgt.gradcheck(gamma, X), "Gamma"),
        (
            lambda: mgt.gradcheck(
                lambda x: torch.distributions.Beta(x.exp(), x.exp()).rsample(), X
            ),
            "Beta",
        ),
        (lambda: mgt.gradcheck(lambda x: x @ W, X), "All of a program is float64 in a check"),
        (lambda: mgt.gradcheck(drifting, X), "test_torch.py:"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(mg.Error, match=text):
        call()


def gamma(x):
    return torch.distributions.Gamma(x.exp(), x.exp()).rsample()


_count = []


def drifting(x):
    _count.append(1)
    return x.relu() if len(_count) % 2 else x.topk(2).values


def test_state_of_torch_is_put_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert mgt.gradcheck(gate, X)
        assert not torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
