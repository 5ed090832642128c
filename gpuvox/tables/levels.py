"""Text as categories: distinguishing levels from numbers with typing errors.

A column is numeric if every non-missing cell is a number, and text otherwise. Text that is used as categories is
refused if it appears to be numeric with typing errors (`check_categories`), or if two levels differ only in case or
blanks (`check_levels`). To use such text, declare it as in BIDS, with ``Levels`` of the column in the JSON file beside
the table: ``{"stage": {"Levels": {"1": "…", "2": "…", "2a": "…"}}}``.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError
from gpuvox.files.text import as_number

LEVELS = "levels"
"""Key of a table's attributes: columns that are declared as categories."""
FORMS = (
    (re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]*"), "without commas between thousands"),
    (re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?"), "with a decimal point instead of the comma"),
    (re.compile(r"[+-]?[0-9]{1,3}(?:[.'\u2019\u00a0\u202f ][0-9]{3})+(?:,[0-9]*)?"), "without marks between thousands"),
    (re.compile(r"[+-]?0[xX][0-9a-fA-F]+"), "in decimal digits"),
    (re.compile(r"[+-]?[0-9]+(?:_[0-9]+)+(?:\.[0-9]*)?"), "without underscores"),
    (re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[dD][+-]?[0-9]+"), "with e for its exponent"),
)  # fmt: skip
"""Other notations of numbers, and how to write them instead; matching takes linear time for all of them."""
UNIT = re.compile(r"([+-]?[0-9.,]+) ?([^0-9]+)")
MOST_WITH_A_UNIT = 5
"""Number of levels such as ``1.5T`` and ``3T`` that count as categories; more are numbers with a unit, or dates."""
DATE = re.compile(
    r"(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2[0-9]{2,4})(?:[T ][0-9:.Z+-]+)?"
)


def is_declared(table: pd.DataFrame, name: str) -> bool:
    """Whether a column is declared as categorical."""
    return name in table.attrs.get(LEVELS, ())


def other_form(text: str) -> str:
    """How to write a number that is in another notation; empty for anything else."""
    for form, advice in FORMS:
        if form.fullmatch(text):
            return advice
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2013", "-")
    if plain != text and as_number(plain) == as_number(plain):
        return "in digits of ASCII"
    return ""


def check_categories(table: pd.DataFrame, name: str, origin: str | os.PathLike[str]) -> None:
    """Check that a text column is categorical.

    Raises
    ------
    FileError
        Most cells are numbers, or numbers in another notation (`other_form`), or all are numbers with a unit or dates;
        or two levels are similar (`check_levels`). The message states the first non-numeric cell and its participant.
    """
    rows, values = _given(table, name)
    if is_declared(table, name) or pd.api.types.is_numeric_dtype(table[name]) or not values:
        return
    cells = [str(value).strip() for value in values]
    is_number = [as_number(cell) == as_number(cell) for cell in cells]
    forms = [other_form(cell) for cell in cells]
    if sum(is_number) < len(cells):
        odd = is_number.index(False)
        if sum(is_number) > len(cells) / 2:
            raise _slip(table, name, origin, rows[odd], forms[odd] or "as in most rows")
        if sum(map(bool, is_number)) + sum(map(bool, forms)) > len(cells) / 2:
            first = next((i for i, form in enumerate(forms) if form), odd)
            raise _slip(table, name, origin, rows[first], forms[first])
        unit = _common_unit(cells)
        if unit:
            raise _slip(table, name, origin, rows[0], f"without {unit!r}")
        if len(set(cells)) > MOST_WITH_A_UNIT and all(map(DATE.fullmatch, cells)):
            raise _slip(table, name, origin, rows[0], "such as the years since a date that is the same for all")
    check_levels(table, name, origin)


def _common_unit(cells: Sequence[str]) -> str:
    matches = [UNIT.fullmatch(cell) for cell in cells]
    units = {match[2] for match in matches if match}
    return units.pop() if all(matches) and len(units) == 1 and len(set(cells)) > MOST_WITH_A_UNIT else ""


def _slip(table: pd.DataFrame, name: str, origin: str | os.PathLike[str], row: int, advice: str) -> FileError:
    text = (
        f"{name} of {whose(table, row)} is {str(table[name].iloc[row])!r}; expected a number, {advice} ({name} is "
        "categorical if the JSON file beside the table gives it Levels)"
    )
    return FileError(located(origin, text), file=origin)


def check_levels(table: pd.DataFrame, name: str, origin: str | os.PathLike[str]) -> None:
    """Raise `FileError` if two levels differ only in case or blanks; the message names a participant of each."""
    if is_declared(table, name) or pd.api.types.is_numeric_dtype(table[name]):
        return
    seen: dict[str, tuple[str, int]] = {}
    for row, value in zip(*_given(table, name)):
        text = str(value).strip()
        first, where = seen.setdefault(alike(text), (text, row))
        if first != text:
            both = f"{name} is {first!r} of {whose(table, where)} and {text!r} of {whose(table, row)}"
            raise FileError(located(origin, f"{both}; use one spelling"), file=origin)


def _given(table: pd.DataFrame, name: str) -> tuple[list[int], list[Any]]:
    """Rows with a value, and these values."""
    rows = np.flatnonzero(table[name].notna().to_numpy()).tolist()
    return rows, table[name].iloc[rows].tolist()


def alike(text: str) -> str:
    """A level in lower case without blanks."""
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()


def located(origin: str | os.PathLike[str], text: str) -> str:
    """A sentence about a table, preceded by its file if there is one."""
    return f"{os.fspath(origin)}: {text}" if origin else text


def whose(table: pd.DataFrame, row: int) -> str:
    """The participant of a row; the row's number if the table has no ids."""
    return str(table["participant_id"].iloc[row]) if "participant_id" in table.columns else f"row {row + 1}"
