"""From null distributions to p-values, on randomise's scale: 1 − p.

A corrected value is the share of permutations whose maximum lies strictly below the observed value, an
uncorrected one the share whose value at that voxel does (Nichols & Holmes 2002, HBM 15:1). The unpermuted map
is one of the permutations, so p is never below 1/N.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.types import Float32, Float64, Ints

LARGEST = np.nextafter(np.float32(1), np.float32(0))
"""The largest 1 − p of a p above 0."""


def corrected(null: ArrayLike, observed: ArrayLike) -> Float32:
    """Family-wise-error corrected 1 − p.

    Parameters
    ----------
    null : (N,) array_like
        Maximum of each permutation, the unpermuted one included.
    observed : (V,) array_like
        Observed statistic, of the same type as `null`.

    Returns
    -------
    (V,) float32
        Number of maxima strictly below the observed value, over N.
    """
    return shares(count_below(null, observed), len(np.asarray(null)))


def count_below(null: ArrayLike, observed: ArrayLike) -> Ints:
    """How many values of a null distribution (N,) are strictly below each of some values (V,) of the same type."""
    below: Ints = np.searchsorted(np.sort(np.asarray(null)), np.asarray(observed), side="left")
    return below


def shares(count: ArrayLike, total: int) -> Float32:
    """Counts over their total, in float32 as randomise writes them, and less than 1 for every count below the total."""
    counted = np.asarray(count)
    share = (counted.astype(np.float64) / total).astype(np.float32)
    return np.where(counted < total, np.minimum(share, LARGEST), share)


def one_minus(p: Float64) -> Float32:
    """1 − p in float32, and less than 1 for every p above 0."""
    rounded = (1 - p).astype(np.float32)
    return np.where(p > 0, np.minimum(rounded, LARGEST), rounded)


def false_discovery_rate(p: Float64, tests: int | None = None) -> Float64:
    """Adjusted p-values of Y. Benjamini and Y. Hochberg (1995, J R Stat Soc B 57:289).

    Parameters
    ----------
    p : (V,) float64
        Uncorrected p-values.
    tests : int, optional
        How many of them are of tests, if others are 1 (outside of a mask); by default all.

    Returns
    -------
    (V,) float64
        The smallest false discovery rate at which each would be rejected.
    """

    def rates(ordered: Float64, place: Float64) -> Float64:
        scaled = ordered * len(place) / place
        smallest: Float64 = np.minimum.accumulate(scaled[::-1])[::-1]
        return smallest

    return _adjusted(p, tests, rates)


def adaptive_false_discovery_rate(p: Float64, tests: int | None = None) -> Float64:
    """Adjusted p-values of the multiple-stage procedure of Y. Benjamini, A. M. Krieger and D. Yekutieli.

    Definition 7 of their article (2006, Biometrika 93:491), which estimates how many null hypotheses are true. With p
    sorted, q_j is the largest, over i ≤ j, of the smallest, over l ≥ i, of p_l (m + 1 − i) / (l − i p_l), and 1 at
    most. The smallest is where l / p_l is largest.

    Parameters
    ----------
    p, tests
        See `false_discovery_rate`.

    Returns
    -------
    (V,) float64
        The smallest false discovery rate at which each would be rejected.
    """

    def rates(ordered: Float64, place: Float64) -> Float64:
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.maximum.accumulate((place / ordered)[::-1])[::-1]
            smallest = (len(place) + 1 - place) / (most - place)
        largest: Float64 = np.maximum.accumulate(smallest)
        return largest

    return _adjusted(p, tests, rates)


def _adjusted(p: Float64, tests: int | None, rates: Callable[[Float64, Float64], Float64]) -> Float64:
    """1 at most, and 1 for what is no test; `rates` are those of the tests from their sorted p and places from 1."""
    count = len(p) if tests is None else tests
    order = np.argsort(p, kind="stable")[:count]
    adjusted = np.ones(len(p))
    adjusted[order] = np.minimum(rates(p[order], np.arange(1, count + 1, dtype=np.float64)), 1.0)
    return adjusted


FALSE_DISCOVERY_RATES = {"bh": false_discovery_rate, "bky": adaptive_false_discovery_rate}
"""Adjusted p-values by the initials of the authors of each procedure."""


def critical_value(null: ArrayLike, level: float = 0.05) -> float:
    """Value that an observed statistic must exceed at a family-wise level: the ⌈(1 − level)·N⌉-th smallest.

    Parameters
    ----------
    null : (N,) array_like
        Maximum of each permutation.
    level : float
        Family-wise error rate.
    """
    null = np.sort(np.asarray(null, dtype=np.float64))
    # (1 − 0.05)·20 is 19.000000000000004 in binary: take off what rounding may have added.
    rank = math.ceil((1 - level) * len(null) - 1e-9)
    return float(null[max(rank, 1) - 1])
