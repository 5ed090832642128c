"""Extent and mass of clusters of voxels at or above a threshold, and the normalised extent of the two-pass scheme."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.statistics.base import SUM_TIE, Normalisable, Normalised, Statistic, StatisticInfo
from gpuvox.statistics.batch import Batch, ThresholdEdge
from gpuvox.types import AnyArray, Float64, MapBatch


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

    def _measure(self, measure: Callable[..., tuple[MapBatch, MapBatch]], batch: Batch) -> MapBatch:
        key = (measure.__name__, self.threshold)
        measured = batch.measured.pop(key, None)
        if measured is None:
            measured = measure(batch.maps, batch.grid, self.threshold, device=batch.device)
            if batch.device is None:  # a device has no memory to spare
                batch.measured[key] = measured
        return self._choose(measured)

    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) What each voxel's cluster measures."""
        return self._measure(cluster_maps, batch)

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> AnyArray:
        """See `Statistic.maxima`; takes no maps where none were made."""
        return self._measure(cluster_maxima, batch) if values is None else super().maxima(batch, values)


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
