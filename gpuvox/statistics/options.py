"""The user's choice of statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuvox.errors import InputError
from gpuvox.statistics.base import Setting, StatisticInfo
from gpuvox.statistics.clusters import ClusterExtent, ClusterMass
from gpuvox.statistics.own_step_tfce import OwnStepTfceSetting
from gpuvox.statistics.tfce import TfceSetting
from gpuvox.statistics.voxelwise import Voxelwise
from gpuvox.tfce_tables import Tfce


@dataclass(frozen=True)
class Statistics:
    """The user's choice of statistics, computed of each permutation.

    A new statistic is a class in a file of its own, and a line in `settings`.

    Parameters
    ----------
    voxel : bool
        Maximum of the statistic itself.
    tfce : Tfce, optional
        Threshold-free cluster enhancement.
    extent, mass : float, optional
        Cluster-forming thresholds for the extent (voxels) and the mass (sum of the statistic) of clusters.
    uncorrected : bool
        Count, at every voxel, the permutations that lie below the observed value.
    two_pass : bool
        Normalise cluster extent and TFCE by their local mean over permutations (a second pass over them).
    two_sided : bool
        Compare the size of t, whatever its sign, with the largest of both signs of each permutation. The signs stay
        apart in clusters and in TFCE, whose steps they share. Without meaning for F.

    Raises
    ------
    InputError
        A cluster-forming threshold that is not a positive number.
    """

    voxel: bool = True
    tfce: Tfce | None = None
    extent: float | None = None
    mass: float | None = None
    uncorrected: bool = False
    two_pass: bool = False
    two_sided: bool = False

    def __post_init__(self) -> None:
        for name in ("extent", "mass"):
            threshold = getattr(self, name)
            if threshold is not None and not (threshold > 0 and math.isfinite(threshold)):
                raise InputError(f"the cluster-forming threshold is {threshold}; it must be a positive number")

    @property
    def connectivity(self) -> int:
        """Of TFCE; its default without TFCE."""
        return (self.tfce or Tfce()).connectivity

    @property
    def _tfce_setting(self) -> Setting | None:
        if self.tfce is None:
            return None
        return OwnStepTfceSetting(self.tfce) if self.tfce.has_own_steps else TfceSetting(self.tfce)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The statistics of the first pass."""
        settings = (
            Voxelwise() if self.voxel else None,
            None if self.extent is None else ClusterExtent(self.extent),
            None if self.mass is None else ClusterMass(self.mass),
            self._tfce_setting,
        )
        return tuple(setting for setting in settings if setting is not None)

    @property
    def infos(self) -> tuple[StatisticInfo, ...]:
        """What is said of the statistics, those of the first pass before those of the second."""
        first = tuple(setting.info for setting in self.settings)
        second = tuple(setting.normalised_info for setting in self.settings if setting.normalised_info)
        return first + second if self.two_pass else first

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the statistics of the first pass, as in FSL's file names."""
        return tuple(setting.info.name for setting in self.settings)

    @property
    def normalised(self) -> tuple[str, ...]:
        """Names of the statistics of the second pass."""
        return tuple(info.name for info in self.infos[len(self.kinds) :])

    @property
    def is_portable(self) -> bool:
        """Whether CPUs and GPUs compute the same bits."""
        return all(setting.is_portable for setting in self.settings)
