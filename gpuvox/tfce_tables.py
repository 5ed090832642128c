"""Options of TFCE, its steps of height, and the tables of thresholds and weights of which integer scores are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpuvox.errors import InputError
from gpuvox.grid import CONNECTIVITIES
from gpuvox.heights import LINEAR
from gpuvox.types import AnyArray, Float32, Ints

MAX_LEVELS = 1 << 22
"""Most steps of height that are handled: float32 sums of δ stop growing soon after."""
ORDINARY_PEAK = 50.0
"""A statistic up to this is not an outlier, however few voxels reach it."""
SPARE = 10.0
"""Multiple of what many voxels reach, up to which a statistic is not an outlier."""
FIRST_LEVELS = 512
"""Number of levels of the first table."""
ENOUGH_BITS = 18
"""Fraction bits that a table larger than the first must keep."""
CODE_LEVELS = 32_000
"""Most steps that fit the int16 codes of the fast kernel; more go through `_grow`."""
STEPS_TO_MAXIMUM = 100
"""FSL: δ is a hundredth of the maximum of the unpermuted map."""


@dataclass(frozen=True)
class Tfce:
    """Options of TFCE.

    Parameters
    ----------
    H, E : float
        Exponents of height and extent.
    connectivity : {6, 18, 26}
        Which voxels are neighbours.
    delta : float or "robust", optional
        Step of height; by default a hundredth of the maximum of the unpermuted map, FSL's rule, which a single voxel
        can lead astray: where one separates two groups perfectly (lesions), t is 10⁷ and more, and no other voxel
        reaches the first step. "robust" is a hundredth of min(maximum, max(50, 10·Q)), with Q the k-th largest value,
        0 if it is negative, and k the larger of 10 and a hundredth of the V voxels, but no more than half of V
        (`robust_peak`). t and z have a scale of their own: no more than 50 is the maximum of all ordinary maps, and of
        most strong effects, which so keep FSL's step. A higher maximum counts as far as more than a few voxels share
        it, within a factor of 10, so that at least ten steps lie under the k-th voxel.
    exact : bool
        The integral ∫ e(h)^E h^H dh in closed form instead of the sum over steps: float64, no δ.
    rule : {"randomise", "palm"}
        How the sum over steps is taken. FSL's: of the voxels above δ, 2δ, …, as float32 sums, and 0 if H is 0. PALM's:
        of the voxels at or above the multiples of δ, and the sum is multiplied by δ; without `delta`, δ is a hundredth
        of each map's own maximum, permuted or not (`own_steps`).

    Raises
    ------
    InputError
        An option is out of range.
    """

    H: float = 2.0
    E: float = 0.5
    connectivity: int = 6
    delta: float | Literal["robust"] | None = None
    exact: bool = False
    rule: Literal["randomise", "palm"] = "randomise"

    @classmethod
    def of_dimension(cls, dimension: int, **changes: Any) -> Tfce:
        """PALM's settings for surfaces (2) and for skeletons (1), ``-tfce2D`` and ``-tfce1D``, or changes of these."""
        settings = {2: {"E": 1.0, "connectivity": 26}, 1: {"E": 2.0, "connectivity": 6}}[dimension]
        return cls(**{"H": 2.0, "rule": "palm", **settings, **changes})

    @property
    def has_own_steps(self) -> bool:
        """Whether every map has steps of its own."""
        return self.rule == "palm" and self.delta is None and not self.exact

    def __post_init__(self) -> None:
        for name in ("H", "E"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(
                    f"TFCE's {name} is {value}; it must be a number of at least 0", option=f"--tfce_{name}"
                )
        if self.connectivity not in CONNECTIVITIES:
            raise InputError(
                f"TFCE's connectivity is {self.connectivity}; it must be 6, 18 or 26", option="--tfce_C"
            )
        if self.rule == "palm" and self.delta == "robust":
            raise InputError("TFCE's delta is 'robust', which PALM's rule does not have", option="--tfce_D")
        if self.delta is None or self.delta == "robust":
            return
        if isinstance(self.delta, str) or not (self.delta > 0 and math.isfinite(self.delta)):
            raise InputError(
                f"TFCE's delta is {self.delta}; it must be a positive number, or 'robust'", option="--tfce_D"
            )


class LevelOverflow(Exception):
    """A map rises above the last step of the tables.

    Attributes
    ----------
    needed : int
        Number of levels that would have been enough.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(f"TFCE needs {needed} levels")
        self.needed = needed

    def __reduce__(self) -> tuple[type[LevelOverflow], tuple[int]]:
        return LevelOverflow, (self.needed,)


def step_size(peak: float, options: Tfce) -> float:
    """Step δ for a map of this maximum.

    Parameters
    ----------
    peak : float
        Maximum of the unpermuted map (of its negative, for the negative sign), before rounding to float32; what
        `robust_peak` says of it where the step is to be robust.
    options : Tfce

    Returns
    -------
    float
        `options.delta` if set, else a hundredth of the maximum, in float32 as in FSL; 0, which leaves the sign
        blank, where the maximum is not positive.
    """
    if options.delta is not None and not isinstance(options.delta, str):
        return float(options.delta if options.rule == "palm" else np.float32(options.delta))
    return float(np.float32(float(peak) / STEPS_TO_MAXIMUM)) if peak > 0 else 0.0


def robust_peak(values: AnyArray) -> float:
    """The maximum of a map (V,) of t or z, less what a few outlying voxels make of it; see `Tfce`."""
    if not len(values):
        return 0.0
    rank = min(max(10, -(-len(values) // 100)), -(-len(values) // 2))
    shared = max(float(np.partition(values, -rank)[-rank]), 0.0)
    return min(float(values.max()), max(ORDINARY_PEAK, SPARE * shared))


@dataclass(frozen=True, eq=False)
class LevelTable:
    """Thresholds and weights of the levels of one sign.

    A score is Σ_k S[n_k]·w_k with S[n] = round(n^E·2^q), w_k = round((h_k/δ)^H·2^r). q and r depend on V, E, H
    and the number of levels alone and let the largest sum fit in 63 bits: q = 0 for integer E, r = 0 for integer
    H (where that fits). With V = 235,000, 512 levels, E = 0.5, H = 2: q = 28, so S[n] is good to 2e-9.

    Attributes
    ----------
    delta : float
        Step, a float32 number by FSL's rule; 0 for a sign that is blank.
    thresholds : (cap + 1,) float32
        Thresholds of positive weight, summed in float32 as in FSL: δ, 2δ, … for H > 0; 0, δ, … for H = 0, where
        0^0 = 1. By PALM's rule: the largest numbers below δ, 2δ, … Level = number of thresholds < |t|. The last one is
        beyond the table: a map must not exceed it.
    weights : (cap + 1,) int64
        C[k] = Σ w over the k lowest thresholds.
    sizes : (V + 1,) int64
        S[n] for each size of a component; S[0] = 0.
    scale : float
        Score × scale = TFCE in FSL's units.
    slack : float
        Relative rounding of the thresholds and of |t|/δ: where |t|/δ is further than slack·(|t|/δ + 1) from an
        integer it decides the level without a look at the table.
    unit : float
        What 1 in (h/δ)^H is in the weights, 2^r.
    """

    delta: float
    thresholds: Float32
    weights: Ints
    sizes: Ints
    scale: float
    slack: float
    unit: float = 1.0

    @property
    def cap(self) -> int:
        """Number of levels."""
        return len(self.weights) - 1


def _fraction_bits(options: Tfce, n_voxels: int, cap: int) -> tuple[int, int]:
    """(q, r): fraction bits of S and w such that S[V]·Σw < `LINEAR`."""
    heights = np.arange(1.0, cap + 1)
    with np.errstate(over="ignore"):
        largest = float(max(n_voxels, 1)) ** options.E * (heights**options.H).sum()
        # Sums in float32 overshoot kδ by at most k·2^-24 of themselves; 1 % for rounding, the rest for `LINEAR`.
        largest *= 1.01 * 2.0**63 / LINEAR * (1 + cap * 2.0**-24) ** options.H
    if not math.isfinite(largest):
        raise InputError(
            f"TFCE with H = {options.H}, E = {options.E} over {cap} levels is beyond double precision"
        )
    spare = math.floor(63 - math.log2(largest))
    whole_e, whole_h = float(options.E).is_integer(), float(options.H).is_integer()
    if whole_e:
        return 0, min(spare, 0) if whole_h else min(spare, 40)
    # S must keep some bits even where heights alone fill the word; low thresholds then lose theirs.
    q = min(max(spare if whole_h else spare // 2, 14), 40)
    return q, min(spare - q, 0 if whole_h else 40)


def most_levels(options: Tfce, n_voxels: int) -> int:
    """Levels of the largest table whose scores are still good to a part in a million.

    More levels leave fewer bits: with H = 2 and E = 0.5, 2^22 of them would give all heights under 4,000 steps, and so
    whole ordinary maps, the score 0. Maps that rise above this are finished by `heights`.
    """
    cap = FIRST_LEVELS
    while 2 * cap <= CODE_LEVELS:
        q, r = _fraction_bits(options, n_voxels, 2 * cap)
        whole_e, whole_h = float(options.E).is_integer(), float(options.H).is_integer()
        if (not whole_e and q < ENOUGH_BITS) or r < (0 if whole_h else ENOUGH_BITS):
            break
        cap *= 2
    return cap


def level_table(delta: float, options: Tfce, n_voxels: int, cap: int = FIRST_LEVELS) -> LevelTable:
    """Thresholds, weights and size table for one sign.

    Parameters
    ----------
    delta : float
        Step; 0 for a sign that is blank.
    options : Tfce
    n_voxels : int
        Number of voxels of the mask, V.
    cap : int
        Number of levels.

    Returns
    -------
    LevelTable

    Raises
    ------
    InputError
        Too many levels, δ too small for float32, or exponents that overflow.
    """
    if not 1 <= cap <= MAX_LEVELS:
        raise InputError(
            f"TFCE over {cap} levels; between 1 and {MAX_LEVELS} are handled (choose a larger delta)",
            option="--tfce_D",
        )
    q, r = _fraction_bits(options, n_voxels, cap)
    sizes = np.rint(np.arange(n_voxels + 1.0) ** options.E * 2.0**q).astype(np.int64)
    sizes[0] = 0
    if not delta:
        nowhere = np.full(cap + 1, np.inf, dtype=np.float32)
        return LevelTable(0.0, nowhere, np.zeros(cap + 1, dtype=np.int64), sizes, 0.0, 0.0)
    step = np.float32(delta)
    if not step > np.finfo(np.float32).tiny or not np.isfinite(step):
        raise InputError(f"TFCE's step is {delta}; it must be a normal float32 number", option="--tfce_D")
    heights = thresholds(delta, options, cap + 2)
    is_palm = options.rule == "palm"
    relative = np.arange(cap + 2.0) if is_palm else heights.astype(np.float64) / float(step)
    k = np.arange(1, cap + 2)
    slack = float((np.abs(relative[1:] - k) / k).max() + 2.0**-22)
    first = 1 if options.H > 0 or is_palm else 0
    worth = np.rint(relative[first : first + cap] ** options.H * 2.0**r).astype(np.int64)
    weights = np.concatenate([[0], np.cumsum(worth)])
    scale = delta ** (options.H + 1) if is_palm else float(step) ** options.H
    unit = 2.0 ** -(q + r)
    return LevelTable(delta, heights[first : first + cap + 1], weights, sizes, scale * unit, slack, 2.0**r)


def thresholds(delta: float, options: Tfce, n: int) -> Float32:
    """0, δ, 2δ, … summed in float32, or by PALM's rule the largest float32 numbers below the multiples of δ."""
    if options.rule == "palm":
        return below_multiples(delta, n)
    terms = np.full(n, np.float32(delta), dtype=np.float32)
    terms[0] = 0
    return np.add.accumulate(terms, dtype=np.float32)


def below_multiples(delta: float, n: int) -> Float32:
    """(n,) The largest float32 numbers below 0, δ, 2δ, …"""
    multiples = np.arange(n) * delta
    nearest = multiples.astype(np.float32)
    return np.where(nearest >= multiples, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def levels_needed(table: LevelTable, options: Tfce, peak: float, most: int) -> int:
    """Number of levels of a map of this maximum; more than `most` if it has more."""
    if not table.delta or peak <= 0:
        return 0
    heights = thresholds(table.delta, options, most + 3)
    first = np.searchsorted(heights, table.thresholds[0])
    return int(np.searchsorted(heights, np.float32(peak)) - first)
