"""Group tables: analysis of covariance of each variable, demographics, and checks of what they assume.

Analysis of covariance (ANCOVA) is ordinary least squares of a variable on the groups and covariates, with common
slopes. F tests the groups given the covariates (type III); adjusted means are those of the model at the covariates'
means over the participants analysed. Fits are statsmodels', tests of two samples and of contingency tables scipy's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from gpuvox import __version__, files
from gpuvox.files import FileError
from gpuvox.study.models import adjust_p
from gpuvox.study.tables import gather, indicators, label, labels, matching, read_participants, require, select

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]

CORRECTIONS = ("fdr_bh", "bonferroni", "none")
LEVEL = 0.05
"""Of the tests of assumptions that choose a test or a transformation."""
SKEWED = 1.0
"""Skewness above which, if Lilliefors' test rejects too, values count as skewed."""
AUTO = "auto"


class _NotTestedError(ValueError):
    """A variable cannot be tested; the text says why."""


# -- groups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Groups:
    """Who belongs to which group.

    Attributes
    ----------
    levels : tuple of str
        The groups, in their order.
    codes : (n,) int64
        Index into `levels`; -1 for those who are left out: their group is missing, or not in the order.
    """

    levels: tuple[str, ...]
    codes: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Participants of each group."""
        return {level: int((self.codes == i).sum()) for i, level in enumerate(self.levels)}


def assign_groups(table: pd.DataFrame, group: str, order: Sequence[str] = ()) -> Groups:
    """Groups of a table.

    Parameters
    ----------
    table : DataFrame
        See `tables.typed`.
    group : str
        Column with the group of each participant; who has none is left out.
    order : sequence of str, optional
        The groups that are compared, differences being the first less the second; others are left out. By default
        all, sorted.

    Raises
    ------
    ValueError
        No such column or group, fewer than two groups, or a group of one participant.
    """
    require(table, [group], "the table")
    there = dict(zip(labels(table[group].dropna()), table[group].dropna().tolist()))
    levels = tuple(order) or tuple(name for name, value in sorted(there.items(), key=lambda pair: pair[1]))
    for level in levels:
        if level not in there:
            raise FileError(f"nobody has {group} {level!r}; there are {', '.join(sorted(there)) or 'none'}")
    if len(set(levels)) < max(len(levels), 2):
        raise FileError(f"the groups are {', '.join(levels) or 'none'}; two different ones at least are needed")
    names = labels(table[group])
    codes = np.array([levels.index(name) if name in levels else -1 for name in names], dtype=np.int64)
    groups = Groups(levels, codes)
    for level, n in groups.counts().items():
        if n < 2:
            raise FileError(f"the {group} {level} has one participant; at least 2 are needed")
    return groups


# -- assumptions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assumptions:
    """Checks of what an analysis of variance or covariance assumes; NaN where there are too few values.

    Attributes
    ----------
    levene_f, levene_p : float
        Levene's test that the values have the same variance in each group, with deviations from the group's median
        (Brown & Forsythe 1974, JASA 69:364).
    lilliefors_d, lilliefors_p : float
        Kolmogorov–Smirnov distance of the residuals from a normal distribution whose mean and SD are estimated from
        them, with the p-value that belongs to that (Lilliefors 1967, JASA 62:399), from a table that starts at .001.
    skewness : float
        Of the residuals: the adjusted Fisher–Pearson coefficient G1.
    """

    levene_f: float
    levene_p: float
    lilliefors_d: float
    lilliefors_p: float
    skewness: float

    @property
    def skewed(self) -> bool:
        """Clearly not normal: |skewness| > 1, and Lilliefors' p < .05."""
        return abs(self.skewness) > SKEWED and self.lilliefors_p < LEVEL


def check_assumptions(values: ArrayLike, group: ArrayLike, residuals: ArrayLike) -> Assumptions:
    """Equal variances of the values in the groups, and normality of the residuals.

    Parameters
    ----------
    values : (n,) array_like
    group : (n,) array_like
        Group of each value.
    residuals : (n,) array_like
        Of the model that is to be checked.
    """
    from statsmodels.stats.diagnostic import lilliefors

    y, e = np.asarray(values, dtype=np.float64), np.asarray(residuals, dtype=np.float64)
    labels = np.asarray(group)
    samples = [y[labels == level] for level in np.unique(labels)]
    levene_f = levene_p = lilliefors_d = lilliefors_p = skewness = math.nan
    # Two values lie equally far from their median: more are needed for deviations that vary.
    if len(samples) > 1 and min(map(len, samples)) > 1 and any(np.ptp(abs(x - np.median(x))) > 0 for x in samples):
        levene_f, levene_p = stats.levene(*samples, center="median")
    if len(e) > 3 and np.ptp(e) > 1e-10 * max(np.abs(y).max(), np.abs(e).max()):
        lilliefors_d, lilliefors_p = lilliefors(e)
        skewness = stats.skew(e, bias=False)
    found = (levene_f, levene_p, lilliefors_d, lilliefors_p, skewness)
    return Assumptions(*(float(value) for value in found))


# -- analysis of covariance -----------------------------------------------------------------------------------------

ANCOVA = {
    "variable": "what is compared",
    "family": "the p-values that are corrected together",
    "transform": "what was done to the values x before the test",
    "n": "participants with the variable, the group and all covariates",
    "n_{group}": "of them, in the group",
    "mean_{group}": "mean, not adjusted, not transformed",
    "sd_{group}": "standard deviation, not adjusted, not transformed",
    "adjusted_mean_{group}": "mean of the (transformed) values at the covariates' means over the n participants",
    "adjusted_se_{group}": "standard error of the adjusted mean",
    "adjusted_low_{group}": "adjusted mean, lower end of the 95 % confidence interval",
    "adjusted_high_{group}": "adjusted mean, upper end of the 95 % confidence interval",
    "difference": "adjusted mean of the first group less that of the second (two groups only)",
    "difference_se": "standard error of the difference",
    "difference_low": "difference, lower end of the 95 % confidence interval",
    "difference_high": "difference, upper end of the 95 % confidence interval",
    "f": "F of the group given the covariates (type III)",
    "df_group": "degrees of freedom of the group",
    "df_residual": "degrees of freedom of the residuals",
    "p": "of F",
    "p_corrected": "of F, corrected within the family; n/a without correction",
    "family_size": "number of p-values in the family",
    "d": "Cohen's d, 2 sqrt(F / df_residual), with the sign of the difference (two groups only)",
    "levene_f": "Levene's test of equal variances of the (transformed) values, deviations from medians",
    "levene_p": "of Levene's test",
    "lilliefors_d": "distance of the residuals from a normal distribution (Kolmogorov-Smirnov, Lilliefors)",
    "lilliefors_p": "of that distance",
    "skewness": "of the residuals",
    "skewness_before": "of the residuals, were the values not transformed",
    "slopes_f": "F of the interactions of group and covariates (homogeneity of regression slopes)",
    "slopes_df": "degrees of freedom of the interactions",
    "slopes_p": "of the interactions",
    "note": "why the variable was not tested",
}
"""Columns of the table of `ancova`, and what they are."""


@dataclass(frozen=True, eq=False)
class _Design:
    """Groups and covariates of the participants analysed."""

    levels: tuple[str, ...]
    codes: NDArray[np.int64]
    covariates: pd.DataFrame

    def part(self, rows: Bool) -> _Design:
        return _Design(self.levels, self.codes[rows], self.covariates[rows])

    def matrix(self) -> Float64:
        """(n, groups + k) indicators of the groups, covariates with mean 0 and SD 1; `_NotTestedError`."""
        G = (self.codes[:, None] == np.arange(len(self.levels))).astype(np.float64)
        for level, n in zip(self.levels, G.sum(axis=0)):
            if n < 2:
                who = f"{n:.0f} participant{'' if n == 1 else 's'}"
                raise _NotTestedError(f"{who} of {level} with all values; at least 2 are needed")
        for name in self.covariates.columns:
            if self.covariates[name].nunique() < 2:
                raise _NotTestedError(f"the covariate {name} is the same in everyone")
        columns = indicators(self.covariates, list(self.covariates.columns))
        C = columns.to_numpy(dtype=np.float64)
        if len(G) <= G.shape[1] + C.shape[1]:
            raise _NotTestedError(f"{len(G)} participants are too few for {G.shape[1] + C.shape[1]} coefficients")
        C = (C - C.mean(axis=0)) / C.std(axis=0)
        own = _independent(G, C)
        for i, name in enumerate(columns.columns):
            if i not in own:
                raise _NotTestedError(f"the covariate {name} is determined by the group and the other covariates")
        return np.column_stack([G, C])


def _independent(X: Float64, columns: Float64) -> list[int]:
    """Those columns that are no combination of X and of the columns before them."""
    Q, found = np.linalg.qr(X)[0], []
    for i, column in enumerate(columns.T):
        left = column - Q @ (Q.T @ column)
        left -= Q @ (Q.T @ left)
        if np.linalg.norm(left) > 1e-8 * np.linalg.norm(column):
            found.append(i)
            Q = np.column_stack([Q, left / np.linalg.norm(left)])
    return found


def ancova(
    table: pd.DataFrame,
    variables: Sequence[str],
    group: str = "group",
    *,
    order: Sequence[str] = (),
    covariates: Sequence[str] = (),
    families: Mapping[str, Sequence[str]] | None = None,
    correction: str = "fdr_bh",
    log: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare groups in each of several variables, given covariates.

    Parameters
    ----------
    table : DataFrame
        A row for each participant; see `tables.typed` and `tables.gather`.
    variables : sequence of str
        Columns of numbers. Participants in whom one is missing are left out of its analysis.
    group, order
        See `assign_groups`.
    covariates : sequence of str
        Columns of numbers or of text (indicators of each value but the first); whoever lacks one is left out.
    families : dict of str to sequence of str, optional
        Name → patterns of the variables whose p-values are corrected together. By default one family, ``all``.
    correction : {"fdr_bh", "bonferroni", "none"}
        See `models.adjust_p`.
    log : sequence of str
        Patterns of the variables that are log-transformed: log(x), or log(x + c) with c half the smallest positive
        value if there are zeros. ``auto``: also those without negative values whose residuals have a skewness above
        1 and Lilliefors' p < .05, if the logarithm brings the skewness closer to 0.

    Returns
    -------
    DataFrame
        A row for each variable, in their order; `ANCOVA` says what the columns are. A variable that does not vary, or
        of which too few values are there, has a note and no test, and does not count in its family.

    Raises
    ------
    ValueError
        A column is missing, is not numeric, or is in no family or in two; a covariate is constant or determined by
        the group and others; a group is too small; the logarithm of negative values is wanted.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"there is no correction {correction!r}; expected {', '.join(CORRECTIONS)}")
    _check_variables(table, variables, [group, *covariates])
    member = assign_families(variables, families)
    forced = matching(variables, [pattern for pattern in log if pattern != AUTO], "the list of variables")
    rows, design = _analysed(table, group, order, covariates)
    found = []
    for name in variables:
        how = "log" if name in forced else AUTO if AUTO in log else ""
        row = {"variable": name, "family": member[name], "transform": "none"}
        found.append(row | _variable(table[name].to_numpy(dtype=np.float64)[rows], design, how, name))
    result = pd.DataFrame(found, columns=_columns(ANCOVA, design.levels))
    for family in result["family"].unique():
        # A variable that was not tested makes the correction of the others no stricter.
        inside = (result["family"] == family) & result["p"].notna()
        p = result.loc[inside, "p"].to_numpy(dtype=np.float64)
        if correction != "none":
            result.loc[inside, "p_corrected"] = adjust_p(p, correction)
        result.loc[result["family"] == family, "family_size"] = int(inside.sum())
    return result.astype({"family_size": int})


def _columns(descriptions: Mapping[str, str], levels: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in descriptions:
        found += [name.format(group=level) for level in levels] if "{group}" in name else [name]
    return found


def _check_variables(table: pd.DataFrame, variables: Sequence[str], taken: Sequence[str]) -> None:
    require(table, variables, "the table")
    for name in variables:
        if name in taken or list(variables).count(name) > 1:
            raise FileError(f"{name} cannot be a variable: it is the group, a covariate, or a variable already")
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise FileError(f"the column {name!r} is text; variables are numbers")
        _check_finite(table[name])


def _check_finite(column: pd.Series) -> None:
    """Raise `FileError` for an infinite value; missing ones are in order."""
    if pd.api.types.is_numeric_dtype(column) and np.isinf(column.to_numpy(dtype=np.float64)).any():
        raise FileError(f"the column {str(column.name)!r} has an infinite value")


def assign_families(
    variables: Sequence[str], families: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """The family of each variable.

    Parameters
    ----------
    variables : sequence of str
    families : dict of str to sequence of str, optional
        Name → patterns. Without it everything is in one family, ``all``.

    Raises
    ------
    FileError
        A pattern fits no variable; a variable is in two families or in none.
    """
    if not families:
        return dict.fromkeys(variables, "all")
    member: dict[str, str] = {}
    for family, patterns in families.items():
        for name in matching(variables, patterns, f"the family {family}"):
            if name in member:
                raise FileError(f"{name} is in two families, {member[name]} and {family}")
            member[name] = family
    for name in variables:
        if name not in member:
            raise FileError(f"{name} is in no family; each variable must be in one of {', '.join(families)}")
    return member


def _analysed(
    table: pd.DataFrame, group: str, order: Sequence[str], covariates: Sequence[str]
) -> tuple[Bool, _Design]:
    """Rows with a group and all covariates, and their design."""
    require(table, covariates, "the table")
    groups = assign_groups(table, group, order)
    if group in covariates or len(set(covariates)) < len(covariates):
        raise FileError(f"the covariates are {', '.join(covariates)}; each once, and the group is none")
    chosen = table[list(covariates)]
    for name in covariates:
        _check_finite(chosen[name])
    rows = (groups.codes >= 0) & chosen.notna().all(axis=1).to_numpy()
    design = _Design(groups.levels, groups.codes[rows], chosen[rows])
    design.matrix()
    return rows, design


def _variable(values: Float64, everyone: _Design, how: str, name: str) -> dict[str, Any]:
    """Numbers of one variable: described, and tested or a note."""
    there = ~np.isnan(values)
    design, x = everyone.part(there), values[there]
    row: dict[str, Any] = {"n": len(x)}
    for i, level in enumerate(design.levels):
        own = x[design.codes == i]
        row |= {f"n_{level}": len(own), f"mean_{level}": _mean(own), f"sd_{level}": _sd(own)}
    try:
        y, formula, before = _transformed(x, design, how, name)
        return row | {"transform": formula, "skewness_before": before} | _tested(y, design)
    except _NotTestedError as reason:
        return row | {"note": str(reason)}


def _mean(x: Float64) -> float:
    return float(x.mean()) if len(x) else math.nan


def _sd(x: Float64) -> float:
    return float(x.std(ddof=1)) if len(x) > 1 else math.nan


def _fit(y: Float64, X: Float64) -> Any:
    """Least squares of statsmodels; y has mean 0."""
    import statsmodels.api as sm

    spread = float(np.linalg.norm(y))
    fit = sm.OLS(y, X).fit()
    if math.sqrt(fit.ssr) <= 1e-10 * spread:
        raise _NotTestedError("no variance is left within the groups, given the covariates")
    return fit


def _centred(y: Float64) -> Float64:
    left = y - y.mean()
    if np.linalg.norm(left) <= 1e-12 * np.linalg.norm(y):
        raise _NotTestedError("the same in everyone")
    return left


def _transformed(x: Float64, design: _Design, how: str, name: str) -> tuple[Float64, str, float]:
    """Values as they are tested, the formula, and the skewness of the residuals of the untransformed ones."""
    if how == "log" and x.min(initial=0) < 0:
        raise FileError(f"{name} has negative values, of which there is no logarithm; leave it out of --log")
    X = design.matrix()
    residuals = _fit(_centred(x), X).resid
    before = check_assumptions(x, design.codes, residuals)
    if how == AUTO and before.skewed and x.min() >= 0:
        y, formula = _logarithm(x)
        after = check_assumptions(y, design.codes, _fit(_centred(y), X).resid)
        if abs(after.skewness) < before.skewness:  # never if they are skewed to the left
            return y, formula, before.skewness
    return (*(_logarithm(x) if how == "log" else (x, "none")), before.skewness)


def _logarithm(x: Float64) -> tuple[Float64, str]:
    """log(x), or log(x + c): c scales with the unit of x, so that the result does not depend on it."""
    if x.min() > 0:
        return np.log(x), "log(x)"
    c = float(x[x > 0].min()) / 2
    return np.log(x + c), f"log(x + {c:.8g})"


def _tested(y: Float64, design: _Design) -> dict[str, float]:
    """The analysis of covariance of one variable."""
    X, k, middle = design.matrix(), len(design.levels), float(y.mean())
    fit = _fit(_centred(y), X)
    ends = fit.conf_int()
    found: dict[str, float] = {}
    for i, level in enumerate(design.levels):
        found[f"adjusted_mean_{level}"] = middle + float(fit.params[i])
        found[f"adjusted_se_{level}"] = float(fit.bse[i])
        found[f"adjusted_low_{level}"], found[f"adjusted_high_{level}"] = (middle + float(e) for e in ends[i])
    contrasts = np.zeros((k - 1, X.shape[1]))
    contrasts[:, 0], contrasts[:, 1:k] = 1, -np.eye(k - 1)
    test = fit.f_test(contrasts)
    f, df = float(np.squeeze(test.fvalue)), float(fit.df_resid)
    found |= {"f": f, "df_group": k - 1, "df_residual": df, "p": float(test.pvalue)}
    if k == 2:
        pair = fit.t_test(contrasts)
        difference, (low, high) = float(np.squeeze(pair.effect)), np.squeeze(pair.conf_int())
        found |= {"difference": difference, "difference_se": float(np.squeeze(pair.sd))}
        found |= {"difference_low": float(low), "difference_high": float(high)}
        found["d"] = math.copysign(cohens_d(f, df), difference)
    checks = check_assumptions(y, design.codes, fit.resid)
    for name in ("levene_f", "levene_p", "lilliefors_d", "lilliefors_p", "skewness"):
        found[name] = getattr(checks, name)
    return found | _slopes(fit, X, k)


def _slopes(fit: Any, X: Float64, k: int) -> dict[str, float]:
    """Test that the covariates' slopes are the same in all groups."""
    import statsmodels.api as sm

    products = np.column_stack(
        [np.zeros((len(X), 0)), *(X[:, [i]] * X[:, [j]] for i in range(1, k) for j in range(k, X.shape[1]))]
    )
    # A covariate that is constant within a group has no slope there.
    extra = _independent(X, products)
    df = len(X) - X.shape[1] - len(extra)
    if not extra or df < 1:
        return {}
    larger = sm.OLS(fit.model.endog, np.column_stack([X, products[:, extra]])).fit()
    f = ((fit.ssr - larger.ssr) / len(extra)) / (larger.ssr / df) if larger.ssr > 0 else math.inf
    return {"slopes_f": float(f), "slopes_df": len(extra), "slopes_p": float(stats.f.sf(f, len(extra), df))}


def cohens_d(f: float, df: float) -> float:
    """Cohen's d of two groups from the F of their difference: 2 √F / √df, without sign.

    Parameters
    ----------
    f : float
    df : float
        Degrees of freedom of the residuals.

    Notes
    -----
    For groups of equal size without covariates, t = √F and this is Rosenthal's d = 2 t / √df.
    """
    return 2 * math.sqrt(f) / math.sqrt(df)


# -- demographics ---------------------------------------------------------------------------------------------------

DEMOGRAPHICS = {
    "variable": "what is described",
    "level": "its value, of a categorical variable; a row for each",
    "summary_{group}": "mean (SD), median (quartiles), or number of all (share), as text",
    "n_{group}": "participants of the group with a value",
    "count_{group}": "of them, with this level",
    "mean_{group}": "mean",
    "sd_{group}": "standard deviation",
    "median_{group}": "median",
    "q1_{group}": "lower quartile",
    "q3_{group}": "upper quartile",
    "test": "student, welch, mannwhitney, anova, welch_anova, kruskal, fisher or chi2; of the variable, in each row",
    "statistic_name": "t, U, F, H, odds ratio or chi2",
    "statistic": "its value; t, U and the odds ratio are of the first group against the second",
    "df": "degrees of freedom",
    "df_residual": "of F, degrees of freedom of the residuals",
    "p": "two-sided, not corrected",
    "note": "why there is no test, or a caution",
}
"""Columns of the table of `demographics`, and what they are."""

Result = tuple[str, float, float, float, float]
"""Name of the statistic, statistic, df, df of the residuals, p."""


def _t(samples: Sequence[Float64], equal: bool) -> Result:
    found = stats.ttest_ind(*samples, equal_var=equal)
    return "t", found.statistic, found.df, math.nan, found.pvalue


def _mannwhitney(samples: Sequence[Float64]) -> Result:
    found = stats.mannwhitneyu(*samples, alternative="two-sided")
    return "U", found.statistic, math.nan, math.nan, found.pvalue


def _anova(samples: Sequence[Float64], equal: bool) -> Result:
    from statsmodels.stats.oneway import anova_oneway

    found = anova_oneway(list(samples), use_var="equal" if equal else "unequal")
    return "F", found.statistic, found.df_num, found.df_denom, found.pvalue


def _kruskal(samples: Sequence[Float64]) -> Result:
    found = stats.kruskal(*samples)
    return "H", found.statistic, len(samples) - 1, math.nan, found.pvalue


def _fisher(counts: NDArray[np.int64]) -> Result:
    found = stats.fisher_exact(counts)
    return "odds ratio", found.statistic, math.nan, math.nan, found.pvalue


def _chi2(counts: NDArray[np.int64]) -> Result:
    found = stats.chi2_contingency(counts, correction=False)
    return "chi2", found.statistic, found.dof, math.nan, found.pvalue


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
COUNTS: dict[str, Callable[[NDArray[np.int64]], Result]] = {"fisher": _fisher, "chi2": _chi2}
RANKS = ("mannwhitney", "kruskal")
TESTS = (*TWO, *MORE, *COUNTS)


def demographics(
    table: pd.DataFrame,
    variables: Sequence[str],
    group: str = "group",
    *,
    order: Sequence[str] = (),
    tests: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Describe groups, and compare them without covariates.

    Parameters
    ----------
    table : DataFrame
        See `ancova`.
    variables : sequence of str
        Text, and numbers with two values, are counted; other numbers are described by mean and SD, or by median and
        quartiles (linear interpolation) where they are ordinal or skewed: no value is other than a multiple of 0.5
        and there are at most 20 of them (EDSS), or the residuals from the groups' means are skewed
        (`Assumptions.skewed`).
    group, order
        See `assign_groups`.
    tests : dict of str to str, optional
        Variable → test. By default: Mann–Whitney (more than two groups: Kruskal–Wallis) for ordinal or skewed
        numbers; Welch's t (Welch's analysis of variance) if Levene's p < .05; Student's t (analysis of variance)
        otherwise; Fisher's exact test for 2 × 2 counts, Pearson's χ² without continuity correction for others.

    Returns
    -------
    DataFrame
        A row for each variable, or for each level of a categorical one; `DEMOGRAPHICS` says what the columns are.
        A variable with values in one group only is described, not tested.

    Raises
    ------
    ValueError
        A column is missing; a group is too small; there is no such test, or not for this variable.
    """
    require(table, variables, "the table")
    groups = assign_groups(table, group, order)
    for name, test in (tests or {}).items():
        if test not in TESTS:
            raise FileError(f"there is no test {test!r} (of {name}); there are {', '.join(TESTS)}")
        if name not in variables:
            raise FileError(f"the test {test} is wanted of {name}, which is not among the demographics")
    rows: list[dict[str, Any]] = []
    for name in variables:
        if name in (group, "participant_id"):
            raise FileError(f"{name} cannot be described by group")
        _check_finite(table[name])
        samples = {v: table[name][groups.codes == i].dropna() for i, v in enumerate(groups.levels)}
        wanted = (tests or {}).get(name, "")
        try:
            rows += [{"variable": name} | row for row in _described(samples, wanted)]
        except ValueError as error:
            raise FileError(f"{name}: {error}") from None
    return pd.DataFrame(rows, columns=_columns(DEMOGRAPHICS, groups.levels))


def _described(samples: Mapping[str, pd.Series], wanted: str) -> list[dict[str, Any]]:
    """Rows of a variable from its values in each group."""
    together = pd.concat(list(samples.values()))
    numeric = pd.api.types.is_numeric_dtype(together)
    categorical = wanted in COUNTS or not (wanted or (numeric and together.nunique() != 2))
    if not categorical and not numeric:
        raise ValueError(f"the test {wanted} is one of numbers, and this is text")
    there = [level for level, values in samples.items() if len(values)]
    if categorical:
        rows, test = _counted(samples, together), _counts_compared([samples[v] for v in there], together, wanted)
    else:
        numbers = {level: values.to_numpy(dtype=np.float64) for level, values in samples.items()}
        rows, test = _measured(numbers, there, wanted)
    if len(there) < len(samples):
        where = f"values in {', '.join(there)} only" if there else "no values"
        test["note"] = "; ".join(filter(None, [where, test.get("note")]))
    return [row | test for row in rows]


def _measured(
    samples: Mapping[str, Float64], there: Sequence[str], wanted: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Row of a numeric variable, and its test in the groups that have values."""
    tests = TWO if len(there) <= 2 else MORE
    if wanted and wanted not in tests and len(there) > 1:
        raise ValueError(
            f"the test {wanted} does not compare {len(there)} groups; expected {', '.join(tests)}, "
            f"or {', '.join(COUNTS)} for counts"
        )
    compared = {level: samples[level] for level in there}
    test = wanted or _suitable(list(compared.values()))
    row: dict[str, Any] = {}
    for level, x in samples.items():
        q1, median, q3 = np.quantile(x, [0.25, 0.5, 0.75]) if len(x) else [math.nan] * 3
        row |= {f"n_{level}": len(x), f"mean_{level}": _mean(x), f"sd_{level}": _sd(x)}
        row |= {f"median_{level}": median, f"q1_{level}": q1, f"q3_{level}": q3}
        if len(x):
            row[f"summary_{level}"] = _summary(x, ranked=test in RANKS)
    reason = _untestable(compared, ranked=test in RANKS)
    if reason or len(there) < 2:
        return [row], {"note": reason or None}
    return [row], _outcome(test, tests[test](list(compared.values())))


def _outcome(test: str, result: Result) -> dict[str, Any]:
    name, *numbers = result
    keys = ("statistic", "df", "df_residual", "p")
    return {"test": test, "statistic_name": name} | dict(zip(keys, map(float, numbers)))


def _suitable(samples: Sequence[Float64]) -> str:
    """The test for numbers; its place in `TWO` and `MORE` is the same."""
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
    """A scale like that of EDSS: at most 20 values, in steps of a half."""
    return len(np.unique(x)) <= 20 and bool((2 * x == np.rint(2 * x)).all())


def _untestable(samples: Mapping[str, Float64], ranked: bool) -> str:
    """Why groups cannot be compared; empty if they can."""
    if len(samples) < 2:
        return ""  # There is nothing to compare with; that is said elsewhere.
    for level, x in samples.items():
        if len(x) < 2:
            return f"one value in {level}"
    together = np.concatenate(list(samples.values()))
    if np.ptp(together) == 0:
        return "the same in everyone"
    if not ranked and all(np.ptp(x) <= 1e-12 * np.abs(together).max() for x in samples.values()):
        return "no variance within the groups"
    return ""


def _summary(x: Float64, ranked: bool) -> str:
    """Mean (SD), or median (quartiles): SD or interquartile range with two digits, and one decimal at least."""
    q1, median, q3 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    spread = q3 - q1 if ranked else _sd(x)
    decimals = max(1, 1 - math.floor(math.log10(spread))) if spread > 0 else 1
    decimals = 0 if spread >= 1000 else decimals
    if ranked:
        return f"median {median:.{decimals}f} ({q1:.{decimals}f}–{q3:.{decimals}f})"
    sd = "n/a" if math.isnan(spread) else f"{spread:.{decimals}f}"
    return f"{_mean(x):.{decimals}f} ({sd})"


def _counted(samples: Mapping[str, pd.Series], together: pd.Series) -> list[dict[str, Any]]:
    """Rows of a categorical variable, a row for each level."""
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


def _counts_compared(compared: Sequence[pd.Series], together: pd.Series, wanted: str) -> dict[str, Any]:
    """Test of a contingency table, groups × levels."""
    levels = sorted(together.unique().tolist())
    counts = np.array([[(values == v).sum() for v in levels] for values in compared], dtype=np.int64)
    if len(compared) < 2:
        return {}
    if len(levels) < 2:
        return {"note": "the same in everyone"}
    if wanted == "fisher" and counts.shape != (2, 2):
        raise ValueError(f"Fisher's exact test is for 2 × 2 counts; these are {len(counts)} × {len(levels)}")
    test = wanted or ("fisher" if counts.shape == (2, 2) else "chi2")
    outcome = _outcome(test, COUNTS[test](counts))
    if test == "chi2":
        expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
        few = int((expected < 5).sum())
        if few:
            outcome["note"] = f"{few} of {expected.size} expected counts below 5"
    return outcome


# -- the command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A ``gpuvox groups`` command, its options parsed.

    Without `variables` those of `families` are compared; without these, everything that `rois` and `clusters` add.
    """

    table: str
    group: str
    out: str
    order: tuple[str, ...] = ()
    rois: str = ""
    clusters: Mapping[str, str] = field(default_factory=dict)
    covariates: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    correction: str = "fdr_bh"
    subset: str = ""
    log: tuple[str, ...] = ()
    demographics: tuple[str, ...] = ()
    tests: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """Files that are read."""
        return [self.table, *([self.rois] if self.rois else []), *self.clusters.values()]


def execute(command: Command, say: Callable[[str], None]) -> None:
    """Run a command: ``OUT.tsv``, ``OUT_demographics.tsv``, ``OUT.json``.

    Raises
    ------
    FileError, ValueError
        One sentence that says what is wrong; nothing is written then.
    """
    _check_outputs(command)
    table = gather(command.table, command.rois or None, command.clusters)
    origin = command.table + (f", subset {command.subset!r}" if command.subset else "")
    variables = _chosen(command, table)
    if not (variables or command.demographics):
        raise FileError("nothing to compare: expected --rois, --clusters, --variables, --family or --demographics")
    part = table[_subset(command, table)]
    described = matching(part.columns, command.demographics, command.table)
    try:
        groups = assign_groups(part, command.group, command.order)
        compared = people = None
        if variables:
            compared = ancova(
                part, variables, command.group, order=command.order, covariates=command.covariates,
                families=command.families, correction=command.correction, log=command.log,
            )  # fmt: skip
        if described or command.tests:
            people = demographics(part, described, command.group, order=command.order, tests=command.tests)
    except ValueError as error:
        raise FileError(f"{origin}: {error}") from None
    outputs = {f"{command.out}.tsv": compared, f"{command.out}_demographics.tsv": people}
    written = {path: frame for path, frame in outputs.items() if frame is not None}
    _check_cells(written.values(), command.table)
    record = _record(command, part, groups, compared, people)
    for path, frame in written.items():
        files.write_table(path, frame)
    files.write_json(f"{command.out}.json", record)
    for line in _messages(command, groups, compared):
        say(line)


def _subset(command: Command, table: pd.DataFrame) -> Bool:
    try:
        rows = select(table, command.subset)
    except FileError as error:
        raise FileError(f"--subset cannot be evaluated on {command.table}: {error}") from None
    if not rows.any():
        raise FileError(f"--subset {command.subset!r} leaves nobody of {command.table}")
    return rows


def _check_outputs(command: Command) -> None:
    files.check_output_root(command.out)
    for ending in (".tsv", "_demographics.tsv", ".json"):
        path = Path(command.out + ending)
        if path.exists() and any(os.path.exists(name) and path.samefile(name) for name in command.inputs):
            raise FileError(f"--out {command.out} would write over {path}, which is read")


def _check_cells(tables: Iterable[pd.DataFrame], origin: str) -> None:
    """Raise `FileError` for text that no TSV can hold, before anything is written."""
    for table in tables:
        for cell in (*table.columns, *table.to_numpy(dtype=object).ravel()):
            if isinstance(cell, str) and not set(cell).isdisjoint("\t\n\r"):
                raise FileError(f"{origin}: {cell!r} holds a tab or a line break")


def _chosen(command: Command, table: pd.DataFrame) -> list[str]:
    """Names of the variables of the analysis of covariance."""
    taken = ("participant_id", command.group, *command.covariates)
    numeric = [n for n in table.columns if n not in taken and pd.api.types.is_numeric_dtype(table[n])]
    patterns = command.variables or tuple(p for family in command.families.values() for p in family)
    if not patterns:
        own = read_participants(command.table).columns
        return [name for name in numeric if name not in own]
    # A column by its name is meant, whatever it is; a pattern means those that can be compared.
    named = [pattern for pattern in patterns if pattern in table.columns and pattern not in numeric]
    return matching([*numeric, *named], patterns, command.table)


def _record(
    command: Command,
    part: pd.DataFrame,
    groups: Groups,
    compared: pd.DataFrame | None,
    people: pd.DataFrame | None,
) -> dict[str, Any]:
    """What was done, for ``OUT.json``."""
    import scipy
    import statsmodels

    record: dict[str, Any] = {
        "gpuvox": __version__,
        "software": {"numpy": np.__version__, "pandas": pd.__version__, "scipy": scipy.__version__,
                     "statsmodels": statsmodels.__version__},
        "inputs": {name: files.hash_file(name) for name in command.inputs},
        "group": command.group,
        "order": list(groups.levels),
        "n": groups.counts(),
        "n_left_out": {"group_missing": int(part[command.group].isna().sum()),
                       "other_group": int((groups.codes < 0).sum() - part[command.group].isna().sum())},
        "subset": command.subset or None,
    }  # fmt: skip
    if compared is not None:
        record["ancova"] = _record_ancova(command, compared, groups)
    if people is not None:
        tests = people.drop_duplicates("variable").set_index("variable")["test"]
        record["demographics"] = {
            "tests": {name: test for name, test in tests.items() if test == test and test is not None},
            "given": dict(command.tests),
            "columns": _explained(DEMOGRAPHICS, groups.levels),
        }
    return record


def _record_ancova(command: Command, compared: pd.DataFrame, groups: Groups) -> dict[str, Any]:
    changed = compared[compared["transform"] != "none"]
    left = compared[compared["note"].notna()]
    first, second, *more = groups.levels
    return {
        "model": "variable ~ " + " + ".join([command.group, *command.covariates]) + ", ordinary least squares",
        "test": f"F of {command.group} given the covariates (type III)",
        "covariates": list(command.covariates),
        "difference": None if more else f"{first} - {second}",
        "families": {name: list(part["variable"]) for name, part in compared.groupby("family", sort=False)},
        "correction": command.correction,
        "log": list(command.log),
        "transforms": dict(zip(changed["variable"], changed["transform"])),
        "not_tested": dict(zip(left["variable"], left["note"])),
        "columns": _explained(ANCOVA, groups.levels),
    }


def _explained(descriptions: Mapping[str, str], levels: Sequence[str]) -> dict[str, str]:
    return {
        name: text + (f"; {level}" if level else "")
        for key, text in descriptions.items()
        for name, level in ([(key.format(group=v), v) for v in levels] if "{group}" in key else [(key, "")])
    }


def _messages(command: Command, groups: Groups, compared: pd.DataFrame | None) -> list[str]:
    """What is said at the end."""
    lines = []
    out = int((groups.codes < 0).sum())
    if out:
        lines.append(f"{out} left out: no {command.group}, or another than {', '.join(groups.levels)}")
    counts = ", ".join(f"{level} {n}" for level, n in groups.counts().items())
    if compared is None:
        return [*lines, counts]
    fewer = compared["n"].min()
    if fewer < sum(groups.counts().values()):
        lines.append(f"values or covariates are missing: {fewer} participants in the smallest analysis")
    lines += [
        f"{row.variable} was not tested: {row.note}" for row in compared[compared["note"].notna()].itertuples()
    ]
    column, kind = (
        ("p", "p") if command.correction == "none" else ("p_corrected", f"corrected p ({command.correction})")
    )
    tested, low = int(compared["p"].notna().sum()), int((compared[column] < LEVEL).sum())
    return [*lines, f"{counts}: {low} of {tested} variables differ with {kind} < {LEVEL}"]
