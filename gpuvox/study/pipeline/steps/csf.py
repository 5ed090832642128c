"""Stages that ask how conclusions depend on the reference in cerebrospinal fluid (CSF) and on the model."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpuvox import files
from gpuvox.qmri import TissueModel
from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.statistics import coefficients, csf
from gpuvox.study.statistics.ancova import ANCOVA, explained
from gpuvox.tables.columns import fitting
from gpuvox.tables.reading import read_participants, typed


def csf_stages(inputs: StudyInputs) -> list[Stage]:
    """One stage if the maps are referenced to CSF, and two groups are compared."""
    section, groups = inputs.config.ironmyelin, inputs.config.groups
    if section is None or not inputs.compares_csf:
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


def coefficient_stages(inputs: StudyInputs) -> list[Stage]:
    """One stage if iron and myelin are measured in regions, and an error of the coefficients is assumed."""
    section, groups = inputs.config.ironmyelin, inputs.config.groups
    maps = (inputs.config.rois.maps or tuple(inputs.maps)) if inputs.config.rois is not None else ()
    if section is None or not section.coefficient_error or not {"iron", "myelin"} <= set(maps):
        return []
    error, path = section.coefficient_error, inputs.ironmyelin_options["model"]

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("csf"), exist_ok=True)
        table = read_participants(inputs.path("features.tsv"))
        model = TissueModel.read(path) if path else TissueModel.default()
        comparison = csf.Comparison(table, groups.column, groups.order, groups.covariates)
        models = coefficients.drawn_models(model, error, seed=inputs.config.study.seed)
        rows = coefficients.dependence(comparison, _variables(inputs, table.columns), model, models)
        files.write_table(inputs.path(csf.DEPENDENCE), rows)
        about = {"name": model.name, "citation": model.citation}
        files.write_json(inputs.path(csf.DEPENDENCE_RECORD), coefficients.record_of(error, len(models), about))
        for text in coefficients.concerns(rows, error):
            reporter.warn(text)

    settings = {
        "error": error, "group": groups.column, "order": groups.order, "covariates": groups.covariates,
        "variables": [list(patterns) for patterns in _patterns(inputs)], "seed": inputs.config.study.seed,
    }  # fmt: skip
    sources = {"model": (path,)} if path else {}
    outputs = (csf.DEPENDENCE, csf.DEPENDENCE_RECORD)
    return [Stage("coefficients", settings, outputs, work, ("variables",), sources)]


def _patterns(inputs: StudyInputs) -> list[tuple[str, ...]]:
    """Patterns of the variables that the tables of the study compare."""
    tables = inputs.config.group_table
    return [patterns for each in tables for patterns in (each.variables, *each.families.values())]


def _variables(inputs: StudyInputs, columns: Iterable[str]) -> list[str]:
    """The variables that a table of the study compares, each once."""
    names = [name for patterns in _patterns(inputs) for each in patterns for name in fitting(columns, each)]
    return list(dict.fromkeys(names))
