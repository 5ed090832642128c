"""Stages that ask how conclusions depend on the reference in cerebrospinal fluid (CSF) and on the model."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpuvox import files
from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.sources import of_model
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.statistics import coefficients, csf
from gpuvox.study.statistics.ancova import ANCOVA, explained
from gpuvox.tables.columns import fitting
from gpuvox.tables.reading import read_participants, typed


def csf_stages(inputs: StudyInputs) -> list[Stage]:
    """One stage if the maps are referenced to CSF, and groups are compared: every two of them."""
    section, groups = inputs.config.ironmyelin, inputs.config.groups
    if section is None or not inputs.compares_csf:
        return []
    reference = section.reference

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("csf"), exist_ok=True)
        table, path = read_participants(inputs.path("features.tsv")), inputs.path("maps/csf_reference.tsv")
        offsets = csf.offsets_of(typed(files.read_table(path, ["participant_id"])), table["participant_id"], path)
        variables, of_pairs = _variables(inputs, table.columns), {}
        for pair in inputs.pairs:
            comparison = csf.Comparison(table, groups.column, pair, groups.covariates)
            found = csf.compare_references(comparison, variables, offsets, reference)
            of_pairs[" - ".join(pair)] = found
            _warn(inputs, pair, csf.concerns(found, reference, inputs.units), reporter)
        for path, name in ((csf.COMPARISON, "compared"), (csf.SENSITIVITY_TABLE, "sensitivity")):
            tables = {pair: getattr(found, name) for pair, found in of_pairs.items()}
            files.write_table(inputs.path(path), csf.by_pair(tables))
        record = csf.record_of(reference, {pair: found.spread for pair, found in of_pairs.items()})
        record["columns"]["comparison"] = csf.columns_by_pair(explained(ANCOVA, groups.order), inputs.pairs)
        files.write_json(inputs.path(csf.RECORD), record)

    settings = {
        "reference": reference, "group": groups.column, "order": groups.order, "covariates": groups.covariates,
        "variables": [list(patterns) for patterns in _patterns(inputs)],
    }  # fmt: skip
    after = ("iron and myelin", "variables")
    return [Stage("CSF reference", settings, (csf.COMPARISON, csf.SENSITIVITY_TABLE, csf.RECORD), work, after)]


def _warn(inputs: StudyInputs, pair: tuple[str, str], texts: Iterable[str], reporter: Reporter) -> None:
    """Warn about two groups, which are named if there are more."""
    for text in texts:
        reporter.warn(text if len(inputs.pairs) == 1 else f"{' - '.join(pair)}: {text}")


def coefficient_stages(inputs: StudyInputs) -> list[Stage]:
    """One stage if iron and myelin are measured in regions, and an error of the coefficients is assumed."""
    section, groups = inputs.config.ironmyelin, inputs.config.groups
    maps = (inputs.config.rois.maps or tuple(inputs.maps)) if inputs.config.rois is not None else ()
    if section is None or not section.coefficient_error or not {"iron", "myelin"} <= set(maps) or not inputs.pairs:
        return []
    error = section.coefficient_error

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("csf"), exist_ok=True)
        table = read_participants(inputs.path("features.tsv"))
        model = inputs.model
        models = coefficients.drawn_models(
            model, coefficients.error_roots(model, error), seed=inputs.config.study.seed
        )
        errors, share = coefficients.described_errors(model, error)
        variables, of_pairs = _variables(inputs, table.columns), {}
        for pair in inputs.pairs:
            comparison = csf.Comparison(table, groups.column, pair, groups.covariates)
            rows = of_pairs[" - ".join(pair)] = coefficients.dependence(comparison, variables, model, models)
            _warn(inputs, pair, coefficients.concerns(rows, errors), reporter)
        files.write_table(inputs.path(csf.DEPENDENCE), csf.by_pair(of_pairs))
        about = {"name": model.name, "citation": model.citation}
        record = coefficients.record_of(share, len(models), about)
        record["columns"]["dependence"] = csf.columns_by_pair(coefficients.COLUMNS, inputs.pairs)
        files.write_json(inputs.path(csf.DEPENDENCE_RECORD), record)

    settings = {
        "error": error, "group": groups.column, "order": groups.order, "covariates": groups.covariates,
        "variables": [list(patterns) for patterns in _patterns(inputs)], "seed": inputs.config.study.seed,
    }  # fmt: skip
    outputs = (csf.DEPENDENCE, csf.DEPENDENCE_RECORD)
    return [Stage("coefficients", settings, outputs, work, ("variables",), of_model(inputs))]


def _patterns(inputs: StudyInputs) -> list[tuple[str, ...]]:
    """Patterns of the variables that the tables of the study compare."""
    tables = inputs.config.group_table
    return [patterns for each in tables for patterns in (each.variables, *each.families.values())]


def _variables(inputs: StudyInputs, columns: Iterable[str]) -> list[str]:
    """The variables that a table of the study compares, each once."""
    names = [name for patterns in _patterns(inputs) for each in patterns for name in fitting(columns, each)]
    return list(dict.fromkeys(names))
