"""``gpuvox clusters``: clusters of a corrected map, and a value of each for every participant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files, participants
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.findings.atlas import read_atlas
from gpuvox.findings.clusters import describe, find_clusters, is_p, to_table
from gpuvox.findings.values import value_table
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.reporter import Reporter
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.tables.columns import indicators
from gpuvox.tables.conditions import select
from gpuvox.tables.reading import typed
from gpuvox.types import Float64

Progress = Callable[[str, int, int], None]


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
    subpeaks: int = 0
    distance: float = 8.0


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
    atlas = read_atlas(command.atlas, grid, command.names or None) if command.atlas else None
    if atlas is not None and atlas.note:
        reporter.say(atlas.note)
    clusters = describe(
        labels, corrected, grid, statistic, atlas, subpeaks=command.subpeaks, distance=command.distance
    )
    if any(cluster.statistic < 0 for cluster in clusters):
        raise FileError(
            f"{command.statistic} is negative in a cluster of {command.corrected}: it belongs to another test"
        )
    subjects = subject_table(command, labels, grid, len(clusters), reporter) if command.data else None
    files.write_map(
        command.out, labels.astype(np.float32), grid, header, label=files.Label("gpuvox: clusters", "label")
    )
    files.write_table(f"{command.out}.tsv", to_table(clusters))
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
    named: list[files.Name] = [name for name in images if name and not name.casefold().endswith(".xml")]
    named += files.image_names(command.data) if command.data else []
    read = [path for name in named for path in files.image_files(name)]
    files.check_not_read([f"{files.split_suffix(command.out)[0]}{s}" for s in (".nii.gz", ".nii", ".hdr")], read)


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
    order = _order_of_volumes(command, table, n, reporter)
    if twice := participants.repeated(files.image_names(command.data)):
        reporter.warn(f"{twice} occurs twice among the images of --data")
    data = files.read_cohort(command.data, part)[order] if len(inside) else np.zeros((n, 0), dtype=np.float32)
    covariates, reference = _covariates(command, table)
    values = value_table(data, labels[inside], n_clusters, table["participant_id"].tolist())
    if reference is not None:
        for name in ("mean", "eigenvariate"):
            of_clusters = values[name].to_numpy(dtype=np.float64).reshape(n_clusters, n)
            scores = [adjusted(each, covariates, reference) for each in of_clusters]
            values[f"{name}_z"] = np.reshape(scores, -1)
    return values


def _order_of_volumes(command: Command, table: pd.DataFrame, n: int, reporter: Reporter) -> list[int]:
    """The volume of each row of the table, by participant; in their order, if nothing names those of the volumes."""
    who = participants.of_table(table, command.table)
    of_volumes = participants.of_images(command.data, who)
    if who is None or of_volumes is None:
        return list(range(n))
    return participants.places(who, of_volumes, warn=reporter.warn)


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
