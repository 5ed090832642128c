"""Values of participants in clusters, from the images that a run analysed, and adjusted for the rest of its model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from gpuvox import files, participants
from gpuvox.errors import FileError
from gpuvox.findings.clusters import eigenvariate
from gpuvox.findings.runs import Run
from gpuvox.grid import Grid
from gpuvox.partitioning import standardised
from gpuvox.scratch import Data, pieces_with
from gpuvox.types import Bools, Float64, Floats


@dataclass(frozen=True, eq=False)
class Images:
    """The images of the rows of a design.

    Attributes
    ----------
    names : list of Path
        A 4D image, or one for each row.
    volumes : tuple of int
        Of a 4D image, the volume of each row, from 0; empty if it has a volume for each.
    """

    names: list[Path]
    volumes: tuple[int, ...] = ()

    def participants(self, n: int) -> Sequence[str]:
        """Who the n rows are, by the files beside the images or their names; numbers from 1 if these do not say."""
        who = participants.of_images(self.names)
        if who is not None and not self.volumes and len(who.ids) == n:
            return who.ids
        return [str(i) for i in range(1, n + 1)]

    def read(self, grid: Grid) -> Floats:
        """(n, V) Values at the voxels of a mask."""
        data = files.read_cohort(self.names[0] if len(self.names) == 1 else self.names, grid, missing=True)
        return data[list(self.volumes)] if self.volumes else data


@dataclass(frozen=True, eq=False)
class HeldImages:
    """Images in memory, as they were analysed.

    Attributes
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    grid : Grid
    """

    data: Data
    grid: Grid

    def participants(self, n: int) -> Sequence[str]:
        """Numbers from 1: images in memory do not say who they are."""
        return [str(i) for i in range(1, n + 1)]

    def read(self, grid: Grid) -> Floats:
        """(n, V) Values at the voxels of a mask, which are among those of the data."""
        inside = np.flatnonzero(self.grid.to_vector(grid.mask))
        values = np.empty((self.data.shape[0], len(inside)), dtype=np.float32)
        for place, part, column in pieces_with(self.data, inside):
            values[:, place] = part[:, column]
        return values


def find_images(run: Run, data: str | Mapping[str, HeldImages] = "", of: str = "") -> Images | HeldImages | str:
    """The images that a run analysed, or why they are not used.

    Images that only the record names are used if their SHA-256 is the recorded one: they are what was analysed, and a
    record from someone else cannot make a report show other files.

    Parameters
    ----------
    run : Run
    data : str or dict
        A 4D image, a pattern or a list, which the user names; see `files.image_names`. Or images in memory, by set.
    of : str
        The set of images, where a run has several.

    Raises
    ------
    FileError
        `data` has another number of volumes than the design has rows, or is not what was analysed.
    """
    if not isinstance(data, str):
        return data.get(of, "the images that were analysed are not known")
    if data:
        images = Images(files.image_names(data))
        count = files.count_volumes(data)
        if run.design is not None and count != len(run.design):
            raise FileError(
                f"{data} has {count} volumes; the design of {run.origin} has {len(run.design)} rows",
                option="--data",
            )
        if not run.records or _are_recorded(images.names, run.records):
            return images
        raise FileError(
            f"{data} is not what {run.origin} analysed: its SHA-256 is not in the record of the run",
            option="--data",
        )
    try:
        found = _of_voxelwise(run, of) if run.maker == "gpuvox voxelwise" else _of_command(run)
    except (FileError, OSError) as error:
        return f"the images that were analysed cannot be read ({error})"
    if found is None:
        return "the images that were analysed are not known"
    if not _are_recorded(found.names, run.records):
        return "the images were changed since they were analysed"
    return found


def _are_recorded(names: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the SHA-256 of every file is in a record."""
    known = {
        entry.get("sha256")
        for record in records
        for entry in record.get("inputs", {}).values()
        if isinstance(entry, Mapping)
    }
    return all(files.hash_file(path) in known for name in names for path in files.image_files(name))


def _of_voxelwise(run: Run, of: str) -> Images | None:
    """The images that ``participants.tsv`` names, a row for each of the design."""
    part = f"{of}_images" if of else "images"
    if any((run.folder / "randomise").glob(f"{part}.*")):  # made from others, or some volumes of a 4D image
        return Images([files.find_image(run.folder / "randomise" / part)])
    about = run.record.get("images", {}).get(of, {})
    if "column" not in about:
        return None
    table = files.read_table(run.folder / "participants.tsv", ["participant_id", about["column"]], long=True)
    if tuple(table["participant_id"]) != run.ids:
        raise FileError(f"{run.folder / 'participants.tsv'} and design.tsv list different participants")
    volume = about.get("volume")
    names = [files.find_image(run.folder / cell) for cell in table[about["column"]]]
    if volume is None:
        return Images(names)
    return Images(names[:1], tuple(int(number) - 1 for number in table[volume]))


def _of_command(run: Run) -> Images | None:
    """The images after ``-i`` of the recorded command; relative names are of the folder in which it ran."""
    command = [str(word) for word in run.record.get("command", ())]
    data, root = _option(command, "-i"), _option(command, "-o")
    if not data or run.design is None:
        return None
    places = [Path(), run.folder]
    whole = os.path.abspath(run.origin)
    if root and not os.path.isabs(root) and whole.endswith(os.sep + os.path.normpath(root)):
        places.insert(0, Path(whole.removesuffix(os.path.normpath(root))))
    for place in places:
        try:
            name = data if os.path.isabs(data) else os.path.join(place, data)
            if files.count_volumes(name) == len(run.design):
                return Images(files.image_names(name))
        except FileError:
            continue
    return None


def _option(command: Sequence[str], option: str) -> str:
    """The value of an option of a command: ``-i NAME``, ``-iNAME`` or ``-i=NAME``."""
    for word, following in zip(command, [*command[1:], ""]):
        if word == option:
            return following
        if re.match(rf"{option}[^-]", word):
            return word.removeprefix(option).removeprefix("=")
    return ""


def value_table(data: Floats, labels: NDArray[np.int32], n_clusters: int, ids: Sequence[str]) -> pd.DataFrame:
    """Mean and first eigenvariate of every participant in every cluster.

    Where participants have several rows, as in paired tests, ``row`` is that of the design, from 1.

    Parameters
    ----------
    data : (n, V) array
    labels : (V,) int32
        Numbers of the clusters.
    n_clusters : int
    ids : sequence of str
    """
    who: dict[str, Sequence[str] | range] = {"participant_id": list(ids)}
    who |= {"row": range(1, len(ids) + 1)} if len(set(ids)) < len(ids) else {}
    parts = []
    for number in range(1, n_clusters + 1):
        inside = data[:, labels == number].astype(np.float64)
        values = {"mean": _mean_of_present(inside), "eigenvariate": eigenvariate(_completed(inside))}
        parts.append(pd.DataFrame({**who, "cluster": number, **values}))
    return (
        pd.concat(parts) if parts else pd.DataFrame(columns=["participant_id", "cluster", "mean", "eigenvariate"])
    )


def _mean_of_present(values: Float64) -> Float64:
    """(n,) The mean of each row over the voxels where it has data; NaN where it has none."""
    here = ~np.isnan(values)
    count = here.sum(axis=1)
    total = np.where(here, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _completed(values: Float64) -> Float64:
    """The values, with the mean of a voxel in place of missing ones."""
    if not np.isnan(values).any():
        return values
    return np.where(np.isnan(values), _mean_of_present(values.T), values)


# -- adjusted for the model -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GroupValues:
    """Adjusted values of groups, and the mean of each with its 95 % confidence interval by the model.

    Attributes
    ----------
    values : dict of str to (n,) float64
    means : dict of str to (float, float)
        Mean and half-width of the interval.
    """

    values: Mapping[str, Float64]
    means: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Slope:
    """Adjusted values against a covariate, with the line of the model and the 95 % confidence band of the mean.

    Attributes
    ----------
    name : str
    x, y : (n,) float64
    at, mean, half : (100,) float64
    """

    name: str
    x: Float64
    y: Float64
    at: Float64
    mean: Float64
    half: Float64


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear model of the values of a cluster.

    Attributes
    ----------
    X : (n, p) float64
    y : (n,) float64
    """

    X: Float64
    y: Float64
    coefficients: Float64 = field(init=False)
    covariance: Float64 = field(init=False)
    quantile: float = field(init=False)

    def __post_init__(self) -> None:
        # Columns of one scale, and not their products: those of a volume in mm³ beside a constant have no digits left.
        X, scale = standardised(self.X)
        solver = np.linalg.pinv(X, rcond=max(X.shape) * np.finfo(np.float64).eps) / scale[:, None]
        coefficients, inverse = solver @ self.y, solver @ solver.T
        df = len(self.y) - int(np.linalg.matrix_rank(X))
        residuals = self.y - self.X @ coefficients
        variance = float(residuals @ residuals) / df if df > 0 else np.nan
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "covariance", variance * inverse)
        object.__setattr__(self, "quantile", float(special.stdtrit(df, 0.975)) if df > 0 else np.nan)

    def mean(self, rows: Float64) -> tuple[Float64, Float64]:
        """Means at rows of a design, (m, p), and the half-widths of their 95 % confidence intervals."""
        se = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, self.covariance, rows), 0))
        return rows @ self.coefficients, self.quantile * se

    def adjusted(self, kept: Bools, shown: Bools) -> Float64:
        """(n,) The values minus what the other columns explain, relative to their mean over the rows shown."""
        others = self.X[:, ~kept] - self.X[shown][:, ~kept].mean(axis=0)
        adjusted: Float64 = self.y - others @ self.coefficients[~kept]
        return adjusted


def adjusted_values(
    y: Float64,
    design: Float64,
    columns: Sequence[str],
    weights: Float64,
    shifts: Mapping[str, float] | None = None,
) -> GroupValues | list[Slope] | None:
    """Values of a cluster as a test compares them, adjusted for the other columns of the design.

    Parameters
    ----------
    y : (n,) float64
        NaN in rows that have no data.
    design : (n, p) float64
    columns : sequence of str
    weights : (k, p) float64
        Of the test.
    shifts : dict of str to float, optional
        What was subtracted from a column, such as its mean, and is added again for the plot.

    Returns
    -------
    GroupValues, list of Slope, or None
        None if the columns of the test are neither groups nor covariates that can be shown one by one.
    """
    kept = np.any(weights != 0, axis=0)
    present = ~np.isnan(y)
    fit = Fit(np.asarray(design, dtype=np.float64)[present], np.asarray(y, dtype=np.float64)[present])
    names = [columns[j] for j in _numbers(kept)]
    X = fit.X[:, kept]
    apart = bool(((X != 0).sum(axis=1) <= 1).all())
    if apart and np.isin(X, (0, 1)).all():
        members = dict(zip(names, (X == 1).T))
        rest = ~X.any(axis=1)
        if rest.any() and weights.sum(axis=1).any() and _has_level(fit.X[~rest][:, ~kept]):
            # Indicators beside a constant: they are differences from the rows that are in none of them.
            one = [f"{names[0]} = 1", f"{names[0]} = 0"] if len(names) == 1 else [*names, "others"]
            members = dict(zip(one, [*members.values(), rest]))
        return _groups(fit, kept, members) if all(inside.any() for inside in members.values()) else None
    if kept.sum() == 1 and len(np.unique(X)) == 2:
        low, high = np.unique(X)
        return _groups(fit, kept, {f"{names[0]} = {value:g}": X[:, 0] == value for value in (low, high)})
    if kept.sum() == 1 or apart:
        return [_slope(fit, kept, j, columns[j], (shifts or {}).get(columns[j], 0.0)) for j in _numbers(kept)]
    return None


def _has_level(others: Float64) -> bool:
    """Whether a constant is a combination of columns."""
    ones = np.ones(len(others))
    return bool(np.allclose(others @ np.linalg.lstsq(others, ones, rcond=None)[0], ones, atol=1e-8))


def _numbers(kept: Bools) -> list[int]:
    return [int(j) for j in np.flatnonzero(kept)]


def _groups(fit: Fit, kept: Bools, members: Mapping[str, Bools]) -> GroupValues:
    shown = np.any(list(members.values()), axis=0)
    adjusted = fit.adjusted(kept, shown)
    rows = []
    for inside in members.values():
        row = fit.X[shown].mean(axis=0)
        row[kept] = fit.X[inside][0][kept]
        rows.append(row)
    means, half = fit.mean(np.array(rows))
    return GroupValues(
        {name: adjusted[inside] for name, inside in members.items()},
        {name: (float(m), float(h)) for name, m, h in zip(members, means, half)},
    )


def _slope(fit: Fit, kept: Bools, j: int, name: str, shift: float) -> Slope:
    """Of column j, over the rows in which it is not 0 if there are several such columns."""
    shown = fit.X[:, j] != 0 if kept.sum() > 1 else np.ones(len(fit.y), dtype=bool)
    own = np.zeros(len(kept), dtype=bool)
    own[j] = True
    x = fit.X[shown, j]
    at = np.linspace(x.min(), x.max(), 100)
    rows = np.tile(fit.X[shown].mean(axis=0), (100, 1))
    rows[:, j] = at
    mean, half = fit.mean(rows)
    return Slope(name, x + shift, fit.adjusted(own, shown)[shown], at + shift, mean, half)
