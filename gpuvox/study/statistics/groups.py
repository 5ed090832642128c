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
from gpuvox.plain import several
from gpuvox.reporter import Reporter
from gpuvox.study.statistics.ancova import ANCOVA, LEVEL, Multiplicity, compare_groups, explained
from gpuvox.study.statistics.demographics import DEMOGRAPHICS, Comparison, demographics, merged
from gpuvox.study.statistics.description import columns_described, describe
from gpuvox.study.statistics.posthoc import PAIRS
from gpuvox.study.statistics.sources import rows_of
from gpuvox.tables.codes import codes_of_missing
from gpuvox.tables.columns import matching
from gpuvox.tables.conditions import left_out
from gpuvox.tables.groups import Groups, assign_groups
from gpuvox.tables.reading import gather, read_participants


@dataclass(frozen=True)
class Command:
    """A ``gpuvox groups`` command with its options parsed.

    By default the variables of `families` are compared, or else all variables that `rois` and `clusters` add. Without
    `group`, or with one group in `order`, they are described, and their means are compared with `against`.
    `comparisons` are further ones of the demographics.
    """

    table: str
    out: str
    group: str = ""
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
    posthoc: str = "tukey"
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    against: float | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one group, which is described and not compared."""
        return not self.group or len(self.order) == 1

    @property
    def inputs(self) -> list[str]:
        """Files that are read."""
        return [self.table, *([self.rois] if self.rois else []), *self.clusters.values()]


def execute(command: Command, reporter: Reporter) -> None:
    """Run the command and write ``OUT.tsv``, ``OUT_pairs.tsv``, ``OUT_demographics.tsv``, ``OUT.json``.

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
    part, out = table[rows_of(table, command.subset, "subset", command.table)], left_out(table, command.subset)
    described = matching(part.columns, command.demographics, command.table)
    try:
        part, groups = _members(command, part)
        tables = _tables(command, part, variables, described)
    except OptionError:
        raise
    except InputError as error:
        raise FileError(f"{origin}: {error.message}", file=command.table) from None
    record = _record(command, part, groups, tables) | {"subset_leaves_out": out.record()}
    for suffix, frame in tables.frames.items():
        files.write_table(f"{command.out}{suffix}.tsv", frame)
    files.write_json(f"{command.out}.json", record)
    used = [*dict.fromkeys([*variables, *described, *command.covariates])]
    for text in codes_of_missing(part, used):
        reporter.warn(text)
    for line in [*out.lines(), *_messages(command, groups, tables)]:
        reporter.say(line)


@dataclass(frozen=True, eq=False)
class _Tables:
    """Tables by the end of their name, and descriptions of columns that depend on the command."""

    frames: dict[str, pd.DataFrame]
    columns: dict[str, str] = field(default_factory=dict)


EVERYONE = "all"
"""Name of the group where there are no groups."""


def _members(command: Command, part: pd.DataFrame) -> tuple[pd.DataFrame, Groups]:
    """Participants and their groups; a group alone is everybody who is in it."""
    if not command.alone:
        return part, assign_groups(part, command.group, command.order)
    if not command.group:
        return part, Groups((EVERYONE,), np.zeros(len(part), dtype=np.int64))
    groups = assign_groups(part, command.group, command.order, least=1)
    chosen = part[groups.codes == 0]
    chosen.attrs = dict(part.attrs)
    return chosen, Groups(groups.levels, groups.codes[groups.codes == 0])


def _tables(command: Command, part: pd.DataFrame, variables: Sequence[str], described: Sequence[str]) -> _Tables:
    if command.alone:
        return _of_one_group(command, part, variables, described)
    if command.against is not None:
        raise OptionError("--against", "it is for the mean of one group; groups are compared with each other")
    frames: dict[str, pd.DataFrame] = {}
    columns: dict[str, str] = {}
    options: dict[str, Any] = {"order": command.order, "covariates": command.covariates, "log": command.log}
    if variables:
        many = Multiplicity(command.families, command.correction, command.posthoc)
        frames[""], pairs = compare_groups(part, variables, command.group, many, **options)
        if pairs is not None:
            frames["_pairs"] = pairs
    if described or command.tests:
        people = demographics(part, described, command.group, order=command.order, tests=command.tests)
        if command.comparisons:
            people, columns = merged(part, described, people, command.comparisons, command.tests)
        frames["_demographics"] = people
    return _Tables(frames, columns)


def _of_one_group(
    command: Command, part: pd.DataFrame, variables: Sequence[str], described: Sequence[str]
) -> _Tables:
    """Descriptions; what needs two groups is refused."""
    asked = {
        "--covariates": command.covariates, "--family": command.families, "--log": command.log, "--test": command.tests,
    }  # fmt: skip
    for option, value in asked.items():
        if value:
            raise OptionError(
                option, "one group is described, not compared; expected --group and two groups or more"
            )
    frames = {"": describe(part, variables, command.against, command.correction)} if variables else {}
    if described:
        level = command.order[0] if command.group else EVERYONE
        people = part.assign(**{EVERYONE: level})
        people.attrs = dict(part.attrs)
        frames["_demographics"] = demographics(people, described, EVERYONE, order=(level,), least=1)
    return _Tables(frames)


def _check_outputs(command: Command) -> None:
    endings = (".tsv", "_pairs.tsv", "_demographics.tsv", ".json")
    check_root_name(command.out, "--out", "groups")
    check_targets(command.out, endings)
    files.check_not_read([command.out + ending for ending in endings], command.inputs)


def _chosen(command: Command, table: pd.DataFrame) -> list[str]:
    """Names of the variables of the analysis of covariance."""
    taken = ("participant_id", *filter(None, [command.group]), *command.covariates)
    numeric = [n for n in table.columns if n not in taken and pd.api.types.is_numeric_dtype(table[n])]
    patterns = command.variables or tuple(p for family in command.families.values() for p in family)
    if not patterns:
        own = read_participants(command.table).columns
        return [name for name in numeric if name not in own]
    # A name selects a column of any kind; a pattern selects those that can be compared.
    named = [pattern for pattern in patterns if pattern in table.columns and pattern not in numeric]
    return matching([*numeric, *named], patterns, command.table)


def _record(command: Command, part: pd.DataFrame, groups: Groups, tables: _Tables) -> dict[str, Any]:
    """The record for ``OUT.json``."""
    import scipy
    import statsmodels

    missing = int(part[command.group].isna().sum()) if command.group else 0
    record: dict[str, Any] = {
        "gpuvox": __version__,
        "software": {"numpy": np.__version__, "pandas": pd.__version__, "scipy": scipy.__version__,
                     "statsmodels": statsmodels.__version__},
        "inputs": private.keys({name: files.hash_file(name) for name in command.inputs}, os.path.dirname(command.out)),
        "group": command.group or None,
        "order": list(groups.levels),
        "n": groups.counts(),
        "n_left_out": {"group_missing": missing, "other_group": int((groups.codes < 0).sum()) - missing},
        "subset": command.subset or None,
    }  # fmt: skip
    compared, people = tables.frames.get(""), tables.frames.get("_demographics")
    if compared is not None and command.alone:
        record["description"] = {
            "group": groups.levels[0], "against": command.against, "correction": command.correction,
            "columns": columns_described(command.against),
        }  # fmt: skip
    elif compared is not None:
        record["ancova"] = _record_ancova(command, compared, groups)
    if "_pairs" in tables.frames:
        record["pairs"] = {"method": command.posthoc, "columns": PAIRS}
    if people is not None:
        tests = people.drop_duplicates("variable").set_index("variable")["test"]
        record["demographics"] = {
            "tests": {name: test for name, test in tests.items() if test == test and test is not None},
            "given": dict(command.tests),
            "comparisons": {name: [each.group, *each.order] for name, each in command.comparisons.items()},
            "columns": explained(DEMOGRAPHICS, groups.levels) | tables.columns,
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
        "columns": explained(ANCOVA, groups.levels),
    }


def _messages(command: Command, groups: Groups, tables: _Tables) -> list[str]:
    """The summary that is printed at the end."""
    lines, compared = [], tables.frames.get("")
    out = int((groups.codes < 0).sum())
    if out:
        lines.append(f"{out} excluded: no {command.group}, or one other than {', '.join(groups.levels)}")
    counts = ", ".join(f"{level} {n}" for level, n in groups.counts().items())
    if compared is None:
        return [*lines, counts]
    if command.alone:
        return [*lines, f"{counts}: {several(len(compared), 'variable')} described", *_against(command, compared)]
    fewer = compared["n"].min()
    if fewer < sum(groups.counts().values()):
        lines.append(f"values or covariates are missing: {fewer} participants in the smallest analysis")
    lines += [
        f"{row.variable} was not tested: {row.note}" for row in compared[compared["note"].notna()].itertuples()
    ]
    column, kind = _p_of(command)
    tested, low = int(compared["p"].notna().sum()), int((compared[column] < LEVEL).sum())
    return [*lines, f"{counts}: {low} of {tested} variables differ with {kind} < {LEVEL}"]


def _p_of(command: Command) -> tuple[str, str]:
    """The column of the p that counts, and what it is."""
    none = command.correction == "none"
    return ("p", "p") if none else ("p_corrected", f"corrected p ({command.correction})")


def _against(command: Command, described: pd.DataFrame) -> list[str]:
    """How many means differ from the constant, if there is one."""
    if command.against is None:
        return []
    column, kind = _p_of(command)
    tested, low = int(described["p"].notna().sum()), int((described[column] < LEVEL).sum())
    return [f"{low} of {tested} means differ from {command.against:g} with {kind} < {LEVEL}"]
