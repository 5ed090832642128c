"""What a statistic is: the setting that the user asked for, and the statistic that the unpermuted map makes of it.

The values of a statistic stand in maps (B, V) for both signs at once. If its signs are `disjoint`, as those of
clusters and of TFCE are, a positive value belongs to the map of t and a negative one to its negative, and each sign
is 0 where the other is not. Otherwise a value is that of the map, and its negative that of the negated map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpuvox.device import Device, Promise
from gpuvox.grid import Grid
from gpuvox.reductions import count_below, count_below_on, promised_extremes, promised_sums
from gpuvox.statistics.batch import Batch, Edge, StatisticModel, Unpermuted
from gpuvox.types import AnyArray, Float32, Float64, Ints, MapBatch

SUM_TIE = 4e-6
"""Relative difference within which sums of a float32 statistic are the same."""


@dataclass(frozen=True)
class StatisticInfo:
    """What files, records and messages say of a statistic.

    Attributes
    ----------
    name : str
        In FSL's file names (``<root>_<name>_corrp_tstat1``), in tallies and in records.
    title : str
        In messages.
    precedence : int
        ``--film`` has one file of corrected values a test: a statistic of higher precedence overwrites the others.
    is_image : bool
        Its values are the statistic image itself, which is written without a name of its own and called t or F.
    needs_neighbours : bool
        It cannot be computed unless it is known where the voxels lie.
    has_tail : bool
        Small p-values can be approximated from the tail of its permutation distribution: it has values at every voxel
        that are not mostly 0, as those of clusters are.
    local_means : str
        For a statistic of the second pass: in the names of the images of the local means.
    """

    name: str
    title: str
    precedence: int = 0
    is_image: bool = False
    needs_neighbours: bool = True
    has_tail: bool = False
    local_means: str = ""


class Setting(ABC):
    """A statistic as the user asked for it; immutable."""

    info: ClassVar[StatisticInfo]
    normalised_info: ClassVar[StatisticInfo | None] = None
    """Of the statistic that the two-pass scheme makes of it, if it does."""

    @property
    def is_portable(self) -> bool:
        """Whether CPUs and GPUs compute the same bits."""
        return True

    def peaks(self, unpermuted: Unpermuted) -> tuple[float, float]:
        """What the statistic takes of the maxima of the unpermuted map and of its negative; 0 if it takes nothing."""
        del unpermuted
        return 0.0, 0.0

    @abstractmethod
    def fixed_by(self, unpermuted: Unpermuted) -> Statistic:
        """The statistic whose values are compared: with all that depends on the unpermuted map."""


class Statistic(Setting):
    """A statistic that can be computed of any batch of maps; immutable.

    A setting that needs nothing of the unpermuted map is a statistic by itself. `evaluate` is all that a subclass must
    define.
    """

    disjoint: ClassVar[bool] = True
    """Whether the signs are statistics of their own, each 0 where the other is not."""

    def fixed_by(self, unpermuted: Unpermuted) -> Statistic:
        """This statistic."""
        del unpermuted
        return self

    def on(self, device: Device | None) -> Statistic:
        """The same for maps on a device."""
        del device
        return self

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Where the statistic jumps: values near an edge are computed again in float64 beforehand."""
        return ()

    @abstractmethod
    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) Values at every voxel for both signs, where the maps are; scores that are integers may stay so."""

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Promise[AnyArray]:
        """(2, B) Largest value of each map and of its negative, on the host once `batch.outcomes` are collected.

        Parameters
        ----------
        batch : Batch
        values : (B, V), optional
            What `evaluate` returned of the batch, if it was needed anyway.
        """
        largest = promised_extremes(self.evaluate(batch) if values is None else values, batch.outcomes)
        return largest.then(lambda maxima: np.maximum(maxima, 0)) if self.disjoint else largest

    def maxima_and_below(
        self, batch: Batch, ties: tuple[AnyArray, AnyArray]
    ) -> tuple[Promise[AnyArray], Promise[Ints]]:
        """`maxima` and `below` of a batch whose values nobody else needs: a subclass may do without maps of them."""
        values = self.evaluate(batch)
        return self.maxima(batch, values), self.below(batch, values, ties)

    def below(self, batch: Batch, values: MapBatch, ties: tuple[AnyArray, AnyArray]) -> Promise[Ints]:
        """(2, V) How many of the maps, and of their negatives, lie strictly below the observed value.

        On the host once `batch.outcomes` are collected.

        Parameters
        ----------
        batch : Batch
        values : (B, V)
            What `evaluate` returned of the batch.
        ties : two arrays (1, V)
            The least values that tie with the observed ones, of the map and, with their sign, of its negative; see
            `least_ties`.
        """
        counts = [self._count(batch, values, bound) for bound in self._bounds(ties)]
        return batch.outcomes.promise(_both_rows, *counts)

    def _count(self, batch: Batch, values: MapBatch, bound: AnyArray) -> Any:
        """(2, V) Counts below a bound, where the values are."""
        if batch.device is None:
            return count_below(values, bound, self.disjoint)
        return count_below_on(batch.device, values, bound, self.disjoint)

    def _bounds(self, ties: tuple[AnyArray, AnyArray]) -> tuple[AnyArray, ...]:
        """What to count below: one bound if that of the map is that of its negative."""
        return ties[:1] if np.array_equal(*ties) else ties

    def least_tie(self, values: AnyArray) -> AnyArray:
        """The smallest values that count as equal to these: less than they are if they carry float32's rounding."""
        return values

    def least_ties(self, observed: AnyArray) -> tuple[AnyArray, AnyArray]:
        """The same of observed values for both signs, and, with their sign, of their negatives."""
        return self.least_tie(observed), -self.least_tie(-observed)

    def of_sign(self, values: AnyArray, row: int) -> AnyArray:
        """Values for both signs → those of the map (row 0) or of its negative (row 1)."""
        signed = -values if row else values
        return np.maximum(signed, 0) if self.disjoint else signed

    def in_units(self, values: AnyArray, row: int) -> AnyArray:
        """Values or maxima of the map (row 0) or of its negative (row 1) in FSL's units."""
        del row
        return values

    def weight(self, row: int) -> float:
        """What values in FSL's units are multiplied by to be compared with those of other tests."""
        del row
        return 1.0

    def warnings(self, observed: Float32, row: int, model: StatisticModel, grid: Grid) -> Iterator[str]:
        """What the user should know, a sentence each.

        Parameters
        ----------
        observed : (V,) float32
            Unpermuted t or F; negated for the negative of a contrast.
        row : {0, 1}
            1 for the negative of a contrast.
        model : StatisticModel
        grid : Grid
        """
        del observed, row, model, grid
        yield from ()

    def record(self, row: int) -> dict[str, Any]:
        """What the record of a run says of this statistic, for the map (row 0) or its negative (row 1)."""
        del row
        return {}


class Normalisable(Statistic):
    """A statistic that the two-pass scheme normalises by its local mean over permutations.

    The local mean at a voxel is the sum of the values over the permutations, divided by the number of permutations in
    which the voxel is not zero.
    """

    normalised_info: ClassVar[StatisticInfo]

    @property
    def edges_of_sums(self) -> tuple[Edge, ...]:
        """Further edges where local means are wanted."""
        return ()

    @property
    def bits_dropped(self) -> int:
        """Bits to drop from integer values so that their sum over all permutations fits in 63 bits."""
        return 0

    def sums(self, batch: Batch, values: MapBatch, quantum: float) -> Promise[tuple[AnyArray, Ints]]:
        """(2, V) Sums of the values over the batch, and permutations that are not 0, for both signs.

        On the host once `batch.outcomes` are collected.

        Parameters
        ----------
        batch : Batch
        values : (B, V)
            What `evaluate` returned of the batch.
        quantum : float
            Values that are no integers are rounded to multiples of it, so that sums do not depend on order.
        """
        return promised_sums(values, self.bits_dropped, quantum, batch.outcomes)

    def sums_in_units(self, total: AnyArray) -> Float64:
        """(2, V) Sums in FSL's units."""
        value = total.astype(np.float64)
        if total.dtype == np.int64:
            value *= 2.0**self.bits_dropped
        return np.stack([self.in_units(value[row], row) for row in (0, 1)])

    @abstractmethod
    def normalised_by(self, local_mean: Float64) -> Normalised:
        """The statistic of the second pass, from local means (2, V) in FSL's units."""


class Normalised(Statistic):
    """A statistic of the second pass: values over their local means.

    Attributes
    ----------
    source : str
        Name of the statistic of the first pass.
    local_mean : (2, V) float64
        Of the map and of its negative.
    """

    source: ClassVar[str]
    local_mean: Float64


def _both_rows(up: Ints, down: Ints | None = None) -> Ints:
    """Counts of the maps from the first array, of their negatives from the last."""
    if down is not None:
        up[1] = down[1]
    return up
