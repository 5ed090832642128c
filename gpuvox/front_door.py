"""`gpuvox.report` and `gpuvox.clusters`: what the commands of these names do, from Python."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuvox import files
from gpuvox.application.arrays import as_grid, one_map
from gpuvox.application.result import atlas_on, cluster_options
from gpuvox.errors import InputError
from gpuvox.findings.clusters import is_p
from gpuvox.findings.report import execute, options_of
from gpuvox.findings.runs import RANDOMISE, VOXELWISE
from gpuvox.findings.tested import TestedMaps
from gpuvox.grid import Grid
from gpuvox.reporter import Reporter
from gpuvox.study.report import execute as execute_study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["clusters", "report", "study_record"]


def study_record(run: str | os.PathLike[str]) -> Path | None:
    """The record of a study, if a name is of one, or of a folder with one; None for runs."""
    path = Path(run)
    if (path / "study.json").is_file() and not (path / VOXELWISE).is_file():
        return path / "study.json"
    is_record = path.name == VOXELWISE or path.name.endswith(RANDOMISE)
    return path if path.suffix == ".json" and not is_record else None


def report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, **options: Any) -> Path:
    """Write the report of a finished run, or of a study, as ``gpuvox report`` does.

    Parameters
    ----------
    run : path
        The folder of a voxelwise analysis, the output root of randomise (gpuvox's or FSL's), or ``study.json``.
    out : path, optional
        The page; by default ``report.html`` in the folder, ``ROOT_report.html``, or ``report.html`` beside the study.
    **options
        Of a run: ``correction``, ``p``, ``extent``, ``connectivity``, ``subpeaks``, ``distance``, ``underlay``,
        ``atlas``, ``names``, ``mask``, ``data``, ``design``, ``contrasts``. Of a study: ``within``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        One sentence: there is no run, or it is not finished; a file cannot be read or written.
    """
    reporter = replace(Reporter.silent(), warn=files.notice)
    study = study_record(run)
    if study is None:
        return execute(run, out, options_of(**options), reporter)
    page = study.with_name("report.html") if out is None else Path(out)
    execute_study(study, page, reporter, options.pop("within", None))
    return page


def clusters(
    corrected: Any,
    statistic: Any = None,
    *,
    mask: Any = None,
    atlas: str | os.PathLike[str] | None = None,
    names: str | os.PathLike[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The clusters of a corrected map, as ``gpuvox clusters`` lists them.

    Parameters
    ----------
    corrected : path or nibabel image
        1 − p, corrected: ``tbss_tfce_corrp_tstat1``. Of a result in memory, see its ``clusters``.
    statistic : path or nibabel image, optional
        Determines the peaks.
    mask : path, nibabel image or array, optional
        Voxels to consider.
    atlas, names : path, optional
        A label image on any grid, or an FSL atlas in XML; and the names of its labels.
    **options
        ``p`` (0.05), ``extent`` (smallest cluster, in voxels), ``connectivity`` (26), ``subpeaks`` (3), ``distance``
        (of peaks, 8 mm).

    Returns
    -------
    DataFrame
        A row for each peak; see `findings.clusters.to_table`.

    Raises
    ------
    InputError
        An image cannot be read or is on another grid; the map does not hold 1 − p.
    """
    place = _whole(corrected)
    grid = place if mask is None else as_grid(mask, place, "the corrected map")
    one_minus_p = one_map(corrected, grid, "the corrected map")
    if is_p(one_minus_p) or one_minus_p.min() < 0 or one_minus_p.max() > 1:
        raise InputError(
            f"the corrected map has values from {one_minus_p.min():g} to {one_minus_p.max():g}; 1 - p is expected, "
            "which is below 1"
        )
    height = one_minus_p if statistic is None else one_map(statistic, grid, "the statistic")
    of_atlas = atlas_on(grid, atlas, names)
    maps = TestedMaps(grid, height, 1 - one_minus_p.astype(np.float64))
    table = maps.clusters(cluster_options(options), of_atlas)[1]
    return table.drop(columns="statistic") if statistic is None else table


def _whole(image: Any) -> Grid:
    """All voxels of an image."""
    is_name = isinstance(image, str | os.PathLike)
    header = files.read_header(image) if is_name else files.header_of(image, "the corrected map")
    return header.grid(np.ones(header.shape[:3], dtype=bool))
