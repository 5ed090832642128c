"""The statistics that are computed of each permutation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuvox.tfce import Tfce

__all__ = ["Statistics"]


@dataclass(frozen=True)
class Statistics:
    """What is wanted of each permutation.

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
    """

    voxel: bool = True
    tfce: Tfce | None = None
    extent: float | None = None
    mass: float | None = None
    uncorrected: bool = False
    two_pass: bool = False

    def __post_init__(self) -> None:
        for name in ("extent", "mass"):
            threshold = getattr(self, name)
            if threshold is not None and not (threshold > 0 and math.isfinite(threshold)):
                raise ValueError(f"the cluster-forming threshold is {threshold}; it must be a positive number")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the statistics of the first pass, as in FSL's file names."""
        wanted = {
            "vox": self.voxel,
            "clustere": self.extent is not None,
            "clusterm": self.mass is not None,
            "tfce": self.tfce is not None,
        }
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)

    def threshold(self, kind: str) -> float:
        """Cluster-forming threshold of a statistic of clusters."""
        threshold = self.extent if kind == "clustere" else self.mass
        if threshold is None:
            raise ValueError(f"no cluster-forming threshold is set for {kind}")
        return threshold

    @property
    def normalised(self) -> tuple[str, ...]:
        """Names of the statistics of the second pass."""
        if not self.two_pass:
            return ()
        return tuple(new for old, new in (("clustere", "clustern"), ("tfce", "tfcen")) if old in self.kinds)
