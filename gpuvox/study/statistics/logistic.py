"""Logistic regression in blocks, and its bootstrap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from gpuvox.errors import DesignError
from gpuvox.study.statistics.least_squares import CHUNK, INTERCEPT, Statistic, check_predictors
from gpuvox.types import Float64

STEPS = 30
"""Newton's steps in each resample; without separation, fewer than ten are needed."""
LARGEST = 30.0
"""Linear predictor beyond which a probability is 0 or 1: the groups are separated."""


@dataclass(frozen=True, eq=False)
class LogisticBlock:
    """One step of a hierarchical logistic regression: all blocks up to this one.

    Attributes
    ----------
    name : str
    r2_nagelkerke, r2_mcfadden : float
    auc : float
        Area under the receiver operating characteristic of the fitted probabilities.
    chi2_change, p_change : float
        Likelihood-ratio test of the block's predictors, given the earlier blocks.
    df_change : int
    chi2, p : float
        Likelihood-ratio test of the whole model.
    df : int
    coefficients : DataFrame
        By predictor, the intercept first: ``B``, ``se``, ``z``, ``p`` (Wald), ``low``, ``high``, ``odds_ratio`` with
        ``odds_ratio_low`` and ``odds_ratio_high``.
    """

    name: str
    r2_nagelkerke: float
    r2_mcfadden: float
    auc: float
    chi2_change: float
    p_change: float
    df_change: int
    chi2: float
    p: float
    df: int
    coefficients: pd.DataFrame
    probabilities: Float64


def hierarchical_logistic(y: ArrayLike, blocks: Mapping[str, pd.DataFrame]) -> list[LogisticBlock]:
    """Maximum likelihood, with blocks of predictors added one after the other; statsmodels fits the models.

    Parameters
    ----------
    y : (n,) array_like of 0 and 1
    blocks : dict of str to DataFrame
        Predictors of each block, numeric, with the same rows.

    Raises
    ------
    InputError
        As for `least_squares.hierarchical_regression`; or the predictors separate the outcome perfectly.
    """
    outcome = np.asarray(y, dtype=np.float64)
    share, n = outcome.mean(), len(outcome)
    null = float(n * (special.xlogy(share, share) + special.xlogy(1 - share, 1 - share)))
    before, fitted = null, []
    X = pd.DataFrame(index=range(n))
    for name, block in blocks.items():
        X = pd.concat([X, block.reset_index(drop=True).astype(float)], axis=1)
        check_predictors(outcome, X, block.shape[1], name)
        fit = _fit(outcome, X, name)
        likelihood, df = float(fit.llf), X.shape[1]
        change, chi2 = 2 * (likelihood - before), 2 * (likelihood - null)
        cox = 1 - math.exp(-chi2 / n)
        fitted.append(
            LogisticBlock(
                name, cox / (1 - math.exp(2 * null / n)), 1 - likelihood / null, _auc(outcome, fit.fittedvalues),
                change, float(stats.chi2.sf(change, block.shape[1])), block.shape[1], chi2,
                float(stats.chi2.sf(chi2, df)), df, _coefficients(fit, X), special.expit(fit.fittedvalues),
            )
        )  # fmt: skip
        before = likelihood
    return fitted


def _fit(y: Float64, X: pd.DataFrame, name: str) -> Any:
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    centre, scale = X.mean().to_numpy(), X.std(ddof=0).to_numpy()
    design = np.column_stack([np.ones(len(y)), (X.to_numpy() - centre) / scale])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = sm.Logit(y, design).fit(disp=0, maxiter=100, tol=1e-12)
        except (PerfectSeparationError, np.linalg.LinAlgError):
            fit = None
    if fit is None or not fit.mle_retvals["converged"] or np.abs(fit.fittedvalues).max() > LARGEST:
        raise DesignError(f"block {name!r}: the predictors separate the two outcomes, so no coefficient is finite")
    return _Unscaled(fit, centre, scale)


class _Unscaled:
    """A fit on standardised predictors, in their own units."""

    def __init__(self, fit: Any, centre: Float64, scale: Float64) -> None:
        k = len(scale)
        back = np.eye(k + 1)
        back[1:, 1:] = np.diag(1 / scale)
        back[0, 1:] = -centre / scale
        self.params = back @ fit.params
        self.bse = np.sqrt(np.diag(back @ fit.cov_params() @ back.T))
        self.llf, self.fittedvalues = fit.llf, np.asarray(fit.fittedvalues, dtype=np.float64)


def _coefficients(fit: _Unscaled, X: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"B": fit.params, "se": fit.bse}, index=[INTERCEPT, *X.columns])
    table["z"] = table["B"] / table["se"]
    table["p"] = 2 * stats.norm.sf(table["z"].abs())
    half = stats.norm.ppf(0.975) * table["se"]
    table["low"], table["high"] = table["B"] - half, table["B"] + half
    for name, of in (("odds_ratio", "B"), ("odds_ratio_low", "low"), ("odds_ratio_high", "high")):
        table[name] = np.exp(table[of])
    table.loc[INTERCEPT, ["odds_ratio", "odds_ratio_low", "odds_ratio_high"]] = np.nan
    return table


def _auc(y: Float64, score: Float64) -> float:
    """Mann–Whitney's U as share of all pairs."""
    ranks, ones = stats.rankdata(score), y == 1
    n1, n0 = int(ones.sum()), int((~ones).sum())
    return float((ranks[ones].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def logistic_statistic(y: ArrayLike, X: ArrayLike, sizes: Sequence[int]) -> Statistic:
    """Statistic for `least_squares.bootstrap`: the coefficients of a hierarchical logistic regression.

    Returns
    -------
    callable
        Function to (resamples, m) values: for each block the intercept and the coefficients of all predictors up to
        this block. NaN if a resample separates the outcomes or does not determine the coefficients.
    """
    outcome, predictors = np.asarray(y, dtype=np.float64), np.asarray(X, dtype=np.float64)
    centre, scale = predictors.mean(axis=0), predictors.std(axis=0)
    design = np.column_stack([np.ones(len(outcome)), (predictors - centre) / scale])

    def statistic(rows: NDArray[np.int64]) -> Float64:
        return np.concatenate([part(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)])

    def part(rows: NDArray[np.int64]) -> Float64:
        parts = []
        for k in np.cumsum(sizes):
            b = _newton(outcome[rows], design[rows][:, :, : k + 1])
            slopes = b[:, 1:] / scale[:k]
            parts += [(b[:, 0] - slopes @ centre[:k])[:, None], slopes]
        return np.concatenate(parts, axis=1)

    return statistic


def _newton(y: Float64, A: Float64) -> Float64:
    """(m, p) Maximum-likelihood coefficients of m logistic regressions; NaN where they are not finite."""
    b = np.zeros((len(y), A.shape[2]))
    step = np.full(len(y), np.inf)
    for _ in range(STEPS):
        p = special.expit(np.einsum("mnp,mp->mn", A, b))
        gram = np.einsum("mnp,mn,mnq->mpq", A, p * (1 - p), A)
        sizes = np.linalg.eigvalsh(gram)
        bad = ~(sizes[:, 0] > 1e-10 * np.maximum(sizes[:, -1], 1e-300))
        gram[bad] = np.eye(A.shape[2])
        change = np.linalg.solve(gram, np.einsum("mnp,mn->mp", A, y - p)[:, :, None])[:, :, 0]
        change[bad] = np.nan
        b = b + change
        step = np.abs(change).max(axis=1)
        if not (step > 1e-9).any():
            break
    largest = np.abs(np.einsum("mnp,mp->mn", A, b)).max(axis=1)
    b[~(step <= 1e-6) | ~(largest <= LARGEST)] = np.nan
    return b
