"""Designs for `randomise`: groups of participants, change between visits, repeated measures.

What may be exchanged depends on the contrast. Participants are permuted freely; change scores of one sample have their
signs flipped; and where rows are visits, those of a subject are a block:

* what lies between subjects (groups, and how groups differ in their change) is tested by permuting whole blocks, which
  needs the same visits in the same order in each, and assumes nothing of how the visits of a subject are correlated;
* the effect of the visit is tested on a design with an EV for every subject. Two visits are exchanged within subjects.
  Of three and more, signs are flipped for whole subjects: exchanging visits would assume the same variance of all and
  the same correlation of any two, which subjects who change at their own pace do not have. Where visits are missing
  that assumption is made.

Winkler et al. 2014 (NeuroImage 92:381) and 2015 (NeuroImage 123:253). docs/designs.md says which is which.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.design import DesignError, partition
from gpuvox.files import FileError
from gpuvox.study.tables import complete, indicators, labels, require, select, typed

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = dict[str, float]


# -- a design -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Design:
    """A design matrix, its contrasts, and what is exchangeable.

    Attributes
    ----------
    matrix : (n, p) float64
    names : tuple of str
        Of the EVs.
    contrasts : (k, p) float64
        t contrasts.
    contrast_names : tuple of str
    f_tests : (f, k) float64
        Rows of 0 and 1: the t contrasts that are stacked.
    f_names : tuple of str
    blocks : (n,) int, optional
        Exchangeability blocks, from 1.
    whole_blocks : bool
        Blocks are permuted as wholes, instead of the rows within each.
    flip : bool
        Signs are flipped: a test of one sample.

    Raises
    ------
    DesignError
        A contrast cannot be estimated, or no degrees of freedom are left.
    """

    matrix: Float64
    names: tuple[str, ...]
    contrasts: Float64
    contrast_names: tuple[str, ...]
    f_tests: Float64
    f_names: tuple[str, ...] = ()
    blocks: Ints | None = None
    whole_blocks: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        tests = [(name, row[None], False) for name, row in zip(self.contrast_names, self.contrasts)]
        tests += [(name, self.contrasts[row != 0], True) for name, row in zip(self.f_names, self.f_tests)]
        for name, contrast, is_f in tests:
            try:
                partition(self.matrix, contrast, is_f=is_f)
            except DesignError as error:
                evs = ", ".join(self.names[:12]) + (" …" if len(self.names) > 12 else "")
                raise DesignError(f"contrast {name!r} on the EVs {evs}: {error}") from None

    def write(self, root: str | os.PathLike[str]) -> None:
        """Write ``root.mat`` and ``root.con``; ``root.fts`` and ``root.grp`` where there are F tests and blocks."""
        files.write_vest(f"{root}.mat", self.matrix)
        files.write_vest(f"{root}.con", self.contrasts, "con", names=self.contrast_names)
        if len(self.f_tests):
            files.write_vest(f"{root}.fts", self.f_tests, "fts")
        if self.blocks is not None:
            files.write_vest(f"{root}.grp", self.blocks, "grp")

    def command(self, data: str, root: str, out: str) -> str:
        """The command that runs the tests of a design that was written to `root`, with TFCE."""
        words = ["gpuvox", "randomise", "-i", data, "-o", out, "-d", f"{root}.mat", "-t", f"{root}.con"]
        words += ["-f", f"{root}.fts"] if len(self.f_tests) else []
        words += ["-e", f"{root}.grp"] if self.blocks is not None else []
        words += ["--permuteBlocks"] if self.whole_blocks else []
        words += ["-1"] if self.flip else []
        return shlex.join([*words, "-T"])

    def describe(self) -> list[str]:
        """EVs, contrasts, F tests and exchangeability, a line each."""
        n = sum(name.startswith(SUBJECT) for name in self.names)
        evs = ([f"1 to {n} a subject each"] if n else []) + _numbered(self.names[n:], n + 1)
        lines = [f"EVs: {', '.join(evs)}", f"t contrasts: {', '.join(_numbered(self.contrast_names))}"]
        if self.f_names:
            stacked = [
                f"{name} (t contrasts {', '.join(str(i + 1) for i in np.flatnonzero(row))})"
                for name, row in zip(self.f_names, self.f_tests)
            ]
            lines.append(f"F tests: {', '.join(_numbered(stacked))}")
        return [*lines, f"exchangeable: {self._exchangeable()}"]

    def _exchangeable(self) -> str:
        if self.blocks is None:
            return "the signs of the rows (errors symmetric around 0)" if self.flip else "the rows"
        if self.flip:
            return "the signs of subjects, of all their visits at once (errors symmetric around 0)"
        if self.whole_blocks:
            return "subjects, with all their visits"
        alike = " (errors of one variance, and equally correlated)" if np.bincount(self.blocks).max() > 2 else ""
        return f"the visits of each subject{alike}"


SUBJECT = "subject "
"""How the names of the EVs of subjects begin."""


def _numbered(names: Sequence[str], start: int = 1) -> list[str]:
    return [f"{i} {name}" for i, name in enumerate(names, start)]


@dataclass(frozen=True, eq=False)
class _Terms:
    """A design as it grows: EVs by name, contrasts by the EVs that they weigh, F tests by their contrasts."""

    evs: dict[str, Float64] = field(default_factory=dict)
    contrasts: dict[str, Weights] = field(default_factory=dict)
    f_tests: dict[str, list[str]] = field(default_factory=dict)

    def add(self, evs: Mapping[str, Float64]) -> None:
        for name, values in evs.items():
            if name in self.evs:
                raise FileError(f"two EVs would be called {name!r}: a group, a visit and a covariate share a name")
            self.evs[name] = values

    def both(self, plus: str, minus: str, weights: Weights) -> None:
        """A contrast and its negative."""
        self.contrasts[plus] = weights
        self.contrasts[minus] = {name: -weight for name, weight in weights.items()}

    def pairs(self, levels: Sequence[str], ev: Callable[[str], Weights], label: str = "") -> None:
        """Every level against every other."""
        for a, b in combinations(levels, 2):
            self.both(f"{label}{a} > {b}", f"{label}{a} < {b}", _difference(ev(a), ev(b)))

    def jointly(self, name: str, contrasts: Sequence[str]) -> None:
        """An F test of contrasts, where there are several."""
        if len(contrasts) > 1:
            self.f_tests[name] = list(contrasts)

    def design(self, blocks: Ints | None = None, whole_blocks: bool = False, flip: bool = False) -> Design:
        names, titles = tuple(self.evs), tuple(self.contrasts)
        contrasts = [[weights.get(name, 0.0) for name in names] for weights in self.contrasts.values()]
        f_tests = [[float(title in chosen) for title in titles] for chosen in self.f_tests.values()]
        return Design(
            np.column_stack(list(self.evs.values())) + 0.0, names,  # no -0 in the file
            np.array(contrasts), titles,
            np.array(f_tests).reshape(-1, len(titles)), tuple(self.f_tests), blocks, whole_blocks, flip,
        )  # fmt: skip


def _difference(a: Weights, b: Weights) -> Weights:
    return {name: a.get(name, 0.0) - b.get(name, 0.0) for name in (*a, *b)}


# -- groups ---------------------------------------------------------------------------------------------------------


def group_design(
    table: pd.DataFrame,
    group: str = "",
    order: Sequence[str] = (),
    covariates: Sequence[str] = (),
    interactions: Sequence[str] = (),
    effects: Sequence[str] = (),
    origin: str | os.PathLike[str] = "the table",
) -> Design:
    """Design of a comparison of groups, of the effect of covariates, or of one sample.

    EVs: one of 0 and 1 for each group (without groups, one of 1, ``mean``), then the covariates less their means over
    the rows, text as a column for each value but the first. A covariate that is the same in all rows has no EV.

    Parameters
    ----------
    table : DataFrame
        A row for each volume; see `tables.typed`.
    group : str, optional
        Column of the groups. Contrasts: every pair, both ways; of three and more groups an F test too.
    order : sequence of str, optional
        Groups in the order of EVs and contrasts; alphabetical by default.
    covariates : sequence of str
        Columns to adjust for.
    interactions : sequence of str
        Covariates with a slope in each group. Contrasts: every pair of slopes, both ways. Groups are then compared at
        the mean of the covariate.
    effects : sequence of str
        Covariates whose own effect is tested, ``edss +`` and ``edss -``; of one with several slopes, their mean.
    origin : path
        For messages.

    Returns
    -------
    Design
        With neither group nor effects, of one sample: the mean, tested by flips of signs.

    Raises
    ------
    FileError
        A column or a value is missing, there is a single group, or `order` names others.
    DesignError
        A contrast cannot be estimated: a covariate is as good as the groups.
    """
    names = list(dict.fromkeys([*covariates, *interactions, *effects]))
    if group in names:
        raise FileError(f"{group} is the group, and cannot be a covariate too")
    if interactions and not group:
        raise FileError(f"slopes of {interactions[0]} in each group need groups")
    cells = group_cells(table, group, order, origin) if group else {"mean": np.ones(len(table))}
    terms = _Terms()
    terms.add(cells)
    if group:
        _compare(terms, group, list(cells))
    elif not effects:
        terms.both("mean +", "mean -", {"mean": 1.0})
    for name in names:
        columns = centred(table, name, origin)
        if not columns and name in (*interactions, *effects):
            raise FileError(f"{os.fspath(origin)}: {name} is the same in all {len(table)} rows; it has no effect")
        slopes = _slopes(columns, cells if name in interactions else {})
        for evs in slopes.values():
            terms.add(evs)
        if name in interactions:
            _compare_slopes(terms, name, slopes, list(cells))
        if name in effects:
            _test_slopes(terms, name, slopes)
    return terms.design(flip=not group and not effects)


def _compare(terms: _Terms, group: str, levels: Sequence[str]) -> None:
    """Every pair of groups, and all of them."""
    terms.pairs(levels, _alone)
    terms.jointly(group, [f"{levels[0]} > {other}" for other in levels[1:]])


def _alone(name: str) -> Weights:
    return {name: 1.0}


def _slopes(columns: Mapping[str, Float64], cells: Mapping[str, Float64]) -> dict[str, dict[str, Float64]]:
    """EVs of each column of a covariate: itself, or one for each group."""
    if not cells:
        return {column: {column: values} for column, values in columns.items()}
    return {
        column: {f"{column}:{level}": values * cell for level, cell in cells.items()}
        for column, values in columns.items()
    }


def _compare_slopes(terms: _Terms, name: str, columns: Mapping[str, Any], groups: Sequence[str]) -> None:
    first, *others = groups
    for column in columns:
        terms.pairs(groups, lambda level, column=column: _alone(f"{column}:{level}"), f"{column}: ")  # type: ignore[misc]
    terms.jointly(f"{name} x group", [f"{column}: {first} > {other}" for column in columns for other in others])


def _test_slopes(terms: _Terms, name: str, columns: Mapping[str, Mapping[str, Float64]]) -> None:
    for column, evs in columns.items():
        terms.both(f"{column} +", f"{column} -", dict.fromkeys(evs, 1 / len(evs)))
    terms.jointly(name, [f"{column} +" for column in columns])


def group_cells(
    table: pd.DataFrame, group: str, order: Sequence[str] = (), origin: str | os.PathLike[str] = "the table"
) -> dict[str, Float64]:
    """Group → column of 0 and 1.

    Raises
    ------
    FileError
        The column or a value is missing, there is a single group, or `order` is of others.
    """
    require(table, [group], origin)
    complete(table, [group], origin)
    of_row = labels(table[group]).to_numpy(dtype=object)
    levels = sorted(set(of_row))
    if len(levels) < 2:
        raise FileError(
            f"{os.fspath(origin)}: {group} is {levels[0]} in all {len(table)} rows; two groups are needed"
        )
    if order and sorted(order) != levels:
        raise FileError(
            f"the order of the groups is {', '.join(order)}; {group} in {os.fspath(origin)} is {', '.join(levels)}"
        )
    return {level: (of_row == level).astype(np.float64) for level in (order or levels)}


def centred(table: pd.DataFrame, name: str, origin: str | os.PathLike[str] = "the table") -> dict[str, Float64]:
    """Columns of a covariate less their means; none that is constant. Errors as of `tables.indicators`."""
    columns = indicators(table, [name], origin)
    values = {column: columns[column].to_numpy(dtype=np.float64) for column in columns.columns}
    return {column: each - each.mean() for column, each in values.items() if np.ptp(each) > 0}


# -- visits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits of subjects, by subject and then by visit.

    Attributes
    ----------
    table : DataFrame
        A row for each visit, without the column of the visit; see `tables.typed`.
    rows : (N,) int
        Where each stands in the file, from 0.
    subject : (N,) int
        Index of its subject.
    visit : (N,) int
        Index of its visit.
    subjects, names : tuple of str
        Subjects, in the order of the file; visits, in theirs.
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
    def seen(self) -> Bool:
        """(subjects, visits) Who was seen when."""
        found = np.zeros((len(self.subjects), len(self.names)), dtype=bool)
        found[self.subject, self.visit] = True
        return found

    @property
    def blocks(self) -> Ints:
        """(N,) Exchangeability blocks: the subjects, from 1."""
        return self.subject + 1

    def of(self, keep: Bool) -> Visits:
        """The visits of some subjects."""
        inside = np.flatnonzero(keep[self.subject])
        return Visits(
            self.table.iloc[inside].reset_index(drop=True), self.rows[inside],
            (np.cumsum(keep) - 1)[self.subject[inside]], self.visit[inside],
            tuple(name for name, kept in zip(self.subjects, keep) if kept), self.names, self.origin,
        )  # fmt: skip

    def only(self, names: tuple[str, ...]) -> Visits:
        """Some of the visits, of the subjects who had all of them."""
        numbers = [self.names.index(name) for name in names]
        inside = np.flatnonzero(np.isin(self.visit, numbers))
        visit = np.array([numbers.index(number) for number in self.visit[inside]])
        table = self.table.iloc[inside].reset_index(drop=True)
        found = Visits(table, self.rows[inside], self.subject[inside], visit, self.subjects, names, self.origin)
        both = np.bincount(found.subject, minlength=len(self.subjects)) == len(names)
        if not both.any():
            raise FileError(f"{self.origin}: no subject has {' and '.join(names)}")
        return found.of(both)

    def at(self, visit: str) -> Ints:
        """(subjects,) Row of everyone's visit of that name, here; everyone must have it."""
        return np.flatnonzero(self.visit == self.names.index(visit))

    def missing(self) -> str:
        """The first visit that a subject lacks, in words; empty if there is none."""
        lacking = np.argwhere(~self.seen)
        return f"{self.subjects[lacking[0][0]]} has no {self.names[lacking[0][1]]}" if len(lacking) else ""

    def people(self, group: str = "", covariates: Sequence[str] = ()) -> pd.DataFrame:
        """A row for each subject: what is said of the first visit; group and text are of all visits.

        Raises
        ------
        FileError
            A column is missing; a group or a text changes from visit to visit.
        """
        require(self.table, [*([group] if group else []), *covariates], self.origin)
        _, first = np.unique(self.subject, return_index=True)
        found = self.table.iloc[first].reset_index(drop=True).assign(participant_id=list(self.subjects))
        for name in [*([group] if group else []), *covariates]:
            if name == group or not pd.api.types.is_numeric_dtype(self.table[name]):
                found[name] = self._constant(name)
        return found

    def _constant(self, name: str) -> list[Any]:
        found = []
        for i, who in enumerate(self.subjects):
            values = self.table[name][self.subject == i].dropna().unique()
            if len(values) > 1:
                raise FileError(
                    f"{self.origin}: {name} of {who} is {values[0]} at one visit and {values[1]} at another; "
                    "it must be the same at all"
                )
            found.append(values[0] if len(values) else None)
        return found


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
        A row for each visit of each subject; see `files.read_table`.
    subject, visit : str
        Columns.
    order : sequence of str, optional
        The visits that count, in their order; by default all, by their number (``ses-1``, ``ses-2``).
    origin : path
        For messages.

    Raises
    ------
    FileError
        Columns or visits are missing, a subject has a visit twice, or the order of the visits is not known.
    """
    require(table, [subject, visit], origin)
    who, when = (table[name].str.strip() for name in (subject, visit))
    names = _order(sorted(set(when)), order, visit, os.fspath(origin))
    inside = np.flatnonzero(when.isin(names))
    subjects = tuple(dict.fromkeys(who.iloc[inside]))
    who_code = np.array([subjects.index(name) for name in who.iloc[inside]])
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


def _order(found: Sequence[str], given: Sequence[str], column: str, origin: str) -> tuple[str, ...]:
    """Visits in their order: as given, or by the number in names that are alike otherwise."""
    for name in given:
        if name not in found:
            raise FileError(f"{origin}: no {column} is {name}; there are {', '.join(found)}")
    names = tuple(dict.fromkeys(given or found))
    if len(names) < 2:
        raise FileError(f"{origin}: the only {column} is {names[0]}; two visits are needed")
    if given:
        return names
    parts = [re.fullmatch(r"(\D*)(\d+(?:\.\d+)?)(\D*)", name) for name in names]
    if not all(parts) or len({(part[1], part[3]) for part in parts if part}) > 1:
        raise FileError(
            f"{origin}: in which order {column} {', '.join(names)} came is not known; say it with --visits"
        )
    return tuple(sorted(names, key=lambda name: float(re.sub(r"[^\d.]", "", name))))


def visit_design(
    visits: Visits, group: str = "", order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the effect of the visit, within subjects.

    EVs: one for each subject; one for each visit but the first (``ses-2``; with groups, ``ses-2:MS``); and for each of
    them the covariates at the first visit, centred (``ses-2:age``), for what is the same at all visits is in the EVs of
    the subjects already. Contrasts: every pair of visits, both ways, as the mean over groups; of three and more visits
    an F test too. Exchangeable are the two visits of a subject; the signs of whole subjects, where there are more
    visits; and where some are missing, the visits of a subject.

    Parameters
    ----------
    visits : Visits
    group, order, covariates
        As of `group_design`.

    Raises
    ------
    FileError, DesignError
        As of `group_design`; the group of a subject changes.
    """
    terms, later, cells = _within(visits, group, order, covariates)
    first = visits.names[0]

    def weights(visit: str) -> Weights:
        return {} if visit == first else dict.fromkeys(later[visit], 1 / cells)

    for a, b in combinations(visits.names, 2):
        terms.both(f"{b} > {a}", f"{b} < {a}", _difference(weights(b), weights(a)))
    terms.jointly("visit", [f"{visit} > {first}" for visit in later])
    signs = len(visits.names) > 2 and not visits.missing()
    return terms.design(visits.blocks, whole_blocks=signs, flip=signs)


def interaction_design(
    visits: Visits, group: str, order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the difference of groups in their change, tested by permuting whole subjects.

    EVs as of `visit_design`. Contrasts: for each visit, every pair of groups in the change since the first one, both
    ways (``ses-2 - ses-1: MS > HC``); an F test where there are several. With two visits t is that of the change
    scores.

    Raises
    ------
    FileError, DesignError
        As of `visit_design`; a visit is missing.
    """
    _whole(visits, "the interaction")
    terms, later, _ = _within(visits, group, order, covariates)
    first, joint = visits.names[0], []
    for visit, evs in later.items():
        levels, label = [ev.removeprefix(f"{visit}:") for ev in evs], f"{visit} - {first}: "
        terms.pairs(levels, lambda level, visit=visit: _alone(f"{visit}:{level}"), label)  # type: ignore[misc]
        joint += [f"{label}{levels[0]} > {level}" for level in levels[1:]]
    terms.jointly(f"{group} x visit", joint)
    return terms.design(visits.blocks, whole_blocks=True)


def _within(
    visits: Visits, group: str, order: Sequence[str], covariates: Sequence[str]
) -> tuple[_Terms, dict[str, list[str]], int]:
    """EVs of subjects, of visits, of their covariates; names of the EVs of each later visit; number of groups."""
    people, terms = visits.people(group, covariates), _Terms()
    cells = group_cells(people, group, order, visits.origin) if group else {"": np.ones(len(people))}
    terms.add({f"{SUBJECT}{who}": (visits.subject == i).astype(float) for i, who in enumerate(visits.subjects)})
    later: dict[str, list[str]] = {}
    for k, visit in enumerate(visits.names[1:], start=1):
        then = (visits.visit == k).astype(float)
        evs = {f"{visit}:{level}".removesuffix(":"): then * cell[visits.subject] for level, cell in cells.items()}
        later[visit] = list(evs)
        terms.add(evs)
        for name in covariates:
            columns = centred(people, name, visits.origin)
            terms.add({f"{visit}:{column}": then * each[visits.subject] for column, each in columns.items()})
    return terms, later, len(cells)


def between_design(
    visits: Visits, group: str, order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the difference of groups over all visits, tested by permuting whole subjects.

    EVs: the groups, each visit but the first, the covariates at the first visit, centred. Contrasts as of
    `group_design`. The visits of a subject are no independent data: t does not follow the t distribution here, and
    p-values are those of the permutations alone.

    Raises
    ------
    FileError, DesignError
        As of `visit_design`; a visit is missing.
    """
    _whole(visits, "the comparison of groups")
    people, terms = visits.people(group, covariates), _Terms()
    cells = group_cells(people, group, order, visits.origin)
    terms.add({level: cell[visits.subject] for level, cell in cells.items()})
    terms.add({visit: (visits.visit == k).astype(float) for k, visit in enumerate(visits.names) if k})
    for name in covariates:
        columns = centred(people, name, visits.origin)
        terms.add({column: each[visits.subject] for column, each in columns.items()})
    _compare(terms, group, list(cells))
    return terms.design(visits.blocks, whole_blocks=True)


def _whole(visits: Visits, what: str) -> None:
    missing = visits.missing()
    if missing:
        raise FileError(
            f"{visits.origin}: {what} is tested by exchanging subjects with all their visits, and {missing}"
        )


# -- change ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Change:
    """From one visit to another.

    Attributes
    ----------
    before, after : (subjects,) int
        Rows of the file.
    interval : (subjects,) float64
        Years that a change is divided by; 1 where it is not.
    people : DataFrame
        A row for each subject; see `Visits.people`.
    table : DataFrame
        The same, and the change of every number that changes, ``edss_change``.
    """

    before: Ints
    after: Ints
    interval: Float64
    people: pd.DataFrame
    table: pd.DataFrame


def find_change(visits: Visits, group: str = "", covariates: Sequence[str] = (), years: str = "") -> Change:
    """Change from the first to the last visit; everyone must have both.

    Parameters
    ----------
    visits : Visits
    group, covariates
        See `Visits.people`.
    years : str, optional
        Column with the time of each visit in years: since the first, or age.

    Raises
    ------
    FileError
        A column or a time is missing, or times make no sense; errors of `Visits.people`.
    """
    _whole(visits, "change")
    before, after = visits.at(visits.names[0]), visits.at(visits.names[-1])
    people = visits.people(group, covariates)
    table = people.copy()
    for name in visits.table.columns:
        if not pd.api.types.is_numeric_dtype(visits.table[name]) or name == group:
            continue
        values = visits.table[name].to_numpy(dtype=np.float64)
        difference = values[after] - values[before]
        if np.nan_to_num(difference).any():
            if f"{name}_change" in table.columns:
                raise FileError(f"{visits.origin} has a column {name}_change; that is to be the change of {name}")
            table[f"{name}_change"] = difference
    return Change(visits.rows[before], visits.rows[after], _interval(visits, years), people, table)


LONGEST = 60.0
"""Years between two visits; more are days or months."""


def _interval(visits: Visits, years: str) -> Float64:
    if not years:
        return np.ones(len(visits.subjects))
    require(visits.table, [years], visits.origin)
    if not pd.api.types.is_numeric_dtype(visits.table[years]):
        raise FileError(f"{visits.origin}: {years} is text; years are expected")
    values = visits.table[years].to_numpy(dtype=np.float64)
    interval = values[visits.at(visits.names[-1])] - values[visits.at(visits.names[0])]
    for who, value in zip(visits.subjects, interval):
        if not 0 < value <= LONGEST:  # nor NaN
            known = "not known" if np.isnan(value) else f"{value:g} years"
            raise FileError(
                f"{visits.origin}: by {years} the time of {who} from {visits.names[0]} to {visits.names[-1]} is "
                f"{known}; between 0 and {LONGEST:g} expected"
            )
    return interval


# -- images ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Images:
    """Images of the rows of a table: a file for each, or a 4D one with a volume for each.

    Attributes
    ----------
    headers : dict of int to ImageHeader
        By row; the 4D image is that of all.
    stacked : bool
        It is one 4D image.
    """

    headers: Mapping[int, files.ImageHeader]
    stacked: bool

    @property
    def first(self) -> files.ImageHeader:
        """Whose grid the others have."""
        return next(iter(self.headers.values()))

    def volumes(self, rows: Sequence[int]) -> Iterator[Float32]:
        """The volumes of some rows, in that order: every voxel."""
        if self.stacked:
            yield from _in_order(files.read_volumes(self.first.path), rows)
            return
        for row in rows:
            yield next(files.read_volumes(self.headers[row].path))


def _in_order(volumes: Iterator[Float32], rows: Sequence[int]) -> Iterator[Float32]:
    """Volumes of a stream by their numbers; those that come before their turn wait in memory."""
    wanted, waiting, n = set(rows), {}, 0
    for row in rows:
        while row not in waiting:
            values = next(volumes)
            if n in wanted:
                waiting[n] = values
            n += 1
        yield waiting.pop(row)


def find_images(
    source: str, table: pd.DataFrame, rows: Sequence[int], origin: str, label: Sequence[str]
) -> Images:
    """Find the images of some rows of a table, and check that they lie on one grid.

    Parameters
    ----------
    source : str
        A column of the table, with paths relative to it; or a 4D image with a volume for each row of the table.
    table : DataFrame of str
    rows : sequence of int
    origin : str
        File of the table.
    label : sequence of str
        What each row of the table is, for messages.

    Raises
    ------
    FileError
        A path is missing, a file is no such image, or grids differ.
    """
    if source not in table.columns:
        header = files.read_header(source)
        if header.shape[3] != len(table):
            raise FileError(f"{header.path} has {header.shape[3]} volumes; {origin} has {len(table)} rows")
        return Images(dict.fromkeys(rows, header), True)
    headers: dict[int, files.ImageHeader] = {}
    grid = None
    for row in rows:
        path = table[source].iloc[row].strip()
        if path in ("", "n/a"):
            raise FileError(f"{origin} has no {source} of {label[row]}")
        header = headers[row] = files.read_header(Path(origin).parent / path)
        if header.shape[3] != 1:
            raise FileError(f"{header.path} has {header.shape[3]} volumes; that of {label[row]} alone expected")
        grid = grid or header.grid(np.ones(header.shape[:3], dtype=bool))
        files.check_grid(header, grid, headers[rows[0]].path)
    return Images(headers, False)


def _check_target(out: str, images: Images) -> None:
    """An image must not replace one that it is made of."""
    files.check_output_root(out)
    target = os.path.realpath(files.split_suffix(out)[0])
    for header in images.headers.values():
        if os.path.realpath(files.split_suffix(header.path)[0]) == target:
            raise FileError(f"{header.path} would be replaced by what is made of it; choose another output")


def _write_images(stack: ExitStack, out: str, like: Images, volumes: Iterator[NDArray], n: int, text: str) -> None:
    """Write a 4D image, which appears when the stack is left without an error."""
    header = like.first
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    _, write = stack.enter_context(files.open_map(out, grid, header, n, label=files.Label(f"gpuvox: {text}")))
    for values in volumes:
        write(values)


def _counting(volumes: Iterator[NDArray], title: str, n: int, progress: Progress | None) -> Iterator[NDArray]:
    for i, values in enumerate(volumes, start=1):
        yield values
        if progress:
            progress(title, i, n)


# -- gpuvox design --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupCommand:
    """A ``gpuvox design`` command, its options parsed; `images` are pairs of what is taken and where it goes."""

    table: str
    out: str
    group: str = ""
    order: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    interactions: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    subset: str = ""
    images: tuple[tuple[str, str], ...] = ()


def execute_groups(command: GroupCommand, say: Say, progress: Progress | None = None) -> None:
    """Run ``gpuvox design``: ``OUT.mat``, ``.con``, ``.fts``, ``OUT_participants.tsv``, ``OUT.txt``, and images.

    Raises
    ------
    FileError, DesignError
        One sentence that says what is wrong; nothing is written then.
    """
    files.check_output_root(command.out)
    text = files.read_table(command.table, ["participant_id"], long=True)
    table = typed(text)
    rows = [int(row) for row in np.flatnonzero(select(table, command.subset))]
    if not rows:
        raise FileError(f"no row of {command.table} fits --subset {command.subset!r}")
    chosen, listed = table.iloc[rows].reset_index(drop=True), text.iloc[rows]
    twice = listed["participant_id"][listed["participant_id"].duplicated()]
    if len(twice):
        raise FileError(
            f"{command.table} has participant_id {twice.iloc[0]} twice; --subset can choose one of the rows"
        )
    design = group_design(
        chosen,
        command.group,
        command.order,
        command.covariates,
        command.interactions,
        command.effects,
        command.table,
    )
    found = [
        find_images(source, text, rows, command.table, text["participant_id"]) for source, _ in command.images
    ]
    for (_, out), images in zip(command.images, found):
        _check_target(out, images)
    runs = [(out, f"{command.out}_{Path(files.split_suffix(out)[0]).name}") for _, out in command.images]
    lines = [
        f"{len(rows)} of the {len(text)} rows of {command.table}, in the order of {command.out}_participants.tsv"
    ]
    lines += [*design.describe(), *(design.command(data, command.out, o) for data, o in runs or [("DATA", "OUT")])]
    with ExitStack() as stack:
        for (_, out), images in zip(command.images, found):
            volumes = _counting(images.volumes(rows), Path(out).name, len(rows), progress)
            _write_images(stack, out, images, volumes, len(rows), "participants of a design")
        design.write(command.out)
        files.write_table(f"{command.out}_participants.tsv", listed)
        files.write_text(f"{command.out}.txt", "\n".join(lines) + "\n")
    say("\n".join(lines))


# -- gpuvox longitudinal --------------------------------------------------------------------------------------------

DESIGNS = ("change", "visit", "interaction", "between")


@dataclass(frozen=True)
class LongitudinalCommand:
    """A ``gpuvox longitudinal`` command, its options parsed; `designs` is empty for all that can be made."""

    table: str
    visit: str
    out: str
    subject: str = "participant_id"
    visits: tuple[str, ...] = ()
    baseline: str = ""
    follow_up: str = ""
    group: str = ""
    order: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    years: str = ""
    subset: str = ""
    maps: Mapping[str, str] = field(default_factory=dict)
    designs: tuple[str, ...] = ()
    incomplete: str = "refuse"


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a command comes to: designs, the rows that their images are made of, and what is to be said."""

    visits: Visits
    change: Change | None
    designs: Mapping[str, Design]
    notes: Sequence[str]

    @property
    def repeated(self) -> bool:
        """Whether there is a design of all visits."""
        return any(name != "change" for name in self.designs)

    @property
    def rows(self) -> list[int]:
        """Rows of the file whose images are needed."""
        rows = set(self.visits.rows.tolist()) if self.repeated else set()
        if self.change is not None:
            rows |= {*self.change.before.tolist(), *self.change.after.tolist()}
        return sorted(rows)


def execute_longitudinal(command: LongitudinalCommand, say: Say, progress: Progress | None = None) -> None:
    """Run ``gpuvox longitudinal``: designs, tables and images, and the commands that test them in ``OUT.txt``.

    Raises
    ------
    FileError, DesignError
        One sentence that says what is wrong; nothing is written then.
    """
    files.check_output_root(command.out)
    text = files.read_table(command.table, [command.subject, command.visit], long=True)
    plan = _plan(command, text)
    label = [f"{who} at {when}" for who, when in zip(text[command.subject], text[command.visit])]
    found = {
        name: find_images(source, text, plan.rows, command.table, label) for name, source in command.maps.items()
    }
    for name, images in found.items():
        for kind in ("change", "visits"):
            _check_target(f"{command.out}_{name}_{kind}", images)
    lines = _say_plan(command, plan)
    with ExitStack() as stack:
        for name, images in found.items():
            _write_map(stack, command, plan, name, images, progress)
        for name, design in plan.designs.items():
            design.write(f"{command.out}_{name}")
        if plan.change is not None:
            table = plan.change.table.drop(columns=set(command.maps.values()), errors="ignore")
            files.write_table(f"{command.out}_change.tsv", table)
        if plan.repeated:
            files.write_table(f"{command.out}_visits.tsv", text.iloc[plan.visits.rows])
        files.write_text(f"{command.out}.txt", "\n".join(lines) + "\n")
    say("\n".join(lines))


def _plan(command: LongitudinalCommand, text: pd.DataFrame) -> _Plan:
    """Designs that are wanted and can be made."""
    visits, first, last = _choose_visits(command, text)
    visits, notes = _complete(command, _subset(command, visits))
    designs: dict[str, Design] = {}
    change: Change | None = None
    for name in command.designs or DESIGNS:
        reason = _impossible(name, command, visits)
        if reason and command.designs:
            raise FileError(f"the design {name!r} cannot be made: {reason}")
        if reason:
            notes.append(f"no design {name!r}: {reason}")
        elif name == "change":
            change = find_change(visits.only((first, last)), command.group, command.covariates, command.years)
            about = (command.group, command.order, command.covariates)
            designs[name] = group_design(change.people, *about, origin=command.table)
        else:
            make = {"visit": visit_design, "interaction": interaction_design, "between": between_design}[name]
            designs[name] = make(visits, command.group, command.order, command.covariates)
    return _Plan(visits, change, designs, notes)


def _impossible(name: str, command: LongitudinalCommand, visits: Visits) -> str:
    """Why a design cannot be made."""
    if name in ("interaction", "between"):
        if not command.group:
            return "it compares groups, and there are none (--group)"
        if visits.missing():
            return f"subjects with all their visits are exchanged, and {visits.missing()}"
    return ""


def _choose_visits(command: LongitudinalCommand, text: pd.DataFrame) -> tuple[Visits, str, str]:
    """The visits that count, and the two that change is between."""
    order, pair = command.visits, (command.baseline, command.follow_up)
    if all(pair) and not order and (command.designs == ("change",) or text[command.visit].nunique() == 2):
        order = pair
    visits = read_visits(text, command.subject, command.visit, order, command.table)
    names = visits.names
    first, last = command.baseline or names[0], command.follow_up or names[-1]
    for option, name in (("--baseline", first), ("--follow-up", last)):
        if name not in names:
            raise FileError(f"{option} is {name}; the visits in {command.table} are {', '.join(names)}")
    if names.index(first) >= names.index(last):
        raise FileError(
            f"change is from --baseline {first} to --follow-up {last}, but visits are {', '.join(names)}"
        )
    if command.designs == ("change",) and len(names) > 2:
        visits = read_visits(text, command.subject, command.visit, (first, last), command.table)
    return visits, first, last


def _subset(command: LongitudinalCommand, visits: Visits) -> Visits:
    """Subjects for whom the condition is true at their first visit."""
    keep = select(visits.people(), command.subset)
    if not keep.any():
        raise FileError(f"no subject of {command.table} fits --subset {command.subset!r} at the first visit")
    return visits.of(keep)


def _complete(command: LongitudinalCommand, visits: Visits) -> tuple[Visits, list[str]]:
    """What is done about subjects who lack a visit, and what is to be said of it."""
    n_visits = visits.seen.sum(axis=1)
    complete = n_visits == len(visits.names)
    n_less = int((~complete).sum())
    if not n_less:
        return visits, []
    if command.incomplete == "refuse":
        raise FileError(
            f"{command.table}: {visits.missing()} ({n_less} of {len(complete)} subjects lack a visit); "
            "--incomplete drop leaves such subjects out, --incomplete keep takes the visits there are"
        )
    keep = complete if command.incomplete == "drop" else n_visits > 1
    if not keep.any():
        raise FileError(
            f"{command.table}: no subject has {'all visits' if command.incomplete == 'drop' else 'two'}"
        )
    out = [name for name, kept in zip(visits.subjects, keep) if not kept]
    notes = [f"left out, with too few visits: {', '.join(out)}"] if out else []
    if command.incomplete == "keep" and n_less > len(out):
        notes.append(f"{n_less - len(out)} subjects lack a visit, and are in where the others suffice")
    return visits.of(keep), notes


def _say_plan(command: LongitudinalCommand, plan: _Plan) -> list[str]:
    """What was made, and how it is tested."""
    visits, names = plan.visits, list(command.maps)
    lines = [
        f"{len(visits.subjects)} subjects and {len(visits.rows)} visits ({', '.join(visits.names)}) of {command.table}",
        *plan.notes,
    ]
    for kind, design in plan.designs.items():
        root, images = f"{command.out}_{kind}", "change" if kind == "change" else "visits"
        lines += ["", f"{kind}: {_about(kind, command, plan)}; rows as in {command.out}_{images}.tsv"]
        lines += design.describe()
        runs = [(f"{command.out}_{name}_{images}", f"{root}_{name}") for name in names]
        lines += [design.command(data, root, out) for data, out in runs or [("DATA", "OUT")]]
    return lines


def _about(kind: str, command: LongitudinalCommand, plan: _Plan) -> str:
    if kind == "visit":
        return "the effect of the visit, within subjects"
    if kind == "interaction":
        return "groups in their change"
    if kind == "between":
        return "groups, over all visits"
    assert plan.change is not None
    names, n = plan.visits.names, len(plan.change.people)
    last, first = command.follow_up or names[-1], command.baseline or names[0]
    rate = f", a year (units of the map per year, time by {command.years})" if command.years else ""
    return f"{last} - {first}{rate}, of {n} subjects"


def _write_map(
    stack: ExitStack,
    command: LongitudinalCommand,
    plan: _Plan,
    name: str,
    images: Images,
    progress: Progress | None,
) -> None:
    """The images of a map: change, and all visits."""
    root = f"{command.out}_{name}"
    if plan.change is not None:
        n, text = len(plan.change.before), "change per year" if command.years else "change"
        volumes = _counting(_changes(images, plan.change), f"{name}, change", n, progress)
        _write_images(stack, f"{root}_change", images, volumes, n, text)
    if plan.repeated:
        n = len(plan.visits.rows)
        volumes = _counting(_all_visits(images, plan.visits), f"{name}, visits", n, progress)
        _write_images(stack, f"{root}_visits", images, volumes, n, "visits of subjects")


def _changes(images: Images, change: Change) -> Iterator[NDArray]:
    pairs = zip(images.volumes(change.before.tolist()), images.volumes(change.after.tolist()))
    for (before, after), years in zip(pairs, change.interval):
        yield ((after.astype(np.float64) - before) / years).astype(np.float32)


def _all_visits(images: Images, visits: Visits) -> Iterator[NDArray]:
    """In the order of the visits. One stream a visit: a 4D image sorted by visit is then never held in memory."""
    streams = [images.volumes(visits.rows[visits.visit == k].tolist()) for k in range(len(visits.names))]
    for k in visits.visit:
        yield next(streams[k])
