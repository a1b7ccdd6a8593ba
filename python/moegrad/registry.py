"""What the engine knows by name, and how many threads it uses."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from . import _core
from ._core import Error
from .notebook import table, text_table

__all__ = ["Catalogue", "estimators", "layer_options", "operations", "routers", "threads"]


class Catalogue(list[dict[str, Any]]):
    """Entries in order, by number or by name; shown as a table."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        super().__init__(entries)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        for entry in self:
            if entry["name"] == key:
                return entry
        raise KeyError(key)

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        columns = ["name", "summary", "claim", "default", "options", "source"]
        head = [c for c in columns if self and c in self[0]]

        def text(entry: dict[str, Any], column: str) -> str:
            if column != "options":
                return str(entry[column])
            return ", ".join(f"{o['name']}={o['default']}" for o in entry["options"])

        return head, [[text(entry, column) for column in head] for entry in self]

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return table(*self._table())


def routers() -> Catalogue:
    """All routers: name, summary, source, claim, formula, options, traits."""
    return Catalogue(_core.list_routers())


def estimators() -> Catalogue:
    """All gradient estimators: as routers(), and the routers that their checks run them with."""
    return Catalogue(_core.list_estimators())


def operations() -> Catalogue:
    """All operations of the engine: name, summary, source, claim."""
    return Catalogue(_core.list_operations())


def layer_options() -> Catalogue:
    """The options that every layer has beside those of its router and its estimator."""
    return Catalogue(_core.list_layer_options())


class _Threads:
    """A number of threads that was set; at the end of a with block it is what it was before."""

    def __init__(self, number: int) -> None:
        self._before = _core.choose_threads(number)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _core.choose_threads(self._before)


def threads(number: int | None = None) -> Any:
    """How many threads the engine may use; results do not depend on it.

    threads() tells, threads(2) sets it for this process, `with threads(2):` for a while. At first
    it is MOEGRAD_THREADS of the environment, or processors(). moegrad.torch's modules use as many
    as torch.get_num_threads() says.
    """
    if number is None:
        return _core.threads()
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 1024:
        raise Error(f"[threads] the number is {number!r}. Give one from 1 to 1024.")
    return _Threads(number)
