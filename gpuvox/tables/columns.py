"""Columns of a table: found by names and patterns, checked, and converted to columns of a design."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.tables.levels import check_categories, located, whose

Float64 = NDArray[np.float64]
MOST_COMPARED = 5000
"""Largest number of names that are listed in full, or searched for similar ones."""


def require(table: pd.DataFrame, names: Iterable[str], origin: str | os.PathLike[str]) -> None:
    """Raise `FileError` if a column is missing; the message suggests similar names, or lists all."""
    for name in names:
        if name not in table.columns:
            subject = f"{os.fspath(origin)} has" if origin else "there is"
            raise FileError(
                f"{subject} no column {name!r}; {_there_are(table.columns, name, origin)}", file=origin
            )


def _there_are(names: Iterable[str], requested: str, origin: str | os.PathLike[str]) -> str:
    import difflib

    known, verb = [str(name) for name in names], "it has" if origin else "there are"
    alike = [name for name in known if name.lower() == requested.lower()]
    if alike:
        return f"did you mean {alike[0]!r}?"
    if len(known) <= 20:
        return f"{verb} {', '.join(known)}"
    close = difflib.get_close_matches(requested, known, 5, 0.5) if len(known) <= MOST_COMPARED else []
    return f"{verb} {', '.join(close) if close else ', '.join(known[:12])} and others ({len(known)} in total)"


def finite(table: pd.DataFrame, name: str, origin: str | os.PathLike[str] = "") -> Float64:
    """(n,) A numeric column; `FileError` if a value is infinite. Missing values are allowed."""
    values = table[name].to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        text = f"{name} of {whose(table, row)} is {values[row]:g}; expected a finite number"
        raise FileError(located(origin, text), file=origin)
    return values


def complete(table: pd.DataFrame, names: Iterable[str], origin: str | os.PathLike[str] = "") -> None:
    """Raise `FileError` if a value is missing; the message names the first participant."""
    for name in names:
        missing = table[name].isna().to_numpy()
        if missing.any():
            who = whose(table, int(np.flatnonzero(missing)[0]))
            subject = f"{os.fspath(origin)} has" if origin else "there is"
            raise FileError(f"{subject} no {name} of {who}", file=origin)


def matching(columns: Iterable[str], patterns: Sequence[str], origin: str | os.PathLike[str] = "") -> list[str]:
    """Columns that match the patterns, in the order of the patterns, each once.

    ``*`` stands for anything except a dot: ``*.iron`` is the mean iron of every structure, both sides together, but
    neither ``left.putamen.iron`` nor ``putamen.iron.median``.

    Raises
    ------
    FileError
        A pattern matches no column.
    """
    known, matches = list(columns), dict[str, None]()
    for pattern in patterns:
        # fnmatch treats dots like any character, so match segment by segment.
        named = fitting(known, pattern)
        if not named:
            subject = f"{os.fspath(origin)} has" if origin else "there is"
            raise FileError(
                f"{subject} nothing named {pattern!r}; {_there_are(known, pattern, origin)}", file=origin
            )
        matches.update(dict.fromkeys(named))
    return list(matches)


def fitting(columns: Iterable[str], pattern: str) -> list[str]:
    """Columns that match a pattern; see `matching`."""
    known = list(columns)
    segments = [re.compile(fnmatch.translate(part)) for part in pattern.split(".")]
    return [name for name in known if name == pattern] or [name for name in known if _fits(name, segments)]


def _fits(name: str, segments: Sequence[re.Pattern[str]]) -> bool:
    parts = str(name).split(".")
    return len(parts) == len(segments) and all(pattern.match(part) for pattern, part in zip(segments, parts))


def as_name(text: str) -> str:
    """A value of a table as part of a name: letters, digits and ``_``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "_"


def indicators(table: pd.DataFrame, names: Sequence[str], origin: str | os.PathLike[str] = "") -> pd.DataFrame:
    """Columns of a design: numeric columns unchanged, text as an indicator for each value except the first.

    Parameters
    ----------
    table : DataFrame
        See `typed`.
    names : sequence of str
        Columns of the table. ``sex`` with the values F and M becomes ``sex[M]``.
    origin : path
        For messages.

    Raises
    ------
    FileError
        A column or a value is missing, a number is not finite, or text is not categorical (`check_categories`).
    """
    require(table, names, origin)
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name]
        complete(table, [name], origin)
        if pd.api.types.is_numeric_dtype(column):
            columns[name] = finite(table, name, origin)
            continue
        check_categories(table, name, origin)
        for level in sorted(set(column))[1:]:
            columns[f"{name}[{level}]"] = (column == level).to_numpy(dtype=np.float64)
    return pd.DataFrame(columns, index=table.index)
