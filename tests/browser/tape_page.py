"""The pages of `moegrad tape` in a real browser: tape_page.py MOEGRAD FOLDER.

Makes the page of every small program and of some layers in FOLDER, opens each (browser.py), steps
through it, and leaves screenshots of some in FOLDER/PROGRAM.
"""

import pathlib
import shutil
import subprocess
import sys

from browser import check, check_looks, equal, visit

PROGRAMS = ["softmax", "twice", "straight-through", "top-k", "dense-gradient", "score-function"]
LAYERS = {
    "layer": [],
    "layer-moesart": ["--router", "moesart", "--form", "written-out"],
    "layer-expert-group": ["--estimator", "expert-group", "--form", "written-out"],
    "layer-large": ["--experts", "16", "--tokens", "12", "--width", "8"],
}
LOOKED_AT = ["straight-through", "layer", "layer-expert-group"]

DATA = "JSON.parse(document.getElementById('data').textContent)"
WHERE = "document.querySelector('#controls output').textContent"
TOLD = "document.querySelector('#now h3').textContent"
CURRENT = "[...document.querySelectorAll('.node')].findIndex(n => n.matches('.current'))"
TIP = "document.getElementById('tip')"


def button(name):
    buttons = "[...document.querySelectorAll('#controls button')]"
    return f"{buttons}.find(b => b.textContent === '{name}')"


def steps_of(data):
    """[(kind, node)] as the page should have them."""
    nodes = range(len(data["nodes"]))
    back = [("backward", i) for i in reversed(nodes) if data["nodes"][i]["gives"]]
    return [("forward", i) for i in nodes] + [("start", data["output"])] + back


def check_graph(page):
    nodes = page.run(DATA)["nodes"]
    boxes = page.run("""[...document.querySelectorAll('.node')].map(n => {
        const [x, y] = n.getAttribute('transform').match(/-?[\\d.]+/g).map(Number);
        const width = +n.querySelector('rect').getAttribute('width');
        const lengths = [...n.querySelectorAll('text')].map(t => t.getComputedTextLength());
        const longest = Math.max(...lengths);
        return {x, y, width, longest, text: n.textContent, fixed: n.matches('.fixed')}; })""")
    equal(len(boxes), len(nodes), "boxes")
    for i, (box, node) in enumerate(zip(boxes, nodes)):
        check(node["operation"] in box["text"] and node["name"] in box["text"], f"box {i}: {box}")
        check(box["longest"] <= box["width"], f"box {i}: its text is wider: {box}")
        equal(box["fixed"], not node["learns"], f"box {i}: dashed")
        for k in node["inputs"]:
            check(k < 0 or boxes[k]["y"] < box["y"], f"box {i} is not below its input {k}")
        for j, other in enumerate(boxes[:i]):
            apart = abs(box["x"] - other["x"]) - (box["width"] + other["width"]) / 2
            check(box["y"] != other["y"] or apart >= 0, f"boxes {j} and {i} overlap by {-apart}")
    wanted = sum(len({k for k in n["inputs"] if k >= 0}) + (n["stopped"] >= 0) for n in nodes)
    arrows = page.run("[...document.querySelectorAll('.link')].map(l => l.getAttribute('d'))")
    equal(len(arrows), wanted, "arrows")
    check(all(a and "NaN" not in a for a in arrows), "an arrow leads nowhere")


def check_steps(page):
    data = page.run(DATA)
    steps = steps_of(data)
    page.run(button("First") + ".click()")
    seen = page.run(f"""Array.from({{length: {len(steps)}}}, () => {{
        const all = [{CURRENT}, {WHERE}, {TOLD}, document.querySelectorAll('.node.future').length];
        {button("Next")}.click();
        return all; }})""")
    for at, ((kind, node), (current, where, told, future)) in enumerate(zip(steps, seen)):
        equal(current, node, f"the node of step {at + 1}")
        phase = "forward" if kind == "forward" else "backward"
        equal(where, f"step {at + 1} of {len(steps)}, {phase}", "what the controls say")
        check(told.lower().startswith(phase), f"the title of step {at + 1}")
        equal(future, max(0, len(data["nodes"]) - 1 - at), "nodes that are not there yet")
    check(page.run(button("Next") + ".disabled"), "Next at the end")
    # At the end the adjoints of the table are those that have come.
    complete = page.run("[...document.querySelectorAll('.node')].map(n => n.matches('.complete'))")
    equal(complete, [n["adjoint"] is not None for n in data["nodes"]], "complete adjoints")
    equal(page.run("document.querySelectorAll('.node.partial').length"), 0, "partial adjoints")
    page.run(button("Back") + ".click()")
    equal(page.run(CURRENT), steps[-2][1], "the node of the step before the last")


def check_sums(page):
    """The last sum that is given to a node is its adjoint."""
    data = page.run(DATA)
    for kind, node in steps_of(data):
        if kind != "backward":
            continue
        for gift in data["nodes"][node]["gives"]:
            data["nodes"][gift["to"]]["last"] = gift["sum"]["numbers"]
    for i, node in enumerate(data["nodes"]):
        adjoint = node["adjoint"]["numbers"] if node["adjoint"] else []
        for a, b in zip(node.get("last", []), adjoint):
            check(abs(a - b) <= 2e-6 * max(abs(a), abs(b)), f"node {i}: {a} is not {b}")


def check_keys(page):
    page.run("document.activeElement.blur()")
    page.press("Home")
    last = len(steps_of(page.run(DATA))) - 1
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last),
                    ("ArrowRight", last), ("Home", 0), ("ArrowLeft", 0)):  # fmt: skip
        page.press(key)
        check(page.run(WHERE).startswith(f"step {at + 1} of"), f"{key}: {page.run(WHERE)}")
    page.run("document.querySelector('#controls label input').focus()")
    page.press("Tab")
    check(page.run("document.activeElement.matches('#drawing:focus-visible')"),
          "the graph is not reached by Tab")  # fmt: skip


def check_pointer(page):
    page.press("End")
    count = len(page.run(DATA)["nodes"])
    for i in (0, count - 1):
        page.point_at(f"document.querySelectorAll('.node')[{i}]")
        told = page.run(f"{TIP}.hidden ? null : {TIP}.innerText")
        check(told and "adjoint" in told and "saved bytes" in told, f"the tip of {i}: {told!r}")
        inside = f"(b => b.left >= 0 && b.right <= innerWidth)({TIP}.getBoundingClientRect())"
        check(page.run(inside), "the tip leaves the window")
    page.point_at("document.querySelector('h1')")
    check(page.run(f"{TIP}.hidden"), "the tip stays")
    page.press("Home")
    page.run(f"document.querySelectorAll('.node')[{count - 1}].dispatchEvent(new Event('click'))")
    equal(page.run(CURRENT), count - 1, "the node that was clicked")


def check_fit(page):
    box = "document.querySelector('#controls label input')"
    page.run(f"{box}.click()")
    inside = page.run("""(() => {
        const outer = document.getElementById('drawing').getBoundingClientRect();
        const inner = document.querySelector('#drawing svg').getBoundingClientRect();
        return inner.width <= outer.width && inner.height <= innerHeight; })()""")
    check(inside, "the whole graph is not in the window")
    page.run(f"{box}.click()")


def check_table(page):
    nodes = page.run(DATA)["nodes"]
    rows = page.run("""[...document.querySelectorAll('#table tbody tr')]
        .map(r => [...r.cells].map(c => c.textContent))""")
    equal([r[0] for r in rows], [str(i) for i in range(len(nodes))], "rows")
    equal([r[1] for r in rows], [n["operation"] for n in nodes], "operations")
    equal([r[6] for r in rows], [f"{n['saved']:,}" for n in nodes], "saved bytes")
    page.run("document.querySelectorAll('#table thead button')[1].click()")
    rows = page.run("""[...document.querySelectorAll('#table tbody tr')]
        .map(r => r.cells[1].textContent)""")
    equal(rows, sorted(n["operation"] for n in nodes), "rows by operation")


def look(page, folder):
    page.run("document.querySelectorAll('#table thead button')[0].click()")
    steps = len(steps_of(page.run(DATA)))
    page.run("document.activeElement.blur()")
    page.run(f"{button('First')}.click()")
    page.run(f"Array.from({{length: {steps * 3 // 4}}}, () => {button('Next')}.click()).length")
    check_looks(page, folder)
    check(page.run(WHERE).startswith(f"step {steps} of"), "what is printed is not the last step")


def main():
    moegrad, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    pages = {name: [name] for name in PROGRAMS} | {k: ["layer", *v] for k, v in LAYERS.items()}
    for name, arguments in pages.items():
        place = folder / name
        place.mkdir(parents=True)
        file = place / "tape.html"
        command = [moegrad, "tape", *arguments, "--out", file]
        subprocess.run(command, check=True, capture_output=True)
        looks = [lambda page, place=place: look(page, place)] if name in LOOKED_AT else []
        visit(place, file, check_graph, check_steps, check_sums, check_keys, check_pointer,
              check_fit, check_table, *looks)  # fmt: skip
    print(f"the pages hold; screenshots are in {folder}")


if __name__ == "__main__":
    main()
