"""Clusters: connected components of the voxels at or above a threshold; extent and mass.

Both signs of a map are handled in one pass, since a cluster of the map and one of its negative share no voxel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuvox.compiled import loop
from gpuvox.grid import Grid

Float32 = NDArray[np.float32]


def cluster_maxima(
    stat: Float32, grid: Grid, threshold: float, connectivity: int = 26
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Largest extent and largest mass of the clusters of each map and of its negative.

    Parameters
    ----------
    stat : (B, V) float32
    grid : Grid
    threshold : float
        Positive; clusters are voxels with values ≥ threshold.
    connectivity : {6, 18, 26}

    Returns
    -------
    extent : (2, B) int64
        Voxels; 0 where there is no cluster.
    mass : (2, B) float64
        Sum of the statistic, in the order of the voxels.
    """
    extent, mass = np.zeros((2, len(stat)), dtype=np.int64), np.zeros((2, len(stat)))
    _maxima(stat, *_arguments(grid, threshold, connectivity), extent, mass)
    return extent, mass


def cluster_maps(
    stat: Float32, grid: Grid, threshold: float, connectivity: int = 26
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Extent and mass of the cluster of every voxel.

    Returns
    -------
    extent, mass : (B, V) int64, float64
        Positive for clusters of the map, negative for those of its negative, 0 outside clusters. Parameters as
        of `cluster_maxima`.
    """
    extent, mass = np.zeros(stat.shape, dtype=np.int64), np.zeros(stat.shape)
    _maps(stat, *_arguments(grid, threshold, connectivity), extent, mass)
    return extent, mass


def label(stat: NDArray, grid: Grid, threshold: float, connectivity: int = 26) -> tuple[NDArray[np.int32], int]:
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


def _arguments(
    grid: Grid, threshold: float, connectivity: int
) -> tuple[np.float32, NDArray[np.int32], NDArray[np.int32]]:
    if not threshold > 0:
        raise ValueError(f"the cluster-forming threshold is {threshold}; it must be positive")
    offsets = grid.padded.offsets(connectivity)
    # The smallest float32 that is at least the threshold: comparing float32 values with it is exact.
    bound = np.float32(threshold)
    if float(bound) < threshold:
        bound = np.nextafter(bound, np.float32(np.inf))
    return bound, grid.padded.index, offsets[: connectivity // 2]


@loop
def _find(root, i):
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i


@loop
def _components(t, threshold, index, back, at, voxels, root):
    """Voxels beyond ±threshold and the first of each one's cluster (as numbers into `voxels`); their count.

    `at` is −1 everywhere, and is left so.
    """
    n = 0
    for v in range(len(t)):
        if abs(t[v]) >= threshold:
            p = index[v]
            at[p] = n
            voxels[n] = v
            root[n] = n
            for step in back:
                q = at[p + step]
                if q >= 0 and (t[voxels[q]] > 0) == (t[v] > 0):
                    a, b = _find(root, q), _find(root, n)
                    root[max(a, b)] = min(a, b)
            n += 1
    for i in range(n):
        root[i] = _find(root, i)
        at[index[voxels[i]]] = -1
    return n


@loop
def _measure(t, voxels, root, n, size, mass):
    """Size and mass at the first voxel of each cluster."""
    for i in range(n):
        size[i] = 0
        mass[i] = 0.0
    for i in range(n):
        size[root[i]] += 1
        mass[root[i]] += abs(np.float64(t[voxels[i]]))


@loop
def _maxima(stat, threshold, index, back, extent, mass):
    n_voxels = stat.shape[1]
    at = np.full(index.max() + 1 if n_voxels else 1, -1, np.int32)
    voxels, root = np.empty(n_voxels, np.int32), np.empty(n_voxels, np.int32)
    size, weight = np.empty(n_voxels, np.int64), np.empty(n_voxels)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        _measure(stat[b], voxels, root, n, size, weight)
        for i in range(n):
            s = 0 if stat[b, voxels[i]] > 0 else 1
            extent[s, b] = max(extent[s, b], size[i])
            mass[s, b] = max(mass[s, b], weight[i])


@loop
def _maps(stat, threshold, index, back, extent, mass):
    n_voxels = stat.shape[1]
    at = np.full(index.max() + 1 if n_voxels else 1, -1, np.int32)
    voxels, root = np.empty(n_voxels, np.int32), np.empty(n_voxels, np.int32)
    size, weight = np.empty(n_voxels, np.int64), np.empty(n_voxels)
    for b in range(len(stat)):
        n = _components(stat[b], threshold, index, back, at, voxels, root)
        _measure(stat[b], voxels, root, n, size, weight)
        for i in range(n):
            v = voxels[i]
            sign = 1 if stat[b, v] > 0 else -1
            extent[b, v] = sign * size[root[i]]
            mass[b, v] = sign * weight[root[i]]
