"""mg.gradcheck and mg.expectation for programs in NumPy."""

import moegrad as mg
import numpy as np
import pytest

X = np.array([[0.3, -1.2, 0.8], [0.5, 0.2, -0.7]])


def scaled_tanh(run, x):
    y = np.tanh(x) * 2.0
    return y, lambda dy: (dy * 2.0 * (1.0 - np.tanh(x) ** 2),)


def straight_through(run, x, slope=1.0):
    """The step's value, the sigmoid's gradient: soft + sg(hard - soft)."""
    soft = 1.0 / (1.0 + np.exp(-x))
    held = run.decide("stop", lambda: (x > 0).astype(float) - soft)
    return soft + held, lambda dy: (slope * dy * soft * (1.0 - soft),)


def test_passes_and_fails():
    report = mg.gradcheck(scaled_tanh, X)
    assert report and report.max_error < 1e-8 and list(report.inputs) == ["input 0"]
    wrong = mg.gradcheck(lambda run, x: (scaled_tanh(run, x)[0], lambda dy: (dy,)), X, names=["x"])
    assert wrong.verdict == "fail" and not wrong
    assert wrong.inputs["x"].numeric != wrong.inputs["x"].analytic
    assert "x: fail" in str(wrong)


def test_straight_through_is_checked_as_what_it_is():
    assert mg.gradcheck(straight_through, X)
    assert mg.gradcheck(lambda run, x: straight_through(run, x, 1.1), X).verdict == "fail"
    # As the exact derivative it is wrong: then the stopped part is not held.
    assert not mg.gradcheck(straight_through, X, hold="nothing")


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (lambda g: np.clip(g, -5, 5), "of 1024 times the cotangent, element"),
        (lambda g: g * (abs(g) > 2e-3), "of 0.0009765625 times the cotangent, element"),
    ],
)
def test_a_vjp_is_linear(of, text):
    def twice(run, x):
        return 2.0 * x, lambda dy: (of(2.0 * dy),)

    assert np.array_equal(twice(None, X)[1](np.ones(X.shape))[0], np.full(X.shape, 2.0))
    report = mg.gradcheck(twice, X, names=["x"])
    assert report.verdict == "fail" and text in report.inputs["x"].reason


def test_dead_gradient_is_said():
    def dead(run, x, w):
        return x * 2.0, lambda dy: (2.0 * dy, None)

    report = mg.gradcheck(dead, X, X, names=["x", "w"])
    assert report.dead == ["w"] and "dead" in str(report)


def test_kinks_are_walls():
    def relu(run, x):
        run.signature(hash((x > 0).tobytes()) & 0xFFFFFFFF)
        run.distance(float(np.abs(x).min()))
        return np.maximum(x, 0.0), lambda dy: (dy * (x > 0),)

    report = mg.gradcheck(relu, X)
    assert report and report.wall == pytest.approx(0.2)


def test_expectation_is_exact():
    f = np.array([1.0, -2.0, 0.5])

    def score_function(run, logits):
        e = np.exp(logits - logits.max())
        p = e / e.sum()
        i = int(run.categorical("draw", p[None])[0])
        onehot = np.eye(3)[i]
        # L = f[i]; the estimate is f[i] grad log p_i.
        return f[i], lambda dy: (dy * f[i] * (onehot - p),)

    logits = np.array([0.2, -0.4, 0.9])
    found = mg.expectation(score_function, logits)
    p = np.exp(logits) / np.exp(logits).sum()
    assert found.exact and found.outcomes == 3
    assert found.loss == pytest.approx(p @ f)
    np.testing.assert_allclose(found.gradient["input 0"], p * (f - p @ f), rtol=1e-12)
    assert not found.biased and found.bias < 1e-10

    def without_draw(run, logits):
        return score_function(run, logits)[0], lambda dy: (np.zeros(3),)

    assert mg.expectation(without_draw, logits).biased


def test_bias_to_another_program():
    """top-1 of two values against their mean: both are exact, their gradients are not the same."""

    def largest(run, x):
        i = int(run.decide("top", lambda: np.array(x.argmax(), np.int32)))
        return x[i], lambda dy: (dy * np.eye(2)[i],)

    def mean(run, x):
        return x.mean(), lambda dy: (dy * np.full(2, 0.5),)

    x = np.array([0.1, 0.7])
    assert not mg.expectation(largest, x).biased
    found = mg.expectation(largest, x, truth=mean)
    assert found.biased and found.bias == pytest.approx(np.sqrt(0.5))
    np.testing.assert_allclose(found.true_gradient["input 0"], [0.5, 0.5], atol=1e-9)


def test_noise_is_monte_carlo():
    def noisy(run, x):
        z = run.normal([2])
        return (x * x * z * z).sum(), lambda dy: (dy * 2.0 * x * z * z,)

    found = mg.expectation(noisy, np.array([1.0, -0.5]), samples=500)
    assert not found.exact and found.noise and not found.biased


def test_callbacks_that_misbehave():
    with pytest.raises(mg.Error, match="Return a pair: output, vjp"):
        mg.gradcheck(lambda run, x: x, X)
    with pytest.raises(ZeroDivisionError):
        mg.gradcheck(lambda run, x: 1 // 0, X)
    with pytest.raises(mg.Error, match="gradients for 1 inputs"):
        mg.gradcheck(lambda run, x: (x, lambda dy: (dy, dy)), X)
    with pytest.raises(mg.Error, match=r"the gradient of input 0 is f64 \[3\]"):
        mg.gradcheck(lambda run, x: (x, lambda dy: (dy[0],)), X)
    kept = []
    mg.gradcheck(lambda run, x: (kept.append(run), scaled_tanh(run, x))[1], X)
    with pytest.raises(mg.Error, match="it is over"):
        kept[0].mode


def test_hidden_state_is_inconclusive():
    calls = []

    def drifting(run, x):
        calls.append(1)
        return x + len(calls), lambda dy: (dy,)

    report = mg.gradcheck(drifting, X)
    assert report.verdict == "inconclusive" and "hidden state" in str(report)


def test_keyboard_interrupt_passes_at_a_moved_point():
    calls = []

    def interrupted(run, x):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return scaled_tanh(run, x)

    with pytest.raises(KeyboardInterrupt):
        mg.gradcheck(interrupted, X)
    assert len(calls) == 8


def test_errors_at_a_moved_point_are_told():
    calls = []

    def failing(run, x):
        calls.append(1)
        if run.mode == "replay" and not np.array_equal(x, X):
            raise ValueError("no such place")
        return scaled_tanh(run, x)

    report = mg.gradcheck(failing, X)
    assert report.verdict == "inconclusive" and "ValueError: no such place" in str(report)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, np.float16), "float16"),
        (np.zeros(3, bool), "bool"),
        (np.zeros(3, complex), "complex128"),
        (np.zeros((1,) * 6), "6 axes"),
        (np.zeros(3, ">f8"), "native byte order"),
        ([1.0, 2.0], "of type list"),
        (None, "of type NoneType"),
        ("x", "of type str"),
    ],
)
def test_arrays_that_are_not_served(array, text):
    with pytest.raises(mg.Error, match=text):
        mg.gradcheck(scaled_tanh, array)


def test_arrays_of_any_stride():
    wide = np.arange(24.0).reshape(4, 6) / 10.0
    for x in (wide.T, wide[::2, ::-1], np.asfortranarray(wide), wide[:0], np.array(0.3)):
        seen = []

        def program(run, a):
            seen.append(a.copy())
            return np.append(np.tanh(a).reshape(-1), 0.0), lambda dy: (
                dy[:-1].reshape(a.shape) * (1 - np.tanh(a) ** 2),
            )

        if x.size == 0:
            with pytest.raises(mg.Error, match="nothing to compare"):
                mg.gradcheck(program, x)
            continue
        assert mg.gradcheck(program, x)
        np.testing.assert_array_equal(seen[0], x)
