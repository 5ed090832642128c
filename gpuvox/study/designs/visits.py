"""Visits of participants from a table with one row per visit, in temporal order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError
from gpuvox.plain import composed
from gpuvox.tables.columns import require
from gpuvox.tables.levels import check_levels
from gpuvox.tables.reading import typed
from gpuvox.tables.visits import order_visits
from gpuvox.types import Bools, Ints


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of participants, sorted by participant and then by visit.

    Attributes
    ----------
    table : DataFrame
        One row per visit, without the column of the visit; see `tables.typed`.
    rows : (N,) int
        Row of each visit in the file, from 0.
    subject : (N,) int
        Index into `subjects`.
    visit : (N,) int
        Index into `names`.
    subjects, names : tuple of str
        Participants in the order of the file; visits in temporal order.
    origin : str
        For messages.
    """

    table: pd.DataFrame
    rows: Ints
    subject: Ints
    visit: Ints
    subjects: tuple[str, ...]
    names: tuple[str, ...]
    origin: str = "the table"

    @property
    def seen(self) -> Bools:
        """(subjects, visits) Whether a participant has a visit."""
        has_visit = np.zeros((len(self.subjects), len(self.names)), dtype=bool)
        has_visit[self.subject, self.visit] = True
        return has_visit

    @property
    def blocks(self) -> Ints:
        """(N,) Exchangeability blocks: the participants, numbered from 1."""
        return self.subject + 1

    def of(self, keep: Bools) -> Visits:
        """The visits of the selected participants."""
        inside = np.flatnonzero(keep[self.subject])
        return Visits(
            self.table.iloc[inside].reset_index(drop=True), self.rows[inside],
            (np.cumsum(keep) - 1)[self.subject[inside]], self.visit[inside],
            tuple(name for name, kept in zip(self.subjects, keep) if kept), self.names, self.origin,
        )  # fmt: skip

    def only(self, names: tuple[str, ...]) -> Visits:
        """Only these visits, of the participants who have all of them."""
        numbers = [self.names.index(name) for name in names]
        inside = np.flatnonzero(np.isin(self.visit, numbers))
        visit = np.array([numbers.index(number) for number in self.visit[inside]])
        table = self.table.iloc[inside].reset_index(drop=True)
        selected = Visits(table, self.rows[inside], self.subject[inside], visit, self.subjects, names, self.origin)
        both = np.bincount(selected.subject, minlength=len(self.subjects)) == len(names)
        if not both.any():
            raise FileError(f"{self.origin}: no participant has {' and '.join(names)}")
        return selected.of(both)

    def at(self, visit: str) -> Ints:
        """(subjects,) Index of the visit of that name for each participant; all must have it."""
        return np.flatnonzero(self.visit == self.names.index(visit))

    def missing(self) -> str:
        """A phrase that names the first missing visit; empty if there is none."""
        lacking = np.argwhere(~self.seen)
        return f"{self.subjects[lacking[0][0]]} has no {self.names[lacking[0][1]]}" if len(lacking) else ""

    def people(self, group: str = "", covariates: Sequence[str] = ()) -> pd.DataFrame:
        """One row per participant, with the values of the first visit; group and text must be the same at all visits.

        Raises
        ------
        FileError
            A column is missing; a group or a text changes between visits.
        """
        require(self.table, [*([group] if group else []), *covariates], self.origin)
        _, first = np.unique(self.subject, return_index=True)
        people = self.table.iloc[first].reset_index(drop=True).assign(participant_id=list(self.subjects))
        for name in [*([group] if group else []), *covariates]:
            if name == group or not pd.api.types.is_numeric_dtype(self.table[name]):
                people[name] = self._constant(name)
        return people

    def _constant(self, name: str) -> list[Any]:
        values_of_people = []
        for i, who in enumerate(self.subjects):
            values = self.table[name][self.subject == i].dropna().unique()
            if len(values) > 1:
                raise FileError(
                    f"{self.origin}: {name} of {who} is {values[0]} at one visit and {values[1]} at another; "
                    "it must be the same at all visits"
                )
            values_of_people.append(values[0] if len(values) else None)
        return values_of_people


def read_visits(
    table: pd.DataFrame,
    subject: str,
    visit: str,
    order: Sequence[str] = (),
    origin: str | os.PathLike[str] = "the table",
) -> Visits:
    """Sort a table of visits.

    Parameters
    ----------
    table : DataFrame of str
        One row for each visit of each participant; see `files.read_table`.
    subject, visit : str
        Columns.
    order : sequence of str, optional
        The visits to include, in temporal order; by default all, sorted by number (``ses-1``, ``ses-2``).
    origin : path
        For messages.

    Raises
    ------
    FileError
        Columns or visits are missing, a participant has a visit twice, or the order of the visits is unknown.
    """
    require(table, [subject, visit], origin)
    check_levels(table, visit, origin)
    who, when = (table[name].str.strip().map(composed) for name in (subject, visit))
    names = order_visits(sorted(set(when)), order, visit, os.fspath(origin))
    inside = np.flatnonzero(when.isin(names))
    subjects = tuple(dict.fromkeys(who.iloc[inside]))
    numbers = {name: i for i, name in enumerate(subjects)}
    who_code = np.array([numbers[name] for name in who.iloc[inside]])
    when_code = np.array([names.index(name) for name in when.iloc[inside]])
    sequence = np.lexsort((when_code, who_code))
    rows, who_code, when_code = inside[sequence], who_code[sequence], when_code[sequence]
    twice = np.flatnonzero((np.diff(who_code) == 0) & (np.diff(when_code) == 0))
    if len(twice):
        raise FileError(
            f"{os.fspath(origin)} has {names[when_code[twice[0]]]} of {subjects[who_code[twice[0]]]} twice"
        )
    values = typed(table.drop(columns=visit)).iloc[rows].reset_index(drop=True)
    return Visits(values, rows, who_code, when_code, subjects, names, os.fspath(origin))
