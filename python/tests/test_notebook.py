"""What results show of themselves in a notebook."""

import importlib.util
from html.parser import HTMLParser
from types import SimpleNamespace

import moegrad as mg
import numpy as np
import pytest
from moegrad import notebook

X = np.array([0.3, -1.2])
EVIL = "<script>alert('x')</script> & co"


class Page(HTMLParser):
    """The cells of well-formed HTML, without styles, scripts or classes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.cells, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert attributes == [] and tag in "table caption thead tbody tr th td p".split()
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_a_table():
    rows = [(1, 2.0), (None, "x\ny"), (EVIL, 1 / 3)]
    page = Page(notebook.table(["a", "b<"], rows, EVIL, [EVIL]))
    assert page.cells == ["a", "b<", "1", "2", "", "x\ny", EVIL, "0.33333"]
    assert page.text.count(EVIL) == 3
    assert Page(notebook.table([], [])).cells == []
    pairs = notebook.pairs({"n": np.float32(0.5), "m": True})
    assert Page(pairs).cells == ["n", "0.5", "m", "True"]


def program(run, x):
    return np.tanh(x), lambda dy: (dy * (1 - np.tanh(x) ** 2),)


def results(tmp_path):
    yield mg.gradcheck(program, X, names=[EVIL]), [EVIL, "pass", "gradcheck: pass"]
    wrong = mg.gradcheck(lambda run, x: (program(run, x)[0], lambda dy: (dy,)), X, names=["x"])
    yield wrong, ["x", "fail", "analytic and numeric differ"]

    def without_w(run, x, w):
        y, vjp = program(run, x)
        return y, lambda dy: (*vjp(dy), None)

    yield mg.gradcheck(without_w, X, X, names=["x", "w"]), ["dead: w"]

    def loss(run, p):
        i = int(run.categorical("draw", np.array([[0.25, 0.75]]))[0])
        return p[i], lambda dy: (dy * np.eye(2)[i],)

    yield mg.expectation(loss, X), ["outcomes", "2", "biased", "False"]

    @mg.operation(claim="exact", needs="nothing", cases=[(3, 2), (), (0,)])
    class double:
        def forward(x):
            return 2 * x

        def backward(dy):
            return 2 * dy

    yield double.check(), ["double", "verdict", "pass", "cases", "3"]
    yield double.check(mutation="sign"), ["fail", "reason"]
    small = {"experts": 4, "width": 8, "hidden": 8, "progress": False}
    run = mg.train("synthetic", epochs=1, out=tmp_path / "<b>", **small)
    yield run, ["top-k", "test_accuracy", "<b>"]
    yield mg.study.fidelity(run, batch=8), ["ste-dense", "cosine_real"]
    yield (
        mg.study.bias(routers="top-k", experts=4, active=[2, 9], scale=1, loss="linear"),
        [
            "dense_bias",
            "top-k",
            "left out: ",
            "9",
        ],
    )


def test_every_result_shows_itself(tmp_path):
    for result, texts in results(tmp_path):
        page = Page(result._repr_html_())
        for text in texts:
            assert text in page.text, (result, text)


def test_long_studies_are_cut():
    rows = [{"router": "a", "estimator": "b", "n": i} for i in range(60)]
    page = Page(mg.study.Study(rows)._repr_html_())
    assert "49" in page.cells and "50" not in page.cells and "and 10 more rows" in page.text


def test_outside_of_a_notebook_there_is_no_line():
    assert notebook.Line() is None


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_in_ipython():
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    # Without its history, which has a thread and a file.
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    try:
        report = mg.gradcheck(program, X)
        shown = DisplayFormatter().format(report)[0]
        assert shown["text/html"] == report._repr_html_()
        assert notebook.Line() is None  # a terminal's
        shell.kernel = SimpleNamespace()
        with capture_output() as captured:
            line = notebook.Line()
            line.show("one")
            line.show("two")
        assert [o.data["text/plain"] for o in captured.outputs] == ["one", "two"]
        first, second = (o.transient["display_id"] for o in captured.outputs)
        assert first == second
    finally:
        InteractiveShell.clear_instance()
