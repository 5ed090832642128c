"""Sample sizes of correlations and of differences between two groups, from their power."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gpuvox.errors import DesignError, InputError
from gpuvox.study.statistics.least_squares import are_independent

CORRELATION_SIZES = ("regression", "fisher")
"""How the number of participants for a correlation is computed."""


@dataclass(frozen=True)
class Difference:
    """Difference of two groups.

    Attributes
    ----------
    means : (float, float)
    sd : float
        Pooled within the groups.
    d : float
        Cohen's d: first mean minus second, divided by the SD.
    r2_covariates : float
        Share of the variance within groups that the covariates explain: 1 − (residual variance of groups and
        covariates) / (that of groups alone), each divided by its degrees of freedom; at least 0.
    d_adjusted : float
        The difference given the covariates (analysis of covariance), divided by the same SD.
    """

    means: tuple[float, float]
    sd: float
    d: float
    r2_covariates: float
    d_adjusted: float


def group_difference(values: ArrayLike, first: ArrayLike, covariates: ArrayLike | None = None) -> Difference:
    """The difference of two groups, for a sample size.

    Parameters
    ----------
    values : (n,) array_like
    first : (n,) array_like of bool
        The first group; the others are the second.
    covariates : (n, k) array_like, optional

    Raises
    ------
    InputError
        A group is too small; values or covariates are constant within the groups; the covariates are collinear
        or explain all variance.
    """
    y, inside = np.asarray(values, dtype=np.float64), np.asarray(first, dtype=bool)
    Z = np.zeros((len(y), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    n = int(inside.sum()), int((~inside).sum())
    df = len(y) - 2
    if min(n) < 2 or df <= Z.shape[1]:
        raise DesignError(f"groups of {n[0]} and {n[1]} with {Z.shape[1]} covariates are too small")
    V = np.column_stack([y, Z])
    deviations = np.where(inside[:, None], V - V[inside].mean(axis=0), V - V[~inside].mean(axis=0))
    norms = np.linalg.norm(deviations, axis=0)
    if norms[0] <= 1e-10 * np.linalg.norm(y):
        raise DesignError("it does not vary within the groups")
    if (norms <= 1e-10 * np.linalg.norm(V, axis=0)).any() or not are_independent(deviations[:, 1:]):
        raise DesignError("a covariate does not vary within the groups, or is a combination of others")
    scaled = deviations / norms
    slopes = np.linalg.lstsq(scaled[:, 1:], scaled[:, 0], rcond=None)[0]
    unexplained = float(((scaled[:, 0] - scaled[:, 1:] @ slopes) ** 2).sum())
    if unexplained <= 1e-20:
        raise DesignError("the covariates explain all of it within the groups")
    means, sd = (float(y[inside].mean()), float(y[~inside].mean())), float(norms[0] / math.sqrt(df))
    r2 = max(0.0, 1 - unexplained * df / (df - Z.shape[1]))
    # Subtract the difference that is predicted by the groups' difference in the covariates.
    predicted = (Z[inside].mean(axis=0) - Z[~inside].mean(axis=0)) @ (slopes * norms[0] / norms[1:])
    difference = means[0] - means[1]
    return Difference(means, sd, difference / sd, r2, float((difference - predicted) / sd))


def sample_size_correlation(r: float, power: float = 0.8, alpha: float = 0.05, method: str = "regression") -> int:
    """Participants for a correlation, two-sided.

    Parameters
    ----------
    r, power, alpha : float
    method : {"regression", "fisher"}
        Regression: the smallest number for which the t test of the slope, with noncentrality r √n / √(1 − r²) and n − 2
        degrees of freedom, has the power (Cohen 1988, chapter 9); exact for given values of one of the variables.
        Fisher: ((z₁₋α/₂ + z_power) / atanh r)² + 3, rounded up.

    Raises
    ------
    InputError
        The correlation is 0 or ±1, the method is unknown, or power or level is out of range.
    """
    check_power(power, alpha)
    if method not in CORRELATION_SIZES:
        raise InputError(f"the method {method!r} is unknown; expected {' or '.join(CORRELATION_SIZES)}")
    if not 0 < abs(r) < 1:
        raise InputError(f"a correlation of {r}; it must lie between -1 and 1 and not be 0")
    if method == "regression":
        effect = abs(r) / math.sqrt((1 - abs(r)) * (1 + abs(r)))
        return _smallest(lambda n: _power_of_t(effect * math.sqrt(n), n - 2, alpha), 3, power)
    total = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    return max(4, math.ceil((max(total, 0) / math.atanh(abs(r))) ** 2 + 3))


def sample_size_groups(
    d: float, power: float = 0.8, alpha: float = 0.05, r2: float = 0.0, n_covariates: int = 0
) -> int:
    """Participants in each of two equal groups, for a two-sided t test or an ANCOVA.

    Parameters
    ----------
    d : float
        Difference of the means divided by the common SD.
    power, alpha : float
    r2 : float
        Share of the variance within groups that covariates explain (ANCOVA): the difference is then d/√(1 − r2), for
        covariates with equal distributions in the groups, as under randomisation.
    n_covariates : int
        Each costs one degree of freedom.

    Returns
    -------
    int
        Smallest number for which the noncentral t distribution gives the power (Cohen 1988, chapters 2 and 8).

    Raises
    ------
    InputError
        The difference is 0, or power, level, r2 or n_covariates is out of range.
    """
    check_power(power, alpha)
    if n_covariates < 0:
        raise InputError(f"a number of covariates of {n_covariates}; it must not be negative")
    if not (d and math.isfinite(d) and 0 <= r2 < 1):
        raise InputError(f"a difference of {d} SD with r2 {r2}; expected a number other than 0, and 0 <= r2 < 1")
    effect = abs(d) / math.sqrt(1 - r2)
    least = max(2, 2 + n_covariates // 2)  # at least one degree of freedom
    return _smallest(
        lambda n: _power_of_t(effect * math.sqrt(n / 2), 2 * n - 2 - n_covariates, alpha), least, power
    )


def _smallest(reached: Callable[[int], float], least: int, power: float) -> int:
    """The smallest number that reaches the power, which increases with it."""
    enough = least
    while reached(enough) < power:
        enough *= 2
    return bisect_left(range(enough), power, lo=max(least, enough // 2), key=reached)


def _power_of_t(shift: float, df: int, alpha: float) -> float:
    """Power of a two-sided t test with a noncentrality."""
    critical = stats.t.ppf(1 - alpha / 2, df)
    # The far tail by symmetry: scipy's nct.cdf is NaN there for some large shifts.
    return float(stats.nct.sf(critical, df, shift) + stats.nct.sf(critical, df, -shift))


def check_power(power: float, alpha: float) -> None:
    """Raise `InputError` unless both lie between 0 and 1."""
    if not (0 < power < 1 and 0 < alpha < 1):
        raise InputError(f"power {power} at level {alpha}; both must lie between 0 and 1")
