"""``gpuvox groups``: analyses of covariance and demographics, as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import __version__, files, private
from gpuvox.errors import FileError, InputError, OptionError, UsageError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.reporter import Reporter
from gpuvox.study.statistics.ancova import ANCOVA, LEVEL, ancova
from gpuvox.study.statistics.demographics import DEMOGRAPHICS, demographics
from gpuvox.tables.columns import matching
from gpuvox.tables.conditions import left_out, select
from gpuvox.tables.groups import Groups, assign_groups
from gpuvox.tables.reading import gather, read_participants
from gpuvox.types import Bools


@dataclass(frozen=True)
class Command:
    """A ``gpuvox groups`` command with its options parsed.

    By default the variables of `families` are compared, or else all variables that `rois` and `clusters` add.
    """

    table: str
    group: str
    out: str
    order: tuple[str, ...] = ()
    rois: str = ""
    clusters: Mapping[str, str] = field(default_factory=dict)
    covariates: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    correction: str = "fdr_bh"
    subset: str = ""
    log: tuple[str, ...] = ()
    demographics: tuple[str, ...] = ()
    tests: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """Files that are read."""
        return [self.table, *([self.rois] if self.rois else []), *self.clusters.values()]


def execute(command: Command, reporter: Reporter) -> None:
    """Run the command and write ``OUT.tsv``, ``OUT_demographics.tsv``, ``OUT.json``.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    _check_outputs(command)
    table = gather(command.table, command.rois or None, command.clusters)
    origin = command.table + (f", subset {command.subset!r}" if command.subset else "")
    variables = _chosen(command, table)
    if not (variables or command.demographics):
        raise UsageError(
            "nothing to compare: expected --rois, --clusters, --variables, --family or --demographics"
        )
    part, out = table[_subset(command, table)], left_out(table, command.subset)
    described = matching(part.columns, command.demographics, command.table)
    try:
        groups = assign_groups(part, command.group, command.order)
        compared = people = None
        if variables:
            compared = ancova(
                part, variables, command.group, order=command.order, covariates=command.covariates,
                families=command.families, correction=command.correction, log=command.log,
            )  # fmt: skip
        if described or command.tests:
            people = demographics(part, described, command.group, order=command.order, tests=command.tests)
    except OptionError:
        raise
    except InputError as error:
        raise FileError(f"{origin}: {error.message}", file=command.table) from None
    outputs = {f"{command.out}.tsv": compared, f"{command.out}_demographics.tsv": people}
    written = {path: frame for path, frame in outputs.items() if frame is not None}
    record = _record(command, part, groups, compared, people) | {"subset_leaves_out": out.record()}
    for path, frame in written.items():
        files.write_table(path, frame)
    files.write_json(f"{command.out}.json", record)
    for line in [*out.lines(), *_messages(command, groups, compared)]:
        reporter.say(line)


def _subset(command: Command, table: pd.DataFrame) -> Bools:
    try:
        rows = select(table, command.subset)
    except InputError as error:
        raise OptionError("--subset", f"cannot be evaluated on {command.table}: {error}") from None
    if not rows.any():
        raise OptionError("--subset", f"no participant of {command.table} fulfils {command.subset!r}")
    return rows


def _check_outputs(command: Command) -> None:
    endings = (".tsv", "_demographics.tsv", ".json")
    check_root_name(command.out, "--out", "groups")
    check_targets(command.out, endings)
    files.check_not_read([command.out + ending for ending in endings], command.inputs)


def _chosen(command: Command, table: pd.DataFrame) -> list[str]:
    """Names of the variables of the analysis of covariance."""
    taken = ("participant_id", command.group, *command.covariates)
    numeric = [n for n in table.columns if n not in taken and pd.api.types.is_numeric_dtype(table[n])]
    patterns = command.variables or tuple(p for family in command.families.values() for p in family)
    if not patterns:
        own = read_participants(command.table).columns
        return [name for name in numeric if name not in own]
    # A name selects a column of any kind; a pattern selects those that can be compared.
    named = [pattern for pattern in patterns if pattern in table.columns and pattern not in numeric]
    return matching([*numeric, *named], patterns, command.table)


def _record(
    command: Command,
    part: pd.DataFrame,
    groups: Groups,
    compared: pd.DataFrame | None,
    people: pd.DataFrame | None,
) -> dict[str, Any]:
    """The record for ``OUT.json``."""
    import scipy
    import statsmodels

    record: dict[str, Any] = {
        "gpuvox": __version__,
        "software": {"numpy": np.__version__, "pandas": pd.__version__, "scipy": scipy.__version__,
                     "statsmodels": statsmodels.__version__},
        "inputs": private.keys({name: files.hash_file(name) for name in command.inputs}, os.path.dirname(command.out)),
        "group": command.group,
        "order": list(groups.levels),
        "n": groups.counts(),
        "n_left_out": {"group_missing": int(part[command.group].isna().sum()),
                       "other_group": int((groups.codes < 0).sum() - part[command.group].isna().sum())},
        "subset": command.subset or None,
    }  # fmt: skip
    if compared is not None:
        record["ancova"] = _record_ancova(command, compared, groups)
    if people is not None:
        tests = people.drop_duplicates("variable").set_index("variable")["test"]
        record["demographics"] = {
            "tests": {name: test for name, test in tests.items() if test == test and test is not None},
            "given": dict(command.tests),
            "columns": _explained(DEMOGRAPHICS, groups.levels),
        }
    return record


def _record_ancova(command: Command, compared: pd.DataFrame, groups: Groups) -> dict[str, Any]:
    changed = compared[compared["transform"] != "none"]
    not_tested = compared[compared["note"].notna()]
    first, second, *more = groups.levels
    return {
        "model": "variable ~ " + " + ".join([command.group, *command.covariates]) + ", ordinary least squares",
        "test": f"F of {command.group} given the covariates (type III)",
        "covariates": list(command.covariates),
        "difference": None if more else f"{first} - {second}",
        "families": {name: list(part["variable"]) for name, part in compared.groupby("family", sort=False)},
        "correction": command.correction,
        "log": list(command.log),
        "transforms": dict(zip(changed["variable"], changed["transform"])),
        "not_tested": dict(zip(not_tested["variable"], not_tested["note"])),
        "columns": _explained(ANCOVA, groups.levels),
    }


def _explained(descriptions: Mapping[str, str], levels: Sequence[str]) -> dict[str, str]:
    return {
        name: text + (f"; {level}" if level else "")
        for key, text in descriptions.items()
        for name, level in ([(key.format(group=v), v) for v in levels] if "{group}" in key else [(key, "")])
    }


def _messages(command: Command, groups: Groups, compared: pd.DataFrame | None) -> list[str]:
    """The summary that is printed at the end."""
    lines = []
    out = int((groups.codes < 0).sum())
    if out:
        lines.append(f"{out} excluded: no {command.group}, or one other than {', '.join(groups.levels)}")
    counts = ", ".join(f"{level} {n}" for level, n in groups.counts().items())
    if compared is None:
        return [*lines, counts]
    fewer = compared["n"].min()
    if fewer < sum(groups.counts().values()):
        lines.append(f"values or covariates are missing: {fewer} participants in the smallest analysis")
    lines += [
        f"{row.variable} was not tested: {row.note}" for row in compared[compared["note"].notna()].itertuples()
    ]
    column, kind = (
        ("p", "p") if command.correction == "none" else ("p_corrected", f"corrected p ({command.correction})")
    )
    tested, low = int(compared["p"].notna().sum()), int((compared[column] < LEVEL).sum())
    return [*lines, f"{counts}: {low} of {tested} variables differ with {kind} < {LEVEL}"]
