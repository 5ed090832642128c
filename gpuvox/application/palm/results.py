"""What a test found: its statistic, and for each unit of inference the null distribution and p."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpuvox.application.palm.contrasts import PalmTest
from gpuvox.application.palm.description import PalmDescription
from gpuvox.pvalues import count_below
from gpuvox.tail_runs import Tail
from gpuvox.types import Float64


@dataclass(frozen=True, eq=False)
class Unit:
    """What one unit of inference found: the elements by themselves, TFCE, or clusters.

    Attributes
    ----------
    name : str
        In names of files: ``vox``, ``dat``, ``tfce``, ``clustere``, ``clusterm``.
    values : (V,) float64
        The unpermuted values.
    least_ties : (V,) float64
        The least values that tie with them.
    maxima : (N,) float64, optional
        Of each shuffling, the unpermuted first; None where there is no correction over elements.
    uncorrected : (V,) float64, optional
        p of each element by itself.
    """

    name: str
    values: Float64
    least_ties: Float64
    maxima: Float64 | None = None
    uncorrected: Float64 | None = None


@dataclass(frozen=True, eq=False)
class Tested:
    """A finished test.

    Attributes
    ----------
    test : PalmTest
    kind : str
        ``tstat``, ``fstat``, ``vstat``, ``gstat``, ``rstat``, ``rsqstat``.
    statistic : (V,) float64
        Unpermuted, as it is.
    z : (V,) float64
        As a normal score; signed, where the statistic is.
    units : dict of Unit
        By name.
    dof : float or (V,) float64
        Error degrees of freedom; NaN if there are none.
    n : int
        Number of shufflings.
    is_counted : bool
        p are shares of all shufflings though an approximation is asked for: they come in an order.
    """

    test: PalmTest
    kind: str
    statistic: Float64
    z: Float64
    units: dict[str, Unit] = field(default_factory=dict)
    dof: float | Float64 = float("nan")
    n: int = 1
    is_counted: bool = False


def at_least(null: Float64, least: Float64) -> Float64:
    """The share of a null distribution (N,) that reaches each of some values."""
    reaching: Float64 = (len(null) - count_below(null, least)) / len(null)
    return reaching


TAILS = {"tail": Tail("pareto"), "gamma": Tail("gamma")}
"""Approximations of null distributions, by the values of ``-accel``."""


def approximate(description: PalmDescription, null: Float64, unit: Unit, p: Float64) -> Float64:
    """p of a unit from an approximation of a null distribution (N,), if one is asked for; 1 outside of clusters."""
    if description.acceleration not in TAILS:
        return p
    fitted = TAILS[description.acceleration].of_null(null, unit.values, p).p
    return np.where(unit.values > 0, fitted, 1.0) if unit.name.startswith("cluster") else fitted
