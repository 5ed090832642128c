"""The permutation test of one contrast as a fold over ranges of permutations.

A `PermutationTest` is an immutable value. `observe` evaluates permutation 0 (the data as they are) and fixes what all
others are measured against: statistics with their steps, and observed values. `ObservedTest.run` is then a pure
function: permutations ``start … stop − 1`` → a small `BlockResult`. A `Tally` adds results up in any order. The bits
depend neither on the order nor on how the range was cut.

Which statistics are computed, and how, is the business of `statistics`. The engine knows arrays only: no image, no
file, no option of a command. Where the model has a device, the maps of a batch are made there and stay there; what
leaves are maxima, counts and sums.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from gpuvox.device import Device, Outcomes, OutOfDeviceMemory, Promise, settled
from gpuvox.gathering import Gatherer, Shown
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.reductions import ties_everywhere, ties_on
from gpuvox.shuffle import Shuffler
from gpuvox.statistics import (
    Batch,
    Edge,
    Normalisable,
    Normalised,
    Statistic,
    StatisticModel,
    Statistics,
    Unpermuted,
)
from gpuvox.tally import BlockResult, ByStatistic, Tally
from gpuvox.tfce_tables import FIRST_LEVELS, LevelOverflow
from gpuvox.types import AnyArray, Float32, Float64, Ints, MapBatch, ShuffleBatch

__all__ = [
    "LevelOverflow",
    "MapsOfPermutation",
    "ObservedTest",
    "PermutationTest",
    "Watcher",
    "hash_first_maps",
]

BATCH_BYTES = 16 << 20
"""Size of the batch of statistic maps that is held at a time; more with many subjects, see `BATCH_ROWS`."""
BATCH_ROWS = 100
"""Subjects up to which that size is enough: every batch reads the data once, more of which larger batches share."""
STREAMED_BATCH_BYTES = 128 << 20
"""The same where every batch reads the data from a file: the products for it take longer than reading."""

MapsOfPermutation = Callable[[int, ByStatistic], None]
"""Called with the number of a permutation and its maps (V,) by statistic, in FSL's units."""
Watcher = MapsOfPermutation | Gatherer
"""What sees the values of every permutation: its maps, or on a device what is gathered of them there."""


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """A permutation test of one contrast, as an immutable value.

    Parameters
    ----------
    model : StatisticModel
        Gives maps of t or F for permutations; its device is where everything takes place.
    grid : Grid
        Mask and neighbourhood of the voxels.
    shuffler : Shuffler
        Permutations of this run.
    statistics : Statistics
        What is computed of each.
    signs : {1, 2}
        2: the negative contrast is tested too. It shares every map; results have a row for either sign, and with
        1 the second row means nothing.
    joint_peak : float or None
        See `statistics.Unpermuted`.
    level_cap : int
        Steps of TFCE that are prepared for. A run that meets a map with more, up to `tfce.most_levels`, starts
        again with a larger cap, because the integer scores of two caps do not mix; higher maps start nothing.
    shows_sizes : bool
        Callbacks get the size of values, whatever their sign.
    """

    model: StatisticModel
    grid: Grid
    shuffler: Shuffler | ImportedShuffler
    statistics: Statistics = field(default_factory=Statistics)
    signs: int = 1
    level_cap: int = FIRST_LEVELS
    joint_peak: float | None = None
    shows_sizes: bool = False

    @property
    def device(self) -> Device | None:
        """Where the maps are; None is the CPU."""
        return self.model.device

    def observe(self) -> ObservedTest:
        """Evaluate permutation 0 and fix what the others are measured against.

        Returns
        -------
        ObservedTest
        """
        return _on(self.device, self._observe)

    def peak(self) -> float:
        """The largest unpermuted statistic, of either sign if both are tested, for `joint_peak` of other tests."""

        def largest() -> float:
            unpermuted = self._unpermuted()
            peaks = [setting.peaks(unpermuted)[: self.signs] for setting in self.statistics.settings]
            return max((peak for pair in peaks for peak in pair), default=0.0)

        return _on(self.device, largest)

    def _unpermuted(self) -> Unpermuted:
        # In float64, rounded once: one unit in the last place of the maximum adds or drops a step of TFCE.
        shuffles = self.shuffler.shuffles(0, 1)
        exact = self.model.exact_map(shuffles[0])
        statistic = exact.astype(np.float32)
        maps = statistic[None] if self.device is None else self.device.upload(statistic[None])
        return Unpermuted(
            self.model, self.grid, shuffles, maps, statistic, 1, self.signs,
            outcomes=Outcomes(self.device, step_by_step=True),
            exact_map=exact, n=self.shuffler.n, level_cap=self.level_cap, joint_peak=self.joint_peak,
        )  # fmt: skip

    def _observe(self) -> ObservedTest:
        unpermuted = self._unpermuted()
        statistic = unpermuted.unpermuted
        statistics = {setting.info.name: setting.fixed_by(unpermuted) for setting in self.statistics.settings}
        return ObservedTest(
            self, statistic, statistics, _evaluate(statistics, unpermuted), self._edges(statistics)
        )

    def _edges(self, statistics: Mapping[str, Statistic]) -> tuple[Edge, ...]:
        """Where values must be those of float64, if the model can give them; each edge once."""
        edges: dict[Edge, None] = {}
        if self.model.has_exact:
            for statistic in statistics.values():
                edges |= dict.fromkeys(statistic.edges)
                if self.statistics.two_pass and isinstance(statistic, Normalisable):
                    edges |= dict.fromkeys(statistic.edges_of_sums)
        return tuple(edges)

    def with_cap(self, needed: int) -> PermutationTest:
        """The same test, prepared for at least `needed` steps of TFCE."""
        return replace(self, level_cap=max(1 << (needed - 1).bit_length(), 2 * self.level_cap))


@dataclass(frozen=True, eq=False)
class ObservedTest:
    """A test whose unpermuted maps are known: the first pass, or the second of the two-pass scheme.

    Attributes
    ----------
    test : PermutationTest
    statistic : (V,) float32
        Unpermuted t or F.
    statistics : dict of Statistic
        By name, those of this pass.
    observed : dict of (1, V) arrays
        Their unpermuted values for both signs, see `statistics.base` (integer scores for TFCE).
    edges : tuple of Edge
        Where values are computed again in float64.
    is_second : bool
        Whether this is the second pass.
    """

    test: PermutationTest
    statistic: Float32
    statistics: Mapping[str, Statistic]
    observed: ByStatistic
    edges: tuple[Edge, ...] = ()
    is_second: bool = False

    @property
    def n(self) -> int:
        """Number of permutations of the run."""
        return self.test.shuffler.n

    @property
    def device(self) -> Device | None:
        """Where the maps are; None is the CPU."""
        return self.test.device

    @property
    def batch(self) -> int:
        """Permutations worth holding at a time."""
        choice, model = self.test.statistics, self.test.model
        wide = choice.uncorrected or choice.two_pass or (model.streamed and not model.has_exact)
        per_map = model.n_voxels * ((8 if self.device is None else 16) if wide else 4)
        room = STREAMED_BATCH_BYTES if model.streamed else BATCH_BYTES
        if self.device is None and not model.streamed and self.test.shuffler.n_rows > BATCH_ROWS:
            room = 2 * BATCH_BYTES
        if self.device is not None:
            room = self.device.free_bytes() // 8
        size = max(1, room // max(per_map, 1))
        if self.device is not None:
            # Whole waves of blocks, whether a processor holds two or three of them.
            wave = 6 * self.device.n_processors
            if size >= wave:
                return wave * min(size // wave, self.device.tuning.waves)
        return 1 << (min(size, 1024).bit_length() - 1)

    @property
    def names_of_results(self) -> dict[str, set[str]]:
        """Names of the statistics in each group of arrays of a `BlockResult`."""
        names, choice = set(self.statistics), self.test.statistics
        summed = set(self._quanta) if choice.two_pass else set()
        return {
            "maxima": names, "below": names if choice.uncorrected else set(), "total": summed, "nonzero": summed,
        }  # fmt: skip

    @property
    def local_means(self) -> dict[str, Float64]:
        """In the second pass: the local means (2, V), by the name of the statistic of the first."""
        return {s.source: s.local_mean for s in self.statistics.values() if isinstance(s, Normalised)}

    def with_model(self, model: StatisticModel, device: Device | None) -> ObservedTest:
        """The same test with another model, whose maps are on a device."""
        statistics = {name: statistic.on(device) for name, statistic in self.statistics.items()}
        return replace(self, test=replace(self.test, model=model), statistics=statistics)

    # -- a range of permutations -------------------------------------------------------------------------------

    def run(self, start: int, stop: int, watcher: Watcher | None = None) -> BlockResult:
        """Evaluate permutations ``start … stop − 1``.

        Parameters
        ----------
        start, stop : int
            Range of permutations; 0 is the unpermuted one.
        watcher : callable or Gatherer, optional
            Called as ``watcher(i, maps)`` with the maps (V,) of every statistic of permutation i, in FSL's units. What
            a `Gatherer` finds is part of the result.

        Raises
        ------
        LevelOverflow
            A map has more steps of TFCE than were prepared for; start again from `PermutationTest.with_cap`.
        """
        if self.device is None:
            return self._run(start, stop, watcher)
        with self.device.lock:
            return self._run_in_parts(start, stop, watcher)

    def _run_in_parts(self, start: int, stop: int, watcher: Watcher | None) -> BlockResult:
        """In one go, or, where the device has not enough memory for that, in halves."""
        if stop - start <= 1:
            return _on(self.device, lambda: self._run(start, stop, watcher))
        try:
            return self._run(start, stop, watcher)
        except OutOfDeviceMemory:
            pass
        if self.device is not None:
            gc.collect()  # what failed may still hold arrays
            self.device.drop_shared()
            self.device.release()
        middle = (start + stop) // 2
        first = self._run_in_parts(start, middle, watcher)
        return first.followed_by(self._run_in_parts(middle, stop, watcher))

    def _run(self, start: int, stop: int, watcher: Watcher | None) -> BlockResult:
        promised = settled(self.device, lambda outcomes: self._promise(start, stop, watcher, outcomes))
        result = BlockResult(start, stop)
        result.maxima.update({name: promise.value for name, promise in promised.maxima.items()})
        result.below.update({name: promise.value for name, promise in promised.below.items()})
        for name, sums in promised.sums.items():
            result.total[name], result.nonzero[name] = sums.value
        if isinstance(watcher, Gatherer):
            found = {name: promise.value for name, promise in promised.gathered.items()}
            result.gathered.append((range(start, stop), found))
        elif watcher:
            maps = {
                name: self.shown(name, _on_host(values, self.device)) for name, values in promised.values.items()
            }
            for b in range(stop - start):
                watcher(start + b, {name: values[b] for name, values in maps.items()})
        return result

    def shown(self, name: str, values: AnyArray) -> AnyArray:
        """Values (B, V) of a statistic for both signs → what callbacks get."""
        statistic = self.statistics[name]
        up = statistic.in_units(statistic.of_sign(values, 0), 0)
        if not self.test.shows_sizes:
            return up
        larger: AnyArray = np.maximum(up, statistic.in_units(statistic.of_sign(values, 1), 1))
        return larger

    def how_shown(self, name: str, values: MapBatch) -> Shown:
        """The same of values (B, V), wherever they are."""
        statistic, one = self.statistics[name], np.ones(1, dtype=values.dtype)
        up, down = (float(statistic.in_units(one, row)[0]) for row in (0, 1))
        return Shown(partial(self.shown, name), statistic.disjoint, self.test.shows_sizes, (up, down))

    def for_maps(self) -> ObservedTest:
        """The same test for watchers alone: nothing is counted."""
        statistics = replace(self.test.statistics, uncorrected=False, two_pass=False)
        return replace(self, test=replace(self.test, statistics=statistics))

    def _promise(self, start: int, stop: int, watcher: Watcher | None, outcomes: Outcomes) -> _Promised:
        """Launch everything. On a device nothing comes back before the outcomes are collected."""
        choice, promised, numbers = self.test.statistics, _Promised(), range(start, stop)
        batch = self._settled(start, stop, outcomes)
        for name, statistic in self.statistics.items():
            is_watched = watcher is not None and not (isinstance(watcher, Gatherer) and name not in watcher.names)
            if choice.uncorrected and not (choice.two_pass or choice.two_sided or is_watched):
                both = statistic.maxima_and_below(batch, self._least_ties[name])
                promised.maxima[name], promised.below[name] = both
                continue
            values = None
            if choice.uncorrected or choice.two_pass or is_watched:
                values = statistic.evaluate(batch)
            promised.maxima[name] = statistic.maxima(batch, values)
            self._promise_counts(name, batch, values, promised)
            if is_watched and isinstance(watcher, Gatherer):
                shown = self.how_shown(name, values)
                promised.gathered[name] = watcher.of_batch(name, shown, numbers, values, outcomes)
            elif is_watched:
                promised.values[name] = values
        return promised

    def _promise_counts(self, name: str, batch: Batch, values: MapBatch, promised: _Promised) -> None:
        """Counts and sums per voxel, of those that are wanted."""
        choice, statistic = self.test.statistics, self.statistics[name]
        if choice.uncorrected and choice.two_sided:
            promised.below[name] = self._below_either(name, batch, values)
        elif choice.uncorrected:
            promised.below[name] = statistic.below(batch, values, self._least_ties[name])
        if choice.two_pass and isinstance(statistic, Normalisable):
            promised.sums[name] = statistic.sums(batch, values, self._quanta[name])

    def _settled(self, start: int, stop: int, outcomes: Outcomes) -> Batch:
        """The maps, computed in float64 wherever a statistic could not tell ties from differences in float32."""
        model, shuffler, device = self.test.model, self.test.shuffler, self.device
        shuffles: ShuffleBatch = (
            shuffler.shuffles(start, stop) if device is None else shuffler.on_device(start, stop, device)
        )
        maps = model.statistic_maps(shuffles, outcomes)
        # Data can make a map the observed one, or its negative, where the design does not: a subject that is there
        # twice, few distinct images. Clusters and TFCE must then tie too.
        ties: Any = (
            ties_everywhere(maps, self.statistic) if device is None else ties_on(device, maps, self.statistic)
        )
        model.settle(shuffles, maps, ties, outcomes)
        batch = self._batch_of(start, shuffles, maps, outcomes)
        for edge in self.edges:
            batch.settle(edge)
        return batch

    def _batch_of(self, start: int, shuffles: ShuffleBatch, maps: MapBatch, outcomes: Outcomes) -> Batch:
        first, test = 1 if start == 0 else 0, self.test
        return Batch(test.model, test.grid, shuffles, maps, self.statistic, first, test.signs, outcomes)

    @cached_property
    def _least_ties(self) -> dict[str, tuple[AnyArray, AnyArray]]:
        """The least values that tie with the observed ones; kept, because a device keeps them by their identity."""
        return {name: statistic.least_ties(self.observed[name]) for name, statistic in self.statistics.items()}

    @cached_property
    def _sizes(self) -> tuple[Float32, Float32]:
        """The size of the unpermuted statistic, and its negative; kept like `_least_ties`."""
        return np.abs(self.statistic), -np.abs(self.statistic)

    @cached_property
    def _ties_of_sizes(self) -> dict[str, tuple[tuple[AnyArray, AnyArray], tuple[AnyArray, AnyArray]]]:
        """`_least_ties` of the sizes of the observed values, and of their negatives."""
        sizes = {name: np.abs(values) for name, values in self.observed.items()}
        return {
            name: (statistic.least_ties(sizes[name]), statistic.least_ties(-sizes[name]))
            for name, statistic in self.statistics.items()
        }

    def _below_either(self, name: str, batch: Batch, values: MapBatch) -> Promise[Ints]:
        """(2, V) How many of the maps are nearer to 0 than the observed value, whatever the signs; two equal rows.

        A map that is not lies above the size of the observed value or below its negative, but not both.
        """
        statistic, (size, negative) = self.statistics[name], self._sizes
        up, down = self._ties_of_sizes[name]
        below = statistic.below(replace(batch, unpermuted=size), values, up)
        above = statistic.below(replace(batch, unpermuted=negative), values, down)

        def either(counted: Ints) -> Ints:
            nearer = np.maximum(below.value[0] + counted[1] - len(batch.shuffles), 0)
            return np.stack([nearer, nearer])

        return above.then(either)

    # -- two-pass scheme -----------------------------------------------------------------------------------------

    @cached_property
    def _quanta(self) -> dict[str, float]:
        """What sums are rounded to, of the statistics that have local means."""
        summed = (name for name, statistic in self.statistics.items() if isinstance(statistic, Normalisable))
        return {name: _quantum(np.abs(self.observed[name])) for name in summed}

    def sums(self, tally: Tally) -> dict[str, tuple[Float64, Ints]]:
        """Sums over all permutations in the statistic's units, and counts of the non-zero ones, (2, V) each."""
        return {
            name: (statistic.sums_in_units(tally.total[name]), tally.nonzero[name])
            for name, statistic in self.statistics.items()
            if name in tally.total and isinstance(statistic, Normalisable)
        }

    def second_pass(self, tally: Tally) -> ObservedTest:
        """The second pass of the two-pass scheme, from the complete tally of the first.

        The local mean at a voxel is the sum of the values over permutations, divided by the number of permutations
        in which the voxel is not zero.

        Raises
        ------
        ValueError
            The tally lacks permutations.
        """
        if not tally.done.all():
            raise ValueError(f"the second pass needs all {tally.n} permutations; {tally.n_done} are done")
        sums, statistics = self.sums(tally), dict[str, Statistic]()
        for name, statistic in self.statistics.items():
            if isinstance(statistic, Normalisable) and name in sums:
                total, nonzero = sums[name]
                mean = np.divide(total, nonzero, out=np.zeros_like(total), where=nonzero > 0)
                statistics[statistic.normalised_info.name] = statistic.normalised_by(mean)
        second = replace(self, statistics=statistics, observed={}, is_second=True)
        return _on(self.device, second._with_observed)

    def _with_observed(self) -> ObservedTest:
        """The second pass with its own observed values."""
        shuffles, outcomes = self.test.shuffler.shuffles(0, 1), Outcomes(self.device, step_by_step=True)
        batch = self._batch_of(0, shuffles, self.test.model.statistic_maps(shuffles), outcomes)
        return replace(self, observed=_evaluate(self.statistics, batch))


@dataclass(frozen=True, eq=False)
class _Promised:
    """What a range of permutations will give, by statistic; see `BlockResult`."""

    maxima: dict[str, Promise[AnyArray]] = field(default_factory=dict)
    below: dict[str, Promise[Ints]] = field(default_factory=dict)
    sums: dict[str, Promise[tuple[AnyArray, Ints]]] = field(default_factory=dict)
    values: dict[str, MapBatch] = field(default_factory=dict)
    gathered: dict[str, Promise[AnyArray]] = field(default_factory=dict)


def _evaluate(statistics: Mapping[str, Statistic], batch: Batch) -> MapBatch:
    """Values of every statistic, on the host."""
    return {name: _on_host(statistic.evaluate(batch), batch.device) for name, statistic in statistics.items()}


def _on_host(values: MapBatch, device: Device | None) -> AnyArray:
    host: AnyArray = values if device is None else device.download(values)
    return host


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
        device.drop_shared()
        device.forget()
        return work()


def _quantum(observed: AnyArray) -> float:
    """2⁻³⁰ of the observed maximum: sums of 2²³ times that have no rounding of their own.

    What outlying voxels have counts up to 2¹⁰ times the median, so that the sums of all others keep their digits.
    """
    positive = observed[observed > 0]
    peak = min(float(positive.max()), 1024 * float(np.median(positive))) if len(positive) else 1.0
    return float(2.0 ** (math.frexp(peak)[1] - 30))


def hash_first_maps(observed: ObservedTest) -> str:
    """SHA-256 of all maps and results of the first two permutations."""
    digest = hashlib.sha256()

    def add(_: int, maps: Mapping[str, AnyArray]) -> None:
        for kind in sorted(maps):
            digest.update(np.ascontiguousarray(maps[kind]).data)

    result = observed.run(0, min(2, observed.n), add)
    for group in (result.maxima, result.below, result.total, result.nonzero):
        add(0, group)
    return digest.hexdigest()
