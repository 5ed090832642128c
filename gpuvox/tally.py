"""What permutations contribute, and its sum: block results and the tally that adds them up in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from gpuvox.types import AnyArray, Bools

ByStatistic: TypeAlias = dict[str, AnyArray]
"""An array for each statistic, by its name, on the host."""


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
    maxima: ByStatistic = field(default_factory=dict)
    below: ByStatistic = field(default_factory=dict)
    total: ByStatistic = field(default_factory=dict)
    nonzero: ByStatistic = field(default_factory=dict)

    def followed_by(self, other: BlockResult) -> BlockResult:
        """What both contribute, where the other begins at this one's end."""
        joined = BlockResult(self.start, other.stop)
        for kind, values in self.maxima.items():
            joined.maxima[kind] = np.concatenate([values, other.maxima[kind]], axis=1)
        for name in ("below", "total", "nonzero"):
            for kind, values in getattr(self, name).items():
                getattr(joined, name)[kind] = values + getattr(other, name)[kind]
        return joined


def spans(flags: Bools) -> Iterator[tuple[int, int]]:
    """Ranges ``start … stop − 1`` in which every flag is set, in order."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).tolist()
    yield from zip(edges[::2], edges[1::2])


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """The shuffles, start and stop, of part 1 … `parts` of a run of n."""
    return n * (part - 1) // parts, n * part // parts


class Tally:
    """Sum of block results, in any order.

    Parameters
    ----------
    n : int
        Number of shuffles of the whole run.
    start, stop : int, optional
        The share of them that is wanted in this tally; all by default.
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
        """Whether every shuffle that is wanted has been counted."""
        return bool(self.done[self.start : self.stop].all())

    @property
    def n_done(self) -> int:
        """Number of shuffles that have been counted."""
        return int(np.count_nonzero(self.done))

    def left(self) -> Iterator[tuple[int, int]]:
        """Ranges of shuffles that are wanted and not counted yet, in order."""
        for start, stop in spans(~self.done[self.start : self.stop]):
            yield self.start + start, self.start + stop

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
        # A signal may end the process within these lines: what is half added must not be kept.
        self.is_consistent = False
        for kind, values in result.maxima.items():
            if kind not in self.maxima:
                self.maxima[kind] = np.zeros((2, self.n), dtype=values.dtype)
            self.maxima[kind][:, part] = values
        for name in ("below", "total", "nonzero"):
            mine = getattr(self, name)
            for kind, values in getattr(result, name).items():
                mine[kind] = mine[kind] + values if kind in mine else values
        self.done[part] = True
        self.is_consistent = True

    def include(self, other: Tally) -> None:
        """Add all that another tally of the same test has counted; a `ValueError` if both have a shuffle."""
        if other.n != self.n or (self.done & other.done).any():
            raise ValueError("the two tallies have shuffles in common, or are of different runs")
        for kind, values in other.maxima.items():
            mine = self.maxima.setdefault(kind, np.zeros((2, self.n), dtype=values.dtype))
            mine[:, other.done] = values[:, other.done]
        for name in ("below", "total", "nonzero"):
            sums = getattr(self, name)
            for kind, values in getattr(other, name).items():
                sums[kind] = sums[kind] + values if kind in sums else values
        self.done |= other.done
