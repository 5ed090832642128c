"""Tables of regions of interest: volume, and mean, median and SD of maps, by participant, structure and side.

Labels are images of whole numbers in the space of the maps: one for all participants (template space), or one for each
(native space). The names of the labels are read by `labels`; the default is
FreeSurfer's aseg, which FSL FIRST shares.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from gpuvox import files, participants
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.files.targets import check_targets
from gpuvox.files.text import as_number
from gpuvox.findings.labels import Region, alike, read_regions
from gpuvox.grid import Grid
from gpuvox.participants import Rows
from gpuvox.plain import composed, several
from gpuvox.qmri import DEFAULT_MODEL, Share, check_jacobian
from gpuvox.reporter import Reporter
from gpuvox.study.measures.image_series import in_order, numbers_of_volumes
from gpuvox.tables.columns import require
from gpuvox.tables.reading import read_visit_rows
from gpuvox.tissue_models import LinearModel
from gpuvox.types import AnyArray, Bools, Floats

NO_MAP = "none"
"""Map of the rows of a table of volumes alone."""
SIDES = ("left", "right", "both", "none")

MASSES = {"iron": 1e-3, "myelin": 1.0}
"""Maps whose mean times volume is a mass: mg of iron (mg/kg at 1 g/mL), mL of myelin. With a head-size factor, the
volume is normalised, as in Pontillo et al. 2021, and the mass of the raw volume is given beside it."""
FRACTION = ("1", "volume fraction")
"""Units of myelin in models of which there are masses; of iron, it is mg/kg."""

SHARES = ("qsm_share", "r1_share", "qsm_variance_share", "r1_variance_share")
"""Columns with the shares of iron in the contrasts of a region, in the rows of iron; see `shares_of_iron`."""


# -- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    Attributes
    ----------
    structure, side, map : str
    n : int
        Voxels in the statistics: within the eroded region, outside lesions, finite.
    mean, median, sd : float
        NaN if there is no voxel, or if one of the labels has no finite value; SD with n − 1.
    volume : float
        mL, of the whole region.
    labels : frozenset of int
        The labels of the region that are present.
    blank : frozenset of int
        Those of `labels` without a finite value in the statistics: the other labels do not represent the region.
    """

    structure: str
    side: str
    map: str
    n: int
    mean: float
    median: float
    sd: float
    volume: float
    labels: frozenset[int] = frozenset()
    blank: frozenset[int] = frozenset()

    @property
    def mass(self) -> float:
        """Mean × volume, not normalised; NaN for maps that are not in `MASSES`."""
        return self.mean * self.volume * MASSES.get(self.map, float("nan"))


def members(
    regions: Mapping[int, Region], merged: Mapping[str, str] | None = None
) -> dict[tuple[str, str], list[int]]:
    """The labels of every structure and side.

    Parameters
    ----------
    regions : dict of int to Region
    merged : dict of str to str, optional
        Name of a combined structure → pattern of its parts (``thalamus``: ``thalamus_*``).

    Returns
    -------
    dict of (structure, side) to list of int
        With ``both`` for structures that have a left and a right side.

    Raises
    ------
    InputError
        A pattern matches no structure, or the name is taken.
    """
    labels_of: dict[tuple[str, str], list[int]] = {}
    for number, region in regions.items():
        labels_of.setdefault((region.structure, region.side), []).append(number)
    for name, pattern in (merged or {}).items():
        if any(structure == name for structure, _ in labels_of):
            raise InputError(f"there is already a structure {name}; choose another name for {pattern}")
        chosen = {n: r for n, r in regions.items() if fnmatch.fnmatchcase(r.structure, pattern)}
        if not chosen:
            names = ", ".join(sorted({r.structure for r in regions.values()}))
            raise InputError(f"no structure matches {pattern!r}; there are {names}")
        for number, region in chosen.items():
            labels_of.setdefault((name, region.side), []).append(number)
    for structure in {structure for structure, _ in labels_of}:
        left_labels, right_labels = labels_of.get((structure, "left")), labels_of.get((structure, "right"))
        if left_labels and right_labels:
            labels_of[structure, "both"] = left_labels + right_labels
    return dict(sorted(labels_of.items(), key=lambda item: (item[0][0], SIDES.index(item[0][1]))))


def measure(
    labels: NDArray[np.integer[Any]],
    maps: Mapping[str, Floats],
    structures: Mapping[tuple[str, str], Sequence[int]],
    voxel_volume: float,
    *,
    jacobian: Floats | None = None,
    exclude: Bools | None = None,
    erosion: int = 0,
) -> list[Measure]:
    """Measure the regions of one participant.

    Parameters
    ----------
    labels : (nx, ny, nz) int
    maps : dict of str to (nx, ny, nz) array
        If there are none, the volume alone is measured.
    structures : dict
        See `members`. Structures without a voxel are not in the result.
    voxel_volume : float
        mm³.
    jacobian : (nx, ny, nz) array, optional
        In template space: Jacobian determinants of the template-to-subject transformation. The volume is their sum.
    exclude : (nx, ny, nz) bool, optional
        Lesions, which are excluded from the statistics of maps, but not from the volume.
    erosion : int
        Number of layers of border voxels (voxels that share a face with another region) excluded from the statistics.

    Returns
    -------
    list of Measure
    """
    rows = []
    for (structure, side), numbers in structures.items():
        region = np.isin(labels, numbers)
        if not region.any():
            continue
        size = region.sum() if jacobian is None else np.asarray(jacobian, dtype=np.float64)[region].sum()
        inside = binary_erosion(region, iterations=erosion) if erosion else region
        if exclude is not None:
            inside = inside & ~exclude
        there, of_voxel = _numbers(labels[region]), labels[inside]
        if not maps:  # the volume alone
            rows.append(
                replace(
                    _row(structure, side, NO_MAP, np.zeros(0), float(size) * voxel_volume / 1000),
                    n=int(inside.sum()),
                    labels=there,
                )
            )
        for name, values in maps.items():
            chosen = np.asarray(values, dtype=np.float64)[inside]
            finite = np.isfinite(chosen)
            blank = _numbers(of_voxel) - _numbers(of_voxel[finite])
            used = chosen[:0] if blank else chosen[finite]
            row = _row(structure, side, name, used, float(size) * voxel_volume / 1000)
            rows.append(replace(row, labels=there, blank=blank))
    return rows


def shares_of_iron(iron: Measure, myelin: Measure, model: LinearModel) -> tuple[float, ...]:
    """What QSM and R1 of a region owe to iron rather than to myelin, between 0 and 1.

    Parameters
    ----------
    iron, myelin : Measure
        Of the same region and participant.
    model : LinearModel

    Returns
    -------
    (4,) tuple of float
        `SHARES`: |a·Fe| / (|a·Fe| + |b·My|) of the means, for QSM and for R1, and a²·Var(Fe) / (a²·Var(Fe) +
        b²·Var(My)) over the voxels. NaN where a mean or an SD is.
    """
    means, variances = (iron.mean, myelin.mean), (iron.sd**2, myelin.sd**2)
    rows = {each.name: (each.iron, each.myelin) for each in model.contrasts}
    shares = [Share.of(rows[name], means, variances) for name in ("qsm", "r1")]
    return (*(each.by_mean[0] for each in shares), *(each.by_variance[0] for each in shares))


def _numbers(labels: NDArray[np.integer[Any]]) -> frozenset[int]:
    return frozenset(int(number) for number in np.unique(labels))


def _row(structure: str, side: str, name: str, values: NDArray[np.float64], volume: float) -> Measure:
    n, nan = len(values), float("nan")
    mean, median = (float(values.mean()), float(np.median(values))) if n else (nan, nan)
    return Measure(structure, side, name, n, mean, median, float(values.std(ddof=1)) if n > 1 else nan, volume)


# -- whole cohorts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A ``gpuvox rois`` command, its options parsed.

    Images are given as columns of the table, with paths relative to it, or as files: 4D images (see
    `image_series.numbers_of_volumes`) or, for labels and lesions, a 3D image for all participants.
    """

    table: str
    labels: str
    maps: Mapping[str, str]
    out: str
    names: str = ""
    merged: Mapping[str, str] = field(default_factory=dict)
    jacobian: str = ""
    lesions: str = ""
    head_size: str = ""
    erosion: int = 0
    model: str = ""
    visit: str = ""


COLUMNS = (
    "participant_id",
    "structure",
    "side",
    "map",
    "n",
    "mean",
    "median",
    "sd",
    "volume",
    "volume_normalised",
    "mass",
    "mass_raw",
    *SHARES,
)


def execute(command: Command, reporter: Reporter) -> None:
    """Run a command: write the table.

    A region is omitted for a participant who lacks one of its labels that others have: half a caudate is not a small
    caudate.

    Parameters
    ----------
    command : Command
    reporter : Reporter
        Receives the progress ("regions", participants done, participants in total), and warnings about labels without
        a name, and about regions that are omitted or empty in some participants.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    check_targets(command.out)
    files.check_not_read([command.out], [command.table, command.names, command.model])
    table = _read_rows(command)
    factors = _factors(command, table)
    model = LinearModel.read(command.model or DEFAULT_MODEL)
    for text in _shared(command, table):
        reporter.warn(text)
    regions = read_regions(command.names or None)
    structures = members(regions, command.merged)
    measured: list[list[Measure]] = []
    there: set[int] = set()
    for numbers, rows in _measured(command, table, structures):
        there |= numbers
        measured.append(rows)
        reporter.progress("regions", len(measured), len(table))
    usual = _usual_labels(measured)
    where = command.names or "the numbers of FreeSurfer"
    if not usual:
        other = "" if command.names else "; --names FILE names other labels"
        raise FileError(f"{command.labels} has none of the labels named in {where}{other}")
    whole = [[row for row in rows if row.labels == usual[row.structure, row.side]] for rows in measured]
    ids = table["participant_id"].tolist()
    visits = table[command.visit].str.strip().tolist() if command.visit else [""] * len(ids)
    names = [f"{name} ({visit})" if visit else name for name, visit in zip(ids, visits)]
    lines, visit_of_line = [], []
    for name, visit, rows, factor in zip(ids, visits, whole, factors):
        shares = _shares(rows, model)
        lines += [
            (*_line(name, row, factor, model), *shares.get((row.structure, row.side, row.map), NONE))
            for row in rows
        ]
        visit_of_line += [visit] * len(rows)
    unnamed = there - set(regions) - {0}
    if unnamed:
        reporter.warn(f"{_labels(unnamed)} of {command.labels} excluded, without a name in {where}")
    for title, same in alike(regions, there).items():
        named = ", ".join(f"{number} ({regions[number].name})" for number in same)
        reporter.warn(
            f"labels {named} are measured together, as {title}: their names differ only in case or punctuation"
        )
    for text in (*_left_out(names, measured, usual), *_without_values(names, whole), *_emptied(command, whole)):
        reporter.warn(text)
    result = pd.DataFrame(lines, columns=COLUMNS)
    if command.visit:
        result.insert(1, command.visit, visit_of_line)
    files.write_table(command.out, result)


def _read_rows(command: Command) -> pd.DataFrame:
    """The table: a row for each participant, or for each visit of each."""
    if not command.visit:
        return files.read_table(command.table, ["participant_id"])
    if command.visit in COLUMNS:
        raise OptionError(
            "--visit", f"{command.visit!r} is a column of the table that is written; choose another name"
        )
    return read_visit_rows(command.table, command.visit)


def _who(command: Command, table: pd.DataFrame) -> Rows:
    """The participant (and visit) of each row."""
    visits = tuple(table[command.visit].str.strip()) if command.visit else ()
    return Rows(tuple(table["participant_id"]), command.table, "row", visits)


def _shared(command: Command, table: pd.DataFrame) -> Iterator[str]:
    """Warnings about images that two participants or visits share; labels and lesions may be shared by all."""
    who = _who(command, table)
    for source in dict.fromkeys((*command.maps.values(), command.jacobian, command.labels, command.lesions)):
        if composed(source) in table.columns:
            names = [Path(command.table).parent / name.strip() for name in table[composed(source)]]
            of_everyone = source in (command.labels, command.lesions) and len(set(names)) == 1
            text = "" if of_everyone else participants.shared(names, who)
            if text:
                yield text


def _usual_labels(measured: Sequence[Sequence[Measure]]) -> dict[tuple[str, str], frozenset[int]]:
    """The labels of each region that occur in any participant."""
    labels_of: dict[tuple[str, str], frozenset[int]] = {}
    for rows in measured:
        for row in rows:
            place = row.structure, row.side
            labels_of[place] = labels_of.get(place, frozenset()) | row.labels
    return labels_of


def _left_out(
    names: Sequence[str],
    measured: Sequence[Sequence[Measure]],
    usual: Mapping[tuple[str, str], frozenset[int]],
) -> Iterator[str]:
    """Warnings about regions that are missing or incomplete in some participants."""
    people_of: dict[tuple[str, frozenset[int]], list[str]] = {}
    for name, rows in zip(names, measured):
        there = {(row.structure, row.side): row.labels for row in rows}
        for (structure, side), labels in usual.items():
            lacking = labels - there.get((structure, side), frozenset())
            if lacking:
                people_of.setdefault((_title(structure, side), lacking), []).append(name)
    for (labels, people), titles in _together(people_of).items():
        yield f"no voxel of {_labels(labels)} in {', '.join(people)}: {', '.join(titles)} omitted for them"


def _without_values(names: Sequence[str], whole: Sequence[Sequence[Measure]]) -> Iterator[str]:
    """Warnings about regions of which a part has no finite value in some participants."""
    for kind in dict.fromkeys(row.map for rows in whole for row in rows):
        people_of: dict[tuple[str, frozenset[int]], list[str]] = {}
        for name, rows in zip(names, whole):
            for row in rows:
                if row.map == kind and row.blank:
                    people_of.setdefault((_title(row.structure, row.side), row.blank), []).append(name)
        for (labels, people), titles in _together(people_of).items():
            yield (
                f"{kind} has no finite value in {_labels(labels)} of {', '.join(people)}: no mean of "
                f"{', '.join(titles)} for them"
            )


def _together(
    people_of: Mapping[tuple[str, frozenset[int]], Sequence[str]],
) -> dict[tuple[frozenset[int], tuple[str, ...]], list[str]]:
    """Titles of regions, grouped by labels and participants."""
    sorted_out: dict[tuple[frozenset[int], tuple[str, ...]], list[str]] = {}
    for (title, labels), people in people_of.items():
        sorted_out.setdefault((labels, tuple(people)), []).append(title)
    return {key: sorted(titles) for key, titles in sorted_out.items()}


def _emptied(command: Command, whole: Sequence[Sequence[Measure]]) -> Iterator[str]:
    """Warnings about regions of which erosion and lesions leave no voxel."""
    counts: dict[str, int] = {}
    for rows in whole:
        for title in {_title(row.structure, row.side) for row in rows if not (row.n or row.blank)}:
            counts[title] = counts.get(title, 0) + 1
    causes = " and ".join(["erosion"] * bool(command.erosion) + ["lesions"] * bool(command.lesions))
    for title, count in sorted(counts.items()):
        yield f"{causes}: no voxel of {title} remains in {count} of {len(whole)} participants, so there is no mean"


def _labels(numbers: Iterable[int]) -> str:
    """``label 3``, ``labels 3, 4``."""
    listed = sorted(numbers)
    return f"label{'' if len(listed) == 1 else 's'} {', '.join(map(str, listed))}"


def _title(structure: str, side: str) -> str:
    return structure if side == "none" else f"{structure} ({side})"


def _factors(command: Command, table: pd.DataFrame) -> NDArray[np.float64]:
    """Head-size factor of each participant; NaN if none is given."""
    if not command.head_size:
        return np.full(len(table), np.nan)
    return head_size(table, command.head_size, command.table)


def head_size(table: pd.DataFrame, column: str, origin: str) -> NDArray[np.float64]:
    """Head-size factors, by which volumes are multiplied to normalise them.

    Parameters
    ----------
    table : DataFrame of str
    column : str
    origin : str
        File name of the table, for messages.

    Raises
    ------
    FileError
        There is no such column; a factor is missing, not a number, or not positive.
    """
    require(table, [column], origin)
    factors = np.array([as_number(cell) for cell in table[column]])
    wrong = np.flatnonzero(~(np.isfinite(factors) & (factors > 0)))
    if len(wrong):
        who, value = (table[name].iloc[wrong[0]] for name in ("participant_id", column))
        raise FileError(f"{origin}: {column} of {who} is {value!r}; expected a positive number (head-size factor)")
    return factors


def masses_of(model: LinearModel) -> tuple[str, ...]:
    """Maps of which there are masses, by the units of the model."""
    known = {"iron": model.iron_units == "mg/kg", "myelin": model.myelin_units in FRACTION}
    return tuple(name for name in MASSES if known[name])


def has_shares(model: LinearModel) -> bool:
    """Whether shares of iron in QSM and R1 follow from the model: only if it has both."""
    return {"qsm", "r1"} <= set(model.names)


def _line(name: str, row: Measure, factor: float, model: LinearModel) -> tuple:
    raw = row.mass if row.map in masses_of(model) else float("nan")
    mass = raw if np.isnan(factor) else raw * factor
    numbers = (row.mean, row.median, row.sd, row.volume, row.volume * factor, mass, raw)
    return (name, row.structure, row.side, row.map, row.n, *numbers)


NONE = (float("nan"),) * len(SHARES)


def _shares(rows: Sequence[Measure], model: LinearModel) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """Shares of iron by structure, side and map; only of regions in which iron and myelin are measured.

    None of models that have other contrasts than QSM and R1.
    """
    if not has_shares(model):
        return {}
    of_map = {(row.structure, row.side, row.map): row for row in rows}
    return {
        (structure, side, name): shares_of_iron(row, of_map[structure, side, "myelin"], model)
        for (structure, side, name), row in of_map.items()
        if name == "iron" and (structure, side, "myelin") in of_map
    }


def _measured(
    command: Command, table: pd.DataFrame, structures: Mapping[tuple[str, str], Sequence[int]]
) -> Iterator[tuple[frozenset[int], list[Measure]]]:
    """The labels and the rows of the table of each participant."""
    sources = {"labels": command.labels, **{f"map {k}": v for k, v in command.maps.items()}}
    sources |= {k: v for k, v in (("jacobian", command.jacobian), ("lesions", command.lesions)) if v}
    streams = {kind: _images(command, table, kind, source) for kind, source in sources.items()}
    for who in table["participant_id"]:
        images = {kind: next(stream) for kind, stream in streams.items()}
        header = images["labels"][0]
        for other, _ in images.values():
            files.check_headers(other, header)
        grid = header.grid(np.ones(header.shape[:3], dtype=bool))
        volumes = {kind: grid.to_volume(read()) for kind, (_, read) in images.items()}
        labels = volumes["labels"]
        if "jacobian" in volumes:
            measured = np.isin(labels, [number for of in structures.values() for number in of])
            where = f"{images['jacobian'][0].path}: the determinants of {who} in regions"
            check_jacobian(volumes["jacobian"][measured], where)
        yield (
            _numbers(labels),
            measure(
                labels,
                {kind.removeprefix("map "): v for kind, v in volumes.items() if kind.startswith("map ")},
                structures,
                _voxel_volume(grid),
                jacobian=volumes.get("jacobian"),
                exclude=volumes["lesions"] > 0.5 if "lesions" in volumes else None,
                erosion=command.erosion,
            ),
        )


def _voxel_volume(grid: Grid) -> float:
    return float(np.prod(grid.voxel_size))


def _images(
    command: Command, table: pd.DataFrame, kind: str, source: str
) -> Iterator[tuple[files.ImageHeader, Callable[[], AnyArray]]]:
    """Header of each participant's image, and a function that reads its values once its grid has been checked."""
    read: Callable[[str | Path], Iterator[AnyArray]] = (
        files.read_labels if kind == "labels" else files.read_volumes
    )
    column = composed(source)
    if column in table.columns:
        folder = Path(command.table).parent
        for name, path in zip(table["participant_id"], table[column]):
            if path.strip() in ("", "n/a"):
                raise FileError(f"{command.table} has no {column} of {name}")
            header = files.read_header(folder / path.strip())
            if header.shape[3] != 1:
                raise FileError(f"{header.path} has {several(header.shape[3], 'volume')}; expected one, of {name}")
            yield header, partial(next, read(header.path))
        return
    header = files.read_header(source)
    if header.shape[3] == 1 and kind in ("labels", "lesions"):
        only = cache(partial(next, read(source)))
        for _ in range(len(table)):
            yield header, only
        return
    numbers = numbers_of_volumes(header, _who(command, table), range(len(table)), command.visit)
    volumes = in_order(read(source), numbers)
    for _ in range(len(table)):
        yield header, partial(next, volumes)
