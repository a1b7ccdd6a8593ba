"""What several modules need of other packages and of errors."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ._core import Error


def package(name: str, asked_by: str, instead: str) -> ModuleType:
    """A package that moegrad does not depend on; an ImportError says so where it is missing."""
    top = name.partition(".")[0]
    try:
        importlib.import_module(top)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise
        raise ModuleNotFoundError(
            f"[{asked_by}] {top} is not installed. pip install {top}, or use {instead}.", name=top
        ) from None
    return importlib.import_module(name)


def path_text(asked_by: str, path: Any) -> str:
    """A path as the engine takes it."""
    try:
        text = os.fsdecode(path)
        text.encode()
    except (TypeError, UnicodeEncodeError):
        raise Error(f"[{asked_by}] {path!a} is no path of UTF-8. Give another one.") from None
    return text


def device_name(value: Any) -> str:
    """A device as the engine takes it, which knows whether it is there."""
    if not isinstance(value, str):
        raise Error(f"[device] the device is {value!r}. Use 'cpu' or 'cuda'.")
    return value


@contextmanager
def keywords_for_flags() -> Iterator[None]:
    """The engine's errors name the flags of its command: here they are keywords."""
    try:
        yield
    except Error as error:
        if type(error) is not Error:
            raise
        text = re.sub(r"(?<=\s)--([a-z][a-z-]*)", lambda m: m[1].replace("-", "_"), str(error))
        raise Error(text) from None
