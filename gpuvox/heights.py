"""Thresholds of TFCE far beyond any table, and scores beyond 64-bit integers.

A permutation that separates the groups perfectly at a voxel has a statistic millions of steps high: data of few
values in small groups do that. A table of so many levels would leave no bits for the others, so the voxels above the
last level of the table, a handful, are taken by themselves. Their score up to the end of the table is an integer
as elsewhere; the part above it is summed in closed form, in float64 on the host, whatever device the maps are on.

**Thresholds.** FSL sums h += δ in float32, so that between two powers of 2 the increment is a constant, but for the
first one or two: δ to the nearest multiple of the spacing of float32 there. A few dozen arithmetic progressions hold
them all. Where h + δ = h the sum stops growing, and FSL does not end; steps of δ itself go on from there.

**Scores.** Up to `LINEAR` an int64 score is what it says. Above, it is LINEAR plus the distance of its float64 bits
from those of LINEAR, over 8: scores of any size keep their order and 49 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuvox.types import AnyArray, Float32, Float64, Ints

LINEAR = (1 << 63) - (1 << 59)
"""Scores up to here are integers; larger ones are logarithmic."""
_DROPPED = 3
"""Bits of a float64 that a logarithmic score has no room for."""
_FIRST_BITS = int(np.float64(LINEAR).view(np.int64))


def add_to_scores(score: Ints, more: Float64) -> Ints:
    """Sums of integer scores of at least 0 and of positive numbers in the same units, as scores of any size."""
    sums = score.astype(np.float64) + more
    linear = sums < LINEAR
    whole = np.rint(np.where(linear, more, 0.0)).astype(np.int64)
    bits = np.minimum(sums, np.finfo(np.float64).max).view(np.int64)
    beyond = np.where(linear, 0, (bits - _FIRST_BITS) >> _DROPPED)
    return np.where(linear, np.minimum(score + whole, LINEAR), LINEAR + beyond)


def score_values(score: AnyArray) -> Float64:
    """Values of scores, of either sign."""
    score = np.asarray(score)
    values = score.astype(np.float64)
    if score.dtype != np.int64:
        return values
    beyond = np.abs(score) > LINEAR
    if beyond.any():
        bits = ((np.abs(score[beyond]) - LINEAR) << _DROPPED) + _FIRST_BITS
        values[beyond] = np.sign(score[beyond]) * bits.view(np.float64)
    return values


@dataclass(frozen=True, eq=False)
class Ladder:
    """The thresholds h, h + δ, h + 2δ, … as float32 sums, from some threshold on.

    Attributes
    ----------
    step : float
        δ, a float32 number.
    start, rise, count : (m,) float64
        Arithmetic progressions, one above the other; the last one has no end.
    reached : bool
        Whether a threshold that is equal to a height is under it.
    """

    step: float
    start: Float64
    rise: Float64
    count: Float64
    reached: bool = False

    def sums(self, height: Float32, power: float) -> Float64:
        """Σ (h/δ)^power over the thresholds under each height.

        By Euler and Maclaurin's formula over each progression (Abramowitz & Stegun 23.1.30), which is good to 1e-12
        from a few hundred steps on, where ladders start. Not finite where that is beyond double precision.
        """
        steps = (height.astype(np.float64)[:, None] - self.start) / self.rise
        below = np.floor(steps) + 1 if self.reached else np.ceil(steps)
        below = np.clip(below, 0, self.count)
        low = (self.start - self.rise / 2) / self.step
        rise = self.rise / self.step
        high = low + below * rise
        with np.errstate(over="ignore", invalid="ignore"):
            sums = (_primitive(high, power) - _primitive(low, power)) / rise
            if power > 0:
                sums -= power * (high ** (power - 1) - low ** (power - 1)) * rise / 24
        total: Float64 = np.where(below > 0, sums, 0.0).sum(axis=1)
        return total


def _primitive(x: Float64, power: float) -> Float64:
    return x ** (power + 1) / (power + 1)


def ladder(step: np.float32, first: np.float32) -> Ladder:
    """All thresholds from `first` on."""
    parts: list[tuple[float, float, float]] = []
    h = np.float32(first)
    while True:
        after = np.float32(h + step)
        rise = float(after) - float(h)
        if not rise > 0 or not np.isfinite(after):
            parts.append((float(h), float(step), math.inf))
            return Ladder(float(step), *np.array(parts).T)
        n = 1
        if float(np.float32(after + step)) - float(after) == rise:
            end = 2.0 ** math.frexp(float(after))[1]  # the spacing of float32 changes there
            # From `after` on every step is the same until the end is passed.
            n += max(int((end - float(after)) // rise), 0)
        parts.append((float(h), rise, float(n)))
        h = np.float32(float(h) + n * rise)


def multiples_from(delta: float, first: int) -> Ladder:
    """The thresholds first · δ, (first + 1) · δ, …, which count where they are reached."""
    return Ladder(delta, np.array([first * delta]), np.array([delta]), np.array([math.inf]), reached=True)
