"""One image for each subject, made of those of its visits: their change, or their mean.

What is compared between subjects is then a number for each, whose rows are independent, so that subjects are permuted
(or, for the mean change, their signs flipped) whatever the correlation of the visits: the summary measures of Matthews
et al. 1990 (BMJ 300:230). With two visits the t of the change is that of the interaction of group and visit.

``change``
    From the first to the last visit. With the time of each visit, the slope of the line that least squares fit to all
    visits of the subject: with two visits, their difference over the time between them.
``mean``
    Over all visits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpuvox.cohort.images import Weights
from gpuvox.cohort.table import ID, Cohort, new_column
from gpuvox.errors import FileError
from gpuvox.plain import composed
from gpuvox.tables.levels import check_levels
from gpuvox.tables.visits import order_visits

SUMMARIES = ("change", "mean")
LONGEST = 60.0
"""Longest plausible time between two visits in years; longer ones are probably days or months."""


@dataclass(frozen=True)
class Longitudinal:
    """How the images of a subject's visits are summarised.

    Attributes
    ----------
    subject, visit : str
        Columns.
    visits : tuple of str
        Visits that count, in temporal order; by default all, by the numbers in their names.
    years : str
        Column with the time of each visit in years; empty if there is none.
    summary : str
        ``change`` or ``mean``.
    """

    subject: str
    visit: str
    visits: tuple[str, ...] = ()
    years: str = ""
    summary: str = "change"

    def __post_init__(self) -> None:
        for name in ("subject", "visit", "years"):
            object.__setattr__(self, name, composed(getattr(self, name)))
        object.__setattr__(self, "visits", tuple(map(composed, self.visits)))

    @property
    def title(self) -> str:
        """What the images are."""
        if self.summary == "mean":
            return f"the mean over {self.visit}"
        return f"the change over {self.visit}" + (f" per year of {self.years}" if self.years else "")

    @property
    def sentence(self) -> str:
        """How an image is made, for the methods."""
        visits = f" ({', '.join(self.visits)})" if self.visits else ""
        if self.summary == "mean":
            how = f"the mean over all visits{visits}"
        elif self.years:
            how = f"the slope of the line that least squares fit to all visits{visits}"
        else:
            how = f"the last visit{f' ({self.visits[-1]})' if visits else ''} minus the first" + (
                f" ({self.visits[0]})" if visits else ""
            )
        first = "values of the model are those of the first visit"
        return f"each image is {self.title} of one {self.subject}, {how}; {first}"


@dataclass(frozen=True, eq=False)
class Subjects:
    """One row for each subject.

    Attributes
    ----------
    cohort : Cohort
        With the values of the first visit.
    weights : tuple of Weights
        What the image of each is made of; empty for subjects without the visits that are needed.
    missing : dict of int to str
        Subject → which visits it lacks.
    """

    cohort: Cohort
    weights: tuple[Weights, ...]
    missing: dict[int, str]


def summarise(how: Longitudinal, cohort: Cohort, rows: Sequence[int], constant: Sequence[str]) -> Subjects:
    """The subjects of a table of visits.

    Parameters
    ----------
    how : Longitudinal
    cohort : Cohort
        A row for each visit.
    rows : sequence of int
        Those that have an image.
    constant : sequence of str
        Columns of text that must not change between visits: those of the model.

    Raises
    ------
    FileError
        A column is missing, a subject has a visit twice or changes its group, times are implausible, or the order of
        the visits is unknown.
    """
    cohort.require([how.subject, how.visit, *([how.years] if how.years else [])])
    check_levels(cohort.table, how.visit, cohort.origin)
    who, when = cohort.cells(how.subject), cohort.cells(how.visit)
    order = order_visits(sorted({when[row] for row in rows}), how.visits, how.visit, cohort.origin)
    at: dict[str, dict[str, int]] = {name: {} for name in who}
    for row in rows:
        if when[row] in order and at[who[row]].setdefault(when[row], row) != row:
            raise FileError(f"{cohort.origin} has {when[row]} of {who[row]} twice")
    weights, missing, first = [], {}, []
    for number, (name, visits) in enumerate(at.items()):
        in_order = [visits[visit] for visit in order if visit in visits]
        first.append(in_order[0] if in_order else who.index(name))
        found, lacks = _weights(how, cohort, name, {visit: visits.get(visit) for visit in order})
        weights.append(found)
        if lacks:
            missing[number] = lacks
        _check_constant(cohort, name, in_order, constant)
    people = cohort.at(first)
    text = people.text.assign(**{ID: list(at)})
    text[new_column(text, "visits")] = [
        ", ".join(v for v in order if v in visits) or "n/a" for visits in at.values()
    ]
    text.attrs = dict(people.text.attrs)
    return Subjects(replace(people, text=text), tuple(weights), missing)


def _weights(how: Longitudinal, cohort: Cohort, who: str, rows: dict[str, int | None]) -> tuple[Weights, str]:
    """The weights of a subject's visits, or what it lacks."""
    there = [row for row in rows.values() if row is not None]
    if how.summary == "mean":
        lacks = next((visit for visit, row in rows.items() if row is None), "")
        return (() if lacks else tuple((row, 1 / len(there)) for row in there)), f"no {lacks}" if lacks else ""
    if how.years:
        if len(there) < 2:
            return (), "fewer than two visits"
        return tuple(_slope(how, cohort, who, there)), ""
    ends = [next(iter(rows)), list(rows)[-1]]
    lacks = next((visit for visit in ends if rows[visit] is None), "")
    if lacks:
        return (), f"no {lacks}"
    return tuple((row, sign) for visit, sign in zip(ends, (-1.0, 1.0)) if (row := rows[visit]) is not None), ""


def _slope(how: Longitudinal, cohort: Cohort, who: str, rows: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Weights of the least squares slope against time."""
    column = cohort.table[how.years]
    times = np.array([float(column[row]) if not isinstance(column[row], str) else np.nan for row in rows])
    if not np.isfinite(times).all():
        raise FileError(f"{cohort.origin}: {how.years} of {who} is not a number of years at every visit")
    steps, span = np.diff(times), float(np.ptp(times))
    if (steps <= 0).any() or span > LONGEST:
        listed = ", ".join(f"{time:g}" for time in times)
        raise FileError(
            f"{cohort.origin}: according to {how.years}, the visits of {who} are at {listed} years; they must follow "
            f"each other, over at most {LONGEST:g} years"
        )
    centred = times - times.mean()
    yield from zip(rows, (centred / (centred**2).sum()).tolist())


def _check_constant(cohort: Cohort, who: str, rows: Sequence[int], constant: Sequence[str]) -> None:
    for name in constant:
        cells = cohort.cells(name)
        values = list(dict.fromkeys(cells[row] for row in rows))
        if not cohort.is_number(name) and len(values) > 1:
            raise FileError(
                f"{cohort.origin}: {name} of {who} is {values[0]} at one visit and {values[1]} at another; it must be "
                "the same at all visits"
            )
