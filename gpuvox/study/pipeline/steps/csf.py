"""The stage that compares references in cerebrospinal fluid (CSF): the cohort's mean, and each participant's own."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpuvox import files
from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.statistics import csf
from gpuvox.study.statistics.ancova import ANCOVA, explained
from gpuvox.tables.columns import fitting
from gpuvox.tables.reading import read_participants, typed


def csf_stages(inputs: StudyInputs) -> list[Stage]:
    """One stage if the maps are referenced to CSF."""
    section, groups = inputs.config.ironmyelin, inputs.config.groups
    if section is None or section.reference == "none":
        return []
    reference = section.reference

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("csf"), exist_ok=True)
        table, path = read_participants(inputs.path("features.tsv")), inputs.path("maps/csf_reference.tsv")
        offsets = csf.offsets_of(typed(files.read_table(path, ["participant_id"])), table["participant_id"], path)
        comparison = csf.Comparison(table, groups.column, groups.order, groups.covariates)
        compared = comparison.of(offsets)
        rows = csf.sensitivity(comparison, _variables(inputs, table.columns), offsets, reference)
        spread = csf.spread_of(comparison, offsets)
        files.write_table(inputs.path(csf.COMPARISON), compared)
        files.write_table(inputs.path(csf.SENSITIVITY_TABLE), rows)
        record = csf.record_of(reference, spread, groups.order)
        record["columns"]["comparison"] = explained(ANCOVA, groups.order)
        files.write_json(inputs.path(csf.RECORD), record)
        for text in csf.concerns(compared, rows, reference, spread):
            reporter.warn(text)

    settings = {
        "reference": reference, "group": groups.column, "order": groups.order, "covariates": groups.covariates,
        "variables": [list(patterns) for patterns in _patterns(inputs)],
    }  # fmt: skip
    after = ("iron and myelin", "variables")
    return [Stage("CSF reference", settings, (csf.COMPARISON, csf.SENSITIVITY_TABLE, csf.RECORD), work, after)]


def _patterns(inputs: StudyInputs) -> list[tuple[str, ...]]:
    """Patterns of the variables that the tables of the study compare."""
    tables = inputs.config.group_table
    return [patterns for each in tables for patterns in (each.variables, *each.families.values())]


def _variables(inputs: StudyInputs, columns: Iterable[str]) -> list[str]:
    """The variables that a table of the study compares, each once."""
    names = [name for patterns in _patterns(inputs) for each in patterns for name in fitting(columns, each)]
    return list(dict.fromkeys(names))
