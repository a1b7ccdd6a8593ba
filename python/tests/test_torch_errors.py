"""moegrad.torch: bad input, and what is put back."""

import moegrad as mg
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
from torch_programs import W, X, gate  # noqa: E402

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
        (lambda: mgt.gradcheck(drifting, X), "test_torch_errors.py:"),
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
