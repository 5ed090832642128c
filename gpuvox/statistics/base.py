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

from gpuvox.device import Device
from gpuvox.grid import Grid
from gpuvox.reductions import count_below, extremes, sum_up
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
    local_means : str
        For a statistic of the second pass: in the names of the images of the local means.
    """

    name: str
    title: str
    precedence: int = 0
    is_image: bool = False
    needs_neighbours: bool = True
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

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> AnyArray:
        """(2, B) Largest value of each map and of its negative, on the host.

        Parameters
        ----------
        batch : Batch
        values : (B, V), optional
            What `evaluate` returned of the batch, if it was needed anyway.
        """
        largest = extremes(self.evaluate(batch) if values is None else values, batch.device)
        return np.maximum(largest, 0) if self.disjoint else largest

    def below(self, batch: Batch, values: MapBatch, ties: tuple[AnyArray, AnyArray]) -> Ints:
        """(2, V) How many of the maps, and of their negatives, lie strictly below the observed value.

        Parameters
        ----------
        batch : Batch
        values : (B, V)
            What `evaluate` returned of the batch.
        ties : two arrays (1, V)
            The least values that tie with the observed ones, of the map and, with their sign, of its negative; see
            `least_ties`.
        """
        up, down = ties
        below = count_below(values, up, self.disjoint, batch.device)
        if not np.array_equal(up, down):
            below[1] = count_below(values, down, self.disjoint, batch.device)[1]
        return below

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

    def sums(self, values: MapBatch, quantum: float, device: Device | None) -> tuple[AnyArray, Ints]:
        """(2, V) Sums of the values over the batch, and permutations that are not 0, for both signs.

        Parameters
        ----------
        values : (B, V)
            What `evaluate` returned.
        quantum : float
            Values that are no integers are rounded to multiples of it, so that sums do not depend on order.
        device : Device, optional
            Where the values are.
        """
        return sum_up(values, self.bits_dropped, quantum, device)

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
