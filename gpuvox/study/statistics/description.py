"""Variables of one group: described, and their means compared with a constant if there is one that makes sense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox import effect_sizes
from gpuvox.study.statistics.ancova import check_correction, check_numbers, mean_of, sd_of
from gpuvox.study.statistics.least_squares import adjust_p
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
ONE_SAMPLE = {
    "against": "constant with which the mean is compared",
    "t": "t of the difference of the mean and the constant (one sample)",
    "df": "its degrees of freedom",
    "p": "its p, two-sided",
    "p_corrected": "p corrected over the variables; n/a without correction",
    "d": "Cohen's d: mean minus constant, divided by the standard deviation",
    "d_low": "Cohen's d, lower end of the 95 % confidence interval (noncentral t)",
    "d_high": "Cohen's d, upper end of the 95 % confidence interval",
}
"""Further columns where there is a constant, with descriptions."""


def columns_described(against: float | None) -> dict[str, str]:
    """Columns of a description, with or without a constant, and what they hold."""
    return DESCRIPTION if against is None else DESCRIPTION | ONE_SAMPLE


def describe(
    table: pd.DataFrame, variables: Sequence[str], against: float | None = None, correction: str = "fdr_bh"
) -> pd.DataFrame:
    """Mean, SD, range, median and interquartile range of each variable.

    Parameters
    ----------
    table : DataFrame
        The participants of the group; see `tables.typed`.
    variables : sequence of str
        Numeric columns; missing values are left out.
    against : float, optional
        A constant with which each mean is compared by Student's t test of one sample.
    correction : {"fdr_bh", "bonferroni", "none"}
        Of these tests, over the variables.

    Returns
    -------
    DataFrame
        One row per variable; `columns_described` describes the columns. Values that are all the same have no t.

    Raises
    ------
    InputError
        A column is missing, text, or has an infinite value; the correction is unknown.
    """
    check_correction(correction)
    require(table, variables, "")
    rows: list[dict[str, Any]] = []
    for name in variables:
        check_numbers(table, name)
        values = table[name].to_numpy(dtype=np.float64)
        known = values[~np.isnan(values)]
        rows.append({"variable": name} | _described(known))
        if against is not None:
            rows[-1] |= _compared(known, against)
    described = pd.DataFrame(rows, columns=list(columns_described(against)))
    tested = described["p"].notna() if against is not None and correction != "none" else pd.Series(dtype=bool)
    if tested.any():
        p = described.loc[tested, "p"].to_numpy(dtype=np.float64)
        described.loc[tested, "p_corrected"] = adjust_p(p, correction)
    return described


def _compared(x: np.ndarray, constant: float) -> dict[str, float]:
    """Student's t test of one sample."""
    n, sd = len(x), sd_of(x) if len(x) > 1 else 0.0
    if not sd > 0:
        return {"against": constant}
    t = (mean_of(x) - constant) / (sd / math.sqrt(n))
    d, low, high = (float(value[0]) for value in _cohens_d(t, n))
    p = 2 * float(stats.t.sf(abs(t), n - 1))
    return {"against": constant, "t": t, "df": n - 1, "p": p, "d": d, "d_low": low, "d_high": high}


def _cohens_d(t: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d = t / √n, and its confidence limits."""
    values, factor = np.array([t]), 1 / math.sqrt(n)
    low, high = effect_sizes.noncentrality_limits(values, n - 1)
    return values * factor, low * factor, high * factor


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
