"""The permutation test of one contrast as a fold over ranges of shuffles.

A `PermutationTest` is an immutable value. `observe` evaluates shuffle 0 (no shuffling) and fixes what every other
shuffle needs of it: the steps of TFCE and the observed maps. `ObservedTest.run` is then a pure function: shuffles
``start … stop − 1`` → a small `BlockResult`. A `Tally` adds results up in any order. The bits depend neither on
the order nor on how the range was cut.

The engine knows arrays only: no image, no file, no option of a command. Where the model has a device, the maps of a
batch are made there and stay there; what leaves are maxima, counts and sums.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.device import Device, OutOfDeviceMemory
from gpuvox.grid import Grid
from gpuvox.reductions import (
    Items,
    close_to_maximum,
    count_below,
    extremes,
    near_steps,
    near_threshold,
    near_ties,
    normalise,
    put,
    sum_up,
    ties_everywhere,
)
from gpuvox.shuffle import ImportedShuffler, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.tally import BlockResult, Maps, Tally
from gpuvox.tfce import FIRST_LEVELS, Enhancer, LevelOverflow, most_levels, robust_peak, step_size

__all__ = [
    "LevelOverflow",
    "ObservedTest",
    "PermutationTest",
]

BATCH_BYTES = 16 << 20
"""Size of the batch of statistic maps that is held at a time."""
STREAMED_BATCH_BYTES = 128 << 20
"""The same where every batch reads the data from a file: the products for it take longer than reading."""

SUM_TIE = 4e-6
"""Relative difference within which sums of a float32 statistic are the same."""

CLUSTER_KINDS = {"clustere": 0, "clusterm": 1}
"""Statistics of clusters: extent and mass, as `cluster` returns them."""

MapsAnywhere = dict[str, Any]
"""Maps by statistic, on the host or on a device."""
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
    @property
    def device(self) -> Device | None: ...
    @property
    def streamed(self) -> bool: ...
    def to_z(self, statistic: Any) -> Any: ...
    def equivalent(self, shuffles: NDArray) -> NDArray[np.bool_]: ...
    def statistic_maps(self, shuffles: NDArray, equivalent: NDArray[np.bool_] | None = None) -> Any: ...
    def settle(self, shuffles: NDArray, maps: Any, chosen: NDArray[np.bool_]) -> None: ...
    def exact_map(self, shuffle: NDArray) -> NDArray[np.float64]: ...
    def exact(self, shuffles: NDArray, number: NDArray, voxels: NDArray) -> NDArray[np.float64]: ...
    def release(self) -> None: ...


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """A permutation test of one contrast, as an immutable value.

    Parameters
    ----------
    model : StatisticModel
        Gives statistic maps for shuffles; its device is where everything takes place.
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
        Steps of TFCE that are prepared for. A run that meets a map with more, up to `tfce.most_levels`, starts
        again with a larger cap, because the integer scores of two caps do not mix; higher maps start nothing.
    """

    model: StatisticModel
    grid: Grid
    shuffler: Shuffler | ImportedShuffler
    statistics: Statistics = field(default_factory=Statistics)
    signs: int = 1
    level_cap: int = FIRST_LEVELS

    @property
    def device(self) -> Device | None:
        """Where the maps are; None is the CPU."""
        return self.model.device

    def observe(self) -> ObservedTest:
        """Evaluate shuffle 0 and fix what the other shuffles are measured against.

        Returns
        -------
        ObservedTest
        """
        return _on(self.device, self._observe)

    def _observe(self) -> ObservedTest:
        # In float64, rounded once: one unit in the last place of the maximum adds or drops a step of TFCE.
        exact = self.model.exact_map(self.shuffler.shuffles(0, 1)[0])
        statistic = exact.astype(np.float32)[None]
        maps = self._upload(statistic)
        enhancer = self._enhancer(exact[None], maps)
        return ObservedTest(self, enhancer, statistic[0], self._download(self._values(maps, enhancer)))

    def _enhancer(self, exact: NDArray[np.float64], maps: Any) -> Enhancer | None:
        """TFCE with the steps that the unshuffled map asks for."""
        tfce = self.statistics.tfce
        if tfce is None:
            return None
        # A step of 0 (no positive value, or a sign that is not wanted) leaves that sign blank.
        peaks = extremes(exact) if self.model.f_dfs is None else extremes(self._enhanceable(maps), self.device)
        up, down = peaks[:, 0]
        if tfce.delta == "robust":
            seen = exact if self.model.f_dfs is None else self._download({"": self._enhanceable(maps)})[""]
            up, down = robust_peak(seen[0]), robust_peak(-seen[0])
        up, down = step_size(up, tfce), step_size(down, tfce) if self.signs == 2 else 0.0
        most = most_levels(tfce, self.grid.n_voxels)
        return Enhancer(self.grid, tfce, (up, down), self.level_cap, self.device, most)

    def _upload(self, maps: NDArray) -> Any:
        return maps if self.device is None else self.device.upload(maps)

    def _download(self, maps: MapsAnywhere) -> Maps:
        return {k: v if self.device is None else self.device.download(v) for k, v in maps.items()}

    def with_cap(self, needed: int) -> PermutationTest:
        """The same test, prepared for at least `needed` steps of TFCE."""
        return replace(self, level_cap=max(1 << (needed - 1).bit_length(), 2 * self.level_cap))

    def _enhanceable(self, statistic: Any) -> Any:
        """The maps that TFCE sees: t, or the z equivalent of F."""
        return statistic if self.model.f_dfs is None else self.model.to_z(statistic)

    def _values(self, statistic: Any, enhancer: Enhancer | None, kinds: tuple[str, ...] = ()) -> MapsAnywhere:
        """Values at every voxel, (B, V) each: positive for the map, negative for its negative."""
        wanted = self.statistics
        maps: MapsAnywhere = {}
        for kind in kinds or wanted.kinds:
            if kind == "vox":
                maps[kind] = statistic
            elif kind in CLUSTER_KINDS:
                found = cluster_maps(statistic, self.grid, wanted.threshold(kind), device=self.device)
                maps[kind] = found[CLUSTER_KINDS[kind]]
            elif kind == "tfce" and enhancer is not None:
                maps[kind] = enhancer.enhance(self._enhanceable(statistic))
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
    def device(self) -> Device | None:
        """Where the maps are; None is the CPU."""
        return self.test.device

    @property
    def batch(self) -> int:
        """Shuffles worth holding at a time."""
        wanted, model = self.test.statistics, self.test.model
        wide = wanted.uncorrected or wanted.two_pass or (model.streamed and not model.has_exact)
        per_map = model.n_voxels * (16 if wide else 4)
        room = STREAMED_BATCH_BYTES if model.streamed else BATCH_BYTES
        if self.device is not None:
            room = self.device.free_bytes() // 8
        size = max(1, room // max(per_map, 1))
        if self.device is not None:
            # Whole waves of blocks, whether a processor holds two or three of them.
            wave = 6 * self.device.n_processors
            if size >= wave:
                return wave * min(size // wave, 2)
        return 1 << (min(size, 1024).bit_length() - 1)

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
            Called as ``callback(i, maps)`` with the maps (V,) of every statistic of shuffle i, in FSL's units.

        Raises
        ------
        LevelOverflow
            A map has more steps of TFCE than were prepared for; start again from `PermutationTest.with_cap`.
        """
        shuffles = self.test.shuffler.shuffles(start, stop)
        equivalent = self.test.model.equivalent(shuffles)
        if self.device is None:
            return self._run(start, shuffles, equivalent, callback)
        with self.device.lock:  # other threads make their shuffles meanwhile
            return self._run_in_parts(start, shuffles, equivalent, callback)

    def _run_in_parts(
        self,
        start: int,
        shuffles: NDArray,
        equivalent: NDArray[np.bool_],
        callback: Callable[[int, Maps], None] | None,
    ) -> BlockResult:
        """In one go, or, where the device has not enough memory for that, in halves."""
        if len(shuffles) == 1:
            return _on(self.device, lambda: self._run(start, shuffles, equivalent, callback))
        try:
            return self._run(start, shuffles, equivalent, callback)
        except OutOfDeviceMemory:
            pass
        if self.device is not None:
            gc.collect()  # what failed may still hold arrays
            self.device.release()
        middle = len(shuffles) // 2
        first = self._run_in_parts(start, shuffles[:middle], equivalent[:middle], callback)
        return first.followed_by(
            self._run_in_parts(start + middle, shuffles[middle:], equivalent[middle:], callback)
        )

    def _run(
        self,
        start: int,
        shuffles: NDArray,
        equivalent: NDArray[np.bool_],
        callback: Callable[[int, Maps], None] | None,
    ) -> BlockResult:
        stop = start + len(shuffles)
        statistic = self.test.model.statistic_maps(shuffles, equivalent)
        # Data can make a map the observed one, or its negative, where the design does not: a subject that is there
        # twice, few distinct images. Clusters and TFCE must then tie too.
        self.test.model.settle(shuffles, statistic, ties_everywhere(statistic, self.statistic, self.device))
        self._settle_edges(start, shuffles, statistic)
        if self.local_mean:
            return self._second_pass(start, stop, statistic)
        wanted = self.test.statistics
        maps: MapsAnywhere = {}
        if wanted.uncorrected or wanted.two_pass or callback:
            maps = self.test._values(statistic, self.enhancer, self.kinds)
        result = BlockResult(start, stop, self._maxima(start, shuffles, statistic, maps))
        if wanted.uncorrected:
            for kind, values in maps.items():
                result.below[kind] = self._below(start, shuffles, kind, values)
        if wanted.two_pass:
            self._sum_up(maps, result)
        if callback:
            on_host = {kind: self._own(kind, values) for kind, values in self.test._download(maps).items()}
            for b in range(stop - start):
                callback(start + b, {kind: values[b] for kind, values in on_host.items()})
        return result

    def in_units(self, kind: str, values: NDArray, row: int) -> NDArray:
        """Values of a statistic in FSL's units: integer scores of TFCE become numbers."""
        if kind == "tfce" and self.enhancer is not None:
            return self.enhancer.to_float(values, row)
        return values

    def _own(self, kind: str, values: NDArray) -> NDArray:
        """Maps of the tested contrast in FSL's units, without what belongs to its negative."""
        return values if kind == "vox" else self.in_units(kind, np.maximum(values, 0), 0)

    def least_tie(self, kind: str, values: NDArray) -> NDArray:
        """The smallest values that count as equal to these, where they carry the rounding of float32.

        Sums of the statistic do, and the statistic itself where none of it can be had in float64.
        """
        tfce = self.test.statistics.tfce
        if kind == "clusterm" or (kind == "tfce" and tfce is not None and tfce.exact):
            return values * (1 - SUM_TIE)
        if kind == "vox" and not self.test.model.has_exact:
            return values - np.maximum(np.abs(values), np.float32(1)) * np.float32(SUM_TIE)
        return values

    @cached_property
    def _least_ties(self) -> dict[str, tuple[NDArray, NDArray]]:
        """Of the observed maps and, with their sign, of their negatives."""
        return {
            kind: (self.least_tie(kind, values), -self.least_tie(kind, -values))
            for kind, values in self.observed.items()
        }

    # -- edges -------------------------------------------------------------------------------------------------

    def _settle_edges(self, start: int, shuffles: NDArray, statistic: Any) -> None:
        """Compute again in float64 what float32 cannot tell from a threshold, or from a step of TFCE.

        Clusters of maps that tie there must tie too, whatever the others have beside them.
        """
        if not self.test.model.has_exact:
            return
        for items in self._edges(1 if start == 0 else 0, statistic):
            put(statistic, items, self.test.model.exact(shuffles, items.map, items.voxel), self.device)

    def _edges(self, first: int, statistic: Any) -> Iterator[Items]:
        wanted = self.test.statistics
        for threshold in dict.fromkeys((wanted.extent, wanted.mass)):
            if threshold is not None:
                yield near_threshold(statistic, first, threshold, self.device)
        if self.enhancer is not None and self.enhancer.options.exact and wanted.two_pass:
            yield near_threshold(statistic, first, 0.0, self.device)  # what is 0 does not count in local means
        if self.enhancer is not None and not self.enhancer.options.exact:
            up, down = (1 / delta if delta else 0.0 for delta in self.enhancer.deltas)
            yield near_steps(self.test._enhanceable(statistic), first, (up, down), self.device)

    # -- maxima ------------------------------------------------------------------------------------------------

    def _maxima(self, start: int, shuffles: NDArray, statistic: Any, maps: MapsAnywhere) -> Maps:
        wanted, device = self.test.statistics, self.device
        maxima: Maps = {}
        for kind in self.kinds:
            if kind == "vox":
                maxima[kind] = self._voxel_maxima(start, shuffles, statistic)
            elif kind in maps:
                maxima[kind] = _largest(maps[kind], device)
            elif kind == "tfce" and self.enhancer is not None:
                maxima[kind] = self.enhancer.maxima(self.test._enhanceable(statistic))
            else:
                found = cluster_maxima(statistic, self.test.grid, wanted.threshold(kind), device=device)
                maxima[kind] = found[CLUSTER_KINDS[kind]]
        return maxima

    def _voxel_maxima(self, start: int, shuffles: NDArray, statistic: Any) -> NDArray[np.float32]:
        """(2, B) Maxima; the voxels that decide them are computed in float64, so that ties are ties."""
        maxima = extremes(statistic, self.device)
        if not self.test.model.has_exact:
            return maxima
        first = 1 if start == 0 else 0
        for row, sign in enumerate((1, -1)[: self.test.signs]):
            items = close_to_maximum(statistic, first, sign, maxima[row], self.device)
            exact = sign * self.test.model.exact(shuffles, items.map, items.voxel).astype(np.float32)
            maxima[row, np.unique(items.map)] = -np.inf
            np.maximum.at(maxima[row], items.map, exact)
        return maxima

    # -- counts ------------------------------------------------------------------------------------------------

    def _below(self, start: int, shuffles: NDArray, kind: str, values: Any) -> NDArray[np.int64]:
        """(2, V) How many of these maps, and of their negatives, lie strictly below the observed value."""
        up, down = self._least_ties[kind]
        below = count_below(values, up, kind != "vox", self.device)
        if not np.array_equal(up, down):
            below[1] = count_below(values, down, kind != "vox", self.device)[1]
        if kind == "vox" and self.test.model.has_exact:
            self._recount_ties(start, shuffles, values, below)
        return below

    def _recount_ties(self, start: int, shuffles: NDArray, values: Any, below: NDArray[np.int64]) -> None:
        """Compare again in float64 where float32 cannot tell below from equal."""
        items = near_ties(values, 1 if start == 0 else 0, self.statistic, self.device)
        exact = self.test.model.exact(shuffles, items.map, items.voxel).astype(np.float32)
        target = self.statistic[items.voxel]
        np.add.at(below[0], items.voxel, (exact < target).astype(np.int64) - (items.value < target))
        np.add.at(below[1], items.voxel, (exact > target).astype(np.int64) - (items.value > target))

    # -- two-pass scheme -----------------------------------------------------------------------------------------

    @cached_property
    def _shift(self) -> int:
        """Bits to drop from TFCE's integer scores so that their sum over all shuffles fits in 63 bits."""
        return max(self.n - 1, 1).bit_length()

    def _sum_up(self, maps: MapsAnywhere, result: BlockResult) -> None:
        for kind in ("clustere", "tfce"):
            if kind in maps:
                shift = self._shift if kind == "tfce" else 0
                quantum = _quantum(np.abs(self.observed[kind]))
                result.total[kind], result.nonzero[kind] = sum_up(maps[kind], shift, quantum, self.device)

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

        Raises
        ------
        ValueError
            The tally lacks shuffles.
        """
        if not tally.done.all():
            raise ValueError(f"the second pass needs all {tally.n} shuffles of the first; {tally.n_done} are done")
        means: Maps = {}
        for kind, (total, nonzero) in self.sums(tally).items():
            mean = np.divide(total, nonzero, out=np.zeros_like(total), where=nonzero > 0)
            if kind == "tfce" and mean.shape[1]:
                rank = max(math.ceil(0.02 * mean.shape[1]), 1) - 1
                mean = np.maximum(mean, np.sort(mean, axis=1)[:, rank : rank + 1])
            means[kind] = mean
        second = replace(self, local_mean=means)
        return _on(self.device, second._with_observed)

    def _with_observed(self) -> ObservedTest:
        """The second pass with its own observed values."""
        statistic = self.test.model.statistic_maps(self.test.shuffler.shuffles(0, 1))
        return replace(self, observed=self.test._download(self._normalised(statistic)))

    def _second_pass(self, start: int, stop: int, statistic: Any) -> BlockResult:
        maps = self._normalised(statistic)
        result = BlockResult(start, stop, {kind: _largest(values, self.device) for kind, values in maps.items()})
        if self.test.statistics.uncorrected:
            for kind, values in maps.items():
                result.below[kind] = count_below(values, self.observed[kind], True, self.device)
        return result

    def _normalised(self, statistic: Any) -> MapsAnywhere:
        """(B, V) Values over their local means, signed as the maps of the first pass."""
        maps: MapsAnywhere = {}
        if "clustere" in self.local_mean:
            threshold = self.test.statistics.threshold("clustere")
            maps["clustern"] = normalised_extents(
                statistic, self.test.grid, threshold, self.local_mean["clustere"], self.device
            )
        if "tfce" in self.local_mean and self.enhancer is not None:
            scores = self.enhancer.enhance(self.test._enhanceable(statistic))
            worth = np.ones(1)
            scales = tuple(float(self.enhancer.to_float(worth, row)[0]) for row in (0, 1))
            maps["tfcen"] = normalise(scores, (scales[0], scales[1]), self.local_mean["tfce"], self.device)
        return maps


def _largest(maps: Any, device: Device | None) -> NDArray:
    """(2, B) Largest value of each sign: 0 where a map, signed for two statistics, has none of that sign."""
    return np.maximum(extremes(maps, device), 0)


Result = TypeVar("Result")


def _on(device: Device | None, work: Callable[[], Result]) -> Result:
    """Do something; if the device runs out of memory, once more after it has let go of what it only kept for later."""
    if device is None:
        return work()
    with device.lock:
        try:
            return work()
        except OutOfDeviceMemory:
            pass
        gc.collect()  # what failed may still hold arrays
        device.forget()
        return work()


def _quantum(observed: NDArray) -> float:
    """2⁻³⁰ of the observed maximum: sums of 2²³ times that have no rounding of their own.

    What outlying voxels have counts up to 2¹⁰ times the median, so that the sums of all others keep their digits.
    """
    positive = observed[observed > 0]
    peak = min(float(positive.max()), 1024 * float(np.median(positive))) if len(positive) else 1.0
    return float(2.0 ** (math.frexp(peak)[1] - 30))
