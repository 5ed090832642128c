"""Variables of one group, described and not compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox.study.statistics.ancova import check_numbers, mean_of, sd_of
from gpuvox.tables.columns import require

DESCRIPTION = {
    "variable": "variable described",
    "n": "participants with a value",
    "mean": "mean",
    "low": "lower end of the 95 % confidence interval of the mean, by t",
    "high": "upper end of this interval",
    "sd": "standard deviation",
    "minimum": "smallest value",
    "maximum": "largest value",
    "median": "median",
    "q1": "lower quartile, by linear interpolation",
    "q3": "upper quartile",
    "iqr": "interquartile range, upper minus lower quartile",
}
"""Columns of the table of `describe`, with descriptions."""


def describe(table: pd.DataFrame, variables: Sequence[str]) -> pd.DataFrame:
    """Mean, SD, range, median and interquartile range of each variable.

    Parameters
    ----------
    table : DataFrame
        The participants of the group; see `tables.typed`.
    variables : sequence of str
        Numeric columns; missing values are left out.

    Returns
    -------
    DataFrame
        One row per variable; `DESCRIPTION` describes the columns.

    Raises
    ------
    FileError
        A column is missing, text, or has an infinite value.
    """
    require(table, variables, "")
    rows: list[dict[str, Any]] = []
    for name in variables:
        check_numbers(table, name)
        values = table[name].to_numpy(dtype=np.float64)
        rows.append({"variable": name} | _described(values[~np.isnan(values)]))
    return pd.DataFrame(rows, columns=list(DESCRIPTION))


def _described(x: np.ndarray) -> dict[str, float]:
    n = len(x)
    row: dict[str, float] = {"n": n}
    if not n:
        return row
    mean, sd = mean_of(x), sd_of(x)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else math.nan
    q1, median, q3 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    return row | {
        "mean": mean, "low": mean - half, "high": mean + half, "sd": sd, "minimum": float(x.min()),
        "maximum": float(x.max()), "median": median, "q1": q1, "q3": q3, "iqr": q3 - q1,
    }  # fmt: skip
