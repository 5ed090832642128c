"""Effect sizes of single tests with confidence intervals, from noncentral t and F."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from gpuvox import effect_sizes

TAILS = (0.975, 0.025)
"""Shares of the noncentral distribution below the observed value, at the lower and the upper limit."""


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


def interval_of_d(t: float, df: float) -> tuple[float, float]:
    """95 % confidence limits of d = 2 t / √df: those of the noncentrality of t (Cumming and Finch 2001, Educ Psychol
    Meas 61:532–574) times the same factor.
    """
    low, high = effect_sizes.noncentrality_limits(np.array([t]), int(df))
    return float(low[0]) * 2 / math.sqrt(df), float(high[0]) * 2 / math.sqrt(df)


def partial_eta_squared(f: float, df_effect: float, df: float) -> tuple[float, float, float]:
    """Partial η² of an F test, F·df₁ / (F·df₁ + df₂), and its 95 % confidence limits.

    The limits are λ / (λ + df₁ + df₂ + 1), where λ is the noncentrality with which F is at its upper and its lower
    2.5 % point, or 0 if there is none (Steiger 2004, Psychol Methods 9:164–182). The lower limit is therefore above 0
    where p < .025.
    """
    eta = f * df_effect / (f * df_effect + df)
    limits = [_noncentrality(f, df_effect, df, share) for share in TAILS]
    low, high = (value / (value + df_effect + df + 1) for value in limits)
    return eta, low, high


def _noncentrality(f: float, df_effect: float, df: float, share: float) -> float:
    """The λ for which `share` of the noncentral F lies below f; 0 if even the central F has less below it."""

    def excess(noncentrality: float) -> float:
        return float(stats.ncf.cdf(f, df_effect, df, noncentrality)) - share

    if float(stats.f.cdf(f, df_effect, df)) <= share:
        return 0.0
    high = 10.0 + 2 * f * df_effect
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0, high, xtol=1e-10, rtol=1e-12))
