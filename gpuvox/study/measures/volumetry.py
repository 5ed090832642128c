"""Volumes that other software measured: FreeSurfer (aseg.stats, asegstats2table), FSL (SIENAX, SIENA, fslstats -V).

A table for everybody is joined by participant; otherwise a column of the table of participants names the file of each.
Volumes in mm³ become mL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files.targets import check_targets
from gpuvox.files.text import as_number
from gpuvox.plain import composed
from gpuvox.reporter import Reporter
from gpuvox.tables.columns import require
from gpuvox.tables.reading import is_missing

MILLILITRES = 1e-3
TISSUES = {
    "pgrey": "peripheral_grey",
    "vcsf": "ventricular_csf",
    "GREY": "grey",
    "WHITE": "white",
    "BRAIN": "brain",
}
"""Rows of a report of SIENAX."""
NOT_VOLUMES = re.compile(r"-to-eTIV$|Holes$|Ratio", re.IGNORECASE)
"""Columns of asegstats2table without a unit."""


@dataclass(frozen=True)
class Command:
    """A ``gpuvox volumes`` command with its options parsed.

    Attributes
    ----------
    table, out : str
    tables : dict of str to str
        Name → file of asegstats2table, with a row for each participant.
    columns : dict of str to str
        Name → column of the table with the file of each participant.
    """

    table: str
    out: str
    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """Files that are read, except those that columns name."""
        return [self.table, *self.tables.values()]


def execute(command: Command, reporter: Reporter) -> None:
    """Run the command and write the table: a row for each participant, a column for each volume, ``NAME.structure``.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    check_targets(command.out)
    files.check_not_read([command.out], command.inputs)
    people = files.read_table(command.table, ["participant_id"])
    result = gathered(people, command.table, command.tables, command.columns)
    files.write_table(command.out, result)
    reporter.say(f"{len(result.columns) - 1} volumes of {len(result)} participants")


def gathered(
    people: pd.DataFrame, origin: str, tables: Mapping[str, str], columns: Mapping[str, str]
) -> pd.DataFrame:
    """The volumes of the participants; see `Command`.

    Parameters
    ----------
    people : DataFrame of str
        Participants, with the columns that name files.
    origin : str
        File of the participants, to whose folder these are relative.
    tables, columns : dict of str to str

    Raises
    ------
    FileError
        A file is not what is expected, or lacks a participant.
    """
    ids = people["participant_id"].tolist()
    parts = [pd.DataFrame({"participant_id": ids})]
    for name, path in tables.items():
        parts.append(_named(name, _of_everybody(path, ids, origin)))
    for name, column in columns.items():
        require(people, [column], origin)
        parts.append(_named(name, _of_each(people, column, origin)))
    return pd.concat(parts, axis=1)


def _named(name: str, volumes: pd.DataFrame) -> pd.DataFrame:
    """The volumes with the sums of both sides, called ``NAME.structure``."""
    both = {}
    for column in volumes.columns:
        structure = column.removeprefix("left_")
        if column.startswith("left_") and f"right_{structure}" in volumes and structure not in volumes:
            both[structure] = volumes[column] + volumes[f"right_{structure}"]
    return pd.concat([volumes, pd.DataFrame(both)], axis=1).rename(columns=lambda column: f"{name}.{column}")


def _spelled(name: str) -> str:
    """``Left-Thalamus`` is left_thalamus, ``BrainSegVolNotVent`` brain_seg_vol_not_vent."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    text = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
    return text.replace("thalamus_proper", "thalamus")


def _of_everybody(path: str, ids: list[str], origin: str) -> pd.DataFrame:
    """A table of asegstats2table, in the order of the participants."""
    table = files.read_table(path)
    first = str(table.columns[0])
    if not (first.lower().startswith("measure") or first == "participant_id"):
        raise FileError(
            f"{path} begins with the column {first!r}; expected Measure:volume, as asegstats2table writes"
        )
    names = [composed(os.path.basename(cell.strip().rstrip("/"))) for cell in table[first]]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise FileError(f"{path} has {twice} twice")
    rows = {name: i for i, name in enumerate(names)}
    for who in ids:
        if who not in rows:
            raise FileError(f"{path} has no row of {who}, a participant in {origin}")
    order, columns = [rows[who] for who in ids], {}
    for name in map(str, table.columns[1:]):
        cells = [table[name].iloc[i].strip() for i in order]
        values = np.array([np.nan if is_missing(cell) else as_number(cell) for cell in cells])
        wrong = [cell for cell, value in zip(cells, values) if np.isnan(value) and not is_missing(cell)]
        if wrong:
            raise FileError(f"{path}: {name} is {wrong[0]!r} in a row; expected a volume in mm3")
        columns[_spelled(name)] = values * (1 if NOT_VOLUMES.search(name) else MILLILITRES)
    return pd.DataFrame(columns)


def _of_each(people: pd.DataFrame, column: str, origin: str) -> pd.DataFrame:
    """Files of the participants; those who have none get missing values."""
    folder, rows = Path(origin).parent, []
    for who, cell in zip(people["participant_id"], people[column].str.strip()):
        rows.append({} if is_missing(cell) else read_volumes(folder / cell, who))
    if not any(rows):
        raise FileError(f"{origin} has no file in the column {column!r}")
    return pd.DataFrame(rows)


def read_volumes(path: str | os.PathLike[str], who: str) -> dict[str, float]:
    """Volumes of one participant, in mL.

    Parameters
    ----------
    path : path
        ``aseg.stats``, ``report.sienax``, ``report.siena``, or what ``fslstats -V`` printed (voxels and mm³).
    who : str
        The participant; an ``aseg.stats`` of another is refused.

    Raises
    ------
    FileError
        The file is none of these, or a volume is missing.
    """
    text = files.read_bytes(path, files.MOST_SETTINGS).decode("utf-8", errors="replace")
    for read in (_aseg, _sienax, _siena, _fslstats):
        volumes = read(text, os.fspath(path), who)
        if volumes:
            return volumes
    what = "neither aseg.stats, a report of SIENAX or SIENA, nor output of fslstats -V"
    raise FileError(f"{os.fspath(path)} (participant {who}) is {what}")


def _aseg(text: str, path: str, who: str) -> dict[str, float]:
    if "ColHeaders" not in text or "Volume_mm3" not in text:
        return {}
    subject = re.search(r"^# subjectname\s+(\S+)", text, re.MULTILINE)
    if subject and os.path.basename(subject[1].rstrip("/")) != who:
        raise FileError(f"{path} is of {subject[1]}; {who} expected")
    volumes = {}
    for line in text.splitlines():
        measure = re.match(r"# Measure\s+[^,]+,\s*([^,]+),[^,]*,\s*([^,\s]+),\s*mm\^3", line)
        if measure:
            volumes[_spelled(measure[1].strip())] = as_number(measure[2]) * MILLILITRES
    headers = re.search(r"^# ColHeaders\s+(.*)$", text, re.MULTILINE)
    assert headers is not None
    columns = headers[1].split()
    volume, name = columns.index("Volume_mm3"), columns.index("StructName")
    for line in text.splitlines():
        cells = line.split()
        if line.strip() and not line.startswith("#") and len(cells) == len(columns):
            volumes[_spelled(cells[name])] = as_number(cells[volume]) * MILLILITRES
    return _finite(volumes, path)


def _sienax(text: str, path: str, who: str) -> dict[str, float]:
    scaling = re.search(r"^VSCALING\s+(\S+)", text, re.MULTILINE)
    if scaling is None:
        return {}
    volumes = {"vscaling": as_number(scaling[1])}
    for row, name in TISSUES.items():
        found = re.search(rf"^{row}(?:\s*\([^)]*\))?\s+(\S+)\s+(\S+)", text, re.MULTILINE)
        if found:
            volumes[f"{name}_normalised"] = as_number(found[1]) * MILLILITRES
            volumes[name] = as_number(found[2]) * MILLILITRES
    return _finite(volumes, path)


def _siena(text: str, path: str, who: str) -> dict[str, float]:
    change = re.search(r"^finalPBVC\s+(\S+)", text, re.MULTILINE)
    return _finite({"pbvc": as_number(change[1])}, path) if change else {}


def _fslstats(text: str, path: str, who: str) -> dict[str, float]:
    cells = text.split()
    if len(cells) != 2 or np.isnan([as_number(cell) for cell in cells]).any():
        return {}
    return _finite({"volume": as_number(cells[1]) * MILLILITRES}, path)


def _finite(volumes: dict[str, float], path: str) -> dict[str, float]:
    for name, value in volumes.items():
        if not np.isfinite(value):
            raise FileError(f"{path}: {name} is not a number")
    return volumes
