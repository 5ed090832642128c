"""Clinical models: partial correlations, hierarchical regression with bootstrap, multiple testing, sample size.

Least squares and corrections for multiple testing are those of statsmodels; the bootstrap is vectorised here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Float64 = NDArray[np.float64]


# -- correlations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """A (partial) correlation.

    Attributes
    ----------
    r, p : float
        Two-sided.
    df : int
        n − 2 − number of covariates.
    low, high : float
        Confidence interval by Fisher's z with standard error 1/√(n − k − 3); ±1 where that is not defined.
    """

    r: float
    p: float
    df: int
    low: float
    high: float


def partial_correlation(
    x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None = None, method: str = "pearson", level: float = 0.95
) -> Correlation:
    """Correlation of two variables given others.

    Parameters
    ----------
    x, y : (n,) array_like
    covariates : (n, k) array_like, optional
    method : {"pearson", "spearman"}
        Spearman: everything is ranked first, covariates too.
    level : float
        Of the confidence interval.

    Raises
    ------
    ValueError
        No such method, too few values, or one that is not finite or does not vary given the covariates.
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"there is no correlation {method!r}; expected pearson or spearman")
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    Z = (
        np.zeros((len(a), 0))
        if covariates is None
        else np.asarray(covariates, dtype=np.float64).reshape(len(a), -1)
    )
    if not (np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(Z).all()):
        raise ValueError("a variable of the correlation has a value that is not a number")
    if method == "spearman":
        a, b = stats.rankdata(a), stats.rankdata(b)
        Z = np.apply_along_axis(stats.rankdata, 0, Z) if Z.size else Z
    df = len(a) - 2 - Z.shape[1]
    if df < 1:
        raise ValueError(
            f"a correlation of {len(a)} values given {Z.shape[1]} covariates has no degree of freedom left"
        )
    X = np.column_stack([np.ones(len(a)), Z])
    left = [v - X @ np.linalg.lstsq(X, v, rcond=None)[0] for v in (a, b)]
    norms = [float(np.linalg.norm(v)) for v in left]
    if min(n / (np.linalg.norm(v) or 1) for n, v in zip(norms, (a, b))) < 1e-10:
        raise ValueError("a variable of the correlation does not vary, given the covariates")
    r = float(np.clip(left[0] @ left[1] / (norms[0] * norms[1]), -1, 1))
    t = r * math.sqrt(df / max(1 - r * r, 1e-300))
    low, high = -1.0, 1.0
    if df > 1:
        z, half = (
            math.atanh(np.clip(r, -1 + 1e-16, 1 - 1e-16)),
            stats.norm.ppf(0.5 + level / 2) / math.sqrt(df - 1),
        )
        low, high = math.tanh(z - half), math.tanh(z + half)
    return Correlation(r, float(2 * stats.t.sf(abs(t), df)), df, low, high)


# -- hierarchical regression ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Block:
    """One step of a hierarchical regression: all blocks up to this one.

    Attributes
    ----------
    name : str
    r2, r2_change : float
    f_change, p_change : float
        Test of the block's predictors, given those before.
    df_change : (int, int)
    coefficients : DataFrame
        By predictor: ``B``, ``se``, ``beta`` (standardised), ``t``, ``p``, ``low`` and ``high`` (95 % confidence
        interval), ``vif``.
    """

    name: str
    r2: float
    r2_change: float
    f_change: float
    p_change: float
    df_change: tuple[int, int]
    coefficients: pd.DataFrame


def hierarchical_regression(y: ArrayLike, blocks: Mapping[str, pd.DataFrame]) -> list[Block]:
    """Ordinary least squares, one block of predictors added after the other.

    Parameters
    ----------
    y : (n,) array_like
    blocks : dict of str to DataFrame
        Predictors of each block, numeric, with the same rows.

    Returns
    -------
    list of Block

    Raises
    ------
    ValueError
        A value is missing, a predictor is a combination of others, or too few subjects.
    """
    import statsmodels.api as sm

    outcome = np.asarray(y, dtype=np.float64)
    found: list[Block] = []
    before, r2 = None, 0.0
    X = pd.DataFrame(index=range(len(outcome)))
    for name, block in blocks.items():
        X = pd.concat([X, block.reset_index(drop=True).astype(float)], axis=1)
        _check(outcome, X, name)
        fit = sm.OLS(outcome, sm.add_constant(X, has_constant="add")).fit()
        if before is None:
            f, p, change = float(fit.fvalue), float(fit.f_pvalue), int(fit.df_model)
        else:
            change = int(before.df_resid - fit.df_resid)
            f = ((before.ssr - fit.ssr) / change) / (fit.ssr / fit.df_resid)
            p = float(stats.f.sf(f, change, fit.df_resid))
        found.append(
            Block(
                name, float(fit.rsquared), float(fit.rsquared - r2), float(f), p, (change, int(fit.df_resid)),
                _coefficients(fit, outcome, X),
            )
        )  # fmt: skip
        before, r2 = fit, fit.rsquared
    return found


def _check(y: Float64, X: pd.DataFrame, name: str) -> None:
    values = X.to_numpy(dtype=np.float64)
    if len(values) != len(y) or not (np.isfinite(values).all() and np.isfinite(y).all()):
        raise ValueError(f"block {name!r}: the predictors and the outcome need a number in every row")
    if X.columns.duplicated().any():
        raise ValueError(f"block {name!r}: {X.columns[X.columns.duplicated()][0]!r} is a predictor already")
    if len(y) < X.shape[1] + 2:
        raise ValueError(f"block {name!r}: {X.shape[1]} predictors need more than {len(y)} subjects")
    centred = values - values.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    if (size <= 1e-10 * np.linalg.norm(values, axis=0)).any() or np.linalg.matrix_rank(centred / size) < X.shape[
        1
    ]:
        raise ValueError(f"block {name!r}: a predictor is constant, or a combination of others")


def _coefficients(fit: object, y: Float64, X: pd.DataFrame) -> pd.DataFrame:
    """Table of a fit of statsmodels."""
    interval = fit.conf_int()  # type: ignore[attr-defined]
    table = pd.DataFrame({"B": fit.params, "se": fit.bse})  # type: ignore[attr-defined]
    sd = X.std(ddof=1)
    table["beta"] = table["B"] * sd.reindex(table.index) / y.std(ddof=1)
    table["t"], table["p"] = fit.tvalues, fit.pvalues  # type: ignore[attr-defined]
    table["low"], table["high"] = interval[0], interval[1]
    # The diagonal of the inverse of the predictors' correlations.
    correlations = np.atleast_2d(np.corrcoef(X.to_numpy(dtype=np.float64), rowvar=False))
    table["vif"] = pd.Series(np.diag(np.linalg.inv(correlations)), index=X.columns).reindex(table.index)
    return table


# -- bootstrap ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Intervals of several statistics from resampled subjects.

    Attributes
    ----------
    observed : (m,) float64
    samples : (resamples, m) float64
    percentile, bca : (m, 2) float64
        Ends of the percentile interval, and of the bias-corrected and accelerated one (Efron 1987, JASA 82:171).
    """

    observed: Float64
    samples: Float64
    percentile: Float64
    bca: Float64


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Float64],
    n: int,
    resamples: int = 5000,
    seed: int = 0,
    level: float = 0.95,
) -> Bootstrap:
    """Bootstrap over subjects.

    Parameters
    ----------
    statistic : callable
        (resamples, k) indices of subjects → (resamples, m) values.
    n : int
        Number of subjects.
    resamples : int
    seed : int
    level : float
        Of the intervals.

    Raises
    ------
    ValueError
        Fewer than two subjects or resamples.
    """
    if n < 2 or resamples < 2:
        raise ValueError(f"a bootstrap of {n} subjects with {resamples} resamples; at least 2 of each are needed")
    observed = statistic(np.arange(n)[None])[0]
    samples = statistic(np.random.default_rng(seed).integers(0, n, (resamples, n)))
    without = np.array([np.delete(np.arange(n), i) for i in range(n)])
    jackknife = statistic(without)
    tail = (1 - level) / 2
    percentile = np.nanquantile(samples, [tail, 1 - tail], axis=0).T
    # Ties count half, as for a statistic that some resamples leave where it is.
    share = ((samples < observed).mean(axis=0) + (samples <= observed).mean(axis=0)) / 2
    bias = stats.norm.ppf(np.clip(share, 0.5 / resamples, 1 - 0.5 / resamples))
    off = jackknife.mean(axis=0) - jackknife
    spread = (off**2).sum(axis=0) ** 1.5
    acceleration = np.divide((off**3).sum(axis=0), 6 * spread, out=np.zeros_like(spread), where=spread > 0)
    bca = np.empty((len(observed), 2))
    for end, z in enumerate(stats.norm.ppf([tail, 1 - tail])):
        at = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        bca[:, end] = [np.nanquantile(samples[:, j], at[j]) for j in range(len(observed))]
    return Bootstrap(observed, samples, percentile, bca)


def regression_statistic(y: ArrayLike, X: ArrayLike, n_first: int = 0) -> Callable[[NDArray[np.int64]], Float64]:
    """Statistic for `bootstrap`: the coefficients of a regression, and the R² that the last predictors add.

    Parameters
    ----------
    y : (n,) array_like
    X : (n, p) array_like
        Without intercept.
    n_first : int
        Number of predictors that were there before.

    Returns
    -------
    callable
        To (resamples, p + 1): the p coefficients, ΔR². NaN where a resample does not determine them.
    """
    outcome, predictors = np.asarray(y, dtype=np.float64), np.asarray(X, dtype=np.float64)
    centre, scale = predictors.mean(axis=0), predictors.std(axis=0)
    scaled, middle = (predictors - centre) / scale, outcome.mean()

    def statistic(rows: NDArray[np.int64]) -> Float64:
        out = np.empty((len(rows), predictors.shape[1] + 1))
        for start in range(0, len(rows), 512):
            part = rows[start : start + 512]
            b, error = _least_squares(outcome[part] - middle, scaled[part])
            _, before = _least_squares(outcome[part] - middle, scaled[part][:, :, :n_first])
            total = ((outcome[part] - outcome[part].mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
            out[start : start + 512, :-1] = b / scale
            out[start : start + 512, -1] = (before - error) / np.where(total > 0, total, np.nan)
        return out

    return statistic


def _least_squares(y: Float64, X: Float64) -> tuple[Float64, Float64]:
    """Coefficients (m, p) and residual sums of squares (m,) of m regressions with intercept."""
    A = np.concatenate([np.ones((*y.shape, 1)), X], axis=2)
    gram, moment = A.transpose(0, 2, 1) @ A, (A.transpose(0, 2, 1) @ y[:, :, None])
    singular = np.linalg.cond(gram) > 1e12
    gram[singular] = np.eye(gram.shape[1])
    b = np.linalg.solve(gram, moment)
    b[singular] = np.nan
    residual = y - (A @ b)[:, :, 0]
    return b[:, 1:, 0], (residual**2).sum(axis=1)


# -- multiple testing and sample size -------------------------------------------------------------------------------


def adjust_p(p: ArrayLike, method: str = "fdr_bh") -> Float64:
    """P-values corrected within a family.

    Parameters
    ----------
    p : (m,) array_like
    method : {"fdr_bh", "bonferroni"}
        Benjamini–Hochberg (1995, JRSS B 57:289), or Bonferroni.

    Raises
    ------
    ValueError
        No such method, or values outside 0 … 1.
    """
    from statsmodels.stats.multitest import multipletests

    if method not in ("fdr_bh", "bonferroni"):
        raise ValueError(f"there is no correction {method!r}; expected fdr_bh or bonferroni")
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a p-value is not between 0 and 1")
    return multipletests(values, method=method)[1] if values.size else values


def sample_size_correlation(r: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Subjects for a correlation, two-sided, by Fisher's z: ((z₁₋α/₂ + z_power) / atanh r)² + 3, rounded up."""
    _check_power(power, alpha)
    if not 0 < abs(r) < 1:
        raise ValueError(f"a correlation of {r}; it must lie between -1 and 1 and not be 0")
    total = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    return math.ceil((total / math.atanh(abs(r))) ** 2 + 3)


def sample_size_groups(d: float, power: float = 0.8, alpha: float = 0.05, r2: float = 0.0) -> int:
    """Subjects in each of two equal groups, for a two-sided t test or an ANCOVA.

    Parameters
    ----------
    d : float
        Difference of the means over the common SD.
    power, alpha : float
    r2 : float
        Share of the variance within groups that covariates explain (ANCOVA): the difference is then d/√(1 − r2).

    Returns
    -------
    int
        Smallest number for which the noncentral t distribution gives the power.
    """
    _check_power(power, alpha)
    if not (d and math.isfinite(d) and 0 <= r2 < 1):
        raise ValueError(f"a difference of {d} SD with r2 {r2}; expected a number other than 0, and 0 <= r2 < 1")
    effect = abs(d) / math.sqrt(1 - r2)
    enough = 2
    while _power_of_t(effect, enough, alpha) < power:
        enough *= 2
    return bisect_left(range(enough), power, lo=max(2, enough // 2), key=lambda n: _power_of_t(effect, n, alpha))


def _power_of_t(effect: float, n: int, alpha: float) -> float:
    df, shift = 2 * n - 2, effect * math.sqrt(n / 2)
    critical = stats.t.ppf(1 - alpha / 2, df)
    # The far tail by symmetry: scipy's nct.cdf is NaN there for some large shifts.
    return float(stats.nct.sf(critical, df, shift) + stats.nct.sf(critical, df, -shift))


def _check_power(power: float, alpha: float) -> None:
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ValueError(f"power {power} at level {alpha}; both must lie between 0 and 1")
