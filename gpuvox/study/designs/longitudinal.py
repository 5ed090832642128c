"""Designs for `randomise` from a table of visits: change between visits, repeated measures.

What is exchangeable depends on the contrast. Participants are permuted freely, and change scores of one sample are
sign-flipped. If rows are visits, the visits of a participant form a block:

* effects between participants (groups, and group differences in change) are tested by permuting whole blocks. This
  requires the same visits in the same order in each block, and assumes nothing about their correlation;
* the effect of the visit is tested on a design with an EV for every participant. Two visits are permuted within
  participants. With three or more, the signs of whole participants are flipped: permuting visits would assume equal
  variances and equal correlations of any two, which does not hold if participants change at different rates. If visits
  are missing, that assumption is made.

Winkler et al. 2014 (NeuroImage 92:381) and 2015 (NeuroImage 123:253). docs/designs.md explains each design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError, OptionError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.participants import Rows
from gpuvox.reporter import Progress, Reporter
from gpuvox.study.designs.cross_sectional import (
    alone,
    centred,
    compare_groups,
    determined,
    group_cells,
    group_design,
    left_out_covariates,
)
from gpuvox.study.designs.design import SUBJECT, Design, Terms, difference
from gpuvox.study.designs.visits import Visits, read_visits
from gpuvox.study.measures.image_series import (
    Images,
    check_target,
    counted,
    find_images,
    shared_images,
    write_images,
)
from gpuvox.tables.codes import codes_of_missing
from gpuvox.tables.columns import require
from gpuvox.tables.conditions import left_out, select
from gpuvox.tables.relocate import relocated
from gpuvox.types import Float32, Float64, Ints

Weights = dict[str, float]


def visit_design(
    visits: Visits, group: str = "", order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the effect of the visit, within participants.

    EVs: one for each participant; one for each visit except the first (``ses-2``; with groups, ``ses-2:MS``); and for
    each of these the covariates at the first visit, centred (``ses-2:age``), because effects that are the same at all
    visits are contained in the EVs of the participants. Contrasts: every pair of visits, in both directions, as the
    mean over groups; with three or more visits also an F test. Two visits are permuted within participants. With more
    visits the signs of whole participants are flipped, or, if some visits are missing, visits are permuted within
    participants.

    Parameters
    ----------
    visits : Visits
    group, order, covariates
        As for `group_design`.

    Raises
    ------
    FileError, DesignError
        As for `group_design`; the group of a participant changes.
    """
    terms, later, cells = _within(visits, group, order, covariates)
    first = visits.names[0]

    def weights(visit: str) -> Weights:
        return {} if visit == first else dict.fromkeys(later[visit], 1 / cells)

    for a, b in combinations(visits.names, 2):
        terms.both(f"{b} > {a}", f"{b} < {a}", difference(weights(b), weights(a)))
    terms.jointly("visit", [f"{visit} > {first}" for visit in later])
    signs = len(visits.names) > 2 and not visits.missing()
    with _explained(visits, group, order, covariates):
        return terms.design(visits.blocks, whole_blocks=signs, flip=signs)


def interaction_design(
    visits: Visits, group: str, order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the group difference in change, tested by permuting whole participants.

    EVs as for `visit_design`. Contrasts: for each visit, every pair of groups in the change since the first visit, in
    both directions (``ses-2 - ses-1: MS > HC``); an F test if there are several. With two visits t equals that of the
    change scores.

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
        terms.pairs(levels, lambda level, visit=visit: alone(f"{visit}:{level}"), label)  # type: ignore[misc]
        joint += [f"{label}{levels[0]} > {level}" for level in levels[1:]]
    terms.jointly(f"{group} x visit", joint)
    with _explained(visits, group, order, covariates):
        return terms.design(visits.blocks, whole_blocks=True)


def _within(
    visits: Visits, group: str, order: Sequence[str], covariates: Sequence[str]
) -> tuple[Terms, dict[str, list[str]], int]:
    """EVs of participants, visits and their covariates; names of the EVs of each later visit; number of groups."""
    people, terms = visits.people(group, covariates), Terms()
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


def _explained(
    visits: Visits, group: str, order: Sequence[str], covariates: Sequence[str]
) -> AbstractContextManager[None]:
    """See `determined`; applied to participants, because a covariate has the same value at all visits."""
    people = visits.people(group, covariates)
    cells = group_cells(people, group, order, visits.origin) if group else {"": np.ones(len(people))}
    columns = [centred(people, name, visits.origin) for name in covariates]
    return determined(
        cells, {name: each for covariate in columns for name, each in covariate.items()}, group, visits.origin
    )


def between_design(
    visits: Visits, group: str, order: Sequence[str] = (), covariates: Sequence[str] = ()
) -> Design:
    """Design of the group difference over all visits, tested by permuting whole participants.

    EVs: the groups, each visit except the first, and the covariates at the first visit, centred. Contrasts as for
    `group_design`. The visits of a participant are not independent, so t does not follow the t distribution, and only
    permutation p-values are valid.

    Raises
    ------
    FileError, DesignError
        As of `visit_design`; a visit is missing.
    """
    _whole(visits, "the comparison of groups")
    people, terms = visits.people(group, covariates), Terms()
    cells = group_cells(people, group, order, visits.origin)
    terms.add({level: cell[visits.subject] for level, cell in cells.items()})
    terms.add({visit: (visits.visit == k).astype(float) for k, visit in enumerate(visits.names) if k})
    for name in covariates:
        columns = centred(people, name, visits.origin)
        terms.add({column: each[visits.subject] for column, each in columns.items()})
    compare_groups(terms, group, list(cells))
    with _explained(visits, group, order, covariates):
        return terms.design(visits.blocks, whole_blocks=True)


def _whole(visits: Visits, what: str) -> None:
    missing = visits.missing()
    if missing:
        raise FileError(
            f"{visits.origin}: {what} is tested by permuting participants with all their visits, but {missing}"
        )


# -- change ---------------------------------------------------------------------------------------------------------

CHANGE, CHANGE_PER_YEAR = "_change", "_change_per_year"
"""Ends of the names of columns and images of change, in the unit of what changes or divided by years."""


@dataclass(frozen=True, eq=False)
class Change:
    """Change from one visit to another.

    Attributes
    ----------
    before, after : (subjects,) int
        Rows of the file.
    interval : (subjects,) float64
        Years by which the change is divided; 1 if it is not divided.
    people : DataFrame
        One row per participant; see `Visits.people`.
    table : DataFrame
        The same with the change of every numeric column that changes: ``edss_change``, or ``edss_change_per_year`` if
        it is divided. The change of the column with the times is the interval, in years.
    """

    before: Ints
    after: Ints
    interval: Float64
    people: pd.DataFrame
    table: pd.DataFrame


def find_change(visits: Visits, group: str = "", covariates: Sequence[str] = (), years: str = "") -> Change:
    """Change from the first to the last visit; every participant must have both.

    Parameters
    ----------
    visits : Visits
    group, covariates
        See `Visits.people`.
    years : str, optional
        Column with the time of each visit in years: since the first visit, or as age.

    Raises
    ------
    FileError
        A column or a time is missing, or times are implausible; errors of `Visits.people`.
    """
    _whole(visits, "change")
    before, after = visits.at(visits.names[0]), visits.at(visits.names[-1])
    interval = _interval(visits, years)
    people = visits.people(group, covariates)
    table = people.copy()
    for name in visits.table.columns:
        if not pd.api.types.is_numeric_dtype(visits.table[name]) or name == group:
            continue
        values = visits.table[name].to_numpy(dtype=np.float64)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            difference = values[after] - values[before]
        if np.nan_to_num(difference).any():
            rate = years and name != years
            column = f"{name}{CHANGE_PER_YEAR if rate else CHANGE}"
            if column in table.columns:
                raise FileError(
                    f"{visits.origin} already has a column {column}, which is to hold the change of {name}"
                )
            table[column] = difference / interval if rate else difference
    return Change(visits.rows[before], visits.rows[after], interval, people, table)


LONGEST = 60.0
"""Longest plausible interval between two visits in years; longer ones are probably days or months."""


def _interval(visits: Visits, years: str) -> Float64:
    if not years:
        return np.ones(len(visits.subjects))
    require(visits.table, [years], visits.origin)
    if not pd.api.types.is_numeric_dtype(visits.table[years]):
        raise FileError(f"{visits.origin}: {years} is text; years are expected")
    values = visits.table[years].to_numpy(dtype=np.float64)
    interval = values[visits.at(visits.names[-1])] - values[visits.at(visits.names[0])]
    for who, value in zip(visits.subjects, interval):
        if not 0 < value <= LONGEST:  # also true for NaN
            known = "unknown" if np.isnan(value) else f"{value:g} years"
            raise FileError(
                f"{visits.origin}: according to {years}, the time of {who} from {visits.names[0]} to "
                f"{visits.names[-1]} is {known}; between 0 and {LONGEST:g} years are expected"
            )
    return interval


# -- gpuvox longitudinal --------------------------------------------------------------------------------------------

DESIGNS = ("change", "visit", "interaction", "between")


@dataclass(frozen=True)
class Command:
    """A ``gpuvox longitudinal`` command, with its options parsed; empty `designs` selects all that are possible."""

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
    """What a command will do: designs, the rows whose images are needed, and notes for the user."""

    visits: Visits
    change: Change | None
    designs: Mapping[str, Design]
    notes: Sequence[str]

    @property
    def repeated(self) -> bool:
        """Whether there is a design of all visits."""
        return any(name != "change" for name in self.designs)

    def who(self, design: str) -> Rows:
        """Participants of the rows of a design: one row each for ``change``, otherwise one per visit."""
        if design == "change":
            assert self.change is not None
            return Rows(tuple(str(name) for name in self.change.people["participant_id"]), self.visits.origin)
        subjects = tuple(self.visits.subjects[i] for i in self.visits.subject)
        return Rows(subjects, self.visits.origin, "row", tuple(self.visits.names[i] for i in self.visits.visit))

    @property
    def rows(self) -> list[int]:
        """Rows of the file whose images are needed."""
        rows = set(self.visits.rows.tolist()) if self.repeated else set()
        if self.change is not None:
            rows |= {*self.change.before.tolist(), *self.change.after.tolist()}
        return sorted(rows)


def execute(command: Command, reporter: Reporter) -> None:
    """Run ``gpuvox longitudinal``: designs, tables and images, and the commands that test them in ``OUT.txt``.

    Raises
    ------
    FileError, DesignError
        The message is one sentence; nothing is written.
    """
    check_root_name(command.out, "--out", "long")
    files.check_not_read([command.out + e for e in ("_change.tsv", "_visits.tsv", ".txt")], [command.table])
    text = files.read_table(command.table, [command.subject, command.visit], long=True)
    plan = _plan(command, text)
    everyone = Rows(tuple(text[command.subject]), command.table, "row", tuple(text[command.visit]))
    image_sources = {
        name: find_images(source, text, plan.rows, everyone, command.visit)
        for name, source in command.maps.items()
    }
    for name, images in image_sources.items():
        for kind in ("change", "visits"):
            check_target(_image(command, name, kind), images)
        if twice := shared_images(images, everyone):
            reporter.warn(twice)
    lines = _say_plan(command, plan)
    endings = [
        f"_{name}{ending}" for name in plan.designs for ending in (".mat", ".con", ".fts", ".grp", "_design.json")
    ]
    check_targets(command.out, [*endings, "_change.tsv", "_visits.tsv", ".txt"])
    with ExitStack() as stack:
        for name, images in image_sources.items():
            _write_map(stack, command, plan, name, images, reporter.progress)
        for kind, design in plan.designs.items():
            design.write(f"{command.out}_{kind}", plan.who(kind))
        if plan.change is not None:
            table = plan.change.table.drop(columns=set(command.maps.values()), errors="ignore")
            target = f"{command.out}_change.tsv"
            files.write_table(target, relocated(table, command.table, target))
        if plan.repeated:
            target, rows = f"{command.out}_visits.tsv", text.iloc[plan.visits.rows]
            files.write_table(target, relocated(rows, command.table, target, command.maps.values()))
        files.write_text(f"{command.out}.txt", "\n".join(lines) + "\n")
    reporter.say("\n".join(lines))


def _plan(command: Command, text: pd.DataFrame) -> _Plan:
    """The designs that are requested and possible."""
    visits, first, last = _choose_visits(command, text)
    chosen, out = _subset(command, visits)
    visits, notes = _complete(command, chosen)
    people = visits.people(command.group, command.covariates)
    notes = [*out, *notes, *left_out_covariates(people, command.covariates, command.table)]
    notes += [f"Warning: {text}" for text in codes_of_missing(people, command.covariates)]
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
            _check_times(visits, command.years)
            about = (command.group, command.order, command.covariates)
            designs[name] = group_design(change.people, *about, origin=command.table)
        else:
            make = {"visit": visit_design, "interaction": interaction_design, "between": between_design}[name]
            designs[name] = make(visits, command.group, command.order, command.covariates)
    return _Plan(visits, change, designs, notes)


def _check_times(visits: Visits, years: str) -> None:
    """Raise `FileError` if the times of a participant contradict the order of the visits."""
    if not years:
        return
    time = visits.table[years].to_numpy(dtype=np.float64)
    for i in np.flatnonzero((np.diff(visits.subject) == 0) & (np.diff(time) <= 0)):
        earlier, later = (visits.names[visits.visit[row]] for row in (i, i + 1))
        raise FileError(
            f"{visits.origin}: according to {years}, {earlier} of {visits.subjects[visits.subject[i]]} "
            f"({time[i]:g} years) is not before {later} ({time[i + 1]:g} years), as the order of the visits is"
        )


def _impossible(name: str, command: Command, visits: Visits) -> str:
    """Why a design is not possible; empty if it is."""
    if name in ("interaction", "between"):
        if not command.group:
            return "it compares groups, and no groups are given (--group)"
        if visits.missing():
            return f"participants are permuted with all their visits, but {visits.missing()}"
    return ""


def _choose_visits(command: Command, text: pd.DataFrame) -> tuple[Visits, str, str]:
    """The visits to include, and the two visits between which change is measured."""
    order, pair = command.visits, (command.baseline, command.follow_up)
    if all(pair) and not order and (command.designs == ("change",) or text[command.visit].nunique() == 2):
        order = pair
    visits = read_visits(text, command.subject, command.visit, order, command.table)
    names = visits.names
    first, last = command.baseline or names[0], command.follow_up or names[-1]
    for option, name in (("--baseline", first), ("--follow-up", last)):
        if name not in names:
            raise OptionError(option, f"{name} is not a visit of {command.table}; these are {', '.join(names)}")
    if names.index(first) >= names.index(last):
        raise FileError(
            f"change is from --baseline {first} to --follow-up {last}, but visits are {', '.join(names)}"
        )
    if command.designs == ("change",) and len(names) > 2:
        visits = read_visits(text, command.subject, command.visit, (first, last), command.table)
    return visits, first, last


def _subset(command: Command, visits: Visits) -> tuple[Visits, list[str]]:
    """Participants who fulfil the condition at their first visit; notes about the others."""
    people = visits.people()
    keep = select(people, command.subset)
    if not keep.any():
        raise OptionError(
            "--subset", f"no participant of {command.table} fulfils {command.subset!r} at the first visit"
        )
    return visits.of(keep), left_out(people, command.subset).lines()


def _complete(command: Command, visits: Visits) -> tuple[Visits, list[str]]:
    """The visits after participants who lack one are handled, and notes about them."""
    n_visits = visits.seen.sum(axis=1)
    complete = n_visits == len(visits.names)
    n_less = int((~complete).sum())
    if not n_less:
        return visits, []
    if command.incomplete == "refuse":
        raise FileError(
            f"{command.table}: {visits.missing()} ({n_less} of {len(complete)} participants lack a visit); "
            "--incomplete drop excludes such participants, --incomplete keep uses the visits that exist"
        )
    keep = complete if command.incomplete == "drop" else n_visits > 1
    if not keep.any():
        raise FileError(
            f"{command.table}: no participant has {'all visits' if command.incomplete == 'drop' else 'two visits'}"
        )
    out = [name for name, kept in zip(visits.subjects, keep) if not kept]
    notes = [f"excluded because of too few visits: {', '.join(out)}"] if out else []
    if command.incomplete == "keep" and n_less > len(out):
        notes.append(
            f"{n_less - len(out)} participants lack a visit, and are included where their other visits suffice"
        )
    return visits.of(keep), notes


def _say_plan(command: Command, plan: _Plan) -> list[str]:
    """What was made, and how to test it."""
    visits, names = plan.visits, list(command.maps)
    lines = [
        f"{len(visits.subjects)} participants and {len(visits.rows)} visits ({', '.join(visits.names)}) of "
        f"{command.table}",
        *plan.notes,
    ]
    for kind, design in plan.designs.items():
        root, images = f"{command.out}_{kind}", "change" if kind == "change" else "visits"
        lines += ["", f"{kind}: {_about(kind, command, plan)}; rows as in {command.out}_{images}.tsv"]
        lines += [*(f"Warning: {said}" for said in design.concerns()), *design.describe()]
        runs = [(_image(command, name, images), f"{root}_{name}") for name in names]
        lines += [design.command(data, root, out) for data, out in runs or [("DATA", "OUT")]]
    return lines


def _about(kind: str, command: Command, plan: _Plan) -> str:
    if kind == "visit":
        return "the effect of the visit, within participants"
    if kind == "interaction":
        return "group differences in change"
    if kind == "between":
        return "group differences, over all visits"
    assert plan.change is not None
    names, n = plan.visits.names, len(plan.change.people)
    last, first = command.follow_up or names[-1], command.baseline or names[0]
    rate = f", per year (images and columns, time from {command.years})" if command.years else ""
    return f"{last} - {first}{rate}, {n} participants"


def _image(command: Command, name: str, kind: str) -> str:
    """Root of the name of the images of a map: its ``change`` (with times, per year) or its ``visits``."""
    return f"{command.out}_{name}_{kind}{'_per_year' if kind == 'change' and command.years else ''}"


def _write_map(
    stack: ExitStack,
    command: Command,
    plan: _Plan,
    name: str,
    images: Images,
    progress: Progress,
) -> None:
    """Write the images of a map: change, and all visits."""
    if plan.change is not None:
        n, text = len(plan.change.before), "change per year" if command.years else "change"
        volumes = counted(_changes(images, plan.change), f"{name}, change", n, progress)
        write_images(stack, _image(command, name, "change"), images, volumes, plan.who("change"), text)
    if plan.repeated:
        n = len(plan.visits.rows)
        volumes = counted(_all_visits(images, plan.visits), f"{name}, visits", n, progress)
        write_images(
            stack, _image(command, name, "visits"), images, volumes, plan.who("visits"), "visits of participants"
        )


def _changes(images: Images, change: Change) -> Iterator[Float32]:
    pairs = zip(images.volumes(change.before.tolist()), images.volumes(change.after.tolist()))
    for (before, after), years in zip(pairs, change.interval):
        yield ((after.astype(np.float64) - before) / years).astype(np.float32)


def _all_visits(images: Images, visits: Visits) -> Iterator[Float32]:
    """Volumes in the order of the visits, from one stream per visit, so that no 4D image is ever held in memory."""
    streams = [images.volumes(visits.rows[visits.visit == k].tolist()) for k in range(len(visits.names))]
    for k in visits.visit:
        yield next(streams[k])
