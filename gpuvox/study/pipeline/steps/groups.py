"""Stages of the tables that compare groups: demographics, and analyses of covariance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.config import covariates_of, order_of, slug
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage, indented
from gpuvox.study.pipeline.steps.features import feature_columns, surviving, write_note
from gpuvox.study.statistics import groups
from gpuvox.study.statistics.demographics import Comparison


def group_stages(inputs: StudyInputs) -> list[Stage]:
    """A stage for each table."""
    config, stages = inputs.config, []
    if config.demographics is not None:
        options = {"demographics": config.demographics.variables, "tests": config.demographics.tests}
        options["comparisons"] = {name: asdict(each) for name, each in config.demographics.comparisons.items()}
        stages.append(_table(inputs, ("demographics",), "demographics", options))
    for number, table in enumerate(config.group_table):
        options = {name: value for name, value in asdict(table).items() if name != "title"}
        options["covariates"] = covariates_of(config.groups, table)
        column = config.groups.column if inputs.has_groups else ""
        options |= {"group": table.group or column, "order": order_of(config.groups, table)}
        stages.append(_table(inputs, ("group_table", number), slug(table.title), options))
    return stages


def _table(inputs: StudyInputs, where: tuple[str | int, ...], file: str, options: Mapping[str, Any]) -> Stage:
    """A table of groups, or a note if all its variables are of clusters that did not survive."""
    out, section = f"groups/{file}", inputs.config.groups
    name = f"group table {file}" if len(where) > 1 else file
    compared = {"group": section.column if inputs.has_groups else "", "order": section.order}

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("groups"), exist_ok=True)
        present = _surviving_options(inputs, options, reporter)
        if not (present.get("variables") or present.get("families") or present.get("demographics")):
            note = f"{name}: nothing to compare, because none of its clusters survived"
            write_note(inputs, out, note, reporter)
            return
        comparisons = {name: Comparison(**each) for name, each in present.pop("comparisons", {}).items()}
        command = groups.Command(
            table=inputs.path("features.tsv"), out=inputs.path(out), comparisons=comparisons,
            **compared | present,
        )  # fmt: skip
        with inputs.config.reading(where):
            groups.execute(command, indented(reporter))

    settings = compared | dict(options)
    return Stage(name, settings, (f"{out}.json", f"{out}*"), work, ("variables",))


def _surviving_options(inputs: StudyInputs, options: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """The options of a table, without the variables of clusters that did not survive."""
    present, columns = dict(options), feature_columns(inputs)
    for key in ("variables", "demographics", "log"):
        if key in present:
            present[key] = surviving(inputs, present[key], reporter, columns)
    if "families" in present:
        families = {
            name: surviving(inputs, patterns, reporter, columns) for name, patterns in present["families"].items()
        }
        present["families"] = {name: patterns for name, patterns in families.items() if patterns}
    if "tests" in present:
        tests = present["tests"].items()
        present["tests"] = {name: test for name, test in tests if surviving(inputs, (name,), reporter, columns)}
    return present
