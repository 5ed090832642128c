"""Effect sizes of t and F tests with confidence intervals: Cohen's d, partial r, partial η²."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.interpolate import CubicSpline

from gpuvox.types import Float64

CONFIDENCE = 0.95
"""Level of all intervals."""
TAIL = (1 - CONFIDENCE) / 2
LARGEST_T = 100.0
"""Beyond it, limits of noncentrality follow from their asymptote."""


def cohens_d(t: Float64, df: int, sizes: tuple[int, ...]) -> tuple[Float64, Float64, Float64]:
    """Cohen's d of one sample or of two groups, and its confidence limits.

    d = t·√(1/n) for one sample and d = t·√(1/n₁ + 1/n₂) for two groups (Rosenthal 1994, in: The Handbook of Research
    Synthesis, pp. 231–244). If the model has other columns, t is adjusted for them, and so is d. The limits are those
    of the noncentrality of t times the same factor (Cumming and Finch 2001, Educ Psychol Meas 61:532–574).

    Parameters
    ----------
    t : (V,) float64
    df : int
        Residual degrees of freedom.
    sizes : tuple of int
        n, or n₁ and n₂.

    Returns
    -------
    d, lower, upper : (V,) float64
    """
    factor = float(np.sqrt(sum(1 / n for n in sizes)))
    return t * factor, _noncentrality(t, df) * factor, -_noncentrality(-t, df) * factor


def partial_r(t: Float64, df: ArrayLike) -> tuple[Float64, Float64, Float64]:
    """Partial correlation t / √(t² + df), and its confidence limits by Fisher's z.

    z = artanh r has the standard error 1 / √(n − k − 3) for k variables that are held constant (Fisher 1924, Metron
    3:329–332), which is 1 / √(df − 1). With one degree of freedom the limits are −1 and 1.

    Parameters
    ----------
    t : (V,) float64
    df : int or (V,) array
        Residual degrees of freedom, n − k − 2; r is 0 where there are none.

    Returns
    -------
    r, lower, upper : (V,) float64
    """
    some = np.maximum(df, 1)
    r = t / np.hypot(t, np.sqrt(some))
    few = np.asarray(df) < 2
    # artanh r, without loss near ±1
    z, half = np.arcsinh(t / np.sqrt(some)), stats.norm.isf(TAIL) / np.sqrt(np.maximum(some - 1, 1))
    return r, np.where(few, -1.0, np.tanh(z - half)), np.where(few, 1.0, np.tanh(z + half))


def partial_eta_squared(f: Float64, df_effect: int, df: ArrayLike) -> Float64:
    """Partial η² = F·df₁ / (F·df₁ + df₂) (Cohen 1973, Educ Psychol Meas 33:107–112); 0 without degrees of freedom."""
    eta: Float64 = f * df_effect / (f * df_effect + np.maximum(df, 1))
    return eta


def noncentrality_limits(t: Float64, df: int) -> tuple[Float64, Float64]:
    """(V,) Confidence limits of the noncentrality of t: where P(T ≥ t) and P(T ≤ t) are `TAIL`.

    For few values; `cohens_d` interpolates those of a whole map.
    """
    return _solve(t, df), -_solve(-t, df)


def _noncentrality(t: Float64, df: int) -> Float64:
    """(V,) The lower limit δ of the noncentrality: P(T ≥ t | δ) is `TAIL`.

    It is a smooth function of t: it is solved at knots, evenly spaced in arsinh t, and interpolated between them.
    """
    inside = np.sinh(_limit_by_t(df)(np.arcsinh(np.clip(t, -LARGEST_T, LARGEST_T))))
    # Far out, δ² ≈ a·t² + b, where a is a quantile of χ²/df; b makes it continuous.
    with np.errstate(divide="ignore", over="ignore"):
        square = np.where(t > 0, special.chdtri(df, 1 - TAIL), special.chdtri(df, TAIL)) / df
        bend = ((inside / LARGEST_T) ** 2 - square) * (LARGEST_T / t) ** 2
        outside = t * np.sqrt(np.maximum(square + bend, 0))
    limits: Float64 = np.where(np.abs(t) > LARGEST_T, outside, inside)
    return limits


@lru_cache(maxsize=16)
def _limit_by_t(df: int) -> CubicSpline:
    """arsinh δ by arsinh t."""
    knots = np.linspace(-np.arcsinh(LARGEST_T), np.arcsinh(LARGEST_T), 1025)
    return CubicSpline(knots, np.arcsinh(_solve(np.sinh(knots), df)))


def _solve(t: Float64, df: int) -> Float64:
    """The lower limit by bisection: the distribution function of noncentral t falls with δ."""
    reach = np.sqrt(special.chdtri(df, 1e-6) / df)
    low, high = np.minimum(t, 0) * reach - 10, np.maximum(t, 0) * reach + 10
    for _ in range(60):
        middle = (low + high) / 2
        share = special.nctdtr(df, middle, t)
        above = np.where(np.isnan(share), middle < t, share > 1 - TAIL)  # NaN far from t, where it is 0 or 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2
