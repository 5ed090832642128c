"""A batch of permuted maps, as statistics see it, and the values in it that float32 does not decide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpuvox.device import Device, Outcomes
from gpuvox.grid import Grid
from gpuvox.reductions import (
    DeviceItems,
    Items,
    Search,
    close_search,
    close_to_maximum,
    extremes,
    extremes_on,
    listed,
    near_own_steps,
    near_steps,
    near_threshold,
    own_steps_search,
    put_on,
    steps_search,
    threshold_search,
)
from gpuvox.types import AnyArray, DeviceArray, Float32, Float64, MapBatch, ShuffleBatch, Shuffles


class StatisticModel(Protocol):
    """What a permutation test asks of a model (`glm.Glm`, `voxelwise.VoxelwiseGlm`)."""

    @property
    def n_voxels(self) -> int:
        """Number of voxels, V."""

    @property
    def df(self) -> int:
        """Residual degrees of freedom."""

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Degrees of freedom of F; None for t."""

    @property
    def has_exact(self) -> bool:
        """Whether single values can be had in float64."""

    @property
    def device(self) -> Device | None:
        """Where maps are made; None is the CPU."""

    @property
    def streamed(self) -> bool:
        """Whether every batch reads the data from a file."""

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """(B, V) z equivalents of maps of F."""

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 maps of t or F; `shuffles` are an array or, on a device, `signed_rows.DeviceShuffles`.

        Maps of permutations that leave the design as it is, or negate its effect, are computed in float64. `outcomes`
        are those of the batch; without them the maps are complete at once.
        """

    def settle(self, shuffles: ShuffleBatch, maps: MapBatch, chosen: Any, outcomes: Outcomes) -> None:
        """Compute the chosen maps again in float64; chosen (B,): bool or, on a device, int32."""

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) The map of one permutation in float64."""

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) The values at some voxels of some maps in float64, on the host."""

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) The same for a list on the device, where they stay."""

    def on(self, device: Device | None) -> StatisticModel:
        """The same model on another device."""

    def release(self) -> None:
        """Let go of what is on the device."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The maps of t or F of some permutations.

    Attributes
    ----------
    model : StatisticModel
    grid : Grid
        Mask and neighbourhood of the voxels.
    shuffles : (B, n) int, or `signed_rows.DeviceShuffles` where the model has a device
    maps : (B, V) float32
        Where the model's device has them.
    unpermuted : (V,) float32
        The map of the unpermuted data, on the host.
    first : int
        Number of the first map that is not the unpermuted one: 1 if the batch begins with that one, else 0.
    signs : {1, 2}
        2: the negative contrast is tested too.
    outcomes : Outcomes
        What is to be downloaded of the batch.
    measured : dict
        What two statistics have in common, by what was measured: put there by one, taken out by the other.
    """

    model: StatisticModel
    grid: Grid
    shuffles: ShuffleBatch
    maps: MapBatch
    unpermuted: Float32
    first: int = 0
    signs: int = 1
    outcomes: Outcomes = field(default_factory=lambda: Outcomes(None))
    measured: dict[tuple[str, float], Any] = field(default_factory=dict)

    @property
    def device(self) -> Device | None:
        """Where the maps are; None is the CPU."""
        return self.model.device

    def t_or_z(self) -> MapBatch:
        """(B, V) The maps of t, or the z equivalents of F; computed anew by every call for F."""
        return self.maps if self.model.f_dfs is None else self.model.to_z(self.maps)

    def exact(self, items: Items) -> Float64:
        """The values of some voxels, computed again in float64; on the host."""
        return self.model.exact(self.shuffles, items.map, items.voxel)

    def exact_on(self, items: DeviceItems) -> DeviceArray:
        """The same for a list on the device, where they stay."""
        return self.model.exact_on(self.shuffles, items)

    def settle(self, edge: Edge) -> None:
        """Compute again in float64, and put in the maps, the values that float32 cannot tell from an edge."""
        if self.device is None:
            items = edge.near(self)
            self.maps[items.map, items.voxel] = self.exact(items)
            return
        for found in listed(edge.values(self), self.first, edge.search(self), self.outcomes):
            put_on(self.device, self.maps, found, self.exact_on(found))


@dataclass(frozen=True, eq=False, kw_only=True)
class Unpermuted(Batch):
    """The batch of the unpermuted map alone, by which settings are fixed.

    Attributes
    ----------
    exact_map : (V,) float64
        The map before it was rounded to float32.
    n : int
        Number of permutations of the run.
    level_cap : int
        Steps of TFCE that are prepared for.
    joint_peak : float or None
        Where both signs, or several tests, share a null distribution: the largest statistic of the other tests (0
        without any). The steps of TFCE are then those of the largest of all.
    """

    exact_map: Float64
    n: int
    level_cap: int
    joint_peak: float | None = None


class Edge(ABC):
    """A value, or many, at which a statistic jumps: maps that tie there must tie in float64.

    Edges that compare equal are the same edge, and are looked for once.
    """

    def values(self, batch: Batch) -> MapBatch:
        """(B, V) The values that the edge is one of: the maps."""
        return batch.maps

    @abstractmethod
    def near(self, batch: Batch) -> Items:
        """The voxels of a batch on the CPU that are within rounding of the edge, from map `batch.first` on."""

    @abstractmethod
    def search(self, batch: Batch) -> Search:
        """The same search for a batch on a device."""


@dataclass(frozen=True)
class ThresholdEdge(Edge):
    """A threshold of the statistic, and its negative."""

    threshold: float

    def near(self, batch: Batch) -> Items:
        """See `Edge.near`."""
        return near_threshold(self.values(batch), batch.first, self.threshold)

    def search(self, batch: Batch) -> Search:
        """See `Edge.search`."""
        del batch
        return threshold_search(self.threshold)


@dataclass(frozen=True)
class StepEdges(Edge):
    """Whole numbers of steps of height of t, or of the z of F.

    Attributes
    ----------
    per_unit : (float, float)
        Steps in 1, for the map and for its negative; 0 for a sign without steps.
    """

    per_unit: tuple[float, float]

    def values(self, batch: Batch) -> MapBatch:
        """See `Edge.values`."""
        return batch.t_or_z()

    def near(self, batch: Batch) -> Items:
        """See `Edge.near`."""
        return near_steps(self.values(batch), batch.first, self.per_unit)

    def search(self, batch: Batch) -> Search:
        """See `Edge.search`."""
        del batch
        return steps_search(self.per_unit)


@dataclass(frozen=True)
class MaximumEdge(Edge):
    """The maximum of each map, and with two signs that of its negative, by which the map is measured."""

    signs: int

    def near(self, batch: Batch) -> Items:
        """See `Edge.near`."""
        maxima = extremes(batch.maps)
        rows = enumerate((1, -1)[: self.signs])
        found = [close_to_maximum(batch.maps, batch.first, sign, maxima[row]) for row, sign in rows]
        return Items(
            *(np.concatenate([getattr(each, name) for each in found]) for name in ("map", "voxel", "value"))
        )

    def search(self, batch: Batch) -> Search:
        """See `Edge.search`."""
        return close_search(_maxima_on(batch), 3 if self.signs == 2 else 1)


@dataclass(frozen=True)
class OwnStepEdges(Edge):
    """Whole numbers of steps of height, so many to the maximum of each map; after `MaximumEdge`."""

    n_steps: int
    signs: int

    def near(self, batch: Batch) -> Items:
        """See `Edge.near`."""
        return near_own_steps(batch.maps, batch.first, self.n_steps, self.signs)

    def search(self, batch: Batch) -> Search:
        """See `Edge.search`."""
        return own_steps_search(_maxima_on(batch), self.n_steps, self.signs)


def _maxima_on(batch: Batch) -> DeviceArray:
    """(2, B) Maxima of the maps and of their negatives, on the device that has them."""
    if batch.device is None:
        raise ValueError("the batch is not on a device")
    return extremes_on(batch.device, batch.maps)
