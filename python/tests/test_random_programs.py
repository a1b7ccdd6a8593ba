"""Random programs of mixed operations pass; with one sign turned in a Function they fail."""

import moegrad as mg
import moegrad.torch as mgt
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

QUICK = {"elementwise_limit": 0, "directions": 2, "cotangents": 1}


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, dy):
        return -dy


def frozen_noise(x):
    return x + torch.randn_like(x) * torch.rand(())


def no_grad_scale(x):
    with torch.no_grad():
        scale = x.abs().amax() + 1.0
    return x / scale


def written(x):
    y = x * 1.0
    y[y > 0.5] = 0.25
    return y.mul_(1.5)


def straight_through(x):
    return x + (x.round() - x).detach()


STEPS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sort": lambda x: x.sort(-1, descending=True).values,
    "top": lambda x: x.topk(max(1, x.shape[-1] // 2), -1).values.sum(-1, keepdim=True) * x,
    "gather": lambda x: x.gather(-1, x.argmax(-1, keepdim=True)) + x.sin(),
    "where": lambda x: torch.where(x > 0, x.exp().clamp(max=20.0), x * 0.3),
    "softmax": lambda x: torch.softmax(x.float(), -1).to(x.dtype) * x,
    "norm": lambda x: x / (x.square().sum(-1, keepdim=True) + 1.0).sqrt(),
    "noise": frozen_noise,
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.3),
    "no_grad": no_grad_scale,
    "written": written,
    "straight": straight_through,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2) * 1.1,
    "flipped": lambda x: x.flip(-1).as_strided(x.shape, x.contiguous().stride()) - 0.1,
    "multinomial": lambda x: (
        x.gather(
            -1,
            torch.multinomial(torch.softmax(x.reshape(-1, x.shape[-1]), -1), 1).reshape(
                *x.shape[:-1], 1
            ),
        )
        * x
    ),
    "counted": lambda x: x * (x > 0.1).sum(-1, keepdim=True),
}


def program(names, turned_at=None):
    def run(x):
        for i, name in enumerate(names):
            if i == turned_at:
                x = Turned.apply(x)
            x = STEPS[name](x)
        return x

    return run


def point(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6),
    st.sampled_from([(3, 4), (1, 5), (4, 1), (2, 2, 3)]),
    st.integers(0, 10**6),
)
def test_random_programs_do_not_fail(names, shape, seed):
    report = mgt.gradcheck(program(names), point(shape, seed), **QUICK)
    assert report.verdict != "fail", f"{names}\n{report}"


# Steps through which a sign shows at every point.
PLAIN = ["tanh", "norm", "noise", "transposed", "straight", "no_grad", "softmax", "flipped"]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4), st.data(), st.integers(0, 10**6))
def test_a_turned_sign_fails(names, data, seed):
    at = data.draw(st.integers(0, len(names) - 1))
    assert mgt.gradcheck(program(names), point((3, 4), seed), **QUICK)
    report = mgt.gradcheck(program(names, at), point((3, 4), seed), **QUICK)
    assert report.verdict == "fail", f"{names} turned at {at}\n{report}"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(["float64", "float32", "int32", "int64", "float16", "bool"]),
    st.sampled_from(["plain", "reversed", "transposed", "wide"]),
)
def test_arrays_of_all_shapes_and_types(shape, dtype, layout):
    whole = np.arange(np.prod(shape, dtype=int) * 2).reshape([*shape, 2]).astype(dtype)
    array = whole[..., 0]
    if layout == "reversed" and array.ndim:
        array = array[::-1]
    elif layout == "transposed":
        array = array.T
    elif layout == "plain":
        array = np.ascontiguousarray(array).reshape(array.shape)
    seen = []

    def identity(run, x, y):
        seen.append(x.copy())
        return y, lambda dy: (None, dy)

    def call():
        return mg.gradcheck(identity, array, np.ones(2))

    if dtype == "float32":
        with pytest.raises(mg.Error, match="f32"):
            call()
    elif dtype not in ("float64", "int32"):
        with pytest.raises(mg.Error, match=dtype):
            call()
    else:
        call()
        np.testing.assert_array_equal(seen[0], array)
        assert seen[0].dtype == array.dtype
