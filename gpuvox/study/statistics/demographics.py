"""Demographics: participants described by group, and compared with the test that suits each variable.

Tests of two samples and of contingency tables are scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from gpuvox.errors import FileError, InputError
from gpuvox.study.statistics.ancova import (
    LEVEL,
    check_assumptions,
    check_finite,
    columns_of,
    explained,
    mean_of,
    sd_of,
)
from gpuvox.study.statistics.contingency import DRAWN, exact_p
from gpuvox.tables.columns import require
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.levels import check_categories
from gpuvox.tables.reading import label
from gpuvox.types import Float64

DEMOGRAPHICS = {
    "variable": "variable described",
    "level": "level of a categorical variable; one row for each",
    "summary_{group}": "mean (SD), median (quartiles), or count of total (percentage), as text",
    "n_{group}": "participants of the group with a value",
    "count_{group}": "of these, participants with this level",
    "mean_{group}": "mean",
    "sd_{group}": "standard deviation",
    "median_{group}": "median",
    "q1_{group}": "lower quartile",
    "q3_{group}": "upper quartile",
    "test": "student, welch, mannwhitney, anova, welch_anova, kruskal, fisher or chi2; repeated in each row",
    "statistic_name": "t, U, F, H, odds ratio or chi2",
    "statistic": "value of the statistic; t, U and the odds ratio compare the first group with the second",
    "df": "degrees of freedom",
    "df_residual": "degrees of freedom of the residuals, for F",
    "p": "two-sided p, not corrected",
    "note": "why there is no test, or a caution",
}
"""Columns of the table of `demographics`, with descriptions."""

MOST_LEVELS = 20
"""Levels that Fisher's exact test compares; a number with more is not a category."""
Result = tuple[str | None, float, float, float, float]
"""Name of the statistic, statistic, df, df of the residuals, p."""


def _t(samples: Sequence[Float64], equal: bool) -> Result:
    test = stats.ttest_ind(*samples, equal_var=equal)
    return "t", test.statistic, test.df, math.nan, test.pvalue


def _mannwhitney(samples: Sequence[Float64]) -> Result:
    test = stats.mannwhitneyu(*samples, alternative="two-sided")
    return "U", test.statistic, math.nan, math.nan, test.pvalue


def _anova(samples: Sequence[Float64], equal: bool) -> Result:
    from statsmodels.stats.oneway import anova_oneway

    test = anova_oneway(list(samples), use_var="equal" if equal else "unequal")
    return "F", test.statistic, test.df_num, test.df_denom, test.pvalue


def _kruskal(samples: Sequence[Float64]) -> Result:
    test = stats.kruskal(*samples)
    return "H", test.statistic, len(samples) - 1, math.nan, test.pvalue


def _fisher(counts: NDArray[np.int64]) -> tuple[Result, str]:
    if counts.shape != (2, 2):
        p, exact = exact_p(counts)
        caution = "" if exact else f"p from {DRAWN:,} random tables with these totals".replace(",", " ")
        return (None, math.nan, math.nan, math.nan, p), caution
    test = stats.fisher_exact(counts)
    return ("odds ratio", test.statistic, math.nan, math.nan, test.pvalue), ""


def _chi2(counts: NDArray[np.int64]) -> tuple[Result, str]:
    test = stats.chi2_contingency(counts, correction=False)
    few = int((test.expected_freq < 5).sum())
    caution = f"{few} of {counts.size} expected counts below 5" if few else ""
    return ("chi2", test.statistic, test.dof, math.nan, test.pvalue), caution


TWO: dict[str, Callable[[Sequence[Float64]], Result]] = {
    "student": lambda samples: _t(samples, True),
    "welch": lambda samples: _t(samples, False),
    "mannwhitney": _mannwhitney,
}
MORE: dict[str, Callable[[Sequence[Float64]], Result]] = {
    "anova": lambda samples: _anova(samples, True),
    "welch_anova": lambda samples: _anova(samples, False),
    "kruskal": _kruskal,
}
COUNTS: dict[str, Callable[[NDArray[np.int64]], tuple[Result, str]]] = {"fisher": _fisher, "chi2": _chi2}
"""Tests of counts, which also return a caution."""
RANKS = ("mannwhitney", "kruskal")
TESTS = (*TWO, *MORE, *COUNTS)


def demographics(
    table: pd.DataFrame,
    variables: Sequence[str],
    group: str = "group",
    *,
    order: Sequence[str] = (),
    tests: Mapping[str, str] | None = None,
    least: int = 2,
) -> pd.DataFrame:
    """Describe groups, and compare them without covariates.

    Parameters
    ----------
    table : DataFrame
        See `ancova`.
    variables : sequence of str
        Text, and numbers with two values, are counted; other numbers are described by mean and SD, or by median and
        quartiles (linear interpolation) if they are ordinal or skewed: all values are multiples of 0.5
        and there are at most 20 of them (EDSS), or the residuals from the groups' means are skewed
        (`Assumptions.skewed`).
    group, order
        See `assign_groups`.
    tests : dict of str to str, optional
        Variable → test. By default: Mann–Whitney (more than two groups: Kruskal–Wallis) for ordinal or skewed
        numbers; Welch's t (Welch's analysis of variance) if Levene's p < .05; Student's t (analysis of variance)
        otherwise; Fisher's exact test for 2 × 2 counts, Pearson's χ² without continuity correction for others, for
        which ``fisher`` can be requested too (Freeman–Halton; of large tables by drawing).
    least : int
        Number of groups that are needed; one group is described and not compared.

    Returns
    -------
    DataFrame
        One row per variable, or per level of a categorical one; `DEMOGRAPHICS` describes the columns.
        A variable with values in one group only is described, not tested.

    Raises
    ------
    InputError
        A column is missing; a group is too small; a test is unknown or not suitable for its variable.
    """
    require(table, variables, "")
    groups = assign_groups(table, group, order, least)
    for name, test in (tests or {}).items():
        if test not in TESTS:
            raise FileError(f"the test {test!r} (of {name}) is unknown; the tests are {', '.join(TESTS)}")
        if name not in variables:
            raise FileError(f"the test {test} is requested for {name}, which is not among the demographics")
    rows: list[dict[str, Any]] = []
    for name in variables:
        if name in (group, "participant_id"):
            raise FileError(f"{name} cannot be described by group")
        check_finite(table[name])
        check_categories(table, name, "")
        samples = {v: table[name][groups.codes == i].dropna() for i, v in enumerate(groups.levels)}
        requested = (tests or {}).get(name, "")
        try:
            rows += [{"variable": name} | row for row in _described(samples, requested)]
        except InputError as error:
            raise FileError(f"{name}: {error}") from None
    return pd.DataFrame(rows, columns=columns_of(DEMOGRAPHICS, groups.levels))


@dataclass(frozen=True)
class Comparison:
    """A further comparison in the table of demographics.

    Attributes
    ----------
    group : str
        Column with the groups.
    order : sequence of str
        The groups to compare; by default all, sorted.
    """

    group: str
    order: Sequence[str] = ()


COMPARED = {
    "test_{name}": "test of this comparison",
    "statistic_{name}": "value of its statistic",
    "p_{name}": "its two-sided p, not corrected",
    "note_{name}": "why there is no test, or a caution",
}
"""Columns that `merged` adds for every further comparison, with descriptions."""


def merged(
    table: pd.DataFrame,
    variables: Sequence[str],
    first: pd.DataFrame,
    comparisons: Mapping[str, Comparison],
    tests: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One table of several comparisons: the groups of all side by side, and the test of each.

    Parameters
    ----------
    table : DataFrame
    variables : sequence of str
    first : DataFrame
        `demographics` of the variables in the first comparison.
    comparisons : dict of str to Comparison
        By name. A column that defines the groups of a comparison is not described in it.
    tests : dict of str to str, optional
        See `demographics`; those that do not compare the number of groups of a comparison are not used in it.

    Returns
    -------
    table : DataFrame
        Columns of `DEMOGRAPHICS`, the description of further groups, and `COMPARED`.
    columns : dict of str to str
        Descriptions of the columns that were added.

    Raises
    ------
    FileError
        As for `demographics`; a group of two comparisons has different participants under one name.
    """
    whole = first
    added: dict[str, str] = {}
    for name, comparison in comparisons.items():
        try:
            levels = assign_groups(table, comparison.group, comparison.order).levels
            described = [v for v in variables if v != comparison.group]
            found = demographics(
                table, described, comparison.group, order=comparison.order,
                tests=_fitting_tests(tests or {}, described, len(levels)),
            )  # fmt: skip
        except InputError as error:
            raise FileError(f"the comparison {name}: {error}") from None
        kept = explained({key: text for key, text in DEMOGRAPHICS.items() if "{group}" in key}, levels)
        renamed = {old: f"{old}_{name}" for old in ("test", "statistic", "p", "note")}
        part = found[["variable", "level", *kept, *renamed]].rename(columns=renamed)
        shared = [c for c in kept if c in whole.columns]
        _check_shared(whole, part, shared, name)
        whole = whole.merge(part.drop(columns=shared), on=["variable", "level"], how="outer", sort=False)
        added |= {c: text for c, text in kept.items() if c not in shared}
        added |= {key.format(name=name): text for key, text in COMPARED.items()}
    order = {name: i for i, name in enumerate(variables)}
    first_columns = ["variable", "level", *(c for c in whole.columns if c.startswith("summary_"))]
    whole = whole[[*first_columns, *(c for c in whole.columns if c not in first_columns)]]
    return whole.sort_values("variable", key=lambda v: v.map(order), kind="stable").reset_index(drop=True), added


def _fitting_tests(tests: Mapping[str, str], variables: Sequence[str], n_groups: int) -> dict[str, str]:
    """The tests that are requested, where they compare this number of groups."""
    fitting = {*COUNTS, *(TWO if n_groups == 2 else MORE)}
    return {name: test for name, test in tests.items() if name in variables and test in fitting}


def _check_shared(whole: pd.DataFrame, part: pd.DataFrame, shared: Sequence[str], name: str) -> None:
    """Raise `FileError` if groups of one name are not the same participants."""
    keys = ["variable", "level"]
    both = whole[[*keys, *shared]].merge(part[[*keys, *shared]], on=keys, suffixes=("", " again"))
    for column in shared:
        a, b = both[column], both[f"{column} again"]
        if not ((a == b) | (a.isna() & b.isna())).all():
            raise FileError(
                f"the comparison {name}: another comparison has a group of the same name with other values ({column})"
            )


def _described(samples: Mapping[str, pd.Series], requested: str) -> list[dict[str, Any]]:
    """Rows of a variable from its values in each group."""
    together = pd.concat(list(samples.values()))
    numeric = pd.api.types.is_numeric_dtype(together)
    categorical = requested in COUNTS or not (requested or (numeric and together.nunique() != 2))
    if not categorical and not numeric:
        raise InputError(f"the test {requested} is for numbers, but this is text")
    there = [level for level, values in samples.items() if len(values)]
    if categorical:
        rows = _counted(samples, together)
        test = _counts_compared([samples[v] for v in there], together, requested)
    else:
        numbers = {level: values.to_numpy(dtype=np.float64) for level, values in samples.items()}
        rows, test = _measured(numbers, there, requested)
    if len(there) < len(samples):
        where = f"values in {', '.join(there)} only" if there else "no values"
        test["note"] = "; ".join(filter(None, [where, test.get("note")]))
    return [row | test for row in rows]


def _measured(
    samples: Mapping[str, Float64], there: Sequence[str], requested: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Row of a numeric variable, and its test in the groups that have values."""
    tests = TWO if len(there) <= 2 else MORE
    if requested and requested not in tests and len(there) > 1:
        raise InputError(
            f"the test {requested} does not compare {len(there)} groups; expected {', '.join(tests)}, "
            f"or {', '.join(COUNTS)} for counts"
        )
    compared = {level: samples[level] for level in there}
    test = requested or _suitable(list(compared.values()))
    row: dict[str, Any] = {}
    for level, x in samples.items():
        q1, median, q3 = np.quantile(x, [0.25, 0.5, 0.75]) if len(x) else [math.nan] * 3
        row |= {f"n_{level}": len(x), f"mean_{level}": mean_of(x), f"sd_{level}": sd_of(x)}
        row |= {f"median_{level}": median, f"q1_{level}": q1, f"q3_{level}": q3}
    there_are = {level: x for level, x in samples.items() if len(x)}
    decimals = _decimals(list(there_are.values()), ranked=test in RANKS)
    row |= {f"summary_{level}": _summary(x, decimals, ranked=test in RANKS) for level, x in there_are.items()}
    reason = _untestable(compared, ranked=test in RANKS)
    if reason or len(there) < 2:
        return [row], {"note": reason or None}
    return [row], _outcome(test, tests[test](list(compared.values())))


def _outcome(test: str, result: Result) -> dict[str, Any]:
    name, *numbers = result
    keys = ("statistic", "df", "df_residual", "p")
    return {"test": test, "statistic_name": name} | dict(zip(keys, map(float, numbers)))


def _suitable(samples: Sequence[Float64]) -> str:
    """The test for a numeric variable; `TWO` and `MORE` list corresponding tests in the same order."""
    together = np.concatenate([np.zeros(0), *samples])
    codes = np.repeat(np.arange(len(samples)), [len(x) for x in samples])
    residuals = np.concatenate([np.zeros(0), *(x - x.mean() for x in samples)])
    equal, unequal, ranks = TWO if len(samples) <= 2 else MORE
    if not len(together):
        return equal
    checks = check_assumptions(together, codes, residuals)
    if _ordinal(together) or checks.skewed:
        return ranks
    return unequal if checks.levene_p < LEVEL else equal


def _ordinal(x: Float64) -> bool:
    """Whether values form a scale such as the EDSS: at most 20 values, in steps of a half."""
    return len(np.unique(x)) <= 20 and bool((2 * x == np.rint(2 * x)).all())


def _untestable(samples: Mapping[str, Float64], ranked: bool) -> str:
    """Why groups cannot be compared; empty if they can."""
    if len(samples) < 2:
        return ""  # Nothing to compare with; the caller reports that.
    for level, x in samples.items():
        if len(x) < 2:
            return f"one value in {level}"
    together = np.concatenate(list(samples.values()))
    if np.ptp(together) == 0:
        return "same value in all participants"
    if not ranked and all(np.ptp(x) <= 1e-12 * np.abs(together).max() for x in samples.values()):
        return "no variance within the groups"
    return ""


def _decimals(samples: Sequence[Float64], ranked: bool) -> int:
    """Decimals of a row, the same in all groups: two digits of the groups' SD or interquartile range (their root mean
    square), at least one, and none from 1000 on.
    """
    spreads = [float(np.ptp(np.quantile(x, [0.25, 0.75]))) if ranked else sd_of(x) for x in samples]
    known = [spread for spread in spreads if spread > 0]
    if not known:
        return 1
    spread = max(known) * math.sqrt(sum((each / max(known)) ** 2 for each in known) / len(known))
    return 0 if spread >= 1000 else max(1, 1 - math.floor(math.log10(spread)))


def _summary(x: Float64, decimals: int, ranked: bool) -> str:
    """Mean (SD), or median (quartiles)."""
    q1, median, q3 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    if ranked:
        return f"median {median:.{decimals}f} ({q1:.{decimals}f}–{q3:.{decimals}f})"
    spread = sd_of(x)
    sd = "n/a" if math.isnan(spread) else f"{spread:.{decimals}f}"
    return f"{mean_of(x):.{decimals}f} ({sd})"


def _counted(samples: Mapping[str, pd.Series], together: pd.Series) -> list[dict[str, Any]]:
    """Rows of a categorical variable, one per level."""
    rows: list[dict[str, Any]] = []
    for value in sorted(together.unique().tolist()) or [None]:
        row: dict[str, Any] = {"level": None if value is None else label(value)}
        for level, values in samples.items():
            count, n = int((values == value).sum()), len(values)
            row |= {f"n_{level}": n, f"count_{level}": count}
            if n:
                row[f"summary_{level}"] = f"{count} of {n} ({100 * count / n:.0f} %)"
        rows.append(row)
    return rows


def _counts_compared(compared: Sequence[pd.Series], together: pd.Series, requested: str) -> dict[str, Any]:
    """Test of a contingency table, groups × levels."""
    levels = sorted(together.unique().tolist())
    counts = np.array([[(values == v).sum() for v in levels] for values in compared], dtype=np.int64)
    if len(compared) < 2:
        return {}
    if len(levels) < 2:
        return {"note": "same value in all participants"}
    if requested == "fisher" and len(levels) > MOST_LEVELS:
        raise InputError(
            f"Fisher's exact test is for at most {MOST_LEVELS} categories; these are {len(counts)} × {len(levels)}"
            " counts"
        )
    test = requested or ("fisher" if counts.shape == (2, 2) else "chi2")
    result, caution = COUNTS[test](counts)
    return _outcome(test, result) | ({"note": caution} if caution else {})
