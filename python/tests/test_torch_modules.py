"""moegrad.torch: a Module's parameters and state."""

import moegrad as mg
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
F = torch.nn.functional
from torch_programs import X  # noqa: E402

torch.manual_seed(3)

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
