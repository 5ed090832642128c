"""Clinical models: partial correlations, hierarchical regression, their bootstrap, multiple testing.

Arrays and data frames in, numbers out; `gpuvox.study.statistics.clinical` reads and writes files. Least squares and
corrections for multiple testing are statsmodels'. The bootstrap is vectorised here: regressions of many
resamples at once, by normal equations of predictors that are centred and scaled beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from gpuvox.errors import DesignError, InputError
from gpuvox.types import Float64

Statistic = Callable[[NDArray[np.int64]], Float64]
INTERCEPT = "(intercept)"
METHODS = ("pearson", "spearman")
# Resamples per batch: some megabytes for a hundred participants and ten predictors.
CHUNK = 512
MINIMUM_DETERMINED = 0.9
"""Share of the resamples that must determine a statistic: a smaller one is a selected sample, not a distribution."""


# -- correlations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """A (partial) correlation.

    Attributes
    ----------
    r, p : float
        The correlation, and its two-sided p from the t distribution (for Spearman's an approximation, as in scipy).
    df : int
        n − 2 − number of covariates.
    low, high : float
        Confidence interval by Fisher's z. Its standard error is 1/√(n − k − 3) for Pearson's r given k covariates,
        and √(1 + r²/2)/√(n − k − 3) for Spearman's (Bonett & Wright 2000, Psychometrika 65:23), where the former
        would be too narrow. ±1 if n − k < 4.
    """

    r: float
    p: float
    df: int
    low: float
    high: float


def partial_correlation(
    x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None = None, method: str = "pearson", level: float = 0.95
) -> Correlation:
    """Correlation of two variables, controlling for others.

    Parameters
    ----------
    x, y : (n,) array_like
    covariates : (n, k) array_like, optional
    method : {"pearson", "spearman"}
        Spearman: all variables are ranked first, including covariates; ties share their mean rank.
    level : float
        Of the confidence interval.

    Raises
    ------
    InputError
        The method is unknown; values are too few or not finite; a variable is constant given the covariates;
        the covariates are collinear.
    """
    V, Z = _variables(x, y, covariates, method)
    df = len(V) - 2 - Z.shape[1]
    if df < 1:
        raise DesignError(
            f"a correlation of {len(V)} values given {Z.shape[1]} covariates has no degrees of freedom"
        )
    if not are_independent(Z):
        raise DesignError("a covariate of the correlation is constant, or a combination of others")
    residuals = _given(V, Z)
    norms = np.linalg.norm(residuals, axis=0)
    if (norms <= 1e-10 * np.linalg.norm(V, axis=0)).any():
        raise DesignError("a variable of the correlation does not vary, given the covariates")
    r = float(np.clip(residuals[:, 0] @ residuals[:, 1] / norms.prod(), -1, 1))
    t = r * math.sqrt(df / max(1 - r * r, 1e-300))
    low, high = -1.0, 1.0
    if df > 1:
        z = math.atanh(np.clip(r, -1 + 1e-16, 1 - 1e-16))
        half = stats.norm.ppf(0.5 + level / 2) * math.sqrt((1 + (r * r / 2) * (method == "spearman")) / (df - 1))
        low, high = math.tanh(z - half), math.tanh(z + half)
    return Correlation(r, float(2 * stats.t.sf(abs(t), df)), df, low, high)


def _given(V: Float64, Z: Float64) -> Float64:
    """Residuals of V given Z."""
    X = np.column_stack([np.ones(len(V)), _standardised(Z)])
    return V - X @ np.linalg.lstsq(X, V, rcond=None)[0]


def residuals_of(x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None, method: str) -> Float64:
    """(n, 2) The residuals whose correlation `partial_correlation` is; without covariates, deviations from the mean."""
    return _given(*_variables(x, y, covariates, method))


def correlation_statistic(
    x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None = None, method: str = "pearson"
) -> Statistic:
    """Statistic for `bootstrap`: a (partial) correlation.

    Parameters
    ----------
    x, y, covariates, method
        See `partial_correlation`. Spearman: every resample is ranked again.

    Returns
    -------
    callable
        Function to (resamples, 1) values; NaN if a resample does not determine the correlation.
    """
    V, Z = _variables(x, y, covariates, method)
    values = _standardised(np.column_stack([V, Z]))

    def statistic(rows: NDArray[np.int64]) -> Float64:
        out = np.empty((len(rows), 1))
        for start in range(0, len(rows), CHUNK):
            part = values[rows[start : start + CHUNK]]
            if method == "spearman":
                part = (_ranks(part, 1) - (part.shape[1] + 1) / 2) / part.shape[1]
            _, residuals = _least_squares(part[:, :, :2], _with_intercept(part[:, :, 2:]))
            norms = np.linalg.norm(residuals, axis=1)
            # A constant variable leaves only rounding error.
            norms[norms <= 1e-8] = np.nan
            products = (residuals[:, :, 0] * residuals[:, :, 1]).sum(axis=1)
            out[start : start + CHUNK, 0] = products / norms.prod(axis=1)
        return out

    return statistic


def _variables(x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None, method: str) -> tuple[Float64, Float64]:
    """(n, 2) variables and (n, k) covariates of a correlation, ranked for Spearman's."""
    if method not in METHODS:
        raise InputError(f"the correlation method {method!r}; expected {' or '.join(METHODS)}")
    V = np.column_stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    values = np.zeros((len(V), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    Z = values.reshape(len(V), -1) if values.size else np.zeros((len(V), 0))
    if not (np.isfinite(V).all() and np.isfinite(Z).all()):
        raise InputError("a variable of the correlation has a value that is not a number")
    return (_ranks(V, 0), _ranks(Z, 0)) if method == "spearman" else (V, Z)


def _ranks(values: Float64, axis: int) -> Float64:
    return np.asarray(stats.rankdata(values, axis=axis), dtype=np.float64)


def _standardised(X: Float64) -> Float64:
    """Columns centred and divided by their SD; constant columns are only centred."""
    scale = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1)


def are_independent(X: Float64) -> bool:
    """Whether the columns and a constant are linearly independent."""
    centred = X - X.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    if not np.isfinite(size).all() or (size <= 1e-10 * np.linalg.norm(X, axis=0)).any():
        return False
    return not X.size or int(np.linalg.matrix_rank(centred / size)) == X.shape[1]


# -- hierarchical regression ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Block:
    """One step of a hierarchical regression: all blocks up to this one.

    Attributes
    ----------
    name : str
    r2, r2_adjusted, r2_change : float
    f_change, p_change : float
        Test of the block's predictors, given the earlier blocks.
    df_change : (int, int)
    coefficients : DataFrame
        By predictor, the intercept first: ``B``, ``se``, ``beta`` (standardised), ``t``, ``p``, ``low`` and ``high``
        (95 % confidence interval), ``beta_low`` and ``beta_high`` (these times the ratio of SDs), ``vif``.
    f, p : float
        Test of the whole model: all predictors up to this block.
    df : (int, int)
    """

    name: str
    r2: float
    r2_adjusted: float
    r2_change: float
    f_change: float
    p_change: float
    df_change: tuple[int, int]
    coefficients: pd.DataFrame
    f: float
    p: float
    df: tuple[int, int]


ERRORS = ("ols", "hc3")
"""Standard errors: of constant variance, or robust to any (MacKinnon and White 1985, J Econom 29:305–325)."""


def hierarchical_regression(y: ArrayLike, blocks: Mapping[str, pd.DataFrame], errors: str = "ols") -> list[Block]:
    """Ordinary least squares, with blocks of predictors added one after the other.

    Parameters
    ----------
    y : (n,) array_like
    blocks : dict of str to DataFrame
        Predictors of each block, numeric, with the same rows.
    errors : {"ols", "hc3"}
        Standard errors of the coefficients; with hc3, F tests are Wald tests with these.

    Returns
    -------
    list of Block

    Raises
    ------
    InputError
        A value is missing, the outcome is constant or an exact combination of the predictors, a predictor occurs
        twice, is constant or a combination of others, a block is empty, or there are too few participants.
    """
    import statsmodels.api as sm

    outcome = np.asarray(y, dtype=np.float64)
    fitted: list[Block] = []
    X = pd.DataFrame(index=range(len(outcome)))
    error, r2 = float(((outcome - outcome.mean()) ** 2).sum()), 0.0
    for name, block in blocks.items():
        X = pd.concat([X, block.reset_index(drop=True).astype(float)], axis=1)
        check_predictors(outcome, X, block.shape[1], name)
        # QR does not depend on the scale of columns; the pseudo-inverse would truncate small ones.
        fit = sm.OLS(outcome, np.column_stack([np.ones(len(outcome)), X])).fit(method="qr")
        if fit.ssr <= 1e-20 * fit.centered_tss:
            raise DesignError(f"block {name!r}: the outcome is an exact combination of the predictors")
        k, df2 = X.shape[1], len(outcome) - X.shape[1] - 1
        df = (block.shape[1], df2)
        f, whole = ((error - fit.ssr) / df[0]) / (fit.ssr / df2), float(fit.fvalue)
        if errors == "hc3":
            fit = _robust(fit)
            f, whole = _wald(fit, k - df[0], k), _wald(fit, 0, k)
        fitted.append(
            Block(
                name, float(fit.rsquared), float(fit.rsquared_adj), float(fit.rsquared - r2), float(f),
                float(stats.f.sf(f, *df)), df, _coefficients(fit, outcome, X), whole,
                float(stats.f.sf(whole, k, df2)), (k, df2),
            )
        )  # fmt: skip
        error, r2 = fit.ssr, fit.rsquared
    return fitted


def _robust(fit: Any) -> Any:
    """The same coefficients with HC3 standard errors and t."""
    if (fit.get_influence().hat_matrix_diag > 1 - 1e-10).any():
        raise DesignError("a participant determines a coefficient alone, so that robust errors are not defined")
    return fit.get_robustcov_results("HC3", use_t=True)


def _wald(fit: Any, start: int, stop: int) -> float:
    """F of the predictors from start to stop (without the intercept)."""
    contrasts = np.eye(len(fit.params))[1 + start : 1 + stop]
    # Relative to the standard errors, so that the scale of columns does not matter.
    scale = np.asarray(fit.bse)
    covariance = fit.cov_params() / np.outer(scale, scale)
    part = contrasts @ (np.asarray(fit.params) / scale)
    return float(part @ np.linalg.solve(contrasts @ covariance @ contrasts.T, part)) / len(part)


def check_predictors(y: Float64, X: pd.DataFrame, added: int, name: str) -> None:
    """Raise `DesignError` if a model cannot be fitted; `added` predictors are those of the block `name`."""
    values = X.to_numpy(dtype=np.float64)
    if not added:
        raise DesignError(f"block {name!r} has no predictor")
    if len(values) != len(y) or not (np.isfinite(values).all() and np.isfinite(y).all()):
        raise DesignError(f"block {name!r}: the predictors and the outcome need a number in every row")
    if X.columns.duplicated().any() or INTERCEPT in X.columns:
        twice = [*X.columns[X.columns.duplicated()], INTERCEPT][0]
        raise DesignError(f"block {name!r}: {twice!r} is a predictor already")
    if len(y) < X.shape[1] + 2:
        subjects = "1 participant" if len(y) == 1 else f"{len(y)} participants"
        raise DesignError(f"block {name!r}: {X.shape[1]} predictors need more than {subjects}")
    if not np.isfinite(np.linalg.norm(y)):
        raise DesignError("the outcome has values too large for the sum of their squares")
    if np.linalg.norm(y - y.mean()) <= 1e-10 * np.linalg.norm(y):
        raise DesignError("the outcome has the same value in all participants")
    if not are_independent(values):
        raise DesignError(f"block {name!r}: a predictor is constant, or a combination of others")


def _coefficients(fit: Any, y: Float64, X: pd.DataFrame) -> pd.DataFrame:
    """Table of a fit of statsmodels."""
    names = [INTERCEPT, *X.columns]
    table = pd.DataFrame({"B": fit.params, "se": fit.bse}, index=names)
    ratio = X.std(ddof=1).reindex(names) / y.std(ddof=1)
    table["beta"] = table["B"] * ratio
    table["t"], table["p"] = fit.tvalues, fit.pvalues
    table["low"], table["high"] = np.transpose(fit.conf_int())
    table["beta_low"], table["beta_high"] = table["low"] * ratio, table["high"] * ratio
    # The diagonal of the inverse of the predictors' correlations.
    correlations = np.atleast_2d(np.corrcoef(X.to_numpy(dtype=np.float64), rowvar=False))
    table["vif"] = pd.Series(np.diag(np.linalg.inv(correlations)), index=X.columns).reindex(names)
    return table


# -- bootstrap ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Intervals of several statistics from resampled participants.

    Attributes
    ----------
    observed : (m,) float64
    samples : (resamples, m) float64
        NaN if a resample does not determine a statistic; such resamples do not enter the intervals.
    percentile : (m, 2) float64
        Ends of the percentile interval. NaN, like all of the following, if too few resamples determine the statistic.
    bca : (m, 2) float64
        Ends of the bias-corrected and accelerated interval (Efron 1987, JASA 82:171), with jackknife acceleration.
        NaN if a statistic is undetermined without one of the participants.
    bias, acceleration : (m,) float64
        z₀ and a of the BCa interval. Resamples equal to the observed value count half in z₀.
    """

    observed: Float64
    samples: Float64
    percentile: Float64
    bca: Float64
    bias: Float64
    acceleration: Float64

    @property
    def determined(self) -> NDArray[np.int64]:
        """(m,) Number of resamples that determine each statistic."""
        return np.isfinite(self.samples).sum(axis=0)

    @cached_property
    def moments(self) -> Float64:
        """(m, 3) Bias (mean of the resamples minus the observed value), standard error (their SD), and two-sided p.

        p = (1 + number of resamples whose deviation from the observed value is at least as large as this value) / (1 +
        resamples), as if the deviations were those under the null hypothesis (Davison and Hinkley 1997, chapter 4).
        NaN where there is no interval.
        """
        out = np.full((len(self.observed), 3), np.nan)
        for j in np.flatnonzero(np.isfinite(self.percentile[:, 0])):
            drawn, value = self.samples[np.isfinite(self.samples[:, j]), j], self.observed[j]
            beyond = np.abs(drawn - value) >= abs(value) * (1 - 1e-12)
            p = (1 + beyond.sum()) / (1 + len(drawn))
            out[j] = drawn.mean() - value, drawn.std(ddof=1) if len(drawn) > 1 else np.nan, p
        return out


def bootstrap(
    statistic: Statistic,
    n: int,
    resamples: int = 5000,
    seed: int = 0,
    level: float = 0.95,
    strata: ArrayLike | None = None,
    minimum: float = MINIMUM_DETERMINED,
) -> Bootstrap:
    """Bootstrap over participants.

    Parameters
    ----------
    statistic : callable
        (resamples, k) indices of participants → (resamples, m) values; see `regression_statistic`,
        `correlation_statistic`.
    n : int
        Number of participants.
    resamples : int
    seed : int
        The same seed, n and strata give the same resamples.
    level : float
        Of the intervals.
    strata : (n,) array_like, optional
        Participants are resampled within strata, whose sizes stay as they are.
    minimum : float
        Share of the resamples that must determine a statistic; otherwise it has no intervals.

    Raises
    ------
    InputError
        There are fewer than two participants or resamples, or a stratum has fewer than two participants.
    """
    if n < 2 or resamples < 2:
        raise InputError(
            f"a bootstrap of {n} participants with {resamples} resamples; at least 2 of each are needed"
        )
    groups = np.zeros(n, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].ravel()
    if np.bincount(groups).min() < 2:
        raise InputError("a stratum of the bootstrap has one participant; at least 2 are needed in each")
    observed = statistic(np.arange(n)[None])[0]
    samples = statistic(_drawn(groups, resamples, seed))
    jackknife = statistic(np.array([np.delete(np.arange(n), i) for i in range(n)]))
    acceleration = _acceleration(jackknife, groups)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    bias = np.full(len(observed), np.nan)
    percentile, bca = np.full((len(observed), 2), np.nan), np.full((len(observed), 2), np.nan)
    for j, value in enumerate(observed):
        drawn = samples[np.isfinite(samples[:, j]), j]
        if not len(drawn) or len(drawn) < minimum * resamples:
            continue
        percentile[j] = np.quantile(drawn, tails)
        share = ((drawn < value).mean() + (drawn <= value).mean()) / 2
        bias[j] = stats.norm.ppf(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
        if np.isfinite(acceleration[j]):
            bca[j] = np.quantile(drawn, _corrected(tails, bias[j], acceleration[j]))
    return Bootstrap(observed, samples, percentile, bca, bias, acceleration)


def _drawn(strata: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, n) indices of participants, drawn with replacement within each stratum."""
    rng = np.random.default_rng(seed)
    rows = np.empty((resamples, len(strata)), dtype=np.int64)
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(strata == stratum)
        rows[:, members] = members[rng.integers(0, len(members), (resamples, len(members)))]
    return rows


def _acceleration(jackknife: Float64, strata: NDArray[np.int64]) -> Float64:
    """(m,) Accelerations from the (n, m) statistics without each participant; 0 if these are equal.

    With several strata, influences are those within the strata (Davison & Hinkley 1997, Bootstrap Methods, chapter 5).
    """
    cubes, squares = np.zeros(jackknife.shape[1]), np.zeros(jackknife.shape[1])
    for stratum in range(int(strata.max()) + 1):
        part = jackknife[strata == stratum]
        influence = (part.mean(axis=0) - part) * ((len(part) - 1) / len(part))
        cubes += (influence**3).sum(axis=0)
        squares += (influence**2).sum(axis=0)
    spread = squares**1.5
    return np.divide(cubes, 6 * spread, out=np.zeros_like(spread), where=spread != 0)


def _corrected(tails: Float64, bias: float, acceleration: float) -> Float64:
    """Quantiles of the resamples that are the ends of the BCa interval."""
    z = bias + stats.norm.ppf(tails)
    divisor = 1 - acceleration * z
    # At divisor = 0 the corrected point is at infinity, on the side of z; beyond, the formula would bring it back.
    # As |a| < 1/6, this needs |z| > 6: all of some 50,000 resamples on one side of the observed value.
    moved = np.divide(z, divisor, out=np.copysign(np.inf, z), where=divisor > 0)
    return stats.norm.cdf(bias + moved)


def regression_statistic(y: ArrayLike, X: ArrayLike, sizes: Sequence[int]) -> Statistic:
    """Statistic for `bootstrap`: the coefficients of a hierarchical regression, and the R² that its blocks add.

    Parameters
    ----------
    y : (n,) array_like
        Not constant.
    X : (n, p) array_like
        Predictors of all blocks, none constant; without intercept.
    sizes : sequence of int
        Number of predictors of each block.

    Returns
    -------
    callable
        Function to (resamples, m) values: for each block the intercept, the coefficients of all predictors up to this
        block, and its ΔR². NaN if a resample does not determine them.
    """
    outcome, predictors = np.asarray(y, dtype=np.float64), np.asarray(X, dtype=np.float64)
    centre, scale = predictors.mean(axis=0), predictors.std(axis=0)
    middle, unit = outcome.mean(), outcome.std()
    design = _with_intercept((predictors - centre) / scale)
    scaled = (outcome - middle) / unit

    def statistic(rows: NDArray[np.int64]) -> Float64:
        return np.concatenate([part(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)])

    def part(rows: NDArray[np.int64]) -> Float64:
        chosen, A = scaled[rows][:, :, None], design[rows]
        before = ((chosen - chosen.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
        total = np.where(before > 1e-16 * rows.shape[1], before, np.nan)
        parts = []
        for k in np.cumsum(sizes):
            b, residuals = _least_squares(chosen, A[:, :, : k + 1])
            slopes = b[:, 1:, 0] * unit / scale[:k]
            error = (residuals**2).sum(axis=(1, 2))
            intercept = middle + unit * b[:, 0, 0] - slopes @ centre[:k]
            parts += [intercept[:, None], slopes, ((before - error) / total)[:, None]]
            before = error
        return np.concatenate(parts, axis=1)

    return statistic


def _with_intercept(X: Float64) -> Float64:
    """(…, n, p) → (…, n, 1 + p)."""
    return np.concatenate([np.ones((*X.shape[:-1], 1)), X], axis=-1)


def _least_squares(Y: Float64, A: Float64) -> tuple[Float64, Float64]:
    """Coefficients (m, p, q) and residuals (m, n, q) of m regressions of (m, n, q) on (m, n, p).

    The columns of A have similar scale. NaN if they are linearly dependent.
    """
    across = A.transpose(0, 2, 1)
    gram = across @ A
    sizes = np.linalg.eigvalsh(gram)
    singular = sizes[:, 0] <= 1e-12 * sizes[:, -1]
    gram[singular] = np.eye(gram.shape[1])
    b = np.asarray(np.linalg.solve(gram, across @ Y), dtype=np.float64)
    b[singular] = np.nan
    return b, Y - A @ b


# -- multiple testing --------------------------------------------------------------------------------------------------


def adjust_p(p: ArrayLike, method: str = "fdr_bh") -> Float64:
    """P-values corrected within a family.

    Parameters
    ----------
    p : (m,) array_like
    method : {"fdr_bh", "bonferroni"}
        Benjamini–Hochberg (1995, JRSS B 57:289), or Bonferroni.

    Raises
    ------
    InputError
        The method is unknown, or values are outside 0 … 1.
    """
    from statsmodels.stats.multitest import multipletests

    if method not in ("fdr_bh", "bonferroni"):
        raise InputError(f"the correction {method!r} is unknown; expected fdr_bh or bonferroni")
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("a p-value is not between 0 and 1")
    return multipletests(values, method=method)[1] if values.size else values
