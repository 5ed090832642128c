"""What is gathered of the values of all permutations, voxel by voxel, where the values are.

A `Gatherer` makes a few numbers of each voxel of every batch: on a device (``kernels/maps.cu``) the maps stay there.
The numbers are such that neither the order of the batches nor their size changes a bit of what is gathered: whole
numbers that are added, the first of many permutations, or single values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from gpuvox.device import C_NAMES, Device, Outcomes, Promise, blocks_for, blocks_over
from gpuvox.types import AnyArray, DeviceArray, Float64, Int32, Ints, MapBatch

THREADS = 256


@dataclass(frozen=True)
class Shown:
    """What users see of the values of a statistic.

    Attributes
    ----------
    of : callable
        Values (…, V) for both signs, on the host → what users see of them.
    disjoint : bool
        The signs are separate statistics, each 0 where the other is not.
    sizes : bool
        Users see the size of a value, whatever its sign; otherwise the value of the map, and not of its negative.
    scales : (float, float)
        What 1 is in the units of the map, and of its negative.
    """

    of: Callable[[AnyArray], AnyArray]
    disjoint: bool
    sizes: bool
    scales: tuple[float, float]

    @property
    def arguments(self) -> tuple[np.generic, ...]:
        """What kernels take of it."""
        return np.int32(self.disjoint), np.int32(self.sizes), *map(np.float64, self.scales)


class Gatherer(ABC):
    """Gathers something of every permutation of a test.

    Attributes
    ----------
    names : collection of str
        The statistics of whose values something is gathered.
    """

    names: Collection[str]

    @abstractmethod
    def of_batch(
        self, name: str, shown: Shown, numbers: range, values: MapBatch, outcomes: Outcomes
    ) -> Promise[AnyArray]:
        """What is gathered of the values (B, V) of a statistic in permutations of these numbers.

        They are where the device of the outcomes has them, or on the host.
        """

    @abstractmethod
    def emptied(self) -> Gatherer:
        """The same with nothing gathered, to be sent to where the values are; only its `of_batch` is called there."""

    @abstractmethod
    def add(self, numbers: range, found: dict[str, AnyArray]) -> None:
        """Add what was gathered of a batch, by statistic; of every permutation once, in any order."""


def power_sums(values: MapBatch, shown: Shown, limit: float, quanta: float, outcomes: Outcomes) -> Promise[Ints]:
    """(3, V) Sums of the values x and of their squares and cubes, each rounded to a whole number.

    Values are cut to ±`limit`, a power of 2; with s = x / limit, the sums are those of s · `quanta`, s² · `quanta` and
    s³ · `quanta`, so that they do not depend on order.
    """
    device, (n_maps, n_voxels) = outcomes.device, values.shape
    if device is None:
        sums = np.zeros((3, n_voxels), dtype=np.int64)
        for row in values:
            share = np.clip(np.asarray(shown.of(row), dtype=np.float64), -limit, limit) * (1 / limit)
            power = share * quanta
            for total in sums:
                total += np.rint(power).astype(np.int64)
                power *= share
        return outcomes.known(sums)
    made = device.empty((3, n_voxels), np.int64)
    device.launch(
        f"maps_power_sums<{C_NAMES[values.dtype.name]}>", blocks_for(n_voxels, THREADS, device), THREADS,
        values, np.int32(n_maps), np.int64(n_voxels), *shown.arguments, np.float64(limit), np.float64(1 / limit),
        np.float64(quanta), made,
    )  # fmt: skip
    return outcomes.promise(_as_it_is, made)


def first_reached(
    values: MapBatch, shown: Shown, least: Float64, numbers: range, none: int, r: int, outcomes: Outcomes
) -> Promise[Int32]:
    """(r, V) Numbers of the first permutations whose values are at least these (V,), ascending; `none` for no more.

    Permutation 0 does not count.
    """
    device, (n_maps, n_voxels) = outcomes.device, values.shape
    if device is None:
        first = np.full((r, n_voxels), none, dtype=np.int32)
        count = np.zeros(n_voxels, dtype=np.int64)
        for number, row in zip(numbers, values):
            if number:
                reaching = np.flatnonzero((shown.of(row) >= least) & (count < r))
                first[count[reaching], reaching] = number
                count[reaching] += 1
        return outcomes.known(first)
    made = device.empty((r, n_voxels), np.int32)
    device.launch(
        f"maps_first_reached<{C_NAMES[values.dtype.name]}>", blocks_for(n_voxels, THREADS, device), THREADS,
        values, np.int32(n_maps), np.int64(n_voxels), *shown.arguments, device.keep(least), np.int32(numbers.start),
        np.int32(none), np.int32(r), made,
    )  # fmt: skip
    return outcomes.promise(_as_it_is, made)


def values_at(values: MapBatch, shown: Shown, voxels: Int32, outcomes: Outcomes) -> Promise[AnyArray]:
    """(B, m) What users see of the values at some voxels."""
    if outcomes.device is None:
        return outcomes.known(shown.of(values[:, voxels]))
    return outcomes.promise(shown.of, _taken_on(outcomes.device, values, voxels))


def _taken_on(device: Device, values: DeviceArray, voxels: Int32) -> DeviceArray:
    (n_maps, n_voxels), n_chosen = values.shape, len(voxels)
    taken = device.empty((n_maps, n_chosen), values.dtype)
    if taken.shape[0] and n_chosen:
        device.launch(
            f"maps_take<{C_NAMES[values.dtype.name]}>", blocks_over(n_maps, n_chosen, THREADS, device), THREADS,
            values, np.int32(n_maps), np.int64(n_voxels), device.keep(voxels), np.int32(n_chosen), taken,
        )  # fmt: skip
    return taken


def _as_it_is(values: AnyArray) -> AnyArray:
    return values
