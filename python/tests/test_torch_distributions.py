"""The discrete draws of torch.distributions and torch.nn: enumerated, or said to be noise."""

import math

import moegrad.torch as mgt
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
D = torch.distributions

P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
VALUE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def estimate(log_p, value):
    """The score function's estimate of E[value]."""
    return value.detach() * (1 + log_p - log_p.detach())


def of_categorical(logits):
    d = D.Categorical(logits=logits)
    i = d.sample()
    return estimate(d.log_prob(i), VALUE[i])


def of_one_hot(logits):
    d = D.OneHotCategorical(logits=logits)
    x = d.sample()
    return estimate(d.log_prob(x), x @ VALUE)


def of_two_categoricals(logits):
    d = D.Categorical(logits=logits.expand(2, 3))
    i = d.sample()
    return estimate(d.log_prob(i).sum(), VALUE[i].prod())


def of_bernoulli(logits):
    d = D.Bernoulli(logits=logits)
    b = d.sample()
    return estimate(d.log_prob(b).sum(), (b * VALUE).sum() ** 2)


def of_multinomial(logits):
    d = D.Multinomial(2, logits=logits)
    x = d.sample()
    return estimate(d.log_prob(x), (x @ VALUE) ** 2)


ENUMERATED = {
    of_categorical: 3,
    of_one_hot: 3,
    of_two_categoricals: 9,
    of_bernoulli: 8,
    of_multinomial: 9,
}


@pytest.mark.parametrize("loss", ENUMERATED, ids=lambda f: f.__name__)
def test_score_functions_are_unbiased(loss):
    found = mgt.expectation(loss, P.log())
    assert found.exact and found.outcomes == ENUMERATED[loss]
    assert not found.biased and not found.unknown and found.bias < 1e-8
    assert found.total_variance > 0


def test_straight_through_of_torch_is_biased():
    def loss(logits):
        x = D.OneHotCategoricalStraightThrough(logits=logits).rsample()
        return (x @ VALUE) ** 3

    found = mgt.expectation(loss, P.log())
    assert found.exact and found.outcomes == 3 and found.biased
    assert found.loss == pytest.approx(float(P @ VALUE**3))
    # Given its draw it is the derivative of what it computes between its decisions.
    assert mgt.gradcheck(loss, P.log())


def test_dropout_is_enumerated():
    def loss(x):
        return torch.nn.functional.dropout(x, 0.25).square().sum()

    found = mgt.expectation(loss, torch.tensor([0.5, -1.0]))
    assert found.exact and found.outcomes == 4 and not found.biased
    assert found.loss == pytest.approx(1.25 / 0.75)


NOISE = {
    "Binomial": lambda p: D.Binomial(3, probs=p).sample(),
    "Geometric": lambda p: D.Geometric(probs=p).sample(),
    "Poisson": lambda p: D.Poisson(p).sample(),
    "NegativeBinomial": lambda p: D.NegativeBinomial(2, probs=p).sample(),
    "RelaxedBernoulli": lambda p: D.RelaxedBernoulli(torch.tensor(0.5), probs=p).rsample(),
    "gumbel_softmax": lambda p: torch.nn.functional.gumbel_softmax(p.log(), hard=True),
}


@pytest.mark.parametrize("name", NOISE)
def test_other_draws_are_noise_and_can_be_frozen(name):
    def loss(p):
        return (NOISE[name](p) * p).sum()

    report = mgt.gradcheck(loss, P)
    assert report, str(report)
    assert any(d.kind == "draw" for d in report.decisions)
    found = mgt.expectation(loss, P, samples=50, bias=False)
    assert not found.exact and found.noise and math.isfinite(found.loss)
