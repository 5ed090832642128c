"""Extent and mass of clusters of voxels at or above a threshold, and the normalised extent of the two-pass scheme."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.statistics.base import SUM_TIE, Normalisable, Normalised, Statistic, StatisticInfo
from gpuvox.statistics.batch import Batch, ThresholdEdge

Float64 = NDArray[np.float64]


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
    def _choose(self, measured: tuple[Any, Any]) -> Any:
        """Extent or mass, of a pair of both."""

    def _measure(self, measure: Callable[..., tuple[Any, Any]], batch: Batch) -> Any:
        return self._choose(measure(batch.maps, batch.grid, self.threshold, device=batch.device))

    def evaluate(self, batch: Batch) -> Any:
        """(B, V) What each voxel's cluster measures."""
        return self._measure(cluster_maps, batch)

    def maxima(self, batch: Batch, values: Any = None) -> NDArray:
        """See `Statistic.maxima`; takes no maps where none were made."""
        return self._measure(cluster_maxima, batch) if values is None else super().maxima(batch, values)


@dataclass(frozen=True)
class ClusterExtent(_OfClusters, Normalisable):
    """Number of voxels of a cluster."""

    info: ClassVar = StatisticInfo("clustere", "cluster extent", precedence=20)
    normalised_info: ClassVar = StatisticInfo(
        "clustern", "normalised cluster extent", precedence=40, local_means="clusternorm"
    )

    def _choose(self, measured: tuple[Any, Any]) -> Any:
        return measured[0]

    def normalised_by(self, local_mean: Float64) -> NormalisedExtent:
        """See `Normalisable.normalised_by`."""
        return NormalisedExtent(self.threshold, local_mean)


@dataclass(frozen=True)
class ClusterMass(_OfClusters):
    """Sum of the statistic over the voxels of a cluster."""

    info: ClassVar = StatisticInfo("clusterm", "cluster mass", precedence=30)

    def _choose(self, measured: tuple[Any, Any]) -> Any:
        return measured[1]

    def least_tie(self, values: NDArray) -> NDArray:
        """See `Statistic.least_tie`; sums of the statistic carry its rounding."""
        return values * (1 - SUM_TIE)


@dataclass(frozen=True, eq=False)
class NormalisedExtent(Normalised):
    """Extent of a cluster over the mean, within the cluster, of the local mean of the extent."""

    threshold: float
    local_mean: Float64

    info: ClassVar = ClusterExtent.normalised_info
    source: ClassVar = ClusterExtent.info.name

    def evaluate(self, batch: Batch) -> Any:
        """See `Statistic.evaluate`."""
        return normalised_extents(batch.maps, batch.grid, self.threshold, self.local_mean, batch.device)
