"""Clusters of a corrected map: their voxels, peaks, location, and first eigenvariate.

The values of a participant in a cluster are the mean of the data there and their first eigenvariate: with the data of
the cluster Y (participants × voxels) = U S Vᵀ, the first column of U times its singular value over the square root of
the number of voxels, with the sign that makes the sum of the weights V positive (the definition of SPM).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox.cluster import label
from gpuvox.errors import InputError
from gpuvox.findings.labels import Region
from gpuvox.grid import Grid
from gpuvox.types import Float64, Floats


@dataclass(frozen=True)
class Cluster:
    """A cluster of significant voxels.

    Attributes
    ----------
    number : int
        From 1, by decreasing size.
    n_voxels : int
    volume : float
        mm³.
    p : float
        Smallest corrected p.
    statistic : float
        Largest statistic; NaN if no image of the statistic is given.
    peak : (float, float, float)
        Position of the largest statistic, or of the smallest p; mm.
    centre : (float, float, float)
        Centre of gravity, weighted by the statistic if there is one; mm.
    shares : dict of str to float
        Share of the voxels in each region of an atlas, largest first.
    """

    number: int
    n_voxels: int
    volume: float
    p: float
    statistic: float
    peak: tuple[float, float, float]
    centre: tuple[float, float, float]
    shares: dict[str, float]


def is_p(corrected: Floats) -> bool:
    """Whether values are p rather than 1 − p, as far as this can be recognised: one of them is exactly 1.

    The N permutations include the unpermuted data, so that p is at least 1/N and 1 − p is never 1; but the corrected p
    of the voxel with the lowest statistic is practically always 1.
    """
    return bool((np.asarray(corrected) == 1).any())


def find_clusters(
    corrected: Floats, grid: Grid, p: float = 0.05, extent: int = 1, connectivity: int = 26
) -> NDArray[np.int32]:
    """Number the clusters of voxels with a corrected p below a level.

    Parameters
    ----------
    corrected : (V,) array
        1 − p, corrected.
    grid : Grid
    p : float
        Level.
    extent : int
        Smallest number of voxels.
    connectivity : {6, 18, 26}

    Returns
    -------
    (V,) int32
        From 1 by decreasing size; 0 elsewhere.

    Raises
    ------
    InputError
        The level is not between 0 and 1, or the values are not 1 − p.
    """
    if not 0 < p < 1:
        raise InputError(f"the level is {p}; it must be between 0 and 1")
    values = np.asarray(corrected, dtype=np.float32)
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"corrected values are 1 - p, between 0 and 1; these are between {values.min()} and {values.max()}"
        )
    level = np.nextafter(np.float32(1 - p), np.float32(2))  # p < level, strictly
    labels, n = label(values, grid, float(level), connectivity)
    sizes = np.bincount(labels, minlength=n + 1)
    labels[sizes[labels] < extent] = 0
    return labels


def describe(
    labels: NDArray[np.int32],
    corrected: Floats,
    grid: Grid,
    statistic: Floats | None = None,
    atlas: NDArray[np.integer[Any]] | None = None,
    regions: Mapping[int, Region] | None = None,
) -> list[Cluster]:
    """Describe each cluster.

    Parameters
    ----------
    labels : (V,) int32
        See `find_clusters`.
    corrected, statistic : (V,) arrays
    grid : Grid
        Its affine, if any, converts voxels to millimetres.
    atlas : (V,) int, optional
    regions : dict of int to Region, optional
        Names of its labels.
    """
    position = np.stack(np.unravel_index(grid.index, grid.shape, order="F"), axis=1).astype(np.float64)
    affine = np.diag([*grid.voxel_size, 1.0]) if grid.affine is None else grid.affine
    millimetres = position @ affine[:3, :3].T + affine[:3, 3]
    height = np.asarray(corrected if statistic is None else statistic, dtype=np.float64)
    clusters = []
    for number in range(1, int(labels.max(initial=0)) + 1):
        inside = np.flatnonzero(labels == number)
        top = inside[np.argmax(height[inside])]
        weight = None if statistic is None else np.maximum(height[inside], 0)
        weight = weight if weight is not None and weight.sum() > 0 else None
        centre = np.average(millimetres[inside], axis=0, weights=weight)
        clusters.append(
            Cluster(
                number, len(inside), len(inside) * float(np.prod(grid.voxel_size)),
                float(1 - np.max(np.asarray(corrected)[inside])),
                float("nan") if statistic is None else float(height[top]),
                _three(millimetres[top]), _three(centre),
                {} if atlas is None else _shares(np.asarray(atlas)[inside], regions or {}),
            )
        )  # fmt: skip
    return clusters


def _three(values: Float64) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _shares(labels: NDArray[np.integer[Any]], regions: Mapping[int, Region]) -> dict[str, float]:
    numbers, counts = np.unique(labels, return_counts=True)
    shares: dict[str, float] = {}
    for number, count in sorted(zip(numbers, counts), key=lambda pair: -pair[1]):
        region = regions.get(int(number))
        name = (
            "elsewhere" if not number else str(int(number)) if region is None else region.title.replace(";", ",")
        )
        shares[name] = shares.get(name, 0.0) + float(count / len(labels))
    return shares


def eigenvariate(data: Floats) -> Float64:
    """First eigenvariate of a cluster; see the head of this module.

    Parameters
    ----------
    data : (n, V) array

    Returns
    -------
    (n,) float64
        In the units of the data.
    """
    Y = np.asarray(data, dtype=np.float64)
    if not Y.size:
        return np.full(len(Y), np.nan)
    gram = Y @ Y.T if len(Y) <= Y.shape[1] else Y.T @ Y
    values, vectors = np.linalg.eigh(gram)
    first, square = vectors[:, -1], max(values[-1], 0.0)
    if square == 0:
        return np.zeros(len(Y))
    u = first if len(Y) <= Y.shape[1] else Y @ first / np.sqrt(square)
    sign = np.sign((Y.T @ u).sum()) or 1.0
    return sign * u * np.sqrt(square / Y.shape[1])
