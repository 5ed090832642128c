"""The images of a cohort, joined with the rows of its table by participant and never by order alone.

Images are named in one of three ways:

* a template such as ``derivatives/{participant_id}/anat/{participant_id}_*probseg.nii.gz``: each ``{column}`` is the
  cell of that column, ``*``, ``?``, ``[…]`` and ``**`` are a shell's patterns, and exactly one image must match a row;
* the name of a column of the table, with a path for each row, relative to the table's folder;
* a 4D image whose JSON file (``Subjects``, ``Visits``) or companion table (the image's name with ``.tsv`` or ``.csv``
  in place of its extension) names the participants of its volumes.

Whatever the way, ids that stand in the names of the files are compared with the table.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any, TypeAlias

from gpuvox import files, participants
from gpuvox.cohort.table import Cohort
from gpuvox.errors import FileError
from gpuvox.files.missing import expand
from gpuvox.participants import ID
from gpuvox.plain import composed, listed, several
from gpuvox.reporter import Reporter
from gpuvox.tables.reading import is_missing

Weights: TypeAlias = tuple[tuple[int, float], ...]
"""Rows and the weights of their images in a sum."""


@dataclass(frozen=True, eq=False)
class CohortImages:
    """Where the image of each row is.

    Attributes
    ----------
    paths : dict of int to Path
        Row → its image; of a 4D image, that image for every row.
    volumes : dict of int to int
        Row → number of its volume, from 0, in a 4D image; empty for separate images.
    missing : dict of int to str
        Row → why it has no image.
    total : int
        Volumes of the 4D image; 0 for separate images.
    column : str
        The column of the table that names them; empty if there is none.
    weights : tuple of Weights
        For images that are made of others (changes between visits): what each image of the analysis is made of, rows
        here and their weights; empty for images that are analysed as they are.
    memory : any
        What holds them, if they are in memory; see `in_memory`. Volumes are then numbers of images in it.
    """

    paths: Mapping[int, Path]
    missing: Mapping[int, str]
    volumes: Mapping[int, int]
    total: int = 0
    column: str = ""
    memory: Any = None
    weights: tuple[Weights, ...] = ()

    @property
    def stacked(self) -> bool:
        """Whether they are volumes of one 4D image in a file."""
        return self.total > 0 and not self.in_memory

    @property
    def combined(self) -> bool:
        """Whether those of the analysis are made of several each."""
        return bool(self.weights)

    @property
    def in_memory(self) -> bool:
        """Whether they are in memory, and not in files."""
        return self.memory is not None

    def at(self, rows: Sequence[int]) -> CohortImages:
        """The images of some rows, which are numbered from 0 then."""
        paths, missing, volumes = (_renumbered(each, rows) for each in (self.paths, self.missing, self.volumes))
        return replace(self, paths=paths, missing=missing, volumes=volumes)

    def ordered(self, rows: Sequence[int]) -> list[int]:
        """Rows in the order of the analysis: that of the table or, of a 4D image in a file, of its volumes."""
        return (
            sorted(rows)
            if self.in_memory or self.combined
            else sorted(rows, key=lambda row: self.volumes.get(row, row))
        )

    def names(self, rows: Sequence[int]) -> list[Path]:
        """The images of some rows, one for each."""
        return [self.paths[row] for row in rows]

    def is_whole(self, rows: Sequence[int]) -> bool:
        """Whether some rows, in this order, are all volumes of the 4D image in its order."""
        return [self.volumes.get(row) for row in rows] == list(range(self.total))


def _renumbered(values: Mapping[int, Any], rows: Sequence[int]) -> dict[int, Any]:
    return {new: values[row] for new, row in enumerate(rows) if row in values}


def find_images(source: str, cohort: Cohort, reporter: Reporter) -> CohortImages:
    """Find the image of each row of a table.

    Parameters
    ----------
    source : str
        A template, a column, or a 4D image; see the head of this module.
    cohort : Cohort
    reporter : Reporter
        Warned if ids of the table and names of the files have nothing in common.

    Raises
    ------
    FileError
        Several images match a row, two rows have the same image, a file name has the id of another participant, or
        nothing names the participants of a 4D image.
    """
    if "{" in source:
        found = _by_template(source, cohort)
    elif composed(source) in cohort.text.columns:
        found = _by_column(composed(source), cohort)
    elif source.endswith((".txt", ".tsv", ".csv")) or (glob.has_magic(source) and not os.path.exists(source)):
        raise FileError(
            f"--images {source} does not name participants; a template such as 'maps/{{{ID}}}_*.nii.gz', a column of "
            f"{cohort.origin}, or a 4D image that names its volumes is expected",
            option="--images",
        )
    else:
        return _by_volume(source, cohort)
    check_separate(found, cohort, reporter)
    return found


def check_separate(found: CohortImages, cohort: Cohort, reporter: Reporter) -> None:
    """Raise `FileError` for rows that share an image, and for images of other participants than those of their rows."""
    rows = sorted(found.paths)
    who = cohort.who.of(rows)
    if twice := participants.shared(found.names(rows), who):
        raise FileError(f"{twice}; each row needs an image of its own: is a column such as the session missing?")
    if rows:
        participants.compare(who, participants.of_images(found.names(rows), who), reporter.warn)


# -- templates ------------------------------------------------------------------------------------------------------


def _by_template(template: str, cohort: Cohort) -> CohortImages:
    pieces = _parse_template(template, cohort)
    paths, missing, several_match = {}, {}, []
    for row in range(len(cohort)):
        cells = {name: cohort.text[name].iloc[row].strip() for _, name in pieces if name}
        empty = [name for name, cell in cells.items() if is_missing(cell)]
        if empty:
            missing[row] = f"no {', '.join(empty)} for the name of its image"
            continue
        pattern, *others = dict.fromkeys(
            "".join(text + (glob.escape(form(cells[name])) if name else "") for text, name in pieces)
            for form in (str, composed, _decomposed)
        )
        matches = list(dict.fromkeys(path for each in (pattern, *others) for path in _matches(each)))
        if not matches:
            missing[row] = f"no image matches {pattern}"
        elif len(matches) > 1:
            several_match.append(f"{cohort.who.named(row)}: {listed([os.fspath(path) for path in matches], 4)}")
        else:
            paths[row] = matches[0]
    if several_match:
        raise FileError(
            f"several images match {template} for {several(len(several_match), 'row')}, and one is expected for each: "
            f"{'; '.join(several_match[:6])}; make the template more exact, or add a column to it",
            option="--images",
        )
    if not paths:
        raise FileError(
            f"no image matches {template} for any of {len(cohort)} rows; the first was looked for as "
            f"{missing[0].removeprefix('no image matches ')}",
            option="--images",
        )
    return CohortImages(paths, missing, {})


def _parse_template(template: str, cohort: Cohort) -> list[tuple[str, str]]:
    """Text and the column after it, in turns; the last column may be empty."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        raise FileError(
            f"{template} is not a template: braces are around the name of a column, as in {{{ID}}}",
            option="--images",
        ) from None
    pieces = []
    for text, name, form, conversion in parsed:
        if name is not None and (not name or form or conversion):
            raise FileError(f"{template}: a column is named as in {{{ID}}}, and nothing else", option="--images")
        pieces.append((text, composed(name or "")))
    cohort.require(name for _, name in pieces if name)
    return pieces


def _matches(pattern: str) -> list[Path]:
    """Images whose names fit, with or without the extension, each once."""
    for tried in (pattern, f"{pattern}.*"):
        found = [name for name in expand(tried) if files.split_suffix(name)[1] and os.path.isfile(name)]
        if found:
            return list(dict.fromkeys(files.find_image(name) for name in found))  # a pair matches twice
    return []


# -- columns --------------------------------------------------------------------------------------------------------


def _by_column(column: str, cohort: Cohort) -> CohortImages:
    paths, missing = {}, {}
    for row, cell in enumerate(cohort.text[column].str.strip()):
        if is_missing(cell):
            missing[row] = f"no {column}"
            continue
        try:
            paths[row] = _image_of_cell(Path(cohort.origin).parent, cell)
        except FileError as error:
            missing[row] = str(error)
    if not paths:
        raise FileError(f"the column {column} of {cohort.origin} names no image that exists: {missing[0]}")
    return CohortImages(paths, missing, {}, column=column)


def _image_of_cell(folder: Path, cell: str) -> Path:
    """The image of a cell, with its accents as they are there or, if there is none, in another form."""
    try:
        return files.find_image(folder / cell)
    except FileError:
        for other in {composed(cell), _decomposed(cell)} - {cell}:
            with contextlib.suppress(FileError):
                return files.find_image(folder / other)
        raise


def _decomposed(text: str) -> str:
    """The text with accents by themselves (Unicode NFD), as some systems write names of files."""
    return unicodedata.normalize("NFD", text)


# -- 4D images ------------------------------------------------------------------------------------------------------


def _by_volume(source: str, cohort: Cohort) -> CohortImages:
    if re.fullmatch(r"\w+", source):  # it may have been meant as a column
        try:
            files.find_image(source)
        except FileError as error:
            raise FileError(f"{error}; nor is it a column of {cohort.origin}", option="--images") from None
    header = files.read_header(source)
    n = header.shape[3]
    who = participants.of_volumes(source, cohort.visit_column)
    if who is None:
        stem = files.split_suffix(header.path)[0]
        raise FileError(
            f"nothing names the participants of the {several(n, 'volume')} of {header.path}; list them in {stem}.tsv "
            f"(a column {ID}) or in {stem}.json (a list {participants.SUBJECTS}), in the order of the volumes",
            file=header.path,
        )
    volumes = participants.join(cohort.who, who)
    missing = {row: f"no volume of {header.path}" for row in range(len(cohort)) if row not in volumes}
    return CohortImages(dict.fromkeys(volumes, header.path), missing, volumes, n)
