"""Numbers in a table that may stand for missing values, such as -999."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from gpuvox.plain import listed
from gpuvox.tables.levels import is_declared, whose
from gpuvox.types import Float64

CODE = re.compile(r"-?(9+|8{2,}|7{2,})")
"""Numbers that often stand for missing values."""
FAR = 10
"""Interquartile ranges beyond the quartiles of the other values, from which on such a number is doubted."""


def codes_of_missing(
    table: pd.DataFrame, names: Iterable[str], named: Callable[[int], str] | None = None
) -> list[str]:
    """A sentence for each number that is far from the others of its column, and repeated or a code such as -999.

    Parameters
    ----------
    table : DataFrame
        See `tables.reading.typed`; missing values are left out.
    names : iterable of str
        Columns; those of text are left out, and those that are declared as categories.
    named : callable, optional
        What a row, counted from 0, is called in the sentences; the participant by default.
    """
    found = []
    for name in dict.fromkeys(names):
        if pd.api.types.is_numeric_dtype(table[name]) and not is_declared(table, name):
            values = table[name].to_numpy(dtype=np.float64)
            found += _of_column(name, values, named or (lambda row: whose(table, row)))
    return found


def _of_column(name: str, values: Float64, named: Callable[[int], str]) -> list[str]:
    known = values[np.isfinite(values)]
    found, counts = np.unique(known, return_counts=True)
    doubts = []
    for value, count in zip(found.tolist(), counts.tolist()):
        is_code = CODE.fullmatch(f"{value:.15g}") is not None
        is_extreme = value in (found[0], found[-1])
        others = known[known != value]
        if not len(others) or not (is_code or (count > 1 and is_extreme)):
            continue
        low, high = np.quantile(others, (0.25, 0.75))
        is_only_negative = is_code and value < 0 <= others.min()
        is_told_apart = high > low or (is_code and value > 100)  # a count that is 0 in most may be 9
        if is_only_negative or (is_told_apart and max(low - value, value - high) > FAR * (high - low)):
            rows = np.flatnonzero(values == value).tolist()
            doubts.append(
                f"{name} is {value:g} in {listed([named(row) for row in rows], 4)}, and half of the other "
                f"values are from {low:g} to {high:g}; if it stands for a missing value, write n/a instead"
            )
    return doubts
