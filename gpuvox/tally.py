"""The results of ranges of permutations, and the tally that adds them up in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from gpuvox.types import AnyArray, Bools

ByStatistic: TypeAlias = dict[str, AnyArray]
"""An array for each statistic, by its name, on the host."""

SUMS = ("below", "total", "nonzero")
"""Results that are summed over permutations; maxima are kept for each."""


@dataclass(frozen=True, eq=False)
class BlockResult:
    """The results of permutations ``start … stop − 1``, by the name of each statistic.

    Attributes
    ----------
    start, stop : int
    maxima : dict of (2, stop − start) arrays
        Largest value of each permuted map and of its negative.
    below : dict of (2, V) int64
        Number of permutations strictly below the observed value, for the map and its negative.
    total, nonzero : dict of (2, V) arrays
        For the two-pass scheme: sums of the values (int64 or float64), and number of permutations in which the voxel is
        not zero.
    gathered : list of (range, dict)
        What a `gathering.Gatherer` found of parts of the range, by statistic.
    """

    start: int
    stop: int
    maxima: ByStatistic = field(default_factory=dict)
    below: ByStatistic = field(default_factory=dict)
    total: ByStatistic = field(default_factory=dict)
    nonzero: ByStatistic = field(default_factory=dict)
    gathered: list[tuple[range, ByStatistic]] = field(default_factory=list)

    def followed_by(self, other: BlockResult) -> BlockResult:
        """The results of both ranges, where the other begins at the end of this one."""
        joined = BlockResult(self.start, other.stop, gathered=self.gathered + other.gathered)
        for name, values in self.maxima.items():
            joined.maxima[name] = np.concatenate([values, other.maxima[name]], axis=1)
        _add_sums(joined, self)
        _add_sums(joined, other)
        return joined


class Tally:
    """The sum of block results, in any order.

    Parameters
    ----------
    n : int
        Number of permutations of the whole run.
    start, stop : int, optional
        The range of them that this tally is to hold; all by default.

    Attributes
    ----------
    done : (n,) bool
        Permutations that have been counted.
    is_consistent : bool
        False while a result is being added: a signal may end the process then, and a tally with half a result must not
        be saved.
    maxima, below, total, nonzero : dict
        As in `BlockResult`; maxima are (2, n).
    """

    def __init__(self, n: int, start: int = 0, stop: int | None = None) -> None:
        self.n = n
        self.start, self.stop = start, n if stop is None else stop
        self.done = np.zeros(n, dtype=bool)
        self.is_consistent = True
        self.maxima: ByStatistic = {}
        self.below: ByStatistic = {}
        self.total: ByStatistic = {}
        self.nonzero: ByStatistic = {}

    @property
    def is_complete(self) -> bool:
        """Whether every permutation of this tally's range has been counted."""
        return bool(self.done[self.start : self.stop].all())

    @property
    def n_done(self) -> int:
        """Number of permutations that have been counted."""
        return int(np.count_nonzero(self.done))

    def missing(self) -> Iterator[tuple[int, int]]:
        """Ranges of permutations of this tally that have not been counted yet, in order."""
        for start, stop in spans(~self.done[self.start : self.stop]):
            yield self.start + start, self.start + stop

    def add(self, result: BlockResult) -> None:
        """Add the result of a range of permutations that is not in the tally yet.

        Raises
        ------
        ValueError
            Some of the permutations were counted before, or the range does not belong to the run.
        """
        if not 0 <= result.start <= result.stop <= self.n:
            raise ValueError(f"permutations {result.start} to {result.stop} are not among the run's {self.n}")
        counted = slice(result.start, result.stop)
        if self.done[counted].any():
            raise ValueError(f"permutations {result.start} to {result.stop} are already counted")
        self._add(result, result.maxima, counted)

    def include(self, other: Tally) -> None:
        """Add all that another tally of the same test has counted.

        Raises
        ------
        ValueError
            The tallies have permutations in common, or are of different runs.
        """
        if other.n != self.n or (self.done & other.done).any():
            raise ValueError("the two tallies have permutations in common, or are of different runs")
        self._add(other, {name: values[:, other.done] for name, values in other.maxima.items()}, other.done)

    def _add(self, other: BlockResult | Tally, maxima: ByStatistic, counted: slice | Bools) -> None:
        self.is_consistent = False
        for name, values in maxima.items():
            mine = self.maxima.setdefault(name, np.zeros((2, self.n), dtype=values.dtype))
            mine[:, counted] = values
        _add_sums(self, other)
        self.done[counted] = True
        self.is_consistent = True


def _add_sums(mine: BlockResult | Tally, other: BlockResult | Tally) -> None:
    for group in SUMS:
        sums: ByStatistic = getattr(mine, group)
        for name, values in getattr(other, group).items():
            sums[name] = sums[name] + values if name in sums else values


def spans(flags: Bools) -> Iterator[tuple[int, int]]:
    """Ranges ``start … stop − 1`` in which every flag is set, in order."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).tolist()
    yield from zip(edges[::2], edges[1::2])


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """The range, start and stop, that is part 1 … `parts` of a run of n permutations."""
    return n * (part - 1) // parts, n * part // parts
