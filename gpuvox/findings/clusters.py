"""Clusters of a corrected map: their voxels, peaks, location, and first eigenvariate.

The values of a participant in a cluster are the mean of the data there and their first eigenvariate: with the data of
the cluster Y (participants × voxels) = U S Vᵀ, the first column of U times its singular value over the square root of
the number of voxels, with the sign that makes the sum of the weights V positive (the definition of SPM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gpuvox.cluster import label
from gpuvox.errors import InputError
from gpuvox.findings.atlas import Atlas
from gpuvox.grid import Grid
from gpuvox.types import Float64, Floats, Ints


@dataclass(frozen=True)
class Peak:
    """A local maximum of the statistic within a cluster.

    Attributes
    ----------
    voxel : int
        Among the voxels of the mask.
    place : (float, float, float)
        mm.
    statistic, p : float
        There; the statistic is NaN if no image of it is given.
    region : str
        Label of an atlas there; empty without an atlas, or where it has no label.
    """

    voxel: int
    place: tuple[float, float, float]
    statistic: float
    p: float
    region: str = ""


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
    peaks : tuple of Peak
        The largest statistic (or the smallest p), and then the sub-peaks by decreasing statistic.
    centre : (float, float, float)
        Centre of gravity, weighted by the statistic if there is one; mm.
    shares : dict of str to float
        Share of the voxels in each region of an atlas, largest first.
    """

    number: int
    n_voxels: int
    volume: float
    p: float
    peaks: tuple[Peak, ...]
    centre: tuple[float, float, float]
    shares: dict[str, float]

    @property
    def statistic(self) -> float:
        """The largest statistic; NaN if no image of it is given."""
        return self.peaks[0].statistic

    @property
    def peak(self) -> tuple[float, float, float]:
        """Where it is; mm."""
        return self.peaks[0].place


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
    atlas: Atlas | None = None,
    *,
    subpeaks: int = 0,
    distance: float = 8.0,
) -> list[Cluster]:
    """Describe each cluster.

    Parameters
    ----------
    labels : (V,) int32
        See `find_clusters`.
    corrected, statistic : (V,) arrays
    grid : Grid
        Its affine, if any, converts voxels to millimetres.
    atlas : Atlas, optional
    subpeaks : int
        Most sub-peaks of a cluster.
    distance : float
        Least distance between the peaks of a cluster, in mm.
    """
    position = np.stack(np.unravel_index(grid.index, grid.shape, order="F"), axis=1)
    affine = np.diag([*grid.voxel_size, 1.0]) if grid.affine is None else grid.affine
    height = np.asarray(corrected if statistic is None else statistic, dtype=np.float64)
    clusters = []
    for number in range(1, int(labels.max(initial=0)) + 1):
        inside = np.flatnonzero(labels == number)
        millimetres = position[inside] @ affine[:3, :3].T + affine[:3, 3]
        tops = _peaks(position[inside], millimetres, height[inside], 1 + subpeaks, distance)
        weight = None if statistic is None else np.maximum(height[inside], 0)
        weight = weight if weight is not None and weight.sum() > 0 else None
        centre = np.average(millimetres, axis=0, weights=weight)
        peaks = tuple(
            Peak(
                int(inside[top]), _three(millimetres[top]),
                float("nan") if statistic is None else float(height[inside[top]]),
                float(1 - np.asarray(corrected)[inside[top]]),
                "" if atlas is None or not atlas.labels[inside[top]] else atlas.name(int(atlas.labels[inside[top]])),
            )
            for top in tops
        )  # fmt: skip
        clusters.append(
            Cluster(
                number, len(inside), len(inside) * float(np.prod(grid.voxel_size)),
                float(1 - np.max(np.asarray(corrected)[inside])), peaks, _three(centre),
                {} if atlas is None else _shares(atlas, inside),
            )
        )  # fmt: skip
    return clusters


def _peaks(position: Ints, millimetres: Float64, height: Float64, most: int, distance: float) -> list[int]:
    """Local maxima (of 26 neighbours) of a cluster, the largest first, each at a distance from all larger ones."""
    if most == 1:
        return [int(np.argmax(height))]
    low = position.min(axis=0)
    box = np.full(position.max(axis=0) - low + 1, -np.inf)
    at = tuple((position - low).T)
    box[at] = height
    maxima = np.flatnonzero(height >= ndimage.maximum_filter(box, size=3, mode="constant", cval=-np.inf)[at])
    chosen: list[int] = []
    for voxel in maxima[np.argsort(-height[maxima], kind="stable")]:
        if all(np.linalg.norm(millimetres[voxel] - millimetres[other]) >= distance for other in chosen):
            chosen.append(int(voxel))
        if len(chosen) == most:
            break
    return chosen


def _three(values: Float64) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _shares(atlas: Atlas, inside: Ints) -> dict[str, float]:
    numbers, counts = np.unique(atlas.labels[inside], return_counts=True)
    shares: dict[str, float] = {}
    for number, count in sorted(zip(numbers, counts), key=lambda pair: -pair[1]):
        name = atlas.name(int(number)).replace(";", ",") or "elsewhere"
        shares[name] = shares.get(name, 0.0) + float(count / len(inside))
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


# -- tables ---------------------------------------------------------------------------------------------------------

EFFECTS = ("estimate", "se", "d", "d_low", "d_high", "partialr", "partialr_low", "partialr_high", "partialetasq")
"""Columns of effects at the peaks, in their order."""


def to_table(
    clusters: Sequence[Cluster], effects: Mapping[str, Floats] | None = None, permutations: int = 0
) -> pd.DataFrame:
    """Clusters as a table, a row for each peak.

    Parameters
    ----------
    clusters : sequence of Cluster
    effects : dict of str to (V,) array, optional
        Maps whose values at the peaks become columns; see `EFFECTS`.
    permutations : int
        p-values are multiples of 1 / permutations; 0 if their number is unknown.

    Returns
    -------
    DataFrame
        ``cluster``; ``peak``, from 1, if a cluster has several; ``voxels``, ``mm3``, ``p`` and the centre of gravity in
        the first row of a cluster; ``statistic``, place and effects of each peak; ``peak_region`` of an atlas, and
        ``regions``, the shares of the cluster.
    """
    maps = effects or {}
    several = any(len(cluster.peaks) > 1 for cluster in clusters)
    with_atlas = any(cluster.shares for cluster in clusters)
    rows = []
    for cluster in clusters:
        for number, peak in enumerate(cluster.peaks, start=1):
            first = number == 1
            row: dict[str, Any] = {"cluster": cluster.number, **({"peak": number} if several else {})}
            row |= {"voxels": cluster.n_voxels if first else None, "mm3": cluster.volume if first else None}
            row |= {"p": _exact(cluster.p if first else peak.p, permutations), "statistic": peak.statistic}
            row |= dict(zip("xyz", peak.place))
            row |= {name: float(maps[name][peak.voxel]) for name in EFFECTS if name in maps}
            row |= dict(zip(("centre_x", "centre_y", "centre_z"), cluster.centre if first else (None,) * 3))
            if with_atlas:
                row["peak_region"] = peak.region or None
            row["regions"] = _text(cluster.shares) if first else None
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else COLUMNS).astype({"voxels": "Int64"})


COLUMNS = (
    "cluster", "voxels", "mm3", "p", "statistic", "x", "y", "z", "centre_x", "centre_y", "centre_z", "regions",
)  # fmt: skip
"""Columns of a table without clusters."""


def _exact(p: float, permutations: int) -> float:
    """p of 1 − p, which float32 holds with four digits at best."""
    return round(p * permutations) / permutations if permutations else float(f"{p:.3g}")


def _text(shares: Mapping[str, float]) -> str | None:
    return "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()) or None
