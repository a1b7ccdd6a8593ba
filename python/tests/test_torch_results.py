"""moegrad.torch: hold, decisions, equal, expectation."""

import moegrad as mg
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
F = torch.nn.functional
from torch_programs import W, X, gate, no_grad, router  # noqa: E402

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


# --- decisions, equal, expectation ---------------------------------------------------------------


def test_decisions_name_file_and_line():
    found = mgt.decisions(router, X, W)
    kinds = [d.kind for d in found]
    assert "select" in kinds
    top = next(d for d in found if d.operation == "aten.topk")
    assert top.where.startswith("torch_programs.py:")
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
        mgt.equal(torch.nn.Linear(6, 2), lambda x: x[:, :2], X)
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
