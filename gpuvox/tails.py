"""Approximations of small p-values from few permutations, or from none (Winkler et al. 2016, NeuroImage 141:502).

A null distribution includes the unpermuted value, as it does for p-values by counting. p are on the scale where small
is significant. Four approximations:

* `pareto`: a generalised Pareto law fitted to the tail of each null distribution whose p is small; where none fits, or
  the observed value is not in the tail, p by counting stays.
* `gamma`: a shifted gamma law (Pearson's type III) with the mean, variance and skewness of the null distribution.
* `negative_binomial`: each voxel counts permutations until its observed value was reached a few times.
* `without_permutations`: Pearson's type III with the moments that the statistic has over all permutations, in closed
  form (Kazi-Aoual et al. 1995, Comput Stat Data Anal 20:643).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainc, gammaincc, ndtr

from gpuvox.errors import DesignError
from gpuvox.partitioning import PartitionedDesign
from gpuvox.scratch import Data, pieces
from gpuvox.types import Bools, Float64, Ints

SMALL = 0.10
"""p by counting under which a Pareto law replaces it."""
LEVELS = 0.751 + 0.01 * np.arange(23)
"""Quantiles of the null distribution above which a Pareto law is tried, in this order."""
WORST_FIT = 0.830
"""Largest Anderson–Darling statistic of a law that fits."""
NEARLY_SYMMETRIC = 1e-3
"""Skewness under which Pearson's type III is the normal law."""
_VOXELS = 4096  # at a time


class Approximated(NamedTuple):
    """p-values, and where they are those of a fitted law."""

    p: Float64
    fitted: Bools


# -- generalised Pareto -----------------------------------------------------------------------------------------------


def pareto(null: ArrayLike, observed: ArrayLike, p: ArrayLike) -> Approximated:
    """p from generalised Pareto laws, fitted by moments to the tails of null distributions.

    Parameters
    ----------
    null : (N,) or (N, V) array_like
        One null distribution for all observed values, or one for each.
    observed : (V,) array_like
    p : (V,) array_like
        By counting: kept where it is not small, where no law fits, and for values that are not above the threshold.

    Returns
    -------
    Approximated
        (V,) each.
    """
    null, observed, p = (np.asarray(values, dtype=np.float64) for values in (null, observed, p))
    if null.ndim == 1:
        law = _fit_pareto(np.sort(null)[:, None])
        return _replaced(law.of(np.zeros(len(observed), dtype=np.int64)), observed, p)
    out, fitted = p.copy(), np.zeros(len(p), dtype=bool)
    small = np.flatnonzero(p < SMALL)
    for start in range(0, len(small), _VOXELS):
        voxels = small[start : start + _VOXELS]
        law = _fit_pareto(np.sort(null[:, voxels], axis=0))
        out[voxels], fitted[voxels] = _replaced(law, observed[voxels], p[voxels])
    return Approximated(out, fitted)


@dataclass(frozen=True)
class _Pareto:
    """Laws of the tails of null distributions: (V,) each; a share of 0 where none fits."""

    share: Float64
    threshold: Float64
    scale: Float64
    shape: Float64

    def of(self, which: Ints) -> _Pareto:
        return _Pareto(self.share[which], self.threshold[which], self.scale[which], self.shape[which])


def _replaced(law: _Pareto, observed: Float64, p: Float64) -> Approximated:
    fitted = (p < SMALL) & (law.share > 0) & (observed > law.threshold)
    out = p.copy()
    beyond = (observed - law.threshold)[fitted]
    out[fitted] = law.share[fitted] * np.exp(_log_survival(beyond, law.scale[fitted], law.shape[fitted]))
    return Approximated(out, fitted)


def _log_survival(y: Float64, scale: Float64, shape: Float64) -> Float64:
    """log (1 − shape y / scale)^(1 / shape); −∞ beyond the end of the law."""
    is_exponential = np.abs(shape) < 1e-12
    left = np.maximum(-shape * y / scale, -1.0)
    with np.errstate(divide="ignore"):
        log = np.log1p(left) / np.where(is_exponential, 1.0, shape)
    return np.where(is_exponential, -y / scale, log)


def _fit_pareto(null: Float64) -> _Pareto:
    """The law above the lowest level where one fits, of each column of sorted null distributions (N, V)."""
    n, n_voxels = null.shape
    law = _Pareto(*(np.zeros(n_voxels) for _ in range(4)))
    left = np.arange(n_voxels)
    for level in LEVELS:
        below = int(np.floor(level * n + 1e-9))
        if below < 1 or n - below < 2 or not len(left):
            continue
        threshold = (null[below - 1, left] + null[below, left]) / 2
        y = null[below:, left] - threshold
        mean, variance = y.mean(axis=0), y.var(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = mean * mean / variance
            scale, shape = mean * (ratio + 1) / 2, (ratio - 1) / 2
            fits = (variance > 0) & (_anderson_darling(y, scale, shape) <= WORST_FIT)
        here = left[fits]
        law.share[here], law.threshold[here] = (n - below) / n, threshold[fits]
        law.scale[here], law.shape[here] = scale[fits], shape[fits]
        left = left[~fits]
    return law


def _anderson_darling(y: Float64, scale: Float64, shape: Float64) -> Float64:
    """A² of sorted columns y (m, V) under their laws."""
    m = len(y)
    upper = _log_survival(y, scale, shape)
    lower = np.log(-np.expm1(upper))
    weight = (2 * np.arange(1, m + 1) - 1)[:, None]
    result: Float64 = -m - np.mean(weight * (lower + upper[::-1]), axis=0)
    return result


# -- gamma ------------------------------------------------------------------------------------------------------------


def gamma(observed: ArrayLike, mean: ArrayLike, variance: ArrayLike, skewness: ArrayLike) -> Float64:
    """Upper tail of Pearson's type III law with these moments; 1 where the variance is 0.

    Parameters
    ----------
    observed, mean, variance, skewness : (V,) array_like, or numbers
    """
    observed, mean, variance, skewness = np.broadcast_arrays(
        *(np.asarray(values, dtype=np.float64) for values in (observed, mean, variance, skewness))
    )
    spread = np.sqrt(np.where(variance > 0, variance, 1.0))
    z = (observed - mean) / spread
    is_symmetric = np.abs(skewness) < NEARLY_SYMMETRIC
    shape = 4 / np.where(is_symmetric, 1.0, skewness) ** 2
    place = np.maximum(shape + z * np.sqrt(shape) * np.sign(skewness), 0)
    skewed = np.where(skewness > 0, gammaincc(shape, place), gammainc(shape, place))
    return np.where(variance > 0, np.where(is_symmetric, ndtr(-z), skewed), 1.0)


def gamma_of(null: ArrayLike, observed: ArrayLike) -> Float64:
    """The same with the moments of one null distribution (N,), for observed values (V,)."""
    null = np.asarray(null, dtype=np.float64)
    centred = null - null.mean()
    sums = [np.array([(centred**power).sum()]) for power in (1, 2, 3)]
    mean, variance, skewness = moments_of_sums(len(null), *sums)
    return gamma(observed, null.mean() + mean, variance, skewness)


def moments_of_sums(n: int, first: Float64, second: Float64, third: Float64) -> tuple[Float64, Float64, Float64]:
    """Mean, variance (divisor n − 1) and adjusted skewness from the sums of n values and of their powers.

    The skewness is G₁ = g₁ √(n (n − 1)) / (n − 2), and 0 of fewer than three values.
    """
    mean = first / n
    second, third = second / n, third / n
    spread = np.maximum(second - mean**2, 0.0)
    spread[spread <= 1e-13 * second] = 0.0  # what rounding leaves of equal values
    cubed = third - 3 * mean * second + 2 * mean**3
    skewness = np.divide(cubed, spread**1.5, out=np.zeros_like(cubed), where=spread > 0)
    adjust = np.sqrt(n * (n - 1)) / (n - 2) if n > 2 else 0.0
    return mean, spread * (n / max(n - 1, 1)), skewness * adjust


# -- negative binomial ------------------------------------------------------------------------------------------------


def negative_binomial(reached: Ints, n: int) -> Float64:
    """p from the permutations in which the observed value was first reached.

    Parameters
    ----------
    reached : (r, V) int
        Numbers of the first r of them, the unpermuted one (number 0) not counted, ascending; n where there were fewer.
    n : int
        Number of permutations of the run, the unpermuted one included.

    Returns
    -------
    (V,) float64
        r over the number of the r-th; with fewer, their count and the unpermuted one, over n.
    """
    r, last = len(reached), reached[-1]
    count = (reached < n).sum(axis=0)
    return np.where(last < n, r / np.maximum(last, 1), (count + 1) / n)


# -- without permutations ---------------------------------------------------------------------------------------------


def without_permutations(
    data: Data, design: PartitionedDesign, two_tailed: bool = False
) -> tuple[Float64, Float64]:
    """The partial correlation, or R², and its p from the moments over all permutations, of which none is made.

    Parameters
    ----------
    data : (n, V) float32
    design : PartitionedDesign
        Its nuisance must contain a constant, so that residuals have mean 0.
    two_tailed : bool
        Of t: test r² in place of r.

    Returns
    -------
    statistic, p : (V,) float64
        r for one-tailed t, else R²; 0 and p 1 where the residuals are 0.

    Raises
    ------
    DesignError
        See `check_moments`.
    """
    check_moments(design)
    X, Q = design.effect, design.nuisance
    n = len(X)
    statistic, p = np.zeros(data.shape[1]), np.ones(data.shape[1])
    of_effect = _invariants(X @ X.T)
    for start, values in pieces(data):
        w = np.asarray(values, dtype=np.float64)
        before = np.sqrt((w**2).sum(axis=0))
        w = w - w.mean(axis=0) if design.demean else w
        w = w - Q @ (Q.T @ w)
        norm = np.sqrt((w**2).sum(axis=0))
        there = norm > 1e-10 * before
        w = w[:, there] / norm[there]
        r = X.T @ w
        share = (r**2).sum(axis=0)
        here = np.flatnonzero(there) + start
        p[here] = gamma(share, *_permutation_moments(n, of_effect, _invariants_of_outer(w)))
        statistic[here] = share
        if not design.is_f and not two_tailed:
            statistic[here] = r[0]
            p[here] = np.where(r[0] > 0, p[here] / 2, 1 - p[here] / 2)
    return statistic, p


def check_moments(design: PartitionedDesign) -> None:
    """Refuse a design whose moments over all permutations are not known, as `without_permutations` does.

    Raises
    ------
    DesignError
        Residuals of the nuisance do not have mean 0, or there are fewer than 6 rows.
    """
    Q, n = design.nuisance, len(design.effect)
    constant = np.ones(n) / np.sqrt(n)
    if n < 6:
        raise DesignError(f"the moments over all permutations need at least 6 rows; the design has {n}")
    if not design.demean and np.sum((constant - Q @ (Q.T @ constant)) ** 2) > 1e-10:
        raise DesignError(
            "the moments over all permutations need a constant in the nuisance of the design, such as an intercept "
            "that the contrast does not test"
        )


class _Invariants(NamedTuple):
    """Sums of a symmetric matrix A, by the names of Kazi-Aoual et al.: numbers, or (V,) of many matrices.

    tr A, tr A², tr A³; Σ aᵢᵢ², Σ aᵢᵢ³, Σ aᵢⱼ³, Σ aᵢᵢ (A²)ᵢᵢ, Σ aᵢᵢ aᵢⱼ aⱼⱼ.
    """

    T: Float64
    T2: Float64
    T3: Float64
    S2: Float64
    S3: Float64
    U: Float64
    R: Float64
    B: Float64


def _invariants(A: Float64) -> _Invariants:
    d, square = np.diag(A), A @ A
    sums = (
        d.sum(), np.trace(square), np.trace(square @ A), (d**2).sum(), (d**3).sum(), (A**3).sum(),
        (d * np.diag(square)).sum(), d @ A @ d,
    )  # fmt: skip
    return _Invariants(*map(np.asarray, sums))


def _invariants_of_outer(w: Float64) -> _Invariants:
    """Of w wᵀ for each column of w (n, V) of unit norm."""
    one = np.ones(w.shape[1])
    cubes, fourth, sixth = (w**3).sum(axis=0) ** 2, (w**4).sum(axis=0), (w**6).sum(axis=0)
    return _Invariants(one, one, one, fourth, sixth, cubes, fourth, cubes)


def _permutation_moments(n: int, of_a: _Invariants, of_w: _Invariants) -> tuple[Float64, Float64, Float64]:
    """Mean, variance and skewness of tr(A W_π) over all permutations π of the rows and columns of W."""
    T, T2, _, S2, *_ = of_a
    t, t2, _, s2, *_ = of_w
    mean = T * t / (n - 1)
    variance = 2 * ((n - 1) * T2 - T**2) * ((n - 1) * t2 - t**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    spread = n * (n + 1) * S2 - (n - 1) * (T**2 + 2 * T2), n * (n + 1) * s2 - (n - 1) * (t**2 + 2 * t2)
    variance = np.asarray(variance + spread[0] * spread[1] / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3)))
    third = _third_moment(n, of_a, of_w)
    cubed = third - 3 * mean * variance - mean**3
    skewness = np.divide(cubed, variance**1.5, out=np.zeros_like(cubed), where=variance > 0)
    return mean, variance, skewness


def _third_moment(n: int, of_a: _Invariants, of_w: _Invariants) -> Float64:
    """Third moment about 0 of tr(A W_π): a bilinear form in monomials of degree 3 of either matrix."""
    mine, theirs = _monomials(of_a), _monomials(of_w)
    total = np.zeros(np.shape(of_w.T))
    for (a, b), factor in _third_moment_factors(n).items():
        total += factor * (mine[a] * theirs[b] if a == b else mine[a] * theirs[b] + mine[b] * theirs[a])
    return total / (n * (n - 1) * (n - 2) * (n - 3) * (n - 4) * (n - 5))


def _monomials(of: _Invariants) -> dict[str, Float64]:
    return {
        "S3": of.S3, "U": of.U, "B": of.B, "R": of.R, "TS2": of.T * of.S2, "TTT": of.T**3, "TT2": of.T * of.T2,
        "T3": of.T3,
    }  # fmt: skip


def _third_moment_factors(n: int) -> dict[tuple[str, str], int]:
    """Factor of each pair of monomials, one of either matrix; of pairs of unlike ones, for both ways round."""
    raised, mixed = -2 * n * (n - 1) * (n**2 - n + 4), -3 * n * (n - 1) ** 2 * (n + 4)
    lowered, last = 2 * n * (n - 1) * (n - 2), -(n - 2)
    return {
        ("S3", "S3"): n**2 * (n + 1) * (n**2 + 15 * n - 4),
        ("U", "U"): 4 * (n**4 - 8 * n**3 + 19 * n**2 - 4 * n - 16),
        ("U", "B"): 24 * (n**2 - n - 4),
        ("B", "B"): 6 * (n**4 - 8 * n**3 + 21 * n**2 - 6 * n - 24),
        ("R", "R"): 12 * (n**4 - n**3 - 8 * n**2 + 36 * n - 48),
        ("TS2", "R"): 12 * (n**3 - 2 * n**2 + 9 * n - 12),
        ("TS2", "TS2"): 3 * (n**4 - 4 * n**3 - 2 * n**2 + 9 * n - 12),
        ("R", "U"): 24 * (n**3 - 3 * n**2 - 2 * n + 8),
        ("R", "B"): 24 * (n**3 - 2 * n**2 - 3 * n + 12),
        ("TS2", "U"): 12 * (n**2 - n + 4),
        ("TS2", "B"): 6 * (2 * n**3 - 7 * n**2 - 3 * n + 12),
        ("U", "S3"): 2 * raised,
        ("B", "S3"): 3 * raised,
        ("TS2", "S3"): mixed,
        ("R", "S3"): 4 * mixed,
        ("TTT", "S3"): lowered,
        ("TT2", "S3"): 6 * lowered,
        ("T3", "S3"): 8 * lowered,
        ("TTT", "TTT"): n**3 - 9 * n**2 + 23 * n - 14,
        ("TTT", "TT2"): 6 * (n - 4),
        ("TTT", "T3"): 8,
        ("TT2", "TT2"): 6 * (n**3 - 9 * n**2 + 24 * n - 14),
        ("TT2", "T3"): 24 * (n - 3),
        ("T3", "T3"): 8 * (n**3 - 9 * n**2 + 26 * n - 22),
        ("TTT", "U"): -16,
        ("TT2", "U"): -6 * (2 * n**2 - 10 * n + 16),
        ("T3", "U"): -8 * (3 * n**2 - 15 * n + 16),
        ("TTT", "B"): -(6 * n**2 - 30 * n + 24),
        ("TT2", "B"): -6 * (4 * n**2 - 20 * n + 24),
        ("T3", "B"): -8 * (3 * n**2 - 15 * n + 24),
        ("TTT", "R"): 24 * last,
        ("TT2", "R"): 6 * last * (2 * n**2 - 10 * n + 24),
        ("T3", "R"): 8 * last * (3 * n**2 - 15 * n + 24),
        ("TTT", "TS2"): last * (3 * n**2 - 15 * n + 6),
        ("TT2", "TS2"): 6 * last * (n**2 - 5 * n + 6),
        ("T3", "TS2"): 48 * last,
    }
