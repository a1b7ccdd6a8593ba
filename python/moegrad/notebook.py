"""How results show themselves in a notebook: plain tables, in the colours of the page."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["Line", "cell", "pairs", "table", "text_table"]


def cell(value: Any) -> str:
    """A value as text: five digits of a float, nothing of None."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a terminal: columns two blanks apart."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def table(
    header: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    caption: str = "",
    notes: Iterable[str] = (),
) -> str:
    """A table as HTML, and paragraphs below; all text is escaped."""

    def row(tag: str, cells: Iterable[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell(c))}</{tag}>" for c in cells) + "</tr>"

    return "\n".join(
        [
            "<table>",
            *([f"<caption>{escape(caption)}</caption>"] if caption else []),
            *(["<thead>" + row("th", header) + "</thead>"] if header else []),
            "<tbody>",
            *(row("td", cells) for cells in rows),
            "</tbody>",
            "</table>",
            *(f"<p>{escape(note)}</p>" for note in notes),
        ]
    )


def pairs(values: dict[str, Any], caption: str = "") -> str:
    """Names and values as HTML, a row each."""
    return table((), values.items(), caption)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Line:
    """One line of a notebook's output that is redrawn; None in place of one elsewhere."""

    def __new__(cls) -> Line | None:
        return super().__new__(cls) if _in_notebook() else None

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def check_row(row: Any) -> str:
    """What a check of an operation, router or estimator found."""
    fields = ("claim", "oracle", "verdict", "max_error", "cases", "reason")
    shown = {f: getattr(row, f) for f in fields if getattr(row, f) != ""}
    if row.dead_inputs:
        shown["dead"] = ", ".join(row.dead_inputs)
    return pairs(shown, row.name)
