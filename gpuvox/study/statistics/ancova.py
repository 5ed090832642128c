"""Analysis of covariance of each variable, and checks of its assumptions.

Ordinary least squares of a variable on the groups and covariates, with common slopes. F tests the groups given the
covariates (type III); adjusted means are the model's values at the means of the covariates over the participants
analysed. statsmodels fits the models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from gpuvox.errors import DesignError, FileError, InputError, OptionError
from gpuvox.study.statistics.effects import cohens_d, interval_of_d, partial_eta_squared
from gpuvox.study.statistics.least_squares import adjust_p
from gpuvox.study.statistics.posthoc import METHODS, PAIRS, compare_pairs
from gpuvox.tables.columns import indicators, matching, require
from gpuvox.tables.groups import assign_groups
from gpuvox.types import Bools, Float64

CORRECTIONS = ("fdr_bh", "bonferroni", "none")
LEVEL = 0.05
"""Level of the tests of assumptions that select a test or a transformation."""
SKEWED = 1.0
"""Skewness above which values count as skewed, if Lilliefors' test rejects too."""
AUTO = "auto"


class _NotTestedError(DesignError):
    """A variable cannot be tested; the message gives the reason."""


# -- assumptions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assumptions:
    """Checks of the assumptions of an analysis of variance or covariance; NaN if there are too few values.

    Attributes
    ----------
    levene_f, levene_p : float
        Levene's test that the values have the same variance in each group, with deviations from the group's median
        (Brown & Forsythe 1974, JASA 69:364).
    lilliefors_d, lilliefors_p : float
        Kolmogorov–Smirnov distance of the residuals from a normal distribution whose mean and SD are estimated from
        them, with the corresponding p-value (Lilliefors 1967, JASA 62:399), from a table that ends at .001.
    skewness : float
        Skewness of the residuals: the adjusted Fisher–Pearson coefficient G1.
    """

    levene_f: float
    levene_p: float
    lilliefors_d: float
    lilliefors_p: float
    skewness: float

    @property
    def skewed(self) -> bool:
        """Whether the residuals are clearly not normal: |skewness| > 1 and Lilliefors' p < .05."""
        return abs(self.skewness) > SKEWED and self.lilliefors_p < LEVEL


def check_assumptions(values: ArrayLike, group: ArrayLike, residuals: ArrayLike) -> Assumptions:
    """Equal variances of the values in the groups, and normality of the residuals.

    Parameters
    ----------
    values : (n,) array_like
    group : (n,) array_like
        Group of each value.
    residuals : (n,) array_like
        Residuals of the model to check.
    """
    from statsmodels.stats.diagnostic import lilliefors

    y, e = np.asarray(values, dtype=np.float64), np.asarray(residuals, dtype=np.float64)
    labels = np.asarray(group)
    samples = [y[labels == level] for level in np.unique(labels)]
    levene_f = levene_p = lilliefors_d = lilliefors_p = skewness = math.nan
    # Two values have equal deviations from their median, so more are needed.
    if len(samples) > 1 and min(map(len, samples)) > 1 and any(np.ptp(abs(x - np.median(x))) > 0 for x in samples):
        levene_f, levene_p = stats.levene(*samples, center="median")
    if len(e) > 3 and np.ptp(e) > 1e-10 * max(np.abs(y).max(), np.abs(e).max()):
        lilliefors_d, lilliefors_p = lilliefors(e)
        skewness = stats.skew(e, bias=False)
    statistics = (levene_f, levene_p, lilliefors_d, lilliefors_p, skewness)
    return Assumptions(*(float(value) for value in statistics))


# -- analysis of covariance -----------------------------------------------------------------------------------------

ANCOVA = {
    "variable": "variable compared",
    "family": "family of p-values that are corrected together",
    "transform": "transformation of the values x before the test",
    "n": "participants with the variable, the group and all covariates",
    "n_{group}": "of these, participants in the group",
    "mean_{group}": "mean, not adjusted, not transformed",
    "sd_{group}": "standard deviation, not adjusted, not transformed",
    "adjusted_mean_{group}": "mean of the (transformed) values at the covariates' means over the n participants",
    "adjusted_se_{group}": "standard error of the adjusted mean",
    "adjusted_low_{group}": "adjusted mean, lower end of the 95 % confidence interval",
    "adjusted_high_{group}": "adjusted mean, upper end of the 95 % confidence interval",
    "difference": "adjusted mean of the first group minus that of the second (two groups only)",
    "difference_se": "standard error of the difference",
    "difference_low": "difference, lower end of the 95 % confidence interval",
    "difference_high": "difference, upper end of the 95 % confidence interval",
    "f": "F of the group given the covariates (type III)",
    "df_group": "degrees of freedom of the group",
    "df_residual": "degrees of freedom of the residuals",
    "p": "p of F",
    "p_corrected": "p of F, corrected within the family; n/a without correction",
    "family_size": "number of p-values in the family",
    "d": "Cohen's d, 2 sqrt(F / df_residual), with the sign of the difference (two groups only)",
    "d_low": "Cohen's d, lower end of the 95 % confidence interval (noncentral t)",
    "d_high": "Cohen's d, upper end of the 95 % confidence interval",
    "eta2_partial": "partial eta squared, F df1 / (F df1 + df2)",
    "eta2_partial_low": "partial eta squared, lower end of the 95 % confidence interval (noncentral F)",
    "eta2_partial_high": "partial eta squared, upper end of the 95 % confidence interval",
    "levene_f": "Levene's test of equal variances of the (transformed) values, deviations from medians",
    "levene_p": "p of Levene's test",
    "lilliefors_d": "distance of the residuals from a normal distribution (Kolmogorov-Smirnov, Lilliefors)",
    "lilliefors_p": "p of that distance",
    "skewness": "skewness of the residuals",
    "skewness_before": "skewness of the residuals without the transformation",
    "slopes_f": "F of the interactions of group and covariates (homogeneity of regression slopes)",
    "slopes_df": "degrees of freedom of the interactions",
    "slopes_p": "p of the interactions",
    "note": "why the variable was not tested",
}
"""Columns of the table of `ancova`, with descriptions."""


@dataclass(frozen=True, eq=False)
class _Design:
    """Groups and covariates of the participants analysed."""

    levels: tuple[str, ...]
    codes: NDArray[np.int64]
    covariates: pd.DataFrame

    def part(self, rows: Bools) -> _Design:
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
                raise _NotTestedError(f"the covariate {name} has the same value in all participants")
        columns = indicators(self.covariates, list(self.covariates.columns))
        C = columns.to_numpy(dtype=np.float64)
        if len(G) <= G.shape[1] + C.shape[1]:
            raise _NotTestedError(f"{len(G)} participants are too few for {G.shape[1] + C.shape[1]} coefficients")
        C = (C - C.mean(axis=0)) / C.std(axis=0)
        own = independent(G, C)
        for i, name in enumerate(columns.columns):
            if i not in own:
                raise _NotTestedError(f"the covariate {name} is determined by the group and the other covariates")
        return np.column_stack([G, C])


def independent(X: Float64, columns: Float64) -> list[int]:
    """Indices of columns that are not combinations of X and the columns before them."""
    Q, independent_columns = np.linalg.qr(X)[0], []
    for i, column in enumerate(columns.T):
        remainder = column - Q @ (Q.T @ column)
        remainder -= Q @ (Q.T @ remainder)
        if np.linalg.norm(remainder) > 1e-8 * np.linalg.norm(column):
            independent_columns.append(i)
            Q = np.column_stack([Q, remainder / np.linalg.norm(remainder)])
    return independent_columns


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
        One row per participant; see `tables.typed` and `tables.gather`.
    variables : sequence of str
        Numeric columns. Participants with a missing value are excluded from the analysis of that variable.
    group, order
        See `assign_groups`.
    covariates : sequence of str
        Numeric or text columns (indicators of each value except the first); participants who lack one are excluded.
    families : dict of str to sequence of str, optional
        Name → patterns of the variables whose p-values are corrected together. By default one family, ``all``.
    correction : {"fdr_bh", "bonferroni", "none"}
        See `least_squares.adjust_p`.
    log : sequence of str
        Patterns of the variables that are log-transformed: log(x), or log(x + c) with c half the smallest positive
        value if there are zeros. ``auto``: also those without negative values whose residuals have a skewness above
        1 and Lilliefors' p < .05, if the logarithm brings the skewness closer to 0.

    Returns
    -------
    DataFrame
        One row per variable, in order; `ANCOVA` describes the columns. A variable that is constant or has
        too few values has a note and no test, and does not count in its family.

    Raises
    ------
    InputError
        A column is missing, is not numeric, or is in no family or in two; a covariate is constant or determined by
        the group and others; a group is too small; a variable with negative values is to be log-transformed.
    """
    many = Multiplicity(families, correction)
    return compare_groups(table, variables, group, many, order=order, covariates=covariates, log=log)[0]


@dataclass(frozen=True)
class Multiplicity:
    """How p-values are corrected.

    Attributes
    ----------
    families : dict of str to sequence of str, optional
        See `ancova`.
    correction : str
        Over each family.
    pairs : str
        Of the pairs of three groups or more, see `posthoc.compare_pairs`; empty for no pairs.
    """

    families: Mapping[str, Sequence[str]] | None = None
    correction: str = "fdr_bh"
    pairs: str = ""


def compare_groups(
    table: pd.DataFrame,
    variables: Sequence[str],
    group: str = "group",
    many: Multiplicity | None = None,
    *,
    order: Sequence[str] = (),
    covariates: Sequence[str] = (),
    log: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Analyses of covariance, and the differences of every pair of three groups or more, from the same fits.

    Parameters
    ----------
    table, variables, group, order, covariates, log
        See `ancova`.
    many : Multiplicity, optional

    Returns
    -------
    DataFrame
        See `ancova`.
    DataFrame or None
        One row per variable and pair; `posthoc.PAIRS` describes the columns. Variables that are not tested have none.
        None with two groups, or if no variable was tested.

    Raises
    ------
    InputError
        As for `ancova`; the method for pairs is unknown.
    """
    many = many or Multiplicity()
    check_correction(many.correction)
    if many.pairs and many.pairs not in METHODS:
        raise InputError(f"the method {many.pairs!r} for pairs is unknown; expected {', '.join(METHODS)}")
    _check_variables(table, variables, [group, *covariates])
    member = assign_families(variables, many.families)
    forced = matching(variables, [pattern for pattern in log if pattern != AUTO], "the list of variables")
    rows, design = analysed(table, group, order, covariates)
    lines: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for name in variables:
        how = "log" if name in forced else AUTO if AUTO in log else ""
        row, fit = _variable(table[name].to_numpy(dtype=np.float64)[rows], design, how, name)
        lines.append({"variable": name, "family": member[name], "transform": "none"} | row)
        if fit is not None and many.pairs and len(design.levels) > 2:
            pairs += [{"variable": name} | pair for pair in compare_pairs(fit, design.levels, many.pairs)]
    result = _corrected(pd.DataFrame(lines, columns=columns_of(ANCOVA, design.levels)), many.correction)
    return result, pd.DataFrame(pairs, columns=list(PAIRS)) if pairs else None


def _corrected(result: pd.DataFrame, correction: str) -> pd.DataFrame:
    """The table with p corrected within each family, and the sizes of the families."""
    for family in result["family"].unique():
        # Variables that were not tested do not make the correction stricter.
        inside = (result["family"] == family) & result["p"].notna()
        p = result.loc[inside, "p"].to_numpy(dtype=np.float64)
        if correction != "none":
            result.loc[inside, "p_corrected"] = adjust_p(p, correction)
        result.loc[result["family"] == family, "family_size"] = int(inside.sum())
    return result.astype({"family_size": int})


def check_correction(correction: str) -> None:
    """Raise `InputError` if the correction is unknown."""
    if correction not in CORRECTIONS:
        raise InputError(f"the correction {correction!r} is unknown; expected {', '.join(CORRECTIONS)}")


def columns_of(descriptions: Mapping[str, str], levels: Sequence[str]) -> list[str]:
    """Names of columns, with ``{group}`` expanded for each group."""
    names: list[str] = []
    for name in descriptions:
        names += [name.format(group=level) for level in levels] if "{group}" in name else [name]
    return names


def explained(descriptions: Mapping[str, str], levels: Sequence[str]) -> dict[str, str]:
    """Descriptions of columns, with ``{group}`` expanded for each group."""
    return {
        name: text + (f"; {level}" if level else "")
        for key, text in descriptions.items()
        for name, level in ([(key.format(group=v), v) for v in levels] if "{group}" in key else [(key, "")])
    }


def _check_variables(table: pd.DataFrame, variables: Sequence[str], taken: Sequence[str]) -> None:
    require(table, variables, "")
    for name in variables:
        if name in taken or list(variables).count(name) > 1:
            raise FileError(f"{name} cannot be a variable: it is the group, a covariate, or a variable already")
        check_numbers(table, name)


def check_numbers(table: pd.DataFrame, name: str) -> None:
    """Raise `FileError` for a text column, or an infinite value."""
    if not pd.api.types.is_numeric_dtype(table[name]):
        raise FileError(f"the column {name!r} is text; variables are numbers")
    check_finite(table[name])


def check_finite(column: pd.Series) -> None:
    """Raise `FileError` for an infinite value; missing values are allowed."""
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
        A pattern matches no variable; a variable is in two families or in none.
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


def analysed(
    table: pd.DataFrame, group: str, order: Sequence[str], covariates: Sequence[str]
) -> tuple[Bools, _Design]:
    """Rows with a group and all covariates, and their design."""
    require(table, covariates, "")
    groups = assign_groups(table, group, order)
    if group in covariates or len(set(covariates)) < len(covariates):
        raise FileError(f"the covariates are {', '.join(covariates)}; list each once, without the group")
    chosen = table[list(covariates)]
    for name in covariates:
        check_finite(chosen[name])
    rows = (groups.codes >= 0) & chosen.notna().all(axis=1).to_numpy()
    design = _Design(groups.levels, groups.codes[rows], chosen[rows])
    indicators(table[rows], list(covariates))  # of the whole table, so that errors name participants
    design.matrix()
    return rows, design


def _variable(values: Float64, everyone: _Design, how: str, name: str) -> tuple[dict[str, Any], Any]:
    """Row of one variable: description, and test or note; and the fit, or None if it was not tested."""
    there = ~np.isnan(values)
    design, x = everyone.part(there), values[there]
    row: dict[str, Any] = {"n": len(x)}
    for i, level in enumerate(design.levels):
        own = x[design.codes == i]
        row |= {f"n_{level}": len(own), f"mean_{level}": mean_of(own), f"sd_{level}": sd_of(own)}
    try:
        y, formula, before = _transformed(x, design, how, name)
        fit = _fit(_centred(y), design.matrix())
    except _NotTestedError as reason:
        return row | {"note": reason.message}, None
    return row | {"transform": formula, "skewness_before": before} | _tested(y, design, fit), fit


def mean_of(x: Float64) -> float:
    """Mean; NaN without values."""
    return float(x.mean()) if len(x) else math.nan


def sd_of(x: Float64) -> float:
    """Standard deviation; NaN for fewer than two values."""
    return float(x.std(ddof=1)) if len(x) > 1 else math.nan


def _fit(y: Float64, X: Float64) -> Any:
    """Least-squares fit by statsmodels; y has mean 0."""
    import statsmodels.api as sm

    spread = float(np.linalg.norm(y))
    fit = sm.OLS(y, X).fit()
    if math.sqrt(fit.ssr) <= 1e-10 * spread:
        raise _NotTestedError("no variance remains within the groups, given the covariates")
    return fit


def _centred(y: Float64) -> Float64:
    deviations = y - y.mean()
    if np.linalg.norm(deviations) <= 1e-12 * np.linalg.norm(y):
        raise _NotTestedError("same value in all participants")
    return deviations


def _transformed(x: Float64, design: _Design, how: str, name: str) -> tuple[Float64, str, float]:
    """Values to test, the formula, and the skewness of the residuals without transformation."""
    if how == "log" and x.min(initial=0) < 0:
        raise OptionError("--log", f"{name} has negative values, which have no logarithm")
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


def _tested(y: Float64, design: _Design, fit: Any) -> dict[str, float]:
    """The analysis of covariance of one variable, from its fit."""
    X, k, middle = design.matrix(), len(design.levels), float(y.mean())
    ends = fit.conf_int()
    line: dict[str, float] = {}
    for i, level in enumerate(design.levels):
        line[f"adjusted_mean_{level}"] = middle + float(fit.params[i])
        line[f"adjusted_se_{level}"] = float(fit.bse[i])
        line[f"adjusted_low_{level}"], line[f"adjusted_high_{level}"] = (middle + float(e) for e in ends[i])
    contrasts = np.zeros((k - 1, X.shape[1]))
    contrasts[:, 0], contrasts[:, 1:k] = 1, -np.eye(k - 1)
    test = fit.f_test(contrasts)
    f, df = float(np.squeeze(test.fvalue)), float(fit.df_resid)
    line |= {"f": f, "df_group": k - 1, "df_residual": df, "p": float(test.pvalue)}
    if k == 2:
        pair = fit.t_test(contrasts)
        difference, (low, high) = float(np.squeeze(pair.effect)), np.squeeze(pair.conf_int())
        line |= {"difference": difference, "difference_se": float(np.squeeze(pair.sd))}
        line |= {"difference_low": float(low), "difference_high": float(high)}
        line["d"] = math.copysign(cohens_d(f, df), difference)
        line["d_low"], line["d_high"] = interval_of_d(math.copysign(math.sqrt(f), difference), df)
    names = ("eta2_partial", "eta2_partial_low", "eta2_partial_high")
    line |= dict(zip(names, partial_eta_squared(f, k - 1, df)))
    checks = check_assumptions(y, design.codes, fit.resid)
    for name in ("levene_f", "levene_p", "lilliefors_d", "lilliefors_p", "skewness"):
        line[name] = getattr(checks, name)
    return line | _slopes(fit, X, k)


def _slopes(fit: Any, X: Float64, k: int) -> dict[str, float]:
    """Test that the slopes of the covariates are equal in all groups."""
    import statsmodels.api as sm

    products = np.column_stack(
        [np.zeros((len(X), 0)), *(X[:, [i]] * X[:, [j]] for i in range(1, k) for j in range(k, X.shape[1]))]
    )
    # A covariate that is constant within a group has no slope there.
    extra = independent(X, products)
    df = len(X) - X.shape[1] - len(extra)
    if not extra or df < 1:
        return {}
    larger = sm.OLS(fit.model.endog, np.column_stack([X, products[:, extra]])).fit()
    f = ((fit.ssr - larger.ssr) / len(extra)) / (larger.ssr / df) if larger.ssr > 0 else math.inf
    return {"slopes_f": float(f), "slopes_df": len(extra), "slopes_p": float(stats.f.sf(f, len(extra), df))}
