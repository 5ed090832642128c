"""Transformations of variables before they are modelled, and the ladder of powers from which one may be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox.errors import InputError
from gpuvox.study.statistics.ancova import check_assumptions
from gpuvox.types import Bools, Float64

FORMULAS = {"log": "log(x)", "sqrt": "√(x)", "rank": "rank of x"}
"""Transformations that a model offers."""


@dataclass(frozen=True)
class Rung:
    """A transformation of the ladder of powers (Tukey 1977, Exploratory Data Analysis).

    Attributes
    ----------
    name, formula : str
    domain : {"all", "nonnegative", "positive"}
        Values that it transforms.
    transform : callable
    """

    name: str
    formula: str
    domain: str
    transform: Callable[[Float64], Float64]


RUNGS = (
    Rung("cubic", "x³", "all", lambda x: x**3),
    Rung("square", "x²", "all", lambda x: x**2),
    Rung("identity", "x", "all", lambda x: x),
    Rung("square root", "√(x)", "nonnegative", np.sqrt),
    Rung("log", "log(x)", "positive", np.log),
    Rung("1/(square root)", "1/√(x)", "positive", lambda x: 1 / np.sqrt(x)),
    Rung("inverse", "1/x", "positive", lambda x: 1 / x),
    Rung("1/square", "1/x²", "positive", lambda x: x**-2.0),
    Rung("1/cubic", "1/x³", "positive", lambda x: x**-3.0),
)
LADDER = {
    "variable": "variable",
    "transformation": "name of the transformation",
    "formula": "formula of the transformation of x",
    "n": "participants of the subset with a value",
    "skewness": "skewness (G1) of the transformed values",
    "kurtosis": "excess kurtosis (G2) of the transformed values",
    "chi2": "K2 of D'Agostino and Pearson, from skewness and kurtosis; 2 degrees of freedom",
    "p": "its p: small values contradict a normal distribution",
    "lilliefors_d": "distance from a normal distribution (Kolmogorov-Smirnov, Lilliefors)",
    "lilliefors_p": "p of that distance",
    "note": "why the transformation is not possible",
}
"""Columns of the table of `ladder`, with descriptions."""


def ladder(name: str, values: Float64) -> list[dict[str, Any]]:
    """Every power of a variable, with tests of normality.

    Parameters
    ----------
    name : str
    values : (n,) float64
        NaN if missing.

    Returns
    -------
    list of dict
        One for each rung; `LADDER` describes the keys.
    """
    x = values[np.isfinite(values)]
    return [
        {"variable": name, "transformation": rung.name, "formula": rung.formula, "n": len(x)} | _normality(rung, x)
        for rung in RUNGS
    ]


def _normality(rung: Rung, x: Float64) -> dict[str, Any]:
    if len(x) < 8:
        return {"note": "fewer than 8 values"}
    if rung.domain != "all" and (x < 0).any():
        return {"note": "negative values"}
    if rung.domain == "positive" and (x == 0).any():
        return {"note": "values of 0"}
    y = rung.transform(x)
    if not np.isfinite(y).all() or np.ptp(y) <= 1e-12 * np.abs(y).max():
        return {"note": "the same value in all participants"}
    test = stats.normaltest(y)
    checks = check_assumptions(y, np.zeros(len(y)), y - y.mean())
    return {
        "skewness": float(stats.skew(y, bias=False)), "kurtosis": float(stats.kurtosis(y, bias=False)),
        "chi2": float(test.statistic), "p": float(test.pvalue), "lilliefors_d": checks.lilliefors_d,
        "lilliefors_p": checks.lilliefors_p,
    }  # fmt: skip


def ladder_table(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """`ladder` of several variables."""
    rows = [row for name in names for row in ladder(name, table[name].to_numpy(dtype=np.float64))]
    return pd.DataFrame(rows, columns=list(LADDER))


def transformed(values: Float64, how: str, chosen: Bools, inside: Bools, who: Sequence[str], name: str) -> Float64:
    """A variable after a transformation.

    Parameters
    ----------
    values : (n,) float64
    how : {"log", "sqrt", "rank"}
        Ranks are those among the participants analysed; ties share their mean rank.
    chosen, inside : (n,) bool
        Participants analysed, and those of the reference group. If this has no positive value (no lesions),
        it is not used for the variable, and its values may be 0.
    who : sequence of str
        Participants.
    name : str
        For messages.

    Raises
    ------
    InputError
        A value has no logarithm or square root.
    """
    if how == "rank":
        ranks = np.full(len(values), np.nan)
        rows = chosen & np.isfinite(values)
        ranks[rows] = stats.rankdata(values[rows])
        return ranks
    people = chosen | (inside & (values[inside] > 0).any())
    bad = np.flatnonzero(people & ((values <= 0) if how == "log" else (values < 0)))
    if len(bad):
        needs = "a logarithm needs positive values" if how == "log" else "a square root needs values from 0"
        raise InputError(f"{name} of {who[bad[0]]} is {values[bad[0]]:g}; {needs}")
    if how == "log":
        return np.log(np.where(values > 0, values, np.nan))
    return np.sqrt(np.where(values >= 0, values, np.nan))
