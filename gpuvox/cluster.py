"""Clusters: connected components of the voxels at or above a threshold; extent and mass.

Both signs of a map are handled in one pass, since a cluster of the map and one of its negative share no voxel.

Masses are sums of whole units of 2⁻²⁴, which hold a t of at least 1 exactly. Such sums do not depend on the order of
the voxels, so that a GPU (``kernels/cluster.cu``) finds the same bits. Two words hold a sum: what is under 2³¹ units
of each term, and the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from gpuvox.device import Device, Outcomes, Promise, settled, slots_for
from gpuvox.errors import InputError
from gpuvox.grid import Grid, Padded
from gpuvox.jit import inner, loop
from gpuvox.types import AnyArray, DeviceArray, Float32, Float64, Int32, Ints, MapBatch

UNITS = 2.0**24
"""Units of mass in 1."""
LARGEST = 2.0**38
"""A voxel adds no more than this to a mass."""


def cluster_maxima(
    stat: MapBatch, grid: Grid, threshold: float, connectivity: int = 26, device: Device | None = None
) -> tuple[Ints, Float64]:
    """Largest extent and largest mass of the clusters of each map and of its negative.

    Parameters
    ----------
    stat : (B, V) float32
    grid : Grid
    threshold : float
        Positive; clusters are voxels with values ≥ threshold.
    connectivity : {6, 18, 26}
    device : Device, optional
        Where the maps are.

    Returns
    -------
    extent : (2, B) int64, on the host
        Voxels; 0 where there is no cluster.
    mass : (2, B) float64, on the host
        Sum of the statistic.
    """
    return settled(
        device, lambda outcomes: promised_cluster_maxima(stat, grid, threshold, outcomes, connectivity)
    ).value


def promised_cluster_maxima(
    stat: MapBatch, grid: Grid, threshold: float, outcomes: Outcomes, connectivity: int = 26
) -> Promise[tuple[Ints, Float64]]:
    """The same, where the outcomes are those of a device that has the maps."""
    n_maps, device = len(stat), outcomes.device
    arguments = _arguments(grid, threshold, connectivity)
    if device is not None:
        measures = device.full((2, n_maps), 0, np.int64), device.full((2, n_maps), 0, np.float64)
        _measure_on(device, 0, stat, grid, arguments, None, *measures)
        return outcomes.promise(lambda *both: both, *measures)
    extent, mass = np.zeros((2, n_maps), dtype=np.int64), np.zeros((2, n_maps))
    _maxima(stat, *arguments, extent, mass)
    return outcomes.known((extent, mass))


def cluster_maps(
    stat: MapBatch, grid: Grid, threshold: float, connectivity: int = 26, device: Device | None = None
) -> tuple[MapBatch, MapBatch]:
    """Extent and mass of the cluster of every voxel.

    Returns
    -------
    extent, mass : (B, V) int64, float64, where the maps are
        Positive for clusters of the map, negative for those of its negative, 0 outside clusters. Parameters as
        of `cluster_maxima`.
    """
    arguments = _arguments(grid, threshold, connectivity)
    if device is not None:
        measures = device.empty(stat.shape, np.int64), device.empty(stat.shape, np.float64)
        _measure_on(device, 1, stat, grid, arguments, None, *measures)
        return measures
    extent, mass = np.zeros(stat.shape, dtype=np.int64), np.zeros(stat.shape)
    _maps(stat, *arguments, extent, mass)
    return extent, mass


@dataclass(frozen=True, eq=False)
class ClusterLists:
    """The voxels in clusters of some maps, one map after the other.

    Attributes
    ----------
    start : (B + 1,) int64
        Where the voxels of each map begin.
    voxel : (m,) int32
    extent : (m,) int64
    mass : (m,) float64
        Signed as in `cluster_maps`.
    n_voxels : int
        Number of voxels of a map, V.
    """

    start: Ints
    voxel: Int32
    extent: Ints
    mass: Float64
    n_voxels: int

    def maxima_and_below(self, values: AnyArray, ties: AnyArray) -> tuple[AnyArray, Ints]:
        """Maxima, and counts of maps below observed values.

        Parameters
        ----------
        values : (m,) array
            `extent` or `mass`.
        ties : (V,) array
            The least values that tie with the observed ones, signed.

        Returns
        -------
        maxima : (2, B) array
            See `cluster_maxima`.
        below : (2, V) int64
            See `reductions.count_below`, whose signs are disjoint here.
        """
        n_maps = len(self.start) - 1
        maxima, reached = np.zeros((2, n_maps), values.dtype), np.zeros(self.n_voxels, np.int64)
        _tally(self.start, self.voxel, values, ties, maxima, reached)
        below = n_maps - reached
        return maxima, np.stack([np.where(ties > 0, below, 0), np.where(ties < 0, below, 0)])


def cluster_lists(stat: Float32, grid: Grid, threshold: float, connectivity: int = 26) -> ClusterLists:
    """The clusters of maps on the host, as lists; parameters as of `cluster_maxima`."""
    start = np.zeros(len(stat) + 1, dtype=np.int64)
    lists = _lists(stat, *_arguments(grid, threshold, connectivity), start)
    return ClusterLists(start, *lists, grid.n_voxels)


def normalised_extents(
    stat: MapBatch, grid: Grid, threshold: float, local_mean: Float64, device: Device | None = None
) -> MapBatch:
    """Extent of every voxel's cluster over the mean, within the cluster, of a local mean.

    Parameters
    ----------
    stat, grid, threshold, device
        As of `cluster_maxima`; voxels that share a corner are neighbours.
    local_mean : (2, V) float64
        For clusters of the map and of its negative.

    Returns
    -------
    (B, V) float64, where the maps are
        Signed as in `cluster_maps`; 0 where the mean is 0.
    """
    arguments = _arguments(grid, threshold, 26)
    if device is not None:
        extents = device.empty(stat.shape, np.float64)
        _measure_on(device, 2, stat, grid, arguments, local_mean, device.empty((1, 1), np.int64), extents)
        return extents
    out = np.zeros(stat.shape)
    _normalised(stat, *arguments, local_mean, out)
    return out


_Scratch: TypeAlias = tuple[Int32, Int32, Int32, Ints, Ints, Ints, Float64]

_THREADS, _RESIDENT = 512, 3  # threads of a block, and blocks that a multiprocessor holds


def _measure_on(
    device: Device,
    what: int,
    stat: DeviceArray,
    grid: Grid,
    arguments: tuple[np.float32, Int32, Int32],
    local_mean: Float64 | None,
    extent: DeviceArray,
    mass: DeviceArray,
) -> None:
    n_maps, n_voxels = stat.shape
    if not n_maps or not n_voxels:
        return
    threshold, index, back = arguments
    box, i32 = grid.padded.size, np.int32
    slots = slots_for(n_maps, _RESIDENT, 4 * box + 28 * n_voxels, device)
    at = device.full((slots, box), -1, i32)
    words = [device.empty((slots, n_voxels), i32) for _ in range(3)]  # active, parent, size
    sums = [device.empty((slots, n_voxels), np.int64) for _ in range(2)]
    local = device.empty((1, 1), np.float64) if local_mean is None else device.keep(local_mean)
    device.launch(
        f"cluster_measure<{what}>", slots, _THREADS,
        stat, i32(n_maps), i32(n_voxels), np.float32(threshold), device.keep(index), i32(box), device.keep(back),
        i32(len(back)), local, at, *words, *sums, extent, mass,
    )  # fmt: skip


def label(stat: AnyArray, grid: Grid, threshold: float, connectivity: int = 26) -> tuple[Int32, int]:
    """Number the clusters of a map by decreasing size.

    Parameters
    ----------
    stat : (V,) array
    grid, threshold, connectivity
        As of `cluster_maxima`.

    Returns
    -------
    labels : (V,) int32
        0 outside; clusters from 1, of equal ones that with the first voxel first.
    n : int
        Number of clusters.
    """
    values = np.maximum(np.asarray(stat, dtype=np.float32), np.float32(0))
    arguments = _arguments(grid, threshold, connectivity)
    at = np.full(grid.padded.size, -1, dtype=np.int32)
    voxels, root = np.empty(len(values), np.int32), np.empty(len(values), np.int32)
    n = _components(values, *arguments, at, voxels, root)
    labels = np.zeros(len(values), dtype=np.int32)
    if not n:
        return labels, 0
    roots, inverse, sizes = np.unique(root[:n], return_inverse=True, return_counts=True)
    number = np.empty(len(roots), dtype=np.int32)
    number[np.argsort(-sizes, kind="stable")] = np.arange(1, len(roots) + 1)
    labels[voxels[:n]] = number[inverse]
    return labels, len(roots)


def _arguments(grid: Grid, threshold: float, connectivity: int) -> tuple[np.float32, Int32, Int32]:
    if not threshold > 0:
        raise InputError(f"the cluster-forming threshold is {threshold}; it must be positive")
    back = _neighbours_before(grid.padded, connectivity)
    # The smallest float32 that is at least the threshold: comparing float32 values with it is exact.
    bound = np.float32(threshold)
    if float(bound) < threshold:
        bound = np.nextafter(bound, np.float32(np.inf))
    return bound, grid.padded.index, back


@lru_cache(maxsize=16)
def _neighbours_before(padded: Padded, connectivity: int) -> Int32:
    """Offsets of the neighbours before a voxel; kept, because a device keeps them by their identity."""
    return padded.offsets(connectivity)[: connectivity // 2]


@loop
def _find(root: Int32, i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i


@loop
def _components(
    t: Float32, threshold: np.float32, index: Int32, back: Int32, at: Int32, voxels: Int32, root: Int32
) -> int:
    """Voxels beyond ±threshold and the first of each one's cluster (as numbers into `voxels`); their count.

    `at` is −1 everywhere, and is left so; meanwhile it has 2·i at the place of voxel i, and 1 more for positive ones.
    """
    n = 0
    for v in range(len(t)):  # without a branch: the next one overwrites what is not beyond
        voxels[n] = v
        n += int(abs(t[v]) >= threshold)
    for i in range(n):
        p, is_up = index[voxels[i]], int(t[voxels[i]] > 0)
        at[p] = 2 * i + is_up
        root[i] = i
        own = i
        for step in back:
            q = at[p + step]
            if q < 0 or q & 1 != is_up or root[q >> 1] == own:
                continue
            other = _find(root, q >> 1)
            root[max(own, other)] = own = min(own, other)
    for i in range(n):
        root[i] = _find(root, i)
        at[index[voxels[i]]] = -1
    return n


@inner
def _scratch(index: Int32) -> _Scratch:
    n = len(index)
    at = np.full(index.max() + 1 if n else 1, -1, np.int32)
    voxels, root = np.empty(n, np.int32), np.empty(n, np.int32)
    size, high, low = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    return at, voxels, root, size, high, low, np.empty(n)


@inner
def _add_up(weight: Float64, root: Int32, n: int, size: Ints, high: Ints, low: Ints) -> None:
    """Size, and sum of the weights of the voxels (in two words), at the first voxel of each cluster."""
    for i in range(n):
        size[i] = 0
        high[i] = 0
        low[i] = 0
    for i in range(n):
        units = np.int64(np.rint(min(weight[i], LARGEST) * UNITS))
        size[root[i]] += 1
        high[root[i]] += units >> 31
        low[root[i]] += units & 0x7FFFFFFF


@inner
def _sum(high: int, low: int) -> float:
    return (np.float64(high) * 2147483648.0 + np.float64(low)) / UNITS


@inner
def _heights(t: Float32, voxels: Int32, n: int, weight: Float64) -> None:
    for i in range(n):
        weight[i] = abs(np.float64(t[voxels[i]]))


@loop
def _maxima(stat: Float32, threshold: np.float32, index: Int32, back: Int32, extent: Ints, mass: Float64) -> None:
    at, voxels, root, size, high, low, weight = _scratch(index)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        _heights(stat[b], voxels, n, weight)
        _add_up(weight, root, n, size, high, low)
        for i in range(n):
            s = 0 if stat[b, voxels[i]] > 0 else 1
            extent[s, b] = max(extent[s, b], size[i])
            mass[s, b] = max(mass[s, b], _sum(high[i], low[i]))


@loop
def _maps(stat: Float32, threshold: np.float32, index: Int32, back: Int32, extent: Ints, mass: Float64) -> None:
    at, voxels, root, size, high, low, weight = _scratch(index)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        _heights(stat[b], voxels, n, weight)
        _add_up(weight, root, n, size, high, low)
        for i in range(n):
            v = voxels[i]
            sign = 1 if stat[b, v] > 0 else -1
            extent[b, v] = sign * size[root[i]]
            mass[b, v] = sign * _sum(high[root[i]], low[root[i]])


@loop
def _lists(
    stat: Float32, threshold: np.float32, index: Int32, back: Int32, start: Ints
) -> tuple[Int32, Ints, Float64]:
    """See `ClusterLists`; fills `start`."""
    at, voxels, root, size, high, low, weight = _scratch(index)
    room = len(index)
    voxel, extent, mass = np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        _heights(stat[b], voxels, n, weight)
        _add_up(weight, root, n, size, high, low)
        first = start[b]
        start[b + 1] = first + n
        if first + n > room:
            more = np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room)
            voxel, extent = np.concatenate((voxel, more[0])), np.concatenate((extent, more[1]))
            mass = np.concatenate((mass, more[2]))
            room *= 2
        for i in range(n):
            sign = 1 if stat[b, voxels[i]] > 0 else -1
            voxel[first + i] = voxels[i]
            extent[first + i] = sign * size[root[i]]
            mass[first + i] = sign * _sum(high[root[i]], low[root[i]])
    return voxel, extent, mass


@loop
def _tally(start: Ints, voxel: Int32, values: AnyArray, ties: AnyArray, maxima: AnyArray, reached: Ints) -> None:
    """Maxima (2, B) of signed values, and how many reach the tie of their voxel."""
    for b in range(len(start) - 1):
        for i in range(start[b], start[b + 1]):
            value, tie = values[i], ties[voxel[i]]
            if value > 0:
                maxima[0, b] = max(maxima[0, b], value)
                reached[voxel[i]] += (tie > 0) & (value >= tie)
            else:
                maxima[1, b] = max(maxima[1, b], -value)
                reached[voxel[i]] += (tie < 0) & (value <= tie)


@loop
def _normalised(
    stat: Float32, threshold: np.float32, index: Int32, back: Int32, local_mean: Float64, out: Float64
) -> None:
    at, voxels, root, size, high, low, weight = _scratch(index)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        for i in range(n):
            weight[i] = local_mean[0 if stat[b, voxels[i]] > 0 else 1, voxels[i]]
        _add_up(weight, root, n, size, high, low)
        for i in range(n):
            v, r = voxels[i], root[i]
            mean = _sum(high[r], low[r]) / size[r]
            if mean > 0:
                out[b, v] = (1 if stat[b, v] > 0 else -1) * (size[r] / mean)
