"""The page of `moegrad report` in a real browser: report_page.py MOEGRAD FOLDER.

Makes runs and their page in FOLDER, opens it (browser.py), and leaves screenshots in FOLDER.
"""

import json
import pathlib
import shutil
import subprocess
import sys

from browser import check, check_looks, equal, visit

TRAIN = "train synthetic --experts 4 --width 16 --hidden 16 --batch 256 --epochs 1 --log-every 2"
MARKUP = "<img src=x onerror=alert(1)>"


def make_runs(moegrad, folder):
    """Two routers of two seeds each, one that was stopped, one of two layers by another version."""
    runs = []
    for router, seed in (("top-k", 1), ("top-k", 2), ("switch", 1), ("switch", 2)):
        name = f"{router}-{seed}" + (MARKUP if (router, seed) == ("top-k", 2) else "")
        more = ["--active", "1"] if router == "switch" else []
        runs.append(folder / name)
        subprocess.run([moegrad, *TRAIN.split(), "--router", router, "--seed", str(seed), *more,
                        "--out", runs[-1]], check=True, capture_output=True)  # fmt: skip
    stopped = folder / "stopped"
    shutil.copytree(runs[0], stopped)
    (stopped / "result.json").unlink()
    lines = (runs[0] / "metrics.jsonl").read_text().splitlines()
    (stopped / "metrics.jsonl").write_text("\n".join(lines[:5]) + '\n{"kind": "step", "st')
    layers = folder / ("layers" + 60 * "_")  # a name that must be broken on a phone
    shutil.copytree(runs[0], layers)
    config = json.loads((layers / "config.json").read_text())
    config |= {"seed": 3, "colour": "</script><script>alert(2)</script>"}
    (layers / "config.json").write_text(json.dumps(config))
    steps = [json.loads(line) for line in lines]
    for line in steps:
        line["layer_loads"] = [line["expert_load"], line["expert_load"][::-1]]
    steps[3]["loss"] = None
    steps[2]["gradient_norm"] = 5.0  # more than --clip
    (layers / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return [stopped, *runs, layers]


COLUMN = "[...document.querySelectorAll('#runs tbody tr')].map(r => r.cells[%d].textContent)"
HEADS = "[...document.querySelectorAll('#runs thead th')].map(h => h.textContent)"
TIP = "document.getElementById('tip')"
TIP_TEXT = f"{TIP}.hidden ? null : {TIP}.innerText"
CHARTS = "[...document.querySelectorAll('figure')]"


def check_charts(page):
    charts = page.run(f"""{CHARTS}.map(f => ({{
        title: f.querySelector('h3').textContent,
        lines: [...f.querySelectorAll('path.line')].map(p => p.getAttribute('d')),
        cells: f.querySelectorAll('rect.cell').length,
        bands: f.querySelectorAll('path.band').length,
        opacities: [...f.querySelectorAll('path.band')].map(b => +getComputedStyle(b).opacity),
        tabs: f.querySelector('svg[role=img]').getAttribute('tabindex'),
        named: f.querySelector('svg[role=img]').getAttribute('aria-label').length,
    }}))""")
    titles = [c["title"] for c in charts]
    for wanted in ("Training loss", "Test loss", "Test accuracy", "Gradient norm, before clipping",
                   "Gradient norm, after clipping", "Load of the fullest expert over the mean",
                   "Examples per second", "Load per expert",
                   "Load per expert, as a map"):  # fmt: skip
        check(wanted in titles, f"no chart '{wanted}' in {titles}")
    check(any(t.startswith("Auxiliary loss: ") for t in titles), f"no auxiliary loss in {titles}")
    for chart in charts:
        check(chart["lines"] or chart["cells"] > 0, f"{chart['title']}: nothing drawn")
        for line in chart["lines"]:
            check(line and "NaN" not in line and len(line) > 10, f"{chart['title']}: line {line}")
        check(chart["named"] > 20, f"{chart['title']}: no label")
        check(all(0 < o < 0.5 for o in chart["opacities"]), f"{chart['title']}: bands hide lines")
        equal(chart["tabs"], "0", f"{chart['title']}: tabindex")
    loss = charts[titles.index("Training loss")]
    equal(len(loss["lines"]), 3, "groups of the loss")
    check(loss["bands"] >= 2, "no bands over seeds")


def check_tables(page):
    rows = page.run(f"""{CHARTS}.map(f => {{
        f.querySelector('details').open = true;
        f.querySelector('details').dispatchEvent(new Event('toggle'));
        f.querySelector('details').open = false;
        return [f.querySelector('h3').textContent, f.querySelectorAll('details tbody tr').length,
                f.querySelectorAll('details table').length];
    }})""")
    for title, count, tables in rows:
        check(count > 0 and tables == 1, f"{title}: {tables} tables, of {count} rows")


def check_sorting(page):
    heads = page.run(HEADS)
    loss = heads.index("Test loss")
    button = f"document.querySelectorAll('#runs thead button')[{loss}]"
    before = page.run(COLUMN % loss)
    check(before != sorted(before), "the rows are sorted before they are asked to be")
    page.run(f"{button}.click()")
    up = page.run(COLUMN % loss)
    equal(up[-1], "–", "what has no value")
    equal(up[:-1], sorted(up[:-1], key=float), "rising")
    page.run(f"{button}.focus()")
    page.press("Enter")
    down = page.run(COLUMN % loss)
    equal(down[:-1], up[-2::-1], "falling, by the keyboard")
    sort = f"document.querySelectorAll('#runs thead th')[{loss}].getAttribute('aria-sort')"
    equal(page.run(sort), "descending", "aria-sort")


def check_pointer(page):
    for i, first in ((0, "step "), (page.run(CHARTS + ".length") - 1, "step ")):
        svg = f"document.querySelectorAll('figure svg[role=img]')[{i}]"
        page.point_at(svg, 0.4)
        one = page.run(TIP_TEXT)
        check(one and one.startswith(first), f"chart {i}: the tip says {one!r}")
        page.point_at(svg, 0.9)
        check(page.run(TIP_TEXT) != one, f"chart {i}: the tip does not follow the pointer")
        inside = f"(b => b.left >= 0 && b.right <= innerWidth)({TIP}.getBoundingClientRect())"
        check(page.run(inside), "the tip leaves the window")
    page.point_at("document.querySelector('h1')")
    equal(page.run(TIP_TEXT), None, "the tip, away from charts")


def check_keyboard(page):
    page.run("document.activeElement.blur(), document.querySelector('.legend').scrollIntoView()")
    page.run("document.querySelector('.legend input').focus()")
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.matches('figure svg')"):
            break
    check(page.run("document.activeElement.matches('figure svg:focus-visible')"),
          "no chart is reached by Tab")  # fmt: skip
    first = page.run(TIP_TEXT)
    check(first and first.startswith("step "), f"focus shows {first!r}")
    seen = [first]
    for key in ("ArrowRight", "ArrowRight", "End"):
        page.press(key)
        seen.append(page.run(TIP_TEXT))
    equal(len(set(seen)), 4, f"places that keys lead to, of {seen}")
    page.press("Home")
    equal(page.run(TIP_TEXT), first, "Home")
    page.press("Escape")
    equal(page.run(TIP_TEXT), None, "Escape")


def check_choices(page):
    lines = "document.querySelector('figure').querySelectorAll('path.line').length"
    page.run("document.querySelector('.legend input').click()")
    equal(page.run(lines), 2, "lines with a group hidden")
    page.run("document.querySelector('.legend input').click()")
    equal(page.run(lines), 3, "lines with all groups")
    maps = "document.querySelectorAll('#loads figure').length"
    equal(page.run(maps), 2, "charts of one layer")
    page.run("(s => { s.selectedIndex = s.options.length - 1; s.onchange(); })"
             "(document.getElementById('run'))")  # fmt: skip
    equal(page.run(maps), 4, "charts of two layers")


def check_texts(page):
    equal(page.run("document.images.length"), 0, "images: the name of a run became markup")
    equal(page.run("document.scripts.length"), 3, "scripts")
    names = page.run(COLUMN % 0)
    check(any(MARKUP in name for name in names), f"no {MARKUP} in {names}")
    states = page.run(COLUMN % 1)
    equal(sorted(states), ["finished"] * 5 + ["stopped"], "states")
    notes = page.run("document.querySelector('.notes').textContent")
    check("config.json has 'colour'" in notes, f"notes: {notes}")
    commands = page.run("[...document.querySelectorAll('.run pre')].map(p => p.textContent)")
    equal(len(commands), 6, "commands")
    for command in commands:
        check(command.startswith("moegrad train synthetic --"), command)


def make_language_run(moegrad, folder):
    for domain, text in (("prose", "a line of text, and more of it\n"), ("code", "f(x) { 1 }\n")):
        place = folder / "data" / "language" / domain
        place.mkdir(parents=True)
        for name, times in (("train", 200), ("validation", 40)):
            (place / f"{name}.txt").write_text(text * times)
    options = ("--context 64 --width 16 --heads 2 --hidden 8 --layers 3 --experts 4 --steps 20 "
               "--batch 8 --activation swiglu --domains prose,code")  # fmt: skip
    subprocess.run([moegrad, "train", "language", *options.split(), "--data", folder / "data",
                    "--out", folder / "run"], check=True, capture_output=True)  # fmt: skip
    return folder / "run"


def check_routed(page):
    texts = page.run("JSON.parse(document.getElementById('data').textContent).runs[0].texts")
    equal(texts["domains"], ["prose", "code"], "domains")
    check(not page.run("document.getElementById('texts').hidden"), "the texts are hidden")
    figures = "[...document.querySelectorAll('#texts figure')]"
    equal(page.run(f"{figures}.map(f => f.querySelectorAll('rect.cell').length)"), [8, 0, 0],
          "cells of the map")  # fmt: skip
    spans = "[...document.querySelectorAll('#texts .routed')].map(t => t.children.length)"
    equal(page.run(spans), [64, 64], "pieces of the texts")
    first = "document.querySelector('#texts .routed').children"
    equal(page.run(f"{first}[2].textContent"), "l", "the third byte")
    page.point_at(f"{first}[2]")
    told = page.run(TIP_TEXT)
    chosen = texts["texts"][0]["chosen"][0][2]
    check(told and told.startswith(f"l\nexpert {chosen}\n"), f"the tip says {told!r}")
    for e, score in enumerate(texts["texts"][0]["scores"][0][2]):
        check(f"expert {e}" in told and f"{score:.4f}"[:5] in told, f"no score {score} in {told!r}")
    page.point_at("document.querySelector('h1')")
    equal(page.run(TIP_TEXT), None, "the tip, away from the text")
    page.run("document.getElementById('text-layer').focus()")
    for _ in range(10):
        page.press("Tab")
        if page.run("document.activeElement.matches('.routed')"):
            break
    at = "[...document.activeElement.children].findIndex(s => s.matches('.at'))"
    seen = [page.run(at)]
    for key in ("ArrowRight", "ArrowRight", "End", "Home"):
        page.press(key)
        seen.append(page.run(at))
    equal(seen, [0, 1, 2, 63, 0], "places that keys lead to")
    page.press("Escape")
    equal(page.run(TIP_TEXT), None, "Escape")
    page.run("(s => { s.selectedIndex = 1; s.onchange(); })(document.getElementById('text-layer'))")
    equal(page.run(spans), [64, 64], "pieces of the texts in the second layer")


def check_report_looks(page, folder):
    check(check_looks(page, folder) < 390, "charts do not follow the width")
    opened = "[...document.querySelectorAll('details.run')].every(d => d.open)"
    check(page.run(opened), "the configurations are not printed")


def make_studies(moegrad, folder, run):
    """One with runs, an interval and lines; one of a trained model alone."""
    rates, learns = folder / "rates", folder / "learns"
    small = [v for key in ("steps=4", "evaluate_every=2", "width=8", "hidden=8", "batch=64")
             for v in ("--set", key)]  # fmt: skip
    for words in (
        ["learning-rate", "--task", "synthetic", "--seeds", "2", "--rates", "0.001,0.01", *small,
         "--method", "top-k:", "--method", "dense: estimator=ste-dense", "--out", rates],
        ["specialise", run, "--out", learns],
    ):  # fmt: skip
        subprocess.run([moegrad, "study", *words], check=True, capture_output=True)
    return rates, learns


def check_study(page, folder, figures, tables, sections):
    equal(page.run("document.querySelectorAll('main > section').length"), sections, "parts")
    equal(page.run("document.querySelectorAll('nav a').length"), sections, "links")
    equal(page.run("document.querySelectorAll('#studies > .scroll').length"), tables, "tables")
    drawn = page.run("document.querySelectorAll('#studies figure').length")
    check(drawn >= figures, f"{drawn} charts of the studies")
    marks = page.run("[...document.querySelectorAll('#studies figure svg[role=img]')]"
                     ".map(s => s.querySelectorAll('circle, path.line').length)")  # fmt: skip
    check(all(count > 0 for count in marks), f"charts with so many marks: {marks}")
    page.point_at("document.querySelector('#studies figure svg[role=img]')", 0.6)
    check(page.run(TIP_TEXT), "no tip in a chart of a study")
    first = page.run("document.querySelector('#studies pre').textContent")
    check(first.startswith("moegrad study "), first)
    page.screenshot(folder / "studies.png", 1280)
    page.screenshot(folder / "studies-phone.png", 390, mobile=True)
    width = page.run("document.documentElement.scrollWidth")
    check(width <= 390, f"studies are {width} wide on a phone of 390")


def check_studies(moegrad, folder, run):
    rates, learns = make_studies(moegrad, folder, run)
    file = folder / "studies.html"
    for studies, figures, tables, sections in (((rates, learns), 2, 3, 7), ((learns,), 2, 1, 1)):
        subprocess.run([moegrad, "report", *studies, "--out", file], check=True,
                       capture_output=True)  # fmt: skip
        parts = (figures, tables, sections)
        visit(folder, file, lambda page, parts=parts: check_study(page, folder, *parts))


def main():
    moegrad, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    runs = make_runs(moegrad, folder)
    file = folder / "report.html"
    subprocess.run([moegrad, "report", *runs, "--out", file], check=True, capture_output=True)
    visit(folder, file, check_charts, check_tables, check_texts, check_sorting, check_pointer,
          check_keyboard, check_choices, lambda page: check_report_looks(page, folder))  # fmt: skip
    texts = folder / "texts"
    run = make_language_run(moegrad, texts)
    file = texts / "report.html"
    subprocess.run([moegrad, "report", run, "--texts", "--out", file], check=True,
                   capture_output=True)  # fmt: skip
    visit(texts, file, check_tables, check_routed, lambda page: check_looks(page, texts))
    check_studies(moegrad, folder, runs[1])
    print(f"the page holds; screenshots are in {folder}")


if __name__ == "__main__":
    main()
