"""moegrad.jax: inputs, decisions, equal, errors."""

import subprocess
import sys
from pathlib import Path

import moegrad as mg
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
mgj = pytest.importorskip("moegrad.jax")
import jax.numpy as jnp  # noqa: E402
import jax_programs  # noqa: E402
from jax import lax  # noqa: E402
from jax_programs import KEY, RNG, W, X, gate, kernel, router, scaled  # noqa: E402

# --- inputs --------------------------------------------------------------------------------------


def test_trees_of_inputs():
    def block(params, x, *, scale, places):
        return router(x, params["router"]["w"]) * scale + params["b"][places]

    params = {"router": {"w": W}, "b": jnp.arange(5.0), "name": "layer", "steps": 3}
    report = mgj.gradcheck(
        block, params, X, scale=np.float32(2.0), places=jnp.array([0, 2, 2, 1, 0])
    )
    assert report, str(report)
    assert list(report.inputs) == ["params['b']", "params['router']['w']", "x", "scale"]


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
def test_types(dtype):
    x = np.asarray(X).astype(dtype)
    assert mgj.gradcheck(lambda x, n: gate(x) * n, x, np.arange(4))


def test_shapes():
    for shape in ((), (1,), (0, 3), (2, 1, 1, 2, 1, 2)):
        x = RNG.normal(size=shape)
        assert mgj.gradcheck(lambda x, y: jax.nn.relu(x).sum() + jnp.tanh(y), x, np.ones(2)), shape


def test_keys_are_constants():
    def noisy(key, x):
        a, b = jax.random.split(key)
        return x * jax.random.normal(a, x.shape) + jax.random.normal(b, x.shape)

    for key in (KEY, jax.random.PRNGKey(2)):
        assert list(mgj.gradcheck(noisy, key, X).inputs) == ["x"]


def test_lifted_casts_are_counted():
    report = mgj.gradcheck(lambda x: x.astype(jnp.float16).astype(jnp.float32) * 2, X)
    assert report.lifted == 1 and "lifted: 1 casts" in str(report)
    assert mgj.gradcheck(gate, X).lifted == 0


# --- decisions, equal ----------------------------------------------------------------------------


def test_decisions_name_file_and_line():
    found = mgj.decisions(router, X, W)
    top = next(d for d in found if d.operation == "top_k")
    assert top.kind == "select" and top.where.startswith("jax_programs.py:")
    line = int(top.where.split(":")[1])
    assert "lax.top_k" in Path(jax_programs.__file__).read_text().splitlines()[line - 1]
    logits = np.sort(np.float64(X) @ np.float64(W))
    assert top.margin == pytest.approx((logits[:, -2] - logits[:, -3]).min())
    assert top.rows == 3 and "top_k" in str(found) and "rows  margin" in str(found)
    rows = [d.rows for d in mgj.decisions(lambda x: x.argmax(0) + jnp.sort(x) + (x > 0), X)]
    assert rows == [4, 3, 3]
    drawn = mgj.decisions(lambda x: x[mgj.categorical(KEY, x)], X[0])
    assert [(d.kind, d.operation) for d in drawn if d.kind == "draw"] == [("draw", "categorical")]
    assert all(d.where.startswith("test_jax_inputs.py:") for d in drawn)


def test_equal():
    assert mgj.equal(jax.nn.relu, lambda x: jnp.where(x > 0, x, 0.0 * x), X)
    assert not mgj.equal(lambda x: x * 2, lambda x: x * 2.0001, X)
    assert not mgj.equal(scaled, lambda x: x, X)
    with pytest.raises(mg.Error, match="same outputs"):
        mgj.equal(lambda x: x, lambda x: x[0], X)


# --- bad input -----------------------------------------------------------------------------------


def hidden(x):
    hidden.calls += 1
    return x * hidden.calls


hidden.calls = 0


def with_reference(x):
    held = jax.new_ref(jnp.zeros_like(x))
    held[...] = x
    return held[...] * x


def sharded(f):
    from jax.sharding import AxisType, PartitionSpec

    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    return jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i"))


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")
def test_sharded():
    assert mgj.gradcheck(sharded(lambda x: jnp.sin(x) * lax.psum(x.sum(), "i")), X)
    with pytest.raises(mg.Error, match="holds a stop_gradient"):
        mgj.gradcheck(sharded(gate), X)


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="this JAX has no jax.new_ref")
def test_mutable_arrays_are_refused():
    with pytest.raises(mg.Error, match="mutable array"):
        mgj.gradcheck(with_reference, X)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mgj.gradcheck(lambda x: None, X), "returns nothing"),
        (lambda: mgj.gradcheck(lambda x: [1, 2], X), "a list without an array of floats"),
        (lambda: mgj.gradcheck(lambda x: x.argmax(), X), "an array of int"),
        (lambda: mgj.gradcheck(lambda x: x + 1j, X), "returns complex"),
        (lambda: mgj.gradcheck(lambda x: x, X + 1j), "x is complex64"),
        (lambda: mgj.gradcheck(lambda **a: a["t"]["w"], t={"w": X + 1j}), r"t\['w'\] is complex"),
        (lambda: mgj.gradcheck(3, X), "int cannot be called"),
        (lambda: mgj.gradcheck(lambda x: x, jnp.arange(3)), "no input is an array of floats"),
        (lambda: mgj.gradcheck(lambda x: x if x[0, 0] > 0 else -x, X), "cannot trace"),
        (lambda: mgj.gradcheck(lambda x: x * float(x.sum()), X), "cannot trace"),
        (lambda: mgj.gradcheck(lambda x: x[x > 0], X), "cannot trace"),
        (lambda: jax.jit(lambda x: mgj.gradcheck(gate, x))(X), "outside of jit"),
        (lambda: mgj.expectation(lambda x: x, X), "one number"),
        (lambda: mgj.gradcheck(lambda x: jax.random.gamma(KEY, jnp.exp(x)), X), "beta, dirichlet"),
        (lambda: mgj.gradcheck(hidden, X), "hidden state"),
        (lambda: mgj.gradcheck(lambda x: kernel(x.astype(jnp.float32)), X), "rounding hides"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(mg.Error, match=text):
        call()


@pytest.mark.parametrize(
    ("stand_in", "text"),
    [
        ("None", "JAX is not installed. Install it: pip install jax"),
        ("types.SimpleNamespace(__version__='0.4.30', __version_info__=(0, 4, 30))", "0.4.35"),
    ],
)
def test_import_without_a_jax_that_is_served(stand_in, text):
    program = f"import sys, types; sys.modules['jax'] = {stand_in}; import moegrad.jax"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: [moegrad.jax]" in found.stderr and text in found.stderr


def test_errors_of_the_program_pass_through():
    with pytest.raises(ZeroDivisionError):
        mgj.gradcheck(lambda x: x / (1 // 0), X)
    with pytest.raises(TypeError, match="dot_general"):
        mgj.gradcheck(lambda x: x @ x, X)


def test_state_of_jax_is_put_back():
    before = jax.config.jax_enable_x64, (X * 1.0).dtype
    mgj.gradcheck(gate, X)
    with pytest.raises(ZeroDivisionError):
        mgj.gradcheck(lambda x: 1 // 0, X)
    assert (jax.config.jax_enable_x64, (X * 1.0).dtype) == before
    assert (jax.jit(scaled)(X)).dtype == jnp.float32


@pytest.mark.parametrize(
    "state",
    [jax.disable_jit, lambda: jax.numpy_dtype_promotion("strict")],
    ids=["disable_jit", "strict promotion"],
)
def test_states_of_jax(state):
    with state():
        assert mgj.gradcheck(lambda x: jnp.sort(x @ W), X)
        assert mgj.gradcheck(lambda x: scaled(gate(x)), X).verdict == "fail"


def test_ties_are_not_decided():
    for f in (jax.nn.relu, lambda x: x.max(1)):
        assert mgj.gradcheck(f, jnp.zeros((2, 3))).verdict == "inconclusive"
