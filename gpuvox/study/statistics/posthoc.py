"""Pairs of groups after an analysis of covariance: differences of adjusted means, with p adjusted for the pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from gpuvox import effect_sizes

METHODS = ("tukey", "bonferroni", "holm", "sidak", "none")
PAIRS = {
    "variable": "variable compared",
    "first": "first group",
    "second": "second group",
    "difference": "adjusted mean of the first group minus that of the second",
    "difference_se": "its standard error, of the variance within all groups",
    "difference_low": "lower end of its simultaneous 95 % confidence interval; of holm, which has none, of a single "
    "95 % interval",
    "difference_high": "upper end of this interval",
    "t": "t of the difference",
    "df_residual": "degrees of freedom of t",
    "p": "p of the difference, not adjusted",
    "p_adjusted": "p adjusted for the number of pairs of the variable",
    "d": "Cohen's d, the difference divided by the SD of the residuals of the model of all groups",
    "d_low": "lower end of its 95 % confidence interval, not adjusted (noncentral t)",
    "d_high": "upper end of its 95 % confidence interval, not adjusted",
}
"""Columns of the table of pairs, with descriptions."""
LEVEL = 0.05


def compare_pairs(fit: Any, levels: Sequence[str], method: str) -> list[dict[str, Any]]:
    """Every pair of groups.

    Parameters
    ----------
    fit : statsmodels results
        Of a model whose first columns are indicators of the groups.
    levels : sequence of str
        The groups.
    method : {"tukey", "bonferroni", "holm", "sidak", "none"}
        Tukey: the studentised range with Kramer's standard errors, exact for equal groups without covariates and
        conservative otherwise (Hayter 1984, Ann Stat 12:61–75); Holm 1979 (Scand J Stat 6:65–70); Šidák 1967 (J Am
        Stat Assoc 62:626–633).

    Returns
    -------
    list of dict
        One for each pair, in the order of the groups; `PAIRS` describes the keys.
    """
    k, df = len(levels), float(fit.df_resid)
    rows: list[dict[str, Any]] = []
    for i, j in combinations(range(k), 2):
        contrast = np.zeros(len(fit.params))
        contrast[i], contrast[j] = 1, -1
        test = fit.t_test(contrast)
        difference, se, t = (float(np.squeeze(x)) for x in (test.effect, test.sd, test.tvalue))
        half = _critical(method, k, df) * se
        rows.append(
            {
                "first": levels[i], "second": levels[j], "difference": difference, "difference_se": se,
                "difference_low": difference - half, "difference_high": difference + half, "t": t, "df_residual": df,
                "p": float(np.squeeze(test.pvalue)),
            }
            | _cohens_d(t, df, se / math.sqrt(fit.scale))
        )  # fmt: skip
    for row, p in zip(rows, _adjusted([row["t"] for row in rows], [row["p"] for row in rows], method, k, df)):
        row["p_adjusted"] = p
    return rows


def _cohens_d(t: float, df: float, factor: float) -> dict[str, float]:
    """d, t times the standard error in SD of the residuals, and its limits, those of the noncentrality of t likewise.

    Without covariates the factor is √(1/n₁ + 1/n₂). 2 / √df, as for two groups, would be too small: df counts the
    participants of the other groups as well.
    """
    low, high = (float(limit[0]) * factor for limit in effect_sizes.noncentrality_limits(np.array([t]), int(df)))
    return {"d": t * factor, "d_low": low, "d_high": high}


def _critical(method: str, k: int, df: float) -> float:
    """The t at which an interval ends."""
    m = k * (k - 1) / 2
    if method == "tukey":
        return float(stats.studentized_range.ppf(1 - LEVEL, k, df)) / math.sqrt(2)
    tail = {"bonferroni": LEVEL / m, "sidak": 1 - (1 - LEVEL) ** (1 / m)}.get(method, LEVEL)
    return float(stats.t.isf(tail / 2, df))


def _adjusted(t: Sequence[float], p: Sequence[float], method: str, k: int, df: float) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    if method == "none":
        return list(p)
    if method == "tukey":
        return [min(1.0, float(stats.studentized_range.sf(abs(x) * math.sqrt(2), k, df))) for x in t]
    return [float(x) for x in multipletests(p, method=method)[1]]
