"""Runs of a permutation test that gather what the approximations of small p-values need (`tails`).

What is gathered is the same whatever the order in which permutations come, so the bits of p depend neither on threads
nor on devices: sums of powers are sums of whole numbers, null distributions have a place for each permutation, and of
the permutations that reach an observed value the first few are kept by their numbers. Of the maps that a device makes,
it gathers these there (`gathering`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gpuvox.device import Outcomes, Promise
from gpuvox.executors import Finished, Share, TallyStore, Watch, Workers, run, show
from gpuvox.gathering import Gatherer, Shown, first_reached, power_sums, values_at
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest
from gpuvox.tails import SMALL, Approximated, gamma, gamma_of, moments_of_sums, negative_binomial, pareto
from gpuvox.types import AnyArray, Bools, Float32, Float64, Ints, MapBatch, PermutationsDone

ROOM = 1 << 30
"""Bytes of null distributions that are held at a time."""
TIES = 2e-5
"""Values this close to the observed one, in units of it or of 1, reach it: float32's rounding."""
METHODS: tuple[Literal["pareto", "gamma"], ...] = ("pareto", "gamma")
_CUT_BITS = 6  # values up to 2⁶ times the largest observed one are summed as they are
_FIRST_ROUND = 64  # permutations after which the negative binomial approximation looks whether it may end


@dataclass(frozen=True)
class Tail:
    """An approximation of p-values that are small, by few permutations.

    Parameters
    ----------
    method : {"pareto", "gamma"}
        See `tails`.
    """

    method: Literal["pareto", "gamma"]

    @property
    def title(self) -> str:
        """In sentences."""
        if self.method == "gamma":
            return "a gamma distribution with the moments of the permutation distribution"
        return "generalised Pareto distributions fitted to the tails of permutation distributions"

    def of_null(self, null: Float64, observed: Float64, p: Float64) -> Approximated:
        """p of observed values (V,) from one null distribution (N,), such as that of the maxima.

        Parameters
        ----------
        null : (N,) float64
        observed : (V,) float64
        p : (V,) float64
            By counting.
        """
        if self.method == "gamma":
            return _or_counted(gamma_of(null, observed), p)
        return pareto(null, observed, p)

    def corrected(self, null: Float64, observed: Float64, counted: Float32) -> Float64:
        """Corrected p (V,) from one null distribution (N,), in place of `counted`, 1 − p by counting."""
        return self.of_null(null, observed, 1 - counted.astype(np.float64)).p


def _or_counted(fitted: Float64, counted: Float64) -> Approximated:
    """p of a law, and by counting beyond its end: the law of a null that is skewed to the left has no p there but 0."""
    within = fitted > 0
    return Approximated(np.where(within, fitted, counted), within)


@dataclass(frozen=True, eq=False)
class ApproximatedRun:
    """A finished run, and its approximate p-values.

    Attributes
    ----------
    finished : Finished
    uncorrected : dict of Approximated
        By the name of the statistic; none of clusters.
    """

    finished: Finished
    uncorrected: Mapping[str, Approximated] = field(default_factory=dict)


def run_approximated(
    test: PermutationTest,
    tail: Tail,
    *,
    threads: int | None = None,
    progress: PermutationsDone | None = None,
    store: TallyStore | None = None,
    workers: Workers | None = None,
    room: int = ROOM,
) -> ApproximatedRun:
    """Run a permutation test and approximate its p-values.

    Uncorrected p are of the map, or, if the test is two-sided, of the size of its values. They are approximated if the
    test counts them (`Statistics.uncorrected`). Null distributions that do not fit in memory are made in several passes
    over the permutations, each for some of the voxels.

    Parameters
    ----------
    test : PermutationTest
        Of one sign, or two-sided.
    tail : Tail
    threads, progress, store, workers
        See `executors.run`.
    room : int
        Bytes of null distributions to hold at a time.

    Raises
    ------
    DeviceError, InputError
        See `executors.run`.
    """
    test = replace(test, shows_sizes=test.statistics.two_sided)
    how = _How(threads, progress, workers)
    if not test.statistics.uncorrected:
        return ApproximatedRun(how.run(test, store))
    if tail.method == "pareto":
        finished = how.run(test, store)
        return ApproximatedRun(finished, _of_pareto(finished, how, room))
    made: list[PowerSums] = []

    def watch(observed: ObservedTest) -> Gatherer:
        made.append(PowerSums(observed))
        return made[-1]

    finished, sums = how.run(test, store, watch), made[-1]
    how.show(finished.observed, sums, sums.seen)  # those that were resumed
    counted = _counted(finished)
    return ApproximatedRun(finished, {name: _or_counted(sums.p(name), counted[name]) for name in sums.names})


@dataclass(frozen=True, eq=False)
class _How:
    """Where permutations run."""

    threads: int | None
    progress: PermutationsDone | None
    workers: Workers | None

    def run(self, test: PermutationTest, store: TallyStore | None, watch: Watch | None = None) -> Finished:
        return run(
            test, threads=self.threads, progress=self.progress, store=store, workers=self.workers, watch=watch
        )

    def show(
        self,
        observed: ObservedTest,
        gatherer: Gatherer,
        done: Bools | None = None,
        share: Share | None = None,
    ) -> None:
        show(observed.for_maps(), gatherer, done, threads=self.threads, share=share, workers=self.workers)


def names_of_elements(observed: ObservedTest) -> list[str]:
    """Statistics with a null distribution of their own at each voxel; those of clusters are mostly 0."""
    return [name for name, statistic in observed.statistics.items() if statistic.info.has_tail]


def _observed_values(observed: ObservedTest, name: str) -> Float64:
    """(V,) The unpermuted values as callbacks get them."""
    return np.asarray(observed.shown(name, observed.observed[name])[0], dtype=np.float64)


def _counted(finished: Finished) -> dict[str, Float64]:
    """Uncorrected p (V,) by counting."""
    tally = finished.tally
    return {name: 1 - tally.below[name][0] / tally.n for name in names_of_elements(finished.observed)}


# -- generalised Pareto ---------------------------------------------------------------------------------------------


class NullsAt(Gatherer):
    """The null distributions of some voxels: a place for each permutation.

    Parameters
    ----------
    n : int
        Number of permutations.
    voxels : dict of (k,) int
        By statistic.
    """

    def __init__(self, n: int, voxels: Mapping[str, Ints]) -> None:
        self.names = list(voxels)
        self.values = {name: np.empty((n, len(chosen))) for name, chosen in voxels.items()}
        self._voxels = {name: chosen.astype(np.int32) for name, chosen in voxels.items()}

    def of_batch(
        self, name: str, shown: Shown, numbers: range, values: MapBatch, outcomes: Outcomes
    ) -> Promise[AnyArray]:
        """See `Gatherer.of_batch`."""
        del numbers
        return values_at(values, shown, self._voxels[name], outcomes)

    def emptied(self) -> NullsAt:
        """See `Gatherer.emptied`."""
        other = copy(self)
        other.values = {}
        return other

    def add(self, numbers: range, found: dict[str, AnyArray]) -> None:
        """See `Gatherer.add`."""
        for name, values in found.items():
            self.values[name][numbers.start : numbers.stop] = values


def _of_pareto(finished: Finished, how: _How, room: int) -> dict[str, Approximated]:
    """By statistic."""
    observed, tally = finished.observed, finished.tally
    names, p = names_of_elements(observed), _counted(finished)
    values = {name: _observed_values(observed, name) for name in names}
    found = {name: Approximated(p[name].copy(), np.zeros(len(p[name]), dtype=bool)) for name in names}
    small = {name: np.flatnonzero(p[name] < SMALL) for name in names}
    for voxels in _in_parts(small, max(1, room // (8 * tally.n))):
        nulls = NullsAt(tally.n, voxels)
        how.show(observed, nulls)
        for name, here in voxels.items():
            fits = pareto(nulls.values[name], values[name][here], p[name][here])
            found[name].p[here], found[name].fitted[here] = fits
    return found


def _in_parts(voxels: Mapping[str, Ints], most: int) -> Iterator[dict[str, Ints]]:
    """Voxels of several statistics, no more than `most` at a time."""
    part: dict[str, Ints] = {}
    for name, chosen in voxels.items():
        left = chosen
        while len(left):
            take = most - sum(map(len, part.values()))
            part[name], left = left[:take], left[take:]
            if len(left):
                yield part
                part = {}
    if part:
        yield part


# -- gamma ----------------------------------------------------------------------------------------------------------


class PowerSums(Gatherer):
    """Sums over permutations of the values at each voxel, and of their squares and cubes.

    Each is rounded to a whole number of quanta, so fine that none of the three sums can exceed 63 bits while no value
    is larger than 64 times the largest observed one; values beyond that are cut to it. With N permutations
    x, the cube of the largest observed one keeps about 40 − log₂ N bits.
    """

    def __init__(self, observed: ObservedTest) -> None:
        n = observed.n
        self.names = names_of_elements(observed)
        self.observed = {name: _observed_values(observed, name) for name in self.names}
        self.seen = np.zeros(n, dtype=bool)
        self._sums = {name: np.zeros((3, len(v)), dtype=np.int64) for name, v in self.observed.items()}
        self._limits = {name: _limit(values) for name, values in self.observed.items()}
        self._quanta = 2.0 ** (61 - n.bit_length())

    def of_batch(
        self, name: str, shown: Shown, numbers: range, values: MapBatch, outcomes: Outcomes
    ) -> Promise[AnyArray]:
        """See `Gatherer.of_batch`."""
        del numbers
        return power_sums(values, shown, self._limits[name], self._quanta, outcomes)

    def emptied(self) -> PowerSums:
        """See `Gatherer.emptied`."""
        other = copy(self)
        other.observed, other.seen, other._sums = {}, np.zeros(0, dtype=bool), {}
        return other

    def add(self, numbers: range, found: dict[str, AnyArray]) -> None:
        """See `Gatherer.add`.

        Raises
        ------
        ValueError
            A permutation is added a second time.
        """
        if self.seen[numbers.start : numbers.stop].any():
            raise ValueError(f"some of permutations {numbers.start} to {numbers.stop - 1} have been added already")
        self.seen[numbers.start : numbers.stop] = True
        for name, sums in found.items():
            self._sums[name] += sums

    def p(self, name: str) -> Float64:
        """(V,) Upper tail of the gamma law at the observed values; 0 beyond its end, if it is skewed to the left."""
        limit = self._limits[name]
        shares = self._sums[name] * (1 / self._quanta)
        first, second, third = (limit**power * row for power, row in enumerate(shares, 1))
        return gamma(self.observed[name], *moments_of_sums(len(self.seen), first, second, third))


def _limit(observed: Float64) -> float:
    """A power of 2 of at least 64 times the largest observed value."""
    return float(2.0 ** (math.frexp(float(np.abs(observed).max(initial=0.0)) or 1.0)[1] + _CUT_BITS))


# -- negative binomial ----------------------------------------------------------------------------------------------


class FirstReached(Gatherer):
    """The first permutations in which each voxel reaches its observed value, by their numbers.

    Parameters
    ----------
    observed : ObservedTest
    r : int
        How many to keep.
    """

    def __init__(self, observed: ObservedTest, r: int) -> None:
        self.n, self.r = observed.n, r
        self.names = names_of_elements(observed)
        self._least = {name: _least(observed, name) for name in self.names}
        self.first = {
            name: np.full((r, len(least)), self.n, dtype=np.int64) for name, least in self._least.items()
        }

    def of_batch(
        self, name: str, shown: Shown, numbers: range, values: MapBatch, outcomes: Outcomes
    ) -> Promise[AnyArray]:
        """See `Gatherer.of_batch`."""
        return first_reached(values, shown, self._least[name], numbers, self.n, self.r, outcomes)

    def emptied(self) -> FirstReached:
        """See `Gatherer.emptied`."""
        other = copy(self)
        other.first = {}
        return other

    def add(self, numbers: range, found: dict[str, AnyArray]) -> None:
        """See `Gatherer.add`."""
        for name, reached in found.items():
            first = self.first[name]
            open_still = np.flatnonzero(first[-1] > numbers.start)
            both = np.concatenate([first[:, open_still], reached[:, open_still]])
            first[:, open_still] = np.sort(both, axis=0)[: self.r]

    def is_done(self, name: str) -> bool:
        """Whether no permutation after those that were taken can change anything."""
        return bool((self.first[name][-1] < self.n).all())


def _least(observed: ObservedTest, name: str) -> Float64:
    """The least values that reach the observed ones."""
    values = _observed_values(observed, name)
    return values - TIES * np.maximum(np.abs(values), 1) if observed.statistics[name].info.is_image else values


def run_negative_binomial(
    test: PermutationTest,
    exceedances: int = 2,
    *,
    threads: int | None = None,
    progress: PermutationsDone | None = None,
    workers: Workers | None = None,
) -> tuple[ObservedTest, dict[str, Float64], int]:
    """Run permutations, in their order, until every voxel has reached its observed value a few times.

    A run of all permutations, or of an ordered list of them, is not in random order: the first ones differ little from
    the unpermuted one. All of them are then made, and p are counted.

    Parameters
    ----------
    test : PermutationTest
    exceedances : int
        How often; see `tails.negative_binomial`.
    threads, progress, workers
        See `executors.run`.

    Returns
    -------
    observed : ObservedTest
    p : dict of (V,) float64
        Uncorrected, by statistic; none of clusters. Their bits do not depend on where the run ended.
    done : int
        Number of permutations that were made.
    """
    test, how = replace(test, shows_sizes=test.statistics.two_sided), _How(threads, None, workers)
    if not test.shuffler.in_random_order:
        test = replace(test, statistics=replace(test.statistics, uncorrected=True))
        finished = replace(how, progress=progress).run(test, None)
        return finished.observed, _counted(finished), finished.tally.n
    while True:
        observed = workers.observe(test) if workers else test.observe()
        reached = FirstReached(observed, exceedances)
        try:
            done = _until_reached(observed, reached, how, progress)
            break
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)
    p = {name: negative_binomial(reached.first[name], observed.n) for name in reached.names}
    return observed, p, done


def _until_reached(
    observed: ObservedTest, reached: FirstReached, how: _How, progress: PermutationsDone | None
) -> int:
    start, stop = 1, min(_FIRST_ROUND, observed.n)
    while start < stop:
        how.show(observed, reached, share=(start, stop))
        if progress:
            progress(stop)
        if all(reached.is_done(name) for name in reached.names):
            return stop
        start, stop = stop, min(2 * stop, observed.n)
    return observed.n
