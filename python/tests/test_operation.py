"""mg.operation: an operation in NumPy, checked and mutated."""

import pickle
import re

import moegrad as mg
import numpy as np
import pytest

CASES = [(4, 3), (), (0, 3)]


@mg.operation(claim="exact", needs="output", cases=CASES)
class soft_cap:
    """cap tanh(x / cap)"""

    def forward(x, cap=1.5):
        return cap * np.tanh(x / cap)

    def backward(dy, y, cap):
        return (dy * (1 - (y / cap) ** 2),)


@mg.operation(claim="exact", needs="inputs", cases=[((4, 3), (4, 3)), ((), ()), ((0, 2), (0, 2))])
class product:
    @staticmethod
    def forward(a, b):
        return a * b

    @staticmethod
    def backward(dy, a, b):
        return dy * b, dy * a


@mg.operation(
    claim="exact",
    needs="inputs_and_output",
    cases=[((4, 3), 0.5, 3.0), ((1,), 0.5, 3.0), ((2, 0, 3), 0.5, 3.0)],
)
class square_root:
    def forward(x):
        return np.sqrt(x)

    def backward(dy, x, y):
        return dy * y / (2 * x)


@mg.operation(
    claim="exact", needs="nothing", cases=[((2, 3), (4, 3)), ((1,), (1,)), ((0, 2), (3, 2))]
)
class stack:
    def forward(*arrays):
        return np.concatenate(arrays)

    def backward(dy):
        # Of the cases above: the first part has (n, n + 2), (1, 1) or (0, n) rows.
        first = {6: 2, 2: 1, 3: 0}[len(dy)]
        return dy[:first], dy[first:]


@mg.operation(claim="exact on the cell", needs="inputs", cases=[*CASES, (11,)])
class relu:
    def forward(x):
        return np.maximum(x, 0)

    def backward(dy, x):
        return dy * (x > 0)

    def cell(x):
        return x > 0, np.abs(x).min(initial=np.inf)


@mg.operation(claim="surrogate", needs="inputs", cases=CASES)
class sign:
    """The sign; backwards the clamp of Hubara et al. 2016."""

    def forward(x):
        return np.sign(x)

    def surrogate(x):
        return np.clip(x, -1, 1)

    def backward(dy, x):
        return dy * (np.abs(x) <= 1)


RIGHT = [soft_cap, product, square_root, stack, relu, sign]


@pytest.mark.parametrize("op", RIGHT, ids=lambda op: op.name)
def test_right_ones_pass(op):
    row = op.check()
    assert row and row.verdict == "pass", row
    assert row.cases == len(op.cases) and row.max_error < 1e-7 and row.claim == op.claim
    assert row.reason == "" and f"{op.name}: pass" in str(row)


@pytest.mark.parametrize("mutation", mg.mutations())
@pytest.mark.parametrize("op", RIGHT, ids=lambda op: op.name)
def test_every_mutation_is_caught(op, mutation):
    for i in range(len(op.cases[0][1])):
        row = op.check(mutation=mutation, input=i)
        assert row.verdict == "fail" and not row and row.reason


def test_the_mutations():
    names = ("sign", "factor 2", "dropped", "transposed", "stale permutation", "= for +=")
    assert mg.mutations() == names
    with pytest.raises(mg.Error, match="no mutation 'sing'. Did you mean 'sign'"):
        soft_cap.check(mutation="sing")
    with pytest.raises(mg.Error, match="no input 1"):
        soft_cap.check(mutation="sign", input=1)


def test_a_mutation_that_changes_nothing_is_said():
    numbers = mg.operation(claim="exact", needs="output", cases=[(3,), (), (0,)])(
        soft_cap.__wrapped__
    )
    assert numbers.check()
    with pytest.raises(mg.Error, match="'transposed' changes no gradient of input 0"):
        numbers.check(mutation="transposed")


def test_called_it_is_the_function():
    x = np.array([0.5, 4.0, -40.0])
    np.testing.assert_allclose(soft_cap(x, cap=5.0), 5.0 * np.tanh(x / 5.0))
    y, vjp = soft_cap.vjp(x, cap=5.0)
    np.testing.assert_allclose(vjp(np.ones(3))[0], 1 - np.tanh(x / 5.0) ** 2)
    assert soft_cap(x.astype(np.float32)).dtype == np.float32
    assert soft_cap.__doc__ == "cap tanh(x / cap)"
    assert mg.gradcheck(lambda run, x: soft_cap.vjp(x), x)
    assert pickle.loads(pickle.dumps(soft_cap)) is soft_cap


def test_options_are_those_of_forward():
    assert soft_cap.check(cap=0.25) and soft_cap.options == {"cap": 1.5}
    for call in (soft_cap.check, lambda **o: soft_cap(np.ones(3), **o)):
        with pytest.raises(mg.Error, match="no option 'cup'. There are: cap"):
            call(cup=1.0)


def checked(claim="exact", needs="inputs", cases=CASES, **functions):
    functions.setdefault("forward", lambda x: np.sin(x))
    functions.setdefault("backward", lambda dy, x: (dy * np.cos(x),))
    return mg.operation(claim=claim, needs=needs, cases=cases)(type("tried", (), functions)).check()


@pytest.mark.parametrize(
    ("backward", "reason"),
    [
        (lambda dy, x: dy * np.sin(x), "differ"),
        (lambda dy, x: dy * np.cos(x) * dy.dtype.type(1.000001), "differ"),
        (lambda dy, x: (None,), "differ"),
        (lambda dy, x: dy * np.nan, "NaN|not finite"),
        (lambda dy, x: np.cos(x) * np.where(dy > 10, 2 * dy, dy), "not linear|2\\^30 times"),
        (lambda dy, x: dy * np.cos(x) + dy.dtype.type(1e-13), "zero cotangent"),
    ],
)
def test_wrong_gradients_fail(backward, reason):
    row = checked(backward=backward)
    assert row.verdict == "fail"
    assert re.search(reason, row.reason), row.reason


def test_wrong_claims_fail():
    # sign: nothing of the surrogate's derivative is in the exact one.
    assert checked(forward=np.sign, backward=lambda dy, x: dy * (np.abs(x) <= 1)).verdict == "fail"
    row = checked(
        claim="surrogate",
        forward=np.sign,
        surrogate=lambda x: np.clip(x, -1, 1),
        backward=lambda dy, x: dy,
    )
    assert row.verdict == "fail"
    # A kink on the way that no cell() tells of.
    assert not checked(
        cases=[(200,), (1,), (0,)],
        forward=lambda x: np.abs(x - x.round(1)),
        backward=lambda dy, x: dy * -np.sign(x - x.round(1)),
    )


def test_state_is_found():
    seen = {}

    def forward(x):
        seen["x"] = x.copy()
        return np.sin(x)

    # Backward by what forward saw last, which need not be what it is asked for.
    assert checked(forward=forward, backward=lambda dy, x: dy * np.cos(seen["x"])).verdict == "fail"

    calls = []

    def drifting(x):
        calls.append(1)
        return np.sin(x) + x.dtype.type(len(calls))

    assert checked(forward=drifting).verdict == "fail"


def test_nan_fails():
    row = checked(forward=lambda x: np.log(x), backward=lambda dy, x: dy / x)
    assert row.verdict == "fail" and "output" in row.reason and "NaN" in row.reason


def test_a_gradient_that_is_always_zero_is_dead():
    row = checked(forward=lambda x: x * 0, backward=lambda dy, x: dy * 0)
    assert row and row.dead_inputs == ["input 0"] and "dead" in row._repr_html_()


@pytest.mark.parametrize(
    ("functions", "text"),
    [
        (
            {"forward": lambda x: np.float64(2) * np.sin(x).astype(float)},
            "float64 for inputs of float32",
        ),
        (
            {"backward": lambda dy, x: dy * np.cos(x).astype(float)},
            "backward gives float64 for inputs of float32",
        ),
        ({"forward": lambda x: x > 0}, "forward gives bool"),
        ({"forward": lambda x: None}, "forward gives object"),
        ({"backward": lambda dy, x: (dy, dy)}, "backward gives 2 for 1 inputs"),
        ({"backward": lambda dy, x: None}, "backward gives NoneType"),
        ({"backward": lambda dy, x: dy.sum()}, r"the gradient of input 0 has the shape \(\)"),
        ({"claim": "exact on the cell", "cell": lambda x: x}, "Return a pair"),
        ({"claim": "exact on the cell", "cell": lambda x: (x, 1.0)}, "integers of float64"),
        ({"claim": "surrogate", "surrogate": lambda x: x.sum()}, r"surrogate gives the shape \(\)"),
    ],
)
def test_results_that_are_not_what_they_must_be(functions, text):
    with pytest.raises(mg.Error, match=text):
        checked(**functions)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, KeyboardInterrupt])
def test_exceptions_keep_their_types(error):
    def raises(*_):
        raise error("mine")

    for part in ("forward", "backward"):
        with pytest.raises(error, match="mine"):
            checked(**{part: raises})


def test_the_end_of_a_domain_is_no_error():
    """An exception at a moved point, where there is none at the point itself, ends the step."""

    def forward(x):
        if (x < 0).any():
            raise ValueError("no such place")
        return np.sqrt(x)

    def backward(dy, x):
        return dy / (2 * np.sqrt(x))

    assert checked(
        cases=[((40,), 0.0001, 1.0), ((), 0.5, 1.0), ((0,), 0.5, 1.0)],
        forward=forward,
        backward=backward,
    )
    with pytest.raises(ValueError, match="no such place"):
        checked(forward=forward, backward=backward)


def test_inputs_are_read_only():
    def writes(dy, x):
        x *= 2
        return dy

    for functions in (
        {"backward": writes},
        {"forward": lambda x: np.sin(x, out=x)},
        {"backward": lambda dy, x: np.multiply(dy, np.cos(x), out=dy)},
    ):
        with pytest.raises(ValueError, match="read-only"):
            checked(**functions)
    x = np.ones(3)
    assert (soft_cap(x) != x).all() and (x == 1).all()


def test_sizes_0_and_1_are_asked_for():
    assert "no case of size 0" in checked(cases=[(4, 3), ()]).reason
    assert "no case of size 1" in checked(cases=[(4, 3), (0,)]).reason
    assert "no cases" in checked(cases=[]).reason
    largest = mg.operation(
        claim="exact on the cell", needs="inputs", cases=[(5,), (1,)], never_empty="no maximum"
    )

    @largest
    class maximum:
        def forward(x):
            return x.max()

        def backward(dy, x):
            return dy * (np.arange(x.size) == x.argmax())

        def cell(x):
            top = np.sort(x)[-2:]
            return x.argmax(), top[-1] - top[0] if x.size > 1 else np.inf

    assert maximum.check()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"claim": "unbiased"}, "claim is 'unbiased'. Give one of: exact"),
        ({"needs": "all"}, "needs is 'all'"),
        ({"cases": [(4, -1)]}, r"case \(4, -1\) is none"),
        ({"cases": [((4, 3), 2.0, 1.0)]}, "is none"),
        ({"cases": [((4, 3), 0.0, float("nan"))]}, "is none"),
        ({"cases": ["4"]}, "is none"),
        ({"cases": [((4,), (4,))]}, "has 2 inputs. forward takes: x"),
        ({"cases": [(1,) * 6]}, "6 axes"),
        ({"claim": "surrogate"}, r"Define surrogate\(\)"),
        ({"claim": "exact on the cell"}, r"Define cell\(\)"),
        ({"surrogate": np.sin}, "Claim 'surrogate'"),
        ({"forward": None}, "no function forward"),
    ],
)
def test_declarations_that_are_none(arguments, text):
    with pytest.raises(mg.Error, match=text):
        checked(**arguments)


def test_calls_that_are_none():
    with pytest.raises(mg.Error, match="inputs of int64"):
        soft_cap(np.arange(3))
    with pytest.raises(mg.Error, match="inputs of float64, float32"):
        product(np.ones(3), np.ones(3, np.float32))
    with pytest.raises(mg.Error, match="given 1 inputs. forward takes: a, b"):
        product(np.ones(3))
    with pytest.raises(mg.Error, match=r"cotangent has the shape \(2,\)"):
        soft_cap.vjp(np.ones(3))[1](np.ones(2))


def test_a_function_of_numpy_itself():
    assert checked(forward=np.sin, backward=lambda dy, x: dy * np.cos(x))
    with pytest.raises(mg.Error, match="forward takes: x0"):
        checked(forward=np.sin, cases=[((2,), (2,))])
