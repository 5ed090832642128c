"""The table of a voxelwise analysis: a row for each image, with columns of numbers and of categories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.participants import ID, VISIT_COLUMNS, Rows
from gpuvox.plain import composed, listed, several
from gpuvox.tables.columns import require
from gpuvox.tables.levels import LEVELS, check_categories, is_declared
from gpuvox.tables.reading import label, typed


@dataclass(frozen=True, eq=False)
class Cohort:
    """The rows of a table of participants.

    Attributes
    ----------
    text : DataFrame of str
        Cells as they are in the file, with the column ``participant_id``; see `files.read_table`.
    origin : str
        The file, for messages; paths in the table are relative to its folder.
    voxelwise : tuple of str
        Voxelwise covariates, whose values are images: `table` has a column of other numbers in the place of each.
    """

    text: pd.DataFrame
    origin: str = "the table"
    voxelwise: tuple[str, ...] = ()

    @cached_property
    def table(self) -> pd.DataFrame:
        """The same with numbers as numbers, and missing cells as NaN."""
        table = typed(self.text)
        for number, name in enumerate(self.voxelwise):
            # Independent of all other columns, and different in every row, as the values of most voxels are.
            table[name] = np.random.default_rng(number).normal(size=len(table))
        return table

    def __len__(self) -> int:
        return len(self.text)

    @property
    def ids(self) -> tuple[str, ...]:
        """(n,) Participants."""
        return tuple(self.text[ID])

    @cached_property
    def visit_column(self) -> str:
        """The column that tells rows of one participant apart; empty if everyone has one row, or there is none."""
        if not self.text[ID].duplicated().any():
            return ""
        return next((name for name in VISIT_COLUMNS if name in self.text.columns), "")

    @property
    def who(self) -> Rows:
        """The participants of the rows, for `participants.compare` and for messages."""
        visits = tuple(self.cells(self.visit_column)) if self.visit_column else ()
        return Rows(self.ids, self.origin, "row", visits)

    def cells(self, name: str) -> list[str]:
        """The text of a column, without blanks around it and with composed accents."""
        return [composed(cell.strip()) for cell in self.text[name]]

    def at(self, rows: Iterable[int]) -> Cohort:
        """Some of the rows."""
        part = self.text.iloc[list(rows)].reset_index(drop=True)
        part.attrs = dict(self.text.attrs)
        return replace(self, text=part)

    def require(self, names: Iterable[str]) -> None:
        """Raise `FileError` for a column that is not there; the message names those that look alike."""
        require(self.table, map(composed, names), self.origin)

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers, and is not declared to hold categories by ``Levels`` beside the table."""
        name = composed(name)
        return bool(pd.api.types.is_numeric_dtype(self.table[name])) and not is_declared(self.table, name)

    def categories(self, name: str) -> tuple[list[str | None], tuple[str, ...]]:
        """Level of each row (None where it is missing), and the levels in order: numbers by size, text by alphabet.

        Raises
        ------
        FileError
            No such column; text that is numbers with a slip, or levels that differ in capitals or blanks alone.
        """
        self.require([name])
        check_categories(self.table, name, self.origin)
        column = self.table[name]
        there = column.notna().to_numpy()
        found = [label(value) if known else None for value, known in zip(column, there)]
        if pd.api.types.is_numeric_dtype(column):
            return found, tuple(label(value) for value in np.unique(column[there]))
        return found, tuple(sorted({level for level in found if level is not None}))

    def missing(self, names: Iterable[str]) -> dict[int, list[str]]:
        """Row → columns in which it has no value.

        Raises
        ------
        FileError
            No such column, or an infinite number.
        """
        found: dict[int, list[str]] = {}
        for name in dict.fromkeys(names):
            self.require([name])
            column = self.table[name]
            if pd.api.types.is_numeric_dtype(column) and np.isinf(column.to_numpy(dtype=float)).any():
                row = int(np.flatnonzero(np.isinf(column.to_numpy(dtype=float)))[0])
                raise FileError(f"{self.origin}: {name} of {self.who.named(row)} is infinite")
            for row in np.flatnonzero(column.isna()).tolist():
                found.setdefault(row, []).append(name)
        return found

    def listed(self, rows: Sequence[int]) -> str:
        """Rows by their names, the first few of many."""
        return listed([self.who.named(row) for row in rows])


def new_column(table: pd.DataFrame, name: str) -> str:
    """A name that no column of a table has: this one, with underscores after it if need be."""
    while name in table.columns:
        name += "_"
    return name


def read_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Read a table of participants; a participant may have several rows, one for each visit.

    Raises
    ------
    FileError
        It is no table, or has no column ``participant_id``, or a row without a participant.
    """
    return Cohort(files.read_table(path, [ID], long=True), os.fspath(path))


def as_cohort(given: str | os.PathLike[str] | pd.DataFrame) -> Cohort:
    """A table from Python: a path, or a DataFrame with the column (or the index) ``participant_id``.

    Raises
    ------
    FileError
        As of `read_cohort`.
    """
    if isinstance(given, str | os.PathLike):
        return read_cohort(given)
    frame = given.reset_index() if given.index.name == ID and ID not in given.columns else given
    if ID not in frame.columns:
        raise FileError(f"the table has no column {ID!r}, which names the participant of each row")
    if not len(frame):
        raise FileError("the table has no row")
    names = [composed(str(name)) for name in frame]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise FileError(f"the table has two columns named {twice!r}")
    columns = [["n/a" if pd.isna(value) else label(value) for value in frame[name]] for name in frame]
    text = pd.DataFrame(dict(zip(names, columns)), dtype=object)
    text[ID] = text[ID].map(composed)
    kinds = zip(names, frame.dtypes)
    text.attrs[LEVELS] = [name for name, kind in kinds if isinstance(kind, pd.CategoricalDtype)]
    return Cohort(text)


@dataclass(frozen=True)
class Excluded:
    """Rows that are not analysed, and why.

    Attributes
    ----------
    who : tuple of str
        Participants (at a visit, where there are several).
    reasons : tuple of str
        What each lacks.
    """

    who: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def joined(self, other: Excluded) -> Excluded:
        """These and others."""
        return Excluded(self.who + other.who, self.reasons + other.reasons)

    def lines(self, total: int, *, of_subjects: bool = False) -> list[str]:
        """The lines that report them; `of_subjects`: some are visits, and some subjects with all of their visits."""
        if not self.who:
            return []
        each = [f"{name} ({reason})" for name, reason in zip(self.who, self.reasons)]
        count = f"{several(len(each), 'row')} of {total}"
        if of_subjects:
            count = "1 subject or visit" if len(each) == 1 else f"{len(each)} subjects or visits"
        return [f"{count} dropped: {listed(each)}"]

    def reasons_by_name(self) -> dict[str, str]:
        """Participant → what it lacks; several rows of one that nothing tells apart are numbered."""
        found: dict[str, str] = {}
        for name, reason in zip(self.who, self.reasons):
            number = sum(1 for other in found if other == name or other.startswith(f"{name} ("))
            found[f"{name} ({number + 1})" if number else name] = reason
        return found


def complete(cohort: Cohort, lacking: dict[int, list[str]], missing: str) -> tuple[list[int], Excluded]:
    """Rows that lack nothing.

    Parameters
    ----------
    cohort : Cohort
    lacking : dict of int to list of str
        Row → what it lacks.
    missing : str
        ``refuse`` or ``drop``.

    Raises
    ------
    FileError
        A row lacks something and `missing` is ``refuse``, or every row does.
    """
    rows = sorted(lacking)
    if rows and missing != "drop":
        each = [f"{cohort.who.named(row)} ({', '.join(lacking[row])})" for row in rows]
        raise FileError(
            f"{cohort.origin}: {several(len(rows), 'row')} of {len(cohort)} {'lacks' if len(rows) == 1 else 'lack'} "
            f"an image or a value: {listed(each)}; complete the table, or drop such rows with --missing drop",
            option="--missing",
        )
    kept = [row for row in range(len(cohort)) if row not in lacking]
    if not kept:
        raise FileError(f"{cohort.origin}: no row has an image and all values of the model")
    who = tuple(cohort.who.named(row) for row in rows)
    return kept, Excluded(who, tuple(", ".join(lacking[row]) for row in rows))
