"""File names as written to records, which do not reveal home folders unless the user asks for it.

Records and reports may be passed on or published. They name files relative to the results, or by the name without its
folder; their SHA-256 identifies the content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_as_given: ContextVar[bool] = ContextVar("_as_given", default=False)


@contextmanager
def names_as_given(enabled: bool = True) -> Iterator[None]:
    """Record names as they were given (``--record-paths``) within a ``with`` statement, and nowhere else."""
    token = _as_given.set(enabled)
    try:
        yield
    finally:
        _as_given.reset(token)


def brief(name: str, folder: str) -> str:
    """An absolute name relative to a folder, if it is in that folder or its parent; otherwise its last part.

    Parameters
    ----------
    name : str
        Relative names are returned unchanged.
    folder : str
        Folder of the results.
    """
    if _as_given.get() or not name.startswith(("/", "~")):
        return name
    name = os.path.expanduser(name)
    for path, base in ((name, os.path.abspath(folder)), (os.path.realpath(name), os.path.realpath(folder))):
        relative = os.path.relpath(path, base)
        if not relative.startswith("../.."):
            return relative
    return os.path.basename(name.rstrip("/")) or "."


def words(command: Iterable[str], folder: str) -> list[str]:
    """The words of a command with `brief` names, also within ``--option=FILE`` and ``NAME=FILE,FILE``."""
    shortened = []
    for word in command:
        start, equals, names = word.rpartition("=") if "=/" in word else ("", "", word)
        shortened.append(start + equals + ",".join(brief(name, folder) for name in names.split(",")))
    return shortened


def relative_to_current_folder(command: Sequence[str]) -> list[str]:
    """The words of a command to be repeated in the current folder: files in it are named relative to it."""
    top = os.getcwd()
    return [
        os.path.relpath(word, top) if word.startswith("/") and word.startswith(top + os.sep) else word
        for word in command
    ]


def keys(named: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The same values under `brief` names; names that become equal are numbered."""
    shortened: dict[str, Any] = {}
    for name, value in named.items():
        short, number = brief(name, folder) if isinstance(name, str) else name, 2
        while short in shortened:
            short, number = f"{brief(name, folder)} ({number})", number + 1
        shortened[short] = value
    return shortened


def record(content: Any, folder: str) -> Any:
    """A record with `brief` names in all of its texts, lists and keys."""
    if isinstance(content, str):
        return words([content], folder)[0]
    if isinstance(content, os.PathLike):
        return brief(os.fspath(content), folder)
    if isinstance(content, Mapping):
        inner = {key: record(value, folder) for key, value in content.items()}
        return keys(inner, folder)
    return [record(each, folder) for each in content] if isinstance(content, list | tuple) else content
