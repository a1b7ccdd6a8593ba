"""Writes that autograd does not see: under no_grad, through .data, .detach() and views of these."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
mgt = pytest.importorskip("moegrad.torch")
nn = torch.nn

torch.manual_seed(5)
X = torch.randn(4, 6)


def write(y, how):
    how(y)
    return y


def quietly(how):
    """The same under no_grad."""

    def written(y):
        with torch.no_grad():
            how(y)

    return written


def put_row(y):
    y[1] = 3.0


def put_block(y):
    y[1:3][:, 2:][0] = 0.5


def view_of_data(y):
    y.data.view(-1)[3:9].view(2, 3)[1].add_(2.0)


def several(y):
    y.data.mul_(2.0)
    y.detach()[0].add_(1.0)
    with torch.no_grad():
        y[2].sub_(y[0])
        y.clamp_(-1.0, 1.0)


def centred(y):
    y.data -= y.data.mean(0)


def out_of(y):
    torch.mul(y.data, 3.0, out=y.data)


def read_back(y):
    d = y.detach()
    d.add_(1.0)
    y.data.copy_(d * d)


def to_columns(y):
    y.data.t()[2].fill_(0.3)


def assign(y):
    y.data = y.data * 2.0


WRITES = {
    "clamp": quietly(lambda y: y.clamp_(-0.5, 0.5)),
    "row": quietly(put_row),
    "block": quietly(put_block),
    "mask": quietly(lambda y: y.masked_fill_(y > 0.3, 2.0)),
    "index_add": quietly(lambda y: y.index_add_(0, torch.tensor([1, 1]), y[:2].clone())),
    "foreach": quietly(lambda y: torch._foreach_mul_([y, y[0]], 2.0)),
    "noise": quietly(lambda y: y.normal_()),
    "unsqueezed": quietly(lambda y: y.unsqueeze_(0).squeeze_(0)),
    "infinite": quietly(lambda y: y[0, 0].fill_(float("inf"))),
    "data": lambda y: y.data.add_(1.0),
    "slice of data": lambda y: y.data[1:3].zero_(),
    "data copy": lambda y: y.data.copy_(y.data * 0.9),
    "detach": lambda y: y.detach()[0].mul_(0.5),
    "view of view": view_of_data,
    "columns": to_columns,
    "several": several,
    "centred": centred,
    "out": out_of,
    "read back": read_back,
    "of a live value": lambda y: y.data.add_(y),
    "assigned": assign,
}


@pytest.mark.parametrize("name", WRITES)
def test_gradients_pass_a_write_that_autograd_does_not_see(name):
    def after(x):
        y = write(x * 2.0, WRITES[name])
        return torch.where(y.isinf(), 0.0, y).tanh() * x

    report = mgt.gradcheck(after, X)
    assert report, str(report)
    assert report.max_error < 1e-6

    def wrong(x):
        return Scale.apply(after(x))

    assert mgt.gradcheck(wrong, X).verdict == "fail"


@pytest.mark.parametrize("name", WRITES)
def test_the_derivative_is_that_of_autograd(name):
    """Its value and y + sg(new - y) are one program."""

    def stated(x):
        y = x * 2.0
        new = write(y.detach().clone().requires_grad_(), WRITES[name]).detach()
        y = torch.where(new.isinf(), new, y) + torch.where(new.isinf(), 0.0, new - y).detach()
        return torch.where(y.isinf(), 0.0, y).tanh() * x

    def after(x):
        y = write(x * 2.0, WRITES[name])
        return torch.where(y.isinf(), 0.0, y).tanh() * x

    assert mgt.equal(after, stated, X)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * 1.001


RIGHT = {
    # What was detached before a write that autograd sees shows it.
    "old alias": lambda x: old_alias(x),
    "alias of an alias": lambda x: alias_of_alias(x),
    "two aliases": lambda x: two_aliases(x),
    "alias made live": lambda x: alias_made_live(x),
    "buffer": lambda x: buffer(x),
    "buffer of nothing": lambda x: empty_buffer(x),
    "counts": lambda x: counts(x),
    "detached in place": lambda x: (x * 2.0).detach_() * x,
    "written input": lambda x: write(x, quietly(lambda x: x.mul_(2.0))).sin(),
    "written before": lambda x: written_between(x, 0),
    "assigned, then written": lambda x: assigned_then_written(x),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(several_of, x, use_reentrant=False),
    "vmap": lambda x: torch.vmap(quiet_of)(x),
}


def several_of(x):
    y = x * 2.0
    several(y)
    return y.sin()


def quiet_of(x):
    y = x * 2.0
    with torch.no_grad():
        y[1:3].mul_(0.5)
    return y.sin()


def assigned_then_written(x):
    y = x * 2.0
    z = (x * x).detach()
    d = y.data
    y.data = z
    z[0] = 1.0
    y[1:].data.mul_(2.0)
    d.add_(1.0)
    return y * x + z + d


def old_alias(x):
    y = x * 2.0
    d = y.detach()
    y.add_(x.sin())
    return d * x + y


def alias_of_alias(x):
    y = x * 2.0
    a = y.data
    b = a.detach()[1:]
    b.add_(1.0)
    y.mul_(3.0)
    return a * x + y


def two_aliases(x):
    y = x * 2.0
    a, b = y.data, y.detach()
    a[0].mul_(2.0)
    b[:2].add_(1.0)
    return a * y + b


def alias_made_live(x):
    y = x * 2.0
    d = y.data
    d.add_(x)
    y.data.mul_(2.0)
    return d * y


def buffer(x):
    y = torch.zeros(4, 6)
    with torch.no_grad():
        for i in range(4):
            y[i] = x[i].softmax(0)
    return y * x


def empty_buffer(x):
    y = torch.empty(4, 6)
    with torch.no_grad():
        y[:2].copy_(x[:2])
        y[2:] = 1.0
    return y * x


def counts(x):
    n = torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        n.view(2, 3)[1] += 2
        n.add_((x > 0).sum(0))
    return x * n


def written_between(x, place):
    w = x * 2.0
    for i in range(2):
        if i == place:
            w.data.mul_(3.0)
        if i == 0:
            y = w * w
    return y


WRONG = {
    # The backward pass of the product reads what was written after it.
    "written after": lambda x: written_between(x, 1),
    "by hand": lambda x: Scale.apply(old_alias(x)),
    "lost": lambda x: Lost.apply(x),
}


class Lost(torch.autograd.Function):
    """Clamps without a word of it in backward; here no gradients are off."""

    @staticmethod
    def forward(ctx, x):
        return x.clone().clamp_(-0.5, 0.5)

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    report = mgt.gradcheck(RIGHT[name], X)
    assert report, str(report)
    assert report.max_error < 1e-6


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    assert mgt.gradcheck(WRONG[name], X).verdict == "fail"


# --- parameters ----------------------------------------------------------------------------------


class Renormed(nn.Module):
    """Rows of the weight no longer than 1; `scale` is what backward makes of that."""

    def __init__(self, how, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5))
        self.register_buffer("calls", torch.zeros(()))
        self.how, self.scale = how, scale

    def forward(self, x):
        self.calls += 1
        self.how(self.weight)
        y = x @ self.weight * self.calls
        if self.scale != 1.0:
            y.register_hook(lambda g: g * self.scale)
        return y


def shorten(w):
    w.div_(w.norm(dim=1, keepdim=True).clamp(min=1.0))


@pytest.mark.parametrize(
    "how", [quietly(shorten), lambda w: shorten(w.data), lambda w: w.data.copy_(w.data / 3)]
)
def test_a_parameter_is_written(how):
    module = Renormed(how)
    before = module.weight.detach().clone()
    report = mgt.gradcheck(module, X)
    assert report, str(report)
    assert torch.equal(module.weight, before)
    assert mgt.gradcheck(Renormed(how, 0.9), X).verdict == "fail"


def test_embedding_with_max_norm():
    ids = torch.tensor([0, 2, 2, 4])
    table = nn.Embedding(5, 3, max_norm=0.7)
    report = mgt.gradcheck(table, ids)
    assert report, str(report)
    assert mgt.gradcheck(nn.Embedding(5, 3, max_norm=0.7, padding_idx=2), ids).verdict == "fail"
    # Of a table that is no input of the program's, what was written stays from run to run.
    report = mgt.gradcheck(lambda x: table.double()(ids) * x[:, :3], X)
    assert report, str(report)


def test_decisions_show_the_write():
    found = mgt.decisions(lambda x: write(x * 2.0, WRITES["data"]), X)
    assert [(d.kind, d.operation) for d in found][-1] == ("stop", "aten.add_")
    found = mgt.decisions(old_alias, X)
    assert [d.operation for d in found] == ["aten.detach"]
