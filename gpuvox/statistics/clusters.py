"""Extent and mass of clusters of voxels at or above a threshold, and the normalised extent of the two-pass scheme."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from gpuvox.cluster import ClusterLists, cluster_lists, cluster_maps, normalised_extents, promised_cluster_maxima
from gpuvox.device import Promise
from gpuvox.statistics.base import SUM_TIE, Normalisable, Normalised, Statistic, StatisticInfo
from gpuvox.statistics.batch import Batch, ThresholdEdge
from gpuvox.types import AnyArray, Float64, Ints, MapBatch

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class _OfClusters(Statistic):
    """What extent and mass have in common.

    Parameters
    ----------
    threshold : float
        The cluster-forming threshold.
    """

    threshold: float

    @property
    def edges(self) -> tuple[ThresholdEdge, ...]:
        """The cluster-forming threshold."""
        return (ThresholdEdge(self.threshold),)

    @abstractmethod
    def _choose(self, measured: tuple[MapBatch, MapBatch]) -> MapBatch:
        """Extent or mass, of a pair of both."""

    def _shared(self, batch: Batch, what: str, measure: Callable[[], Measured], keep: bool) -> Measured:
        """Extent and mass, measured together: for the first that asks, and again for the second if they are kept."""
        measured: Measured | None = batch.measured.pop((what, self.threshold), None)
        if measured is None:
            measured = measure()
            if keep:
                batch.measured[what, self.threshold] = measured
        return measured

    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) What each voxel's cluster measures."""

        def maps() -> tuple[MapBatch, MapBatch]:
            return cluster_maps(batch.maps, batch.grid, self.threshold, device=batch.device)

        # A device has no memory to spare.
        return self._choose(self._shared(batch, "maps", maps, batch.device is None))

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Promise[AnyArray]:
        """See `Statistic.maxima`; takes no maps where none were made."""
        if values is not None:
            return super().maxima(batch, values)

        def largest() -> Promise[tuple[MapBatch, MapBatch]]:
            return promised_cluster_maxima(batch.maps, batch.grid, self.threshold, batch.outcomes)

        return self._shared(batch, "maxima", largest, True).then(self._choose)

    def maxima_and_below(
        self, batch: Batch, ties: tuple[AnyArray, AnyArray]
    ) -> tuple[Promise[AnyArray], Promise[Ints]]:
        """See `Statistic.maxima_and_below`; on the CPU only the voxels in clusters are looked at."""
        if batch.device is not None:
            return super().maxima_and_below(batch, ties)

        def lists() -> ClusterLists:
            return cluster_lists(batch.maps, batch.grid, self.threshold)

        found = self._shared(batch, "lists", lists, True)
        maxima, below = found.maxima_and_below(self._choose((found.extent, found.mass)), ties[0][0])
        return batch.outcomes.known(maxima), batch.outcomes.known(below)


@dataclass(frozen=True)
class ClusterExtent(_OfClusters, Normalisable):
    """Number of voxels of a cluster."""

    info: ClassVar = StatisticInfo("clustere", "cluster extent", precedence=20)
    normalised_info: ClassVar = StatisticInfo(
        "clustern", "normalised cluster extent", precedence=40, local_means="clusternorm"
    )

    def _choose(self, measured: tuple[MapBatch, MapBatch]) -> MapBatch:
        return measured[0]

    def normalised_by(self, local_mean: Float64) -> NormalisedExtent:
        """See `Normalisable.normalised_by`."""
        return NormalisedExtent(self.threshold, local_mean)


@dataclass(frozen=True)
class ClusterMass(_OfClusters):
    """Sum of the statistic over the voxels of a cluster."""

    info: ClassVar = StatisticInfo("clusterm", "cluster mass", precedence=30)

    def _choose(self, measured: tuple[MapBatch, MapBatch]) -> MapBatch:
        return measured[1]

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`; sums of the statistic carry its rounding."""
        return values * (1 - SUM_TIE)


@dataclass(frozen=True, eq=False)
class NormalisedExtent(Normalised):
    """Extent of a cluster over the mean, within the cluster, of the local mean of the extent."""

    threshold: float
    local_mean: Float64

    info: ClassVar = ClusterExtent.normalised_info
    source: ClassVar = ClusterExtent.info.name

    def evaluate(self, batch: Batch) -> MapBatch:
        """See `Statistic.evaluate`."""
        return normalised_extents(batch.maps, batch.grid, self.threshold, self.local_mean, batch.device)
