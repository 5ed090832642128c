"""Clusters of a voxelwise result: their location, and a value of each for every participant.

The values of a participant in a cluster are the mean of the data there and their first eigenvariate: with the data of
the cluster Y (participants × voxels) = U S Vᵀ, the first column of U times its singular value over the square root of
the number of voxels, with the sign that makes the sum of the weights V positive (the definition of SPM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files, participants
from gpuvox.cluster import label
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.reporter import Reporter
from gpuvox.study.measures.labels import Region, read_regions
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.tables.columns import indicators
from gpuvox.tables.conditions import select
from gpuvox.tables.reading import typed
from gpuvox.types import Float64, Floats

Progress = Callable[[str, int, int], None]


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


# -- the command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A ``gpuvox clusters`` command, its options parsed."""

    corrected: str
    out: str
    statistic: str = ""
    p: float = 0.05
    extent: int = 1
    connectivity: int = 26
    mask: str = ""
    atlas: str = ""
    names: str = ""
    data: str = ""
    table: str = ""
    covariates: tuple[str, ...] = ()
    reference: str = ""
    scale: str = ""


COLUMNS = (
    "cluster",
    "voxels",
    "mm3",
    "p",
    "statistic",
    "x",
    "y",
    "z",
    "centre_x",
    "centre_y",
    "centre_z",
    "regions",
)


def execute(command: Command, reporter: Reporter) -> None:
    """Run a command: write ``OUT.tsv``, ``OUT.nii.gz`` with the numbers of the clusters, and ``OUT_subjects.tsv``.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    check_root_name(command.out, "--out", "clusters")
    check_targets(command.out, (".tsv", "_subjects.tsv"), maps=("",))
    _check_outputs(command)
    if not 0 < command.p < 1:
        raise OptionError("--p", f"{command.p:g} is not a level between 0 and 1")
    header = files.read_header(command.corrected)
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    if command.mask:
        grid = files.read_mask_on(command.mask, header)
    corrected = _read_corrected(command, grid)
    try:
        labels = find_clusters(corrected, grid, command.p, command.extent, command.connectivity)
    except InputError as error:
        raise FileError(f"{command.corrected}: {error}") from None
    statistic = files.read_map(command.statistic, grid) if command.statistic else None
    atlas = files.read_label_map(command.atlas, grid) if command.atlas else None
    regions = read_regions(command.names or None) if command.atlas else None
    clusters = describe(labels, corrected, grid, statistic, atlas, regions)
    if any(cluster.statistic < 0 for cluster in clusters):
        raise FileError(
            f"{command.statistic} is negative in a cluster of {command.corrected}: it belongs to another test"
        )
    subjects = subject_table(command, labels, grid, len(clusters), reporter) if command.data else None
    files.write_map(
        command.out, labels.astype(np.float32), grid, header, label=files.Label("gpuvox: clusters", "label")
    )
    files.write_table(f"{command.out}.tsv", pd.DataFrame([_line(each) for each in clusters], columns=COLUMNS))
    if subjects is not None:
        files.write_table(f"{command.out}_subjects.tsv", subjects)
    limit = f" of at least {command.extent} voxels" if command.extent > 1 else ""
    reporter.say(
        f"{len(clusters) or 'No'} cluster{'' if len(clusters) == 1 else 's'}{limit} with corrected p < {command.p:g}"
    )


def _read_corrected(command: Command, grid: Grid) -> NDArray[np.float32]:
    """1 − p; if the file contains p (``--scale p``), 0 marks voxels outside the mask."""
    values = files.read_map(command.corrected, grid)
    if command.scale == "p":
        return np.where(values > 0, 1 - values, values)
    if not command.scale and is_p(values):
        raise FileError(
            f"{command.corrected} is 1 in {np.count_nonzero(values == 1)} voxels, which is possible for p, but not "
            "for 1 - p: use --scale p if it contains p, or --scale 1-p if it does contain 1 - p"
        )
    return values


def _check_outputs(command: Command) -> None:
    files.check_not_read([f"{command.out}.tsv", f"{command.out}_subjects.tsv"], [command.table, command.names])
    images = [command.corrected, command.statistic, command.mask, command.atlas]
    named: list[files.Name] = [name for name in images if name]
    named += files.image_names(command.data) if command.data else []
    read = [path for name in named for path in files.image_files(name)]
    files.check_not_read([f"{files.split_suffix(command.out)[0]}{s}" for s in (".nii.gz", ".nii", ".hdr")], read)


def _line(cluster: Cluster) -> tuple:
    # Stored as 1 - p in float32, p has four digits at best.
    p = float(f"{cluster.p:.3g}")
    shares = "; ".join(f"{name} {100 * share:.0f} %" for name, share in cluster.shares.items()) or None
    return (
        cluster.number, cluster.n_voxels, cluster.volume, p, cluster.statistic, *cluster.peak, *cluster.centre, shares,
    )  # fmt: skip


def subject_table(
    command: Command, labels: NDArray[np.int32], grid: Grid, n_clusters: int, reporter: Reporter
) -> pd.DataFrame:
    """Mean and eigenvariate of every participant in every cluster, and their z-scores if there is a reference group."""
    if not command.table:
        raise OptionError("--data", "it needs --table, for the names of the participants")
    table = files.read_table(command.table, ["participant_id"])
    inside = np.flatnonzero(labels)
    part = Grid(grid.to_volume(labels > 0).astype(bool), grid.voxel_size, grid.affine)
    n = files.count_volumes(command.data)
    if n != len(table):
        raise FileError(
            f"{command.data} has {several(n, 'volume')}; {command.table} has {several(len(table), 'participant')}"
        )
    who = participants.of_table(table, command.table)
    participants.compare(who, participants.of_images(command.data, who), reporter.warn)
    if twice := participants.repeated(files.image_names(command.data)):
        reporter.warn(f"{twice} occurs twice among the images of --data")
    data = files.read_cohort(command.data, part) if len(inside) else np.zeros((n, 0), dtype=np.float32)
    covariates, reference = _covariates(command, table)
    columns = ["participant_id", "cluster", "mean", "eigenvariate"]
    columns += [] if reference is None else ["mean_z", "eigenvariate_z"]
    parts = []
    for number in range(1, n_clusters + 1):
        chosen = data[:, labels[inside] == number].astype(np.float64)
        values = [chosen.mean(axis=1), eigenvariate(chosen)]
        if reference is not None:
            values += [adjusted(v, covariates, reference) for v in values]
        measured = dict(zip(columns[2:], values))
        parts.append(pd.DataFrame({"participant_id": table["participant_id"], "cluster": number, **measured}))
    return pd.concat(parts) if parts else pd.DataFrame(columns=columns)


def _covariates(command: Command, table: pd.DataFrame) -> tuple[Float64, NDArray[np.bool_] | None]:
    """The covariates, with categories as indicators, and the rows of the reference group."""
    if not command.reference:
        if command.covariates:
            raise OptionError(
                "--covariates", "they need --reference: the group in which their effects are estimated"
            )
        return np.zeros((len(table), 0)), None
    participants = typed(table)
    covariates = indicators(participants, command.covariates, command.table)
    try:
        reference = select(participants, command.reference)
    except InputError as error:
        raise OptionError("--reference", f"cannot be evaluated on {command.table}: {error}") from None
    return covariates.to_numpy(), reference
