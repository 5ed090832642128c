"""The permutation test of one contrast as a fold over ranges of shuffles.

A `PermutationTest` is an immutable value. `observe` evaluates shuffle 0 (no shuffling) and fixes what every other
shuffle needs of it: the steps of TFCE and the observed maps. `ObservedTest.run` is then a pure function: shuffles
``start … stop − 1`` → a small `BlockResult`. A `Tally` adds results up in any order. The bits depend neither on
the order nor on how the range was cut.

The engine knows arrays only: no image, no file, no option of a command.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuvox.cluster import cluster_maps, cluster_maxima, label
from gpuvox.compiled import loop
from gpuvox.glm import TIE, f_to_z
from gpuvox.grid import Grid
from gpuvox.shuffle import ImportedShuffler, Shuffler
from gpuvox.tfce import Enhancer, LevelOverflow, Tfce, step_size

__all__ = ["BlockResult", "LevelOverflow", "ObservedTest", "PermutationTest", "Statistics", "Tally"]

BATCH_BYTES = 16 << 20
"""Size of the batch of statistic maps that is held at a time."""

CLUSTER_KINDS = {"clustere": 0, "clusterm": 1}
"""Statistics of clusters: extent and mass, as `cluster` returns them."""

Maps = dict[str, NDArray]
Float32 = NDArray[np.float32]


class StatisticModel(Protocol):
    """What the test asks of a model (`glm.Glm`, `voxelwise.VoxelwiseGlm`)."""

    @property
    def n_voxels(self) -> int: ...
    @property
    def df(self) -> int: ...
    @property
    def f_dfs(self) -> tuple[int, int] | None: ...
    @property
    def has_exact(self) -> bool: ...
    def maps(self, shuffles: NDArray) -> Float32: ...
    def exact_map(self, shuffle: NDArray) -> NDArray[np.float64]: ...
    def exact(self, shuffle: NDArray, voxels: NDArray[np.int64]) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Statistics:
    """What is wanted of each permutation.

    Parameters
    ----------
    voxel : bool
        Maximum of the statistic itself.
    tfce : Tfce, optional
        Threshold-free cluster enhancement.
    extent, mass : float, optional
        Cluster-forming thresholds for the extent (voxels) and the mass (sum of the statistic) of clusters.
    uncorrected : bool
        Count, at every voxel, the permutations that lie below the observed value.
    two_pass : bool
        Normalise cluster extent and TFCE by their local mean over permutations (a second pass over them).
    """

    voxel: bool = True
    tfce: Tfce | None = None
    extent: float | None = None
    mass: float | None = None
    uncorrected: bool = False
    two_pass: bool = False

    def __post_init__(self) -> None:
        for name in ("extent", "mass"):
            threshold = getattr(self, name)
            if threshold is not None and not (threshold > 0 and math.isfinite(threshold)):
                raise ValueError(f"the cluster-forming threshold is {threshold}; it must be a positive number")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the statistics of the first pass, as in FSL's file names."""
        wanted = {
            "vox": self.voxel,
            "clustere": self.extent is not None,
            "clusterm": self.mass is not None,
            "tfce": self.tfce is not None,
        }
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)

    def threshold(self, kind: str) -> float:
        """Cluster-forming threshold of a statistic of clusters."""
        threshold = self.extent if kind == "clustere" else self.mass
        if threshold is None:
            raise ValueError(f"no cluster-forming threshold is set for {kind}")
        return threshold

    @property
    def normalised(self) -> tuple[str, ...]:
        """Names of the statistics of the second pass."""
        if not self.two_pass:
            return ()
        return tuple(new for old, new in (("clustere", "clustern"), ("tfce", "tfcen")) if old in self.kinds)


@dataclass(frozen=True, eq=False)
class BlockResult:
    """What shuffles ``start … stop − 1`` contribute.

    Attributes
    ----------
    maxima : dict of (2, stop − start) arrays
        Per statistic, largest value of each permuted map and of its negative.
    below : dict of (2, V) int64
        Per statistic, permutations strictly below the observed value, for the map and its negative.
    total, nonzero : dict of (2, V) int64
        For the two-pass scheme: sums of the values, and permutations in which the voxel is not zero.
    """

    start: int
    stop: int
    maxima: Maps
    below: Maps = field(default_factory=dict)
    total: Maps = field(default_factory=dict)
    nonzero: Maps = field(default_factory=dict)


class Tally:
    """Sum of block results, in any order.

    Parameters
    ----------
    n : int
        Number of shuffles of the whole run.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.done = np.zeros(n, dtype=bool)
        self.maxima: Maps = {}
        self.below: Maps = {}
        self.total: Maps = {}
        self.nonzero: Maps = {}

    @property
    def is_complete(self) -> bool:
        """Whether every shuffle has been counted."""
        return bool(self.done.all())

    def add(self, result: BlockResult) -> None:
        """Add the result of a range of shuffles that is not in the tally yet.

        Raises
        ------
        ValueError
            Some of the shuffles were counted before, or the range does not belong to the run.
        """
        part = slice(result.start, result.stop)
        if not 0 <= result.start <= result.stop <= self.n:
            raise ValueError(f"shuffles {result.start} to {result.stop} are not among the run's {self.n}")
        if self.done[part].any():
            raise ValueError(f"shuffles {result.start} to {result.stop} are already counted")
        for kind, values in result.maxima.items():
            if kind not in self.maxima:
                self.maxima[kind] = np.zeros((2, self.n), dtype=values.dtype)
            self.maxima[kind][:, part] = values
        for name in ("below", "total", "nonzero"):
            mine = getattr(self, name)
            for kind, values in getattr(result, name).items():
                mine[kind] = mine[kind] + values if kind in mine else values
        self.done[part] = True


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """A permutation test of one contrast, as an immutable value.

    Parameters
    ----------
    model : StatisticModel
        Gives statistic maps for shuffles.
    grid : Grid
        Mask and neighbourhood of the voxels.
    shuffler : Shuffler
        Shuffles of this run.
    statistics : Statistics
        What is wanted.
    signs : {1, 2}
        2: the negative contrast is tested too. It shares every map; results have a row for either sign, and with
        1 the second row means nothing.
    level_cap : int
        Steps of TFCE that are prepared for. A run that meets a map with more starts again with a larger cap,
        because the integer scores of two caps do not mix.
    """

    model: StatisticModel
    grid: Grid
    shuffler: Shuffler | ImportedShuffler
    statistics: Statistics = field(default_factory=Statistics)
    signs: int = 1
    level_cap: int = 512

    def observe(self) -> ObservedTest:
        """Evaluate shuffle 0 and fix what the other shuffles are measured against.

        Returns
        -------
        ObservedTest
        """
        # In float64, rounded once: one unit in the last place of the maximum adds or drops a step of TFCE.
        exact = self.model.exact_map(self.shuffler.shuffles(0, 1)[0])
        statistic = exact.astype(np.float32)[None]
        enhancer = None
        tfce = self.statistics.tfce
        if tfce is not None:
            # A step of 0 (no positive value, or a sign that is not wanted) leaves that sign blank.
            peaks = _extremes(exact[None] if self.model.f_dfs is None else self._enhanceable(statistic))[:, 0]
            up = step_size(peaks[0], tfce)
            down = step_size(peaks[1], tfce) if self.signs == 2 else 0.0
            enhancer = Enhancer(self.grid, tfce, (up, down), self.level_cap)
        return ObservedTest(self, enhancer, statistic[0], self._values(statistic, enhancer))

    def with_cap(self, needed: int) -> PermutationTest:
        """The same test, prepared for at least `needed` steps of TFCE."""
        return replace(self, level_cap=max(1 << (needed - 1).bit_length(), 2 * self.level_cap))

    def _enhanceable(self, statistic: Float32) -> Float32:
        """The maps that TFCE sees: t, or the z equivalent of F."""
        return statistic if self.model.f_dfs is None else f_to_z(statistic, *self.model.f_dfs)

    def _values(self, statistic: Float32, enhancer: Enhancer | None, kinds: tuple[str, ...] = ()) -> Maps:
        """Values at every voxel, (B, V) each: positive for the map, negative for its negative."""
        wanted = self.statistics
        maps: Maps = {}
        for kind in kinds or wanted.kinds:
            if kind == "vox":
                maps[kind] = statistic
            elif kind in CLUSTER_KINDS:
                maps[kind] = cluster_maps(statistic, self.grid, wanted.threshold(kind))[CLUSTER_KINDS[kind]]
            elif kind == "tfce" and enhancer is not None:
                maps[kind] = enhancer.maps(self._enhanceable(statistic))
        return maps


@dataclass(frozen=True, eq=False)
class ObservedTest:
    """A test whose unshuffled maps are known.

    Attributes
    ----------
    test : PermutationTest
    enhancer : Enhancer or None
        TFCE with its steps fixed by the unshuffled map.
    statistic : (V,) float32
        Unshuffled statistic.
    observed : dict of (1, V) arrays
        Per statistic, the unshuffled values: positive for the map, negative for its negative (integer scores for
        TFCE).
    local_mean : dict of (2, V) float64
        In the second pass of the two-pass scheme: local means to divide by.
    """

    test: PermutationTest
    enhancer: Enhancer | None
    statistic: Float32
    observed: Maps
    local_mean: Maps = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of shuffles of the run."""
        return self.test.shuffler.n

    @property
    def batch(self) -> int:
        """Shuffles worth holding at a time."""
        wide = bool(self.test.statistics.uncorrected or self.test.statistics.two_pass)
        per_map = self.test.model.n_voxels * (16 if wide else 4)
        size = int(np.clip(BATCH_BYTES // max(per_map, 1), 1, 1024))
        return 1 << (size.bit_length() - 1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Statistics of this pass."""
        wanted = self.test.statistics
        return wanted.normalised if self.local_mean else wanted.kinds

    def run(self, start: int, stop: int, callback: Callable[[int, Maps], None] | None = None) -> BlockResult:
        """Evaluate shuffles ``start … stop − 1``.

        Parameters
        ----------
        start, stop : int
            Range of shuffles; 0 is the unshuffled one.
        callback : callable, optional
            Called as ``callback(i, maps)`` with the maps (V,) of every statistic of shuffle i.

        Raises
        ------
        LevelOverflow
            A map has more steps of TFCE than were prepared for; start again from `PermutationTest.with_cap`.
        """
        shuffles = self.test.shuffler.shuffles(start, stop)
        statistic = self.test.model.maps(shuffles)
        self._settle_ties(shuffles, statistic)
        if self.local_mean:
            return self._second_pass(start, stop, statistic)
        wanted = self.test.statistics
        maps: Maps = {}
        if wanted.uncorrected or wanted.two_pass or callback:
            maps = self.test._values(statistic, self.enhancer, self.kinds)
        if callback:
            for b in range(stop - start):
                callback(start + b, {kind: values[b] for kind, values in maps.items()})
        result = BlockResult(start, stop, self._maxima(start, shuffles, statistic, maps))
        if wanted.uncorrected:
            for kind, values in maps.items():
                result.below[kind] = self._below(start, shuffles, kind, values)
        if wanted.two_pass:
            self._sum_up(maps, result)
        return result

    def _settle_ties(self, shuffles: NDArray, statistic: Float32) -> None:
        """Compute in float64 the maps that may be the observed map, or its negative, at every voxel.

        Data can make them so where the design does not: a subject that is there twice, few distinct images.
        Clusters and TFCE must then tie too.
        """
        for b in range(len(statistic)):
            if _ties_everywhere(statistic[b], self.statistic):
                statistic[b] = self.test.model.exact_map(shuffles[b])

    def in_units(self, kind: str, values: NDArray, row: int) -> NDArray:
        """Values of a statistic in FSL's units: integer scores of TFCE become numbers."""
        if kind == "tfce" and self.enhancer is not None:
            return self.enhancer.to_float(values, row)
        return values

    # -- maxima ------------------------------------------------------------------------------------------------

    def _maxima(self, start: int, shuffles: NDArray, statistic: Float32, maps: Maps) -> Maps:
        wanted = self.test.statistics
        maxima: Maps = {}
        for kind in self.kinds:
            if kind == "vox":
                maxima[kind] = self._voxel_maxima(start, shuffles, statistic)
            elif kind in maps:
                maxima[kind] = _extremes(maps[kind])
            elif kind == "tfce" and self.enhancer is not None:
                maxima[kind] = self.enhancer.maxima(self.test._enhanceable(statistic))
            else:
                maxima[kind] = cluster_maxima(statistic, self.test.grid, wanted.threshold(kind))[
                    CLUSTER_KINDS[kind]
                ]
        return maxima

    def _voxel_maxima(self, start: int, shuffles: NDArray, statistic: Float32) -> NDArray[np.float32]:
        """(2, B) Maxima; the voxels that decide them are computed in float64, so that ties are ties."""
        maxima = _extremes(statistic).astype(np.float32)
        if not self.test.model.has_exact:
            return maxima
        for b in range(1 if start == 0 else 0, len(statistic)):
            for row, sign in enumerate((1, -1)[: self.test.signs]):
                if maxima[row, b] <= 0:
                    continue
                close = _close_to_maximum(statistic[b], np.float32(sign), maxima[row, b])
                exact = self.test.model.exact(shuffles[b], close).astype(np.float32)
                maxima[row, b] = (sign * exact).max()
        return maxima

    # -- counts ------------------------------------------------------------------------------------------------

    def _below(self, start: int, shuffles: NDArray, kind: str, values: NDArray) -> NDArray[np.int64]:
        """(2, V) How many of these maps, and of their negatives, lie strictly below the observed value."""
        observed = self.observed[kind][0]
        if kind == "vox":
            below = _count_below(values, observed, False)
            if self.test.model.has_exact:
                self._recount_ties(start, shuffles, values, observed, below)
            return below
        return _count_below(values, observed, True)

    def _recount_ties(
        self,
        start: int,
        shuffles: NDArray,
        values: Float32,
        observed: Float32,
        below: NDArray[np.int64],
    ) -> None:
        """Compare again in float64 where float32 cannot tell below from equal."""
        for b in range(1 if start == 0 else 0, len(values)):
            close = _near_ties(values[b], observed)
            if not len(close):
                continue
            exact = self.test.model.exact(shuffles[b], close).astype(np.float32)
            rough, target = values[b, close], observed[close]
            below[0, close] += (exact < target).astype(np.int64) - (rough < target)
            below[1, close] += (exact > target).astype(np.int64) - (rough > target)

    # -- two-pass scheme -----------------------------------------------------------------------------------------

    @cached_property
    def _shift(self) -> int:
        """Bits to drop from TFCE's integer scores so that their sum over all shuffles fits in 63 bits."""
        return max(self.n - 1, 1).bit_length()

    def _sum_up(self, maps: Maps, result: BlockResult) -> None:
        for kind in ("clustere", "tfce"):
            if kind in maps:
                values = maps[kind]
                is_score = values.dtype == np.int64 and kind == "tfce"
                positive, negative = np.maximum(values, 0), np.maximum(-values, 0)
                if is_score:
                    positive, negative = positive >> self._shift, negative >> self._shift
                result.total[kind] = np.stack([positive.sum(axis=0), negative.sum(axis=0)])
                result.nonzero[kind] = np.stack([(values > 0).sum(axis=0), (values < 0).sum(axis=0)])

    def sums(self, tally: Tally) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Sums over all permutations in the statistic's units, and counts of the non-zero ones, (2, V) each."""
        sums = {}
        for kind, total in tally.total.items():
            value = total.astype(np.float64)
            if kind == "tfce" and self.enhancer is not None and total.dtype == np.int64:
                value *= 2.0**self._shift
                value = np.stack([self.in_units("tfce", value[row], row) for row in (0, 1)])
            sums[kind] = value, tally.nonzero[kind]
        return sums

    def second_pass(self, tally: Tally) -> ObservedTest:
        """The second pass of the two-pass scheme, from the complete tally of the first.

        The local mean at a voxel is the sum of the values over permutations divided by the number of
        permutations in which the voxel is not zero; for TFCE, local means under their 2nd percentile in the
        mask (the ⌈0.02·V⌉-th smallest) are raised to it.
        """
        means: Maps = {}
        for kind, (total, nonzero) in self.sums(tally).items():
            mean = np.divide(total, nonzero, out=np.zeros_like(total), where=nonzero > 0)
            if kind == "tfce" and mean.shape[1]:
                rank = max(math.ceil(0.02 * mean.shape[1]), 1) - 1
                mean = np.maximum(mean, np.sort(mean, axis=1)[:, rank : rank + 1])
            means[kind] = mean
        second = replace(self, local_mean=means)
        statistic = self.test.model.maps(self.test.shuffler.shuffles(0, 1))
        return replace(second, observed=second._normalised(statistic))

    def _second_pass(self, start: int, stop: int, statistic: Float32) -> BlockResult:
        maps = self._normalised(statistic)
        result = BlockResult(start, stop, {kind: _extremes(values) for kind, values in maps.items()})
        if self.test.statistics.uncorrected:
            for kind, values in maps.items():
                result.below[kind] = _count_below(values, self.observed[kind][0], True)
        return result

    def _normalised(self, statistic: Float32) -> Maps:
        """(B, V) Values over their local means, signed as the maps of the first pass."""
        maps: Maps = {}
        if "clustere" in self.local_mean:
            maps["clustern"] = np.stack([self._normalised_extent(t) for t in statistic])
        if "tfce" in self.local_mean and self.enhancer is not None:
            scores = self.enhancer.maps(self.test._enhanceable(statistic))
            out = np.zeros(scores.shape)
            for row, sign in enumerate((1, -1)):
                mean = self.local_mean["tfce"][row]
                value = self.enhancer.to_float(np.maximum(sign * scores, 0), row)
                out += sign * np.divide(value, mean, out=np.zeros_like(out), where=mean > 0)
            maps["tfcen"] = out
        return maps

    def _normalised_extent(self, t: Float32) -> NDArray[np.float64]:
        """(V,) Extent of each cluster over the mean of the local means of its voxels."""
        threshold = self.test.statistics.threshold("clustere")
        out = np.zeros(len(t))
        for row, sign in enumerate((1, -1)):
            labels, n = label(sign * t, self.test.grid, threshold)
            if n:
                size = np.bincount(labels, minlength=n + 1)
                mean = np.bincount(labels, weights=self.local_mean["clustere"][row], minlength=n + 1) / size
                value = np.divide(size, mean, out=np.zeros(n + 1), where=mean > 0)
                value[0] = 0
                out += sign * value[labels]
        return out


def _extremes(maps: NDArray) -> NDArray:
    """(2, B) Largest value of each map and of its negative."""
    if not maps.shape[1]:
        return np.zeros((2, len(maps)), dtype=maps.dtype)
    return np.stack([maps.max(axis=1), -maps.min(axis=1)])


@loop
def _close_to_maximum(values, sign, maximum):
    """Voxels within rounding of the maximum."""
    bound = maximum - np.float32(TIE) * max(maximum, np.float32(1))
    count = 0
    for v in range(len(values)):
        count += sign * values[v] >= bound
    out = np.empty(count, np.int64)
    count = 0
    for v in range(len(values)):
        if sign * values[v] >= bound:
            out[count] = v
            count += 1
    return out


@loop
def _near_ties(values, observed):
    """Voxels whose value is within rounding of the observed one; voxels that are 0 in both are left out."""
    out = np.empty(len(values), np.int64)
    count = 0
    for v in range(len(values)):
        scale = max(abs(observed[v]), np.float32(1))
        if abs(values[v] - observed[v]) <= np.float32(TIE) * scale and (values[v] != 0 or observed[v] != 0):
            out[count] = v
            count += 1
    return out[:count]


@loop
def _ties_everywhere(values, observed):
    """Whether a map is within rounding of the observed one or of its negative; decided at the first voxel, mostly."""
    same, opposite = True, True
    for v in range(len(values)):
        bound = np.float32(TIE) * max(abs(observed[v]), np.float32(1))
        same &= abs(values[v] - observed[v]) <= bound
        opposite &= abs(values[v] + observed[v]) <= bound
        if not (same or opposite):
            return False
    return True


@loop
def _count_below(values, observed, disjoint):
    """(2, V) Maps below the observed value, and negated maps below its negative.

    `disjoint`: the two signs are separate statistics, each 0 where the other is not (TFCE, clusters).
    """
    zero = values.dtype.type(0)
    below = np.zeros((2, values.shape[1]), np.int64)
    for b in range(values.shape[0]):
        for v in range(values.shape[1]):
            value, target = values[b, v], observed[v]
            if disjoint:
                below[0, v] += max(value, zero) < max(target, zero)
                below[1, v] += max(-value, zero) < max(-target, zero)
            else:
                below[0, v] += value < target
                below[1, v] += value > target
    return below
