"""Reading tables of participants: numeric and text columns, missing cells, measures from other tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files.text import as_number
from gpuvox.plain import composed
from gpuvox.tables.columns import require

Float64 = NDArray[np.float64]
MISSING = ("", "n/a", "N/A", "#N/A", "NA", "<NA>", "NaN", "nan", "null", "NULL")
"""Cells that are missing, as written by BIDS, R, pandas and spreadsheets."""


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Convert columns in which all values are numbers; missing cells (`MISSING`) become NaN, and accents composed.

    Parameters
    ----------
    table : DataFrame of str
        See `files.read_table`.
    """
    columns = table.to_numpy(dtype=object).T.tolist()
    converted = pd.DataFrame(
        {name: _typed(name, column) for name, column in zip(table.columns, columns)}, index=table.index
    )
    converted.attrs = dict(table.attrs)
    return converted


def _typed(name: Any, column: list[str]) -> list[Any] | Float64:
    cells = [composed(cell.strip()) for cell in column]
    values: list[Any] = [np.nan if is_missing(cell) else cell for cell in cells]
    if name == "participant_id":
        return values
    numbers = [cell if cell is np.nan else as_number(cell) for cell in values]
    # A column with only missing values counts as numeric.
    if all(value == value or cell is np.nan for value, cell in zip(numbers, values)):
        return np.array(numbers, dtype=np.float64)
    return values


def is_missing(text: str) -> bool:
    """Whether a cell is missing: one of `MISSING`, or any spelling of NaN."""
    return text in MISSING or text.lstrip("+-").lower() == "nan"


def labels(column: pd.Series) -> pd.Series:
    """Values of a column as names of groups: 1 is ``1``, not ``1.0``; missing values stay missing."""
    return column.map(label, na_action="ignore")


def label(value: Any) -> str:
    """A single value as a label."""
    return f"{value:.15g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def read_participants(path: str | os.PathLike[str], required: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of participants, one row each.

    Parameters
    ----------
    path : path
        TSV or CSV with the column ``participant_id``.
    required : sequence of str
        Columns that must exist; cells may be missing.

    Raises
    ------
    FileError
        The file is not such a table, a column is missing, or a participant occurs twice.
    """
    table = files.read_table(path, ["participant_id"])
    require(table, required, path)
    return typed(table)


def gather(
    table: str | os.PathLike[str],
    rois: str | os.PathLike[str] | None = None,
    clusters: Mapping[str, str | os.PathLike[str]] | None = None,
) -> pd.DataFrame:
    """Participants with their measures, one column per variable.

    Parameters
    ----------
    table : path
        Participants.
    rois : path, optional
        Table written by ``gpuvox rois``: adds ``thalamus.volume`` (mL), ``thalamus.volume_normalised``, and per map
        ``thalamus.iron`` (mean), ``thalamus.iron.median``, ``thalamus.iron.sd``, ``thalamus.iron.mass`` (with a
        head-size factor that of the normalised volume, and ``thalamus.iron.mass_raw``), and the share of iron in a
        contrast, ``thalamus.iron.qsm_share``; those of one side are called ``left.thalamus.iron``.
    clusters : dict of str to path, optional
        Name → ``OUT_subjects.tsv`` written by ``gpuvox clusters``: adds ``name.1``, the eigenvariate of cluster 1
        (its z-score if there is one), and ``name.1.mean``.

    Returns
    -------
    DataFrame
        One row per participant, in the order of the table.

    Raises
    ------
    FileError
        A file is not such a table, or lacks a participant.
    """
    joined = read_participants(table)
    parts = [(rois, _from_rois(rois))] if rois else []
    parts += [(path, _from_clusters(name, path)) for name, path in (clusters or {}).items()]
    for path, part in parts:
        if not len(part.columns):
            continue
        for name in joined["participant_id"]:
            if name not in part.index:
                raise FileError(f"{os.fspath(path)} has no values of {name}, a participant in {os.fspath(table)}")
        joined = with_columns(joined, part.reindex(joined["participant_id"]).reset_index(drop=True))
    if joined.columns.duplicated().any():
        raise FileError(f"{joined.columns[joined.columns.duplicated()][0]} is the name of two variables")
    return joined


def with_columns(table: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """A table with further columns of the same rows; it keeps its attributes, such as the columns with levels."""
    joined = pd.concat([table, columns], axis=1)
    joined.attrs = dict(table.attrs)
    return joined


def _long(path: str | os.PathLike[str], needed: Sequence[str]) -> pd.DataFrame:
    table = files.read_table(path, ["participant_id", *needed], long=True)
    return typed(table)


def read_visit_rows(path: str | os.PathLike[str], visit: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """A table with a row for each visit of each participant, with cells as text.

    Parameters
    ----------
    path : path
    visit : str
        Column with the visit.
    needed : sequence of str
        Further columns that must be there, without missing values.

    Raises
    ------
    FileError
        The file is not such a table, or has a visit of a participant twice.
    """
    table: pd.DataFrame = files.read_table(path, ["participant_id", visit, *needed], long=True)
    twice = table[["participant_id", visit]].apply(lambda column: column.str.strip()).duplicated()
    if twice.any():
        row = table[twice].iloc[0]
        raise FileError(f"{os.fspath(path)} has {row['participant_id']} twice at {visit} {row[visit]}")
    return table


def measures_of_visits(path: str | os.PathLike[str], visit: str) -> pd.DataFrame:
    """Measures of regions by participant and visit, from a table of ``gpuvox rois --visit``.

    Parameters
    ----------
    path : path
    visit : str
        Column with the visit.

    Returns
    -------
    DataFrame
        Indexed by participant and visit (as text); a column for each variable, see `gather`.

    Raises
    ------
    FileError
        The file is not such a table, or has a measure of a visit twice.
    """
    return _from_rois(path, visit)


def _from_rois(path: str | os.PathLike[str], visit: str = "") -> pd.DataFrame:
    long = _long(path, ["structure", "side", "map", *([visit] if visit else [])])
    keys = ["participant_id"]
    if visit:
        long, keys = long.assign(visit=labels(long[visit])), ["participant_id", "visit"]
    require(long, ("mean", "median", "sd", "volume", "volume_normalised", "mass"), path)
    sided = long["side"].isin(["left", "right"])
    place = long["structure"].where(~sided, long["side"] + "." + long["structure"])
    parts = []
    kinds = {"mean": "", "median": ".median", "sd": ".sd", "mass": ".mass"}
    if "mass_raw" in long and long["volume_normalised"].notna().any():
        kinds["mass_raw"] = ".mass_raw"
    kinds |= {name: f".{name}" for name in long.columns if name.endswith("_share") and long[name].notna().any()}
    for value, suffix in kinds.items():
        parts.append(long.assign(variable=place + "." + long["map"] + suffix, value=long[value]))
    for value in ("volume", "volume_normalised"):
        part = long.assign(variable=place + "." + value, value=long[value])
        parts.append(part.drop_duplicates([*keys, "variable"]))  # Identical in the rows of all maps.
    return _wide(pd.concat(parts), path, keys)


def _wide(
    long: pd.DataFrame, path: str | os.PathLike[str], keys: Sequence[str] = ("participant_id",)
) -> pd.DataFrame:
    """Variables as columns, and rows by the keys."""
    twice = long.duplicated([*keys, "variable"])
    if twice.any():
        row = long[twice].iloc[0]
        whose = " at ".join(map(str, row[list(keys)]))
        raise FileError(f"{os.fspath(path)} has {row['variable']} of {whose} twice")
    order = long["variable"].unique()
    wide = long.pivot(index=list(keys), columns="variable", values="value")[order].astype(float)
    wide.columns.name = None
    return wide.dropna(axis=1, how="all")


def _from_clusters(name: str, path: str | os.PathLike[str]) -> pd.DataFrame:
    lines = files.read_table(path, [], long=True, may_be_empty=True)
    require(lines, ("participant_id", "cluster", "mean", "eigenvariate"), path)
    if not len(lines):
        return pd.DataFrame()
    long = typed(lines)
    place = name + "." + long["cluster"].astype(int).astype(str)
    best = "eigenvariate_z" if "eigenvariate_z" in long.columns else "eigenvariate"
    parts = [
        long.assign(variable=place, value=long[best]),
        long.assign(variable=place + ".mean", value=long["mean"]),
    ]
    return _wide(pd.concat(parts), path)
