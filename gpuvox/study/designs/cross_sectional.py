"""Designs for `randomise` from a table of participants: groups, covariates, slopes within groups.

docs/designs.md describes them; `gpuvox.study.designs.longitudinal` is for several visits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.cohort.table import Cohort
from gpuvox.errors import DesignError, FileError, OptionError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.reporter import Reporter
from gpuvox.study.designs.design import Design, Terms, Weights
from gpuvox.study.measures.image_series import (
    check_target,
    counted,
    find_images,
    shared_images,
    write_images,
)
from gpuvox.study.statistics.ancova import independent
from gpuvox.tables.codes import codes_of_missing
from gpuvox.tables.columns import complete, indicators, require
from gpuvox.tables.conditions import left_out, select
from gpuvox.tables.levels import check_categories, is_declared
from gpuvox.tables.reading import labels, typed
from gpuvox.tables.relocate import relocated
from gpuvox.types import Float64

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
    """Design that compares groups, tests covariates, or tests the mean of one sample.

    EVs: an indicator of 0 and 1 for each group (without groups a column of ones, ``mean``), then the covariates,
    centred over the rows; text becomes an indicator for each value except the first. A constant covariate has no EV.

    Parameters
    ----------
    table : DataFrame
        One row per volume; see `tables.typed`.
    group : str, optional
        Column of the groups. Contrasts: every pair, in both directions; with three or more groups also an F test.
    order : sequence of str, optional
        Groups in the order of EVs and contrasts; alphabetical by default.
    covariates : sequence of str
        Columns to adjust for.
    interactions : sequence of str
        Covariates with a separate slope in each group. Contrasts: every pair of slopes, in both directions. Groups are
        then compared at the mean of the covariate.
    effects : sequence of str
        Covariates whose effect is tested, ``edss +`` and ``edss -``; with several slopes, their mean.
    origin : path
        For messages.

    Returns
    -------
    Design
        With neither group nor effects, a one-sample test: the mean, tested by sign flips.

    Raises
    ------
    FileError
        A column or a value is missing, there is a single group, or `order` lists other groups.
    DesignError
        A contrast cannot be estimated, because the groups determine a covariate.
    """
    names = list(dict.fromkeys([*covariates, *interactions, *effects]))
    if group in names:
        raise FileError(f"{group} is the group, and cannot be a covariate too")
    if interactions and not group:
        raise FileError(f"an interaction with {interactions[0]} needs groups (--group)")
    cells = group_cells(table, group, order, origin) if group else {"mean": np.ones(len(table))}
    terms = Terms()
    terms.add(cells)
    if group:
        compare_groups(terms, group, list(cells))
    elif not effects:
        terms.both("mean +", "mean -", {"mean": 1.0})
    for name in names:
        columns = centred(table, name, origin)
        if not columns and name in (*interactions, *effects):
            raise FileError(
                f"{os.fspath(origin)}: {name} has the same value in all {len(table)} rows; its effect cannot be tested"
            )
        slopes = _slopes(columns, cells if name in interactions else {})
        for evs in slopes.values():
            terms.add(evs)
        if name in interactions:
            _compare_slopes(terms, name, slopes, list(cells))
        if name in effects:
            _test_slopes(terms, name, slopes)
    with determined(cells, {name: ev for name, ev in terms.evs.items() if name not in cells}, group, origin):
        return terms.design(flip=not group and not effects)


@contextmanager
def determined(
    cells: Mapping[str, Float64], covariates: Mapping[str, Float64], group: str, origin: str | os.PathLike[str]
) -> Iterator[None]:
    """Turn an error of estimability into one that names the covariate which groups and other covariates determine."""
    try:
        yield
    except DesignError:
        columns = np.column_stack([np.zeros((len(next(iter(cells.values()))), 0)), *covariates.values()])
        own = independent(np.column_stack(list(cells.values())), columns)
        others = "the group and the other covariates" if group else "the other covariates"
        for i, name in enumerate(covariates):
            if i not in own:
                raise DesignError(f"{os.fspath(origin)}: the covariate {name} is determined by {others}") from None
        raise


def compare_groups(terms: Terms, group: str, levels: Sequence[str]) -> None:
    """Add the comparison of every two groups, and the F test of all."""
    terms.pairs(levels, alone)
    terms.jointly(group, [f"{levels[0]} > {other}" for other in levels[1:]])


def alone(name: str) -> Weights:
    """The contrast that selects one EV."""
    return {name: 1.0}


def _slopes(columns: Mapping[str, Float64], cells: Mapping[str, Float64]) -> dict[str, dict[str, Float64]]:
    """EVs of each column of a covariate: the column itself, or one EV per group."""
    if not cells:
        return {column: {column: values} for column, values in columns.items()}
    return {
        column: {f"{column}:{level}": values * cell for level, cell in cells.items()}
        for column, values in columns.items()
    }


def _compare_slopes(terms: Terms, name: str, columns: Mapping[str, Any], groups: Sequence[str]) -> None:
    first, *others = groups
    for column in columns:
        terms.pairs(groups, lambda level, column=column: alone(f"{column}:{level}"), f"{column}: ")  # type: ignore[misc]
    terms.jointly(f"{name} x group", [f"{column}: {first} > {other}" for column in columns for other in others])


def _test_slopes(terms: Terms, name: str, columns: Mapping[str, Mapping[str, Float64]]) -> None:
    for column, evs in columns.items():
        terms.both(f"{column} +", f"{column} -", dict.fromkeys(evs, 1 / len(evs)))
    terms.jointly(name, [f"{column} +" for column in columns])


MOST_SINGLE = 4
"""Up to this number of groups, most groups may have a single participant."""


def group_cells(
    table: pd.DataFrame, group: str, order: Sequence[str] = (), origin: str | os.PathLike[str] = "the table"
) -> dict[str, Float64]:
    """Indicator column of each group.

    Raises
    ------
    FileError
        The column or a value is missing, there is a single group, or `order` lists other groups.
    """
    require(table, [group], origin)
    complete(table, [group], origin)
    check_categories(table, group, origin)
    of_row = labels(table[group]).to_numpy(dtype=object)
    levels = sorted(set(of_row))
    if len(levels) < 2:
        raise FileError(
            f"{os.fspath(origin)}: {group} is {levels[0]} in all {len(table)} rows; at least two groups are needed"
        )
    _check_number_of_groups(table, group, levels, origin)
    if order and sorted(order) != levels:
        raise FileError(
            f"the order of the groups is {', '.join(order)}; {group} in {os.fspath(origin)} is {', '.join(levels)}"
            + _others_out(table[group], order, levels)
        )
    return {level: (of_row == level).astype(np.float64) for level in (order or levels)}


def _check_number_of_groups(
    table: pd.DataFrame, group: str, levels: Sequence[str], origin: str | os.PathLike[str]
) -> None:
    """Raise `FileError` for a numeric column, such as age, in which hardly any two rows are equal."""
    is_number = pd.api.types.is_numeric_dtype(table[group]) and not is_declared(table, group)
    if is_number and len(levels) > max(len(table) / 2, MOST_SINGLE):
        raise FileError(
            f"{os.fspath(origin)}: {group} has {len(levels)} different numbers in {len(table)} rows, so it "
            f"does not define groups; give covariates with --covariates or --effect"
        )


def _others_out(column: pd.Series, order: Sequence[str], levels: Sequence[str]) -> str:
    """Advice on how to exclude the groups that are not in the order."""
    if len(set(order)) < max(len(order), 2) or not set(order) <= set(levels):
        return ""
    values = order if pd.api.types.is_numeric_dtype(column) else map(repr, order)
    name = str(column.name) if str(column.name).isidentifier() else f"`{column.name}`"
    return f'; --subset "{name} in ({", ".join(values)})" excludes the others'


def centred(table: pd.DataFrame, name: str, origin: str | os.PathLike[str] = "the table") -> dict[str, Float64]:
    """Centred columns of a covariate, without constant ones. Errors as for `tables.indicators`."""
    columns = indicators(table, [name], origin)
    values = {column: columns[column].to_numpy(dtype=np.float64) for column in columns.columns}
    return {column: each - each.mean() for column, each in values.items() if np.ptp(each) > 0}


def left_out_covariates(
    table: pd.DataFrame, names: Sequence[str], origin: str | os.PathLike[str] = "the table"
) -> list[str]:
    """A sentence for each covariate that is not in a design, because it is constant."""
    return [
        f"the covariate {name} has the same value in all rows and is left out"
        for name in names
        if not centred(table, name, origin)
    ]


# -- gpuvox design --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A ``gpuvox design`` command, with its options parsed; `images` are pairs of source and target."""

    table: str
    out: str
    group: str = ""
    order: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    interactions: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    subset: str = ""
    images: tuple[tuple[str, str], ...] = ()


def execute(command: Command, reporter: Reporter) -> None:
    """Run ``gpuvox design``: ``OUT.mat``, ``.con``, ``.fts``, ``OUT_participants.tsv``, ``OUT.txt``, and images.

    Raises
    ------
    FileError, DesignError
        The message is one sentence; nothing is written.
    """
    endings = (".mat", ".con", ".fts", ".grp", ".txt", "_participants.tsv", "_design.json")
    check_root_name(command.out, "--out", "design")
    check_targets(command.out, endings)
    files.check_not_read([command.out + ending for ending in endings], [command.table])
    text = files.read_table(command.table, ["participant_id"], long=True)
    table = typed(text)
    rows = _selected_rows(command, table)
    chosen, listed = table.iloc[rows].reset_index(drop=True), text.iloc[rows]
    covariates = [*command.covariates, *command.interactions, *command.effects]
    design = group_design(
        chosen,
        command.group,
        command.order,
        command.covariates,
        command.interactions,
        command.effects,
        command.table,
    )
    cohort = Cohort(text, command.table)
    everyone, visit_column = cohort.who, cohort.visit_column
    who = replace(everyone.of(rows), visits=())
    image_sources = [find_images(source, text, rows, everyone, visit_column) for source, _ in command.images]
    for (_, out), images in zip(command.images, image_sources):
        check_target(out, images)
        if twice := shared_images(images, everyone):
            reporter.warn(twice)
    lines = [
        f"{len(rows)} of the {len(text)} rows of {command.table}, in the order of {command.out}_participants.tsv",
        *left_out(table, command.subset).lines(),
        *left_out_covariates(chosen, command.covariates, command.table),
        *(f"Warning: {text}" for text in codes_of_missing(chosen, covariates)),
        *_describe(command, design),
    ]
    with ExitStack() as stack:
        for (_, out), images in zip(command.images, image_sources):
            volumes = counted(images.volumes(rows), Path(out).name, len(rows), reporter.progress)
            write_images(stack, out, images, volumes, who, "participants of a design")
        design.write(command.out, who)
        target = f"{command.out}_participants.tsv"
        files.write_table(target, relocated(listed, command.table, target, [name for name, _ in command.images]))
        files.write_text(f"{command.out}.txt", "\n".join(lines) + "\n")
    reporter.say("\n".join(lines))


def _selected_rows(command: Command, table: pd.DataFrame) -> list[int]:
    """Numbers of the rows that fulfil the condition, one for each participant."""
    rows = [int(row) for row in np.flatnonzero(select(table, command.subset))]
    if not rows:
        raise OptionError("--subset", f"no row of {command.table} fulfils {command.subset!r}")
    ids = table["participant_id"].iloc[rows]
    double = ids[ids.duplicated()]
    if len(double):
        raise FileError(
            f"{command.table} has participant_id {double.iloc[0]} twice; use --subset to select one of the rows"
        )
    return rows


def _describe(command: Command, design: Design) -> list[str]:
    """The design, what is unusual about it, and the commands that test it."""
    runs = [(out, f"{command.out}_{Path(files.split_suffix(out)[0]).name}") for _, out in command.images]
    commands = [design.command(data, command.out, out) for data, out in runs or [("DATA", "OUT")]]
    return [*(f"Warning: {text}" for text in design.concerns()), *design.describe(), *commands]
