"""What models whose maps are z have in common: every value is computed in float64, and z is rounded once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from gpuvox.device import Outcomes
from gpuvox.glm import DeviceModel
from gpuvox.types import Float64, MapBatch, ShuffleBatch, Shuffles

__all__ = ["NO_EXACT", "NO_MAPS", "RawMaps", "ZModel"]

NO_MAPS = np.empty((0, 0), dtype=np.float32)
"""In place of maps (B, V), where a compiled loop is to fill exact values."""
NO_EXACT = np.empty((0, 0, 0))
"""In place of exact values (3, B, V), where it is to fill maps."""


class RawMaps(NamedTuple):
    """One shuffle in float64.

    Attributes
    ----------
    statistic : (V,) float64
        t, F, v or G; 0 where there is none.
    df : (V,) float64
        Its degrees of freedom; of F and G, those of the denominator.
    z : (V,) float64
        0 where there is no statistic.
    """

    statistic: Float64
    df: Float64
    z: Float64


class ZModel(DeviceModel):
    """A model whose maps are z from the start, with degrees of freedom that differ between voxels and shuffles."""

    @abstractmethod
    def raw_maps(self, shuffle: Shuffles) -> RawMaps:
        """The statistic of one shuffle, its degrees of freedom, and z, in float64; on the host."""

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) z of one shuffle in float64, on the host."""
        return self.raw_maps(shuffle).z

    @property
    def f_dfs(self) -> None:
        """None: maps are z, also of F and G."""
        return

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """The maps themselves, which are z."""
        return statistic

    def settle(self, shuffles: ShuffleBatch, maps: MapBatch, chosen: Any, outcomes: Outcomes) -> None:
        """Nothing: all maps have been computed in float64."""
