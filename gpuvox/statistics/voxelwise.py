"""The value of t or F at each voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gpuvox.reductions import close_to_maximum, extremes, near_ties
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

    info: ClassVar = StatisticInfo("vox", "voxelwise", precedence=10, is_image=True, needs_neighbours=False)
    disjoint: ClassVar = False

    def fixed_by(self, unpermuted: Unpermuted) -> Voxelwise:
        """With the kind of ties that the model allows."""
        return replace(self, is_rounded=not unpermuted.model.has_exact)

    def evaluate(self, batch: Batch) -> MapBatch:
        """The maps as they are."""
        return batch.maps

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Float32:
        """(2, B) Maxima; the voxels that decide them are computed in float64, so that ties are ties."""
        del values
        maxima = extremes(batch.maps, batch.device)
        if self.is_rounded:
            return maxima
        for row, sign in enumerate((1, -1)[: batch.signs]):
            items = close_to_maximum(batch.maps, batch.first, sign, maxima[row], batch.device)
            exact = sign * batch.exact(items).astype(np.float32)
            maxima[row, np.unique(items.map)] = -np.inf
            np.maximum.at(maxima[row], items.map, exact)
        return maxima

    def below(self, batch: Batch, values: MapBatch, ties: tuple[AnyArray, AnyArray]) -> Ints:
        """See `Statistic.below`; what float32 cannot tell from the observed value is compared in float64."""
        below = super().below(batch, values, ties)
        if self.is_rounded:
            return below
        items = near_ties(values, batch.first, batch.unpermuted, batch.device)
        exact = batch.exact(items).astype(np.float32)
        target = batch.unpermuted[items.voxel]
        np.add.at(below[0], items.voxel, (exact < target).astype(np.int64) - (items.value < target))
        np.add.at(below[1], items.voxel, (exact > target).astype(np.int64) - (items.value > target))
        return below

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`."""
        if self.is_rounded:
            return values - np.maximum(np.abs(values), np.float32(1)) * np.float32(SUM_TIE)
        return values
