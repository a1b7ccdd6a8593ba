"""The script that writes docs/results.md: its sections, and what it keeps of the page."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "results_page"
if not FOLDER.is_dir():
    pytest.skip("needs the scripts of a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("results_page", FOLDER / "__main__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_sections_have_names_titles_and_files_that_are_there(page):
    names = [section.name for section in page.SECTIONS]
    titles = [section.title for section in page.SECTIONS]
    assert len(set(names)) == len(names)
    assert len(set(titles)) == len(titles)
    configs = [
        word
        for section in page.SECTIONS
        for word in getattr(section, "arguments", [])
        if str(word).endswith(".json")
    ]
    assert configs
    for config in configs:
        assert (ROOT / config).is_file(), config


def test_a_section_takes_its_place_and_the_others_stay(page, tmp_path, monkeypatch):
    path = tmp_path / "results.md"
    monkeypatch.setattr(page, "PAGE", path)
    first, second, third = page.SECTIONS[:3]
    path.write_text(
        f"# Results\n\nWords.\n\n{page.MARKER}\n## {third.title}\n\nold\n\n## Gone\n\nx\n"
    )
    page.write_section(first, "one\n")
    page.write_section(second, "two\n\n| a |\n|---|\n")
    page.write_section(first, "once more\n")
    text = path.read_text()
    assert text.startswith(f"# Results\n\nWords.\n\n{page.MARKER}\n## {first.title}\n\nonce more\n")
    places = [text.index(f"## {s.title}\n") for s in (first, second, third)]
    assert places == sorted(places)
    assert text.endswith("\n\nold\n")
    assert "Gone" not in text and "one" not in text.splitlines()
    before = text
    page.write_section(third, "old\n")
    assert path.read_text() == before


def test_a_page_that_cannot_be_written_stays(page, tmp_path, monkeypatch):
    path = tmp_path / "results.md"
    before = f"# Results\n\n{page.MARKER}\n## {page.SECTIONS[0].title}\n\nold\n"
    path.write_text(before)
    monkeypatch.setattr(page, "PAGE", path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "replace", full)
    with pytest.raises(page.Problem, match="cannot be written: .*No space left"):
        page.write_section(page.SECTIONS[1], "new\n")
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_without_its_marker_is_left_alone(page, tmp_path, monkeypatch):
    path = tmp_path / "results.md"
    path.write_text("# Results\n")
    monkeypatch.setattr(page, "PAGE", path)
    with pytest.raises(page.Problem, match="has no line <!-- scripts/results"):
        page.main(["orders"])
    assert path.read_text() == "# Results\n"


def test_an_unknown_section_is_an_error(page, capsys):
    assert page.main(["orders", "ordres"]) == 2
    assert "[results] no section 'ordres'. Known are compare, " in capsys.readouterr().err
