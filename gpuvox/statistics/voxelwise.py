"""The value of t or F at each voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gpuvox.device import Promise
from gpuvox.reductions import (
    close_to_maximum,
    exact_maxima_on,
    extremes,
    near_ties,
    promised_extremes,
    settle_below_on,
)
from gpuvox.statistics.base import SUM_TIE, Statistic, StatisticInfo
from gpuvox.statistics.batch import Batch, Unpermuted
from gpuvox.types import AnyArray, Float32, Ints, MapBatch


@dataclass(frozen=True)
class Voxelwise(Statistic):
    """The statistic image itself.

    Values that decide a maximum, or that float32 cannot tell from the observed value, are computed in float64.

    Parameters
    ----------
    is_rounded : bool
        No value can be had in float64 (smoothed variances): values within rounding of each other then tie.
    """

    is_rounded: bool = False

    info: ClassVar = StatisticInfo(
        "vox", "voxelwise", precedence=10, is_image=True, needs_neighbours=False, has_tail=True
    )
    disjoint: ClassVar = False

    def fixed_by(self, unpermuted: Unpermuted) -> Voxelwise:
        """With the kind of ties that the model allows."""
        return replace(self, is_rounded=not unpermuted.model.has_exact)

    def evaluate(self, batch: Batch) -> MapBatch:
        """The maps as they are."""
        return batch.maps

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Promise[Float32]:
        """(2, B) Maxima; the voxels that decide them are computed in float64, so that ties are ties."""
        del values
        if self.is_rounded:
            return promised_extremes(batch.maps, batch.outcomes)
        if batch.device is not None:
            return exact_maxima_on(batch.maps, batch.first, batch.signs, batch.exact_on, batch.outcomes)
        maxima = extremes(batch.maps)
        for row, sign in enumerate((1, -1)[: batch.signs]):
            items = close_to_maximum(batch.maps, batch.first, sign, maxima[row])
            exact = sign * batch.exact(items).astype(np.float32)
            maxima[row, np.unique(items.map)] = -np.inf
            np.maximum.at(maxima[row], items.map, exact)
        return batch.outcomes.known(maxima + np.float32(0))  # no negative zeros

    def below(self, batch: Batch, values: MapBatch, ties: tuple[AnyArray, AnyArray]) -> Promise[Ints]:
        """See `Statistic.below`; what float32 cannot tell from the observed value is compared in float64."""
        if self.is_rounded:
            return super().below(batch, values, ties)
        below = self._count(batch, values, ties[0])  # those of the negative are the same
        if batch.device is not None:
            settle_below_on(below, values, batch.first, batch.unpermuted, batch.exact_on, batch.outcomes)
            return batch.outcomes.promise(lambda counted: counted, below)
        items = near_ties(values, batch.first, batch.unpermuted)
        exact = batch.exact(items).astype(np.float32)
        target = batch.unpermuted[items.voxel]
        np.add.at(below[0], items.voxel, (exact < target).astype(np.int64) - (items.value < target))
        np.add.at(below[1], items.voxel, (exact > target).astype(np.int64) - (items.value > target))
        return batch.outcomes.known(below)

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`."""
        if self.is_rounded:
            return values - np.maximum(np.abs(values), np.float32(1)) * np.float32(SUM_TIE)
        return values
