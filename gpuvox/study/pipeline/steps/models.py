"""Stages of the clinical models: regressions, correlations and sample sizes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from gpuvox.reporter import Reporter
from gpuvox.study.pipeline import config as sections
from gpuvox.study.pipeline.config import slug
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage, indented
from gpuvox.study.pipeline.steps.features import surviving, write_note
from gpuvox.study.statistics import clinical

Command = clinical.Regression | clinical.Correlations | clinical.SampleSizes
Section = TypeVar("Section", sections.Regression, sections.Correlation, sections.SampleSize)


def model_stages(inputs: StudyInputs) -> list[Stage]:
    """A stage for each model."""
    config = inputs.config
    stages = [_model(inputs, ("regression", i), each, _regression) for i, each in enumerate(config.regression)]
    stages += [_model(inputs, ("correlation", i), each, _correlation) for i, each in enumerate(config.correlation)]
    stages += [_model(inputs, ("sample_size", i), each, _sample_size) for i, each in enumerate(config.sample_size)]
    return stages


def _model(
    inputs: StudyInputs,
    where: tuple[str, int],
    section: Section,
    make: Callable[[StudyInputs, Section, Reporter], Command | None],
) -> Stage:
    """A table of models, or a note if all its variables are of clusters that did not survive."""
    kind, groups = where[0].replace("_", ""), inputs.config.groups
    out = f"models/{slug(section.title)}/{kind}"

    def work(reporter: Reporter) -> None:
        os.makedirs(os.path.dirname(inputs.path(out)), exist_ok=True)
        command = make(inputs, section, reporter)
        if command is None:
            note = f"{section.title}: nothing to model, because none of its clusters survived"
            write_note(inputs, out, note, reporter)
            return
        with inputs.config.reading(where):
            clinical.execute(command, inputs.path(out), indented(reporter))

    settings = asdict(section) | {"groups": asdict(groups), "seed": inputs.config.study.seed}
    return Stage(f"{kind} {slug(section.title)}", settings, (f"{out}.json", f"{out}*"), work, ("variables",))


def _regression(inputs: StudyInputs, section: sections.Regression, reporter: Reporter) -> Command | None:
    each = surviving(inputs, section.each, reporter)
    blocks = {name: surviving(inputs, names, reporter) for name, names in section.blocks.items()}
    blocks = {name: names for name, names in blocks.items() if names}
    outcomes = surviving(inputs, section.outcomes, reporter)
    if not outcomes or (not each and (section.each or not blocks)):
        return None
    names = ("model", "event", "errors", "subset", "log", "sqrt", "rank", "ladder", "bootstrap", "strata")
    options = {name: getattr(section, name) for name in (*names, "correction")}
    adjusted = surviving(inputs, section.adjusted, reporter)
    return clinical.Regression(
        table=inputs.path("features.tsv"), outcome=outcomes, blocks=blocks, each=each, adjusted=adjusted,
        adjust=inputs.config.groups.covariates if adjusted else (), reference=inputs.reference if adjusted else "",
        seed=inputs.config.study.seed, **options,
    )  # fmt: skip


def _correlation(inputs: StudyInputs, section: sections.Correlation, reporter: Reporter) -> Command | None:
    x, y = surviving(inputs, section.x, reporter), surviving(inputs, section.y, reporter)
    if section.paired:  # both of a pair, or neither
        kept = [pair for pair in zip(section.x, section.y) if pair[0] in x and pair[1] in y]
        x, y = tuple(a for a, _ in kept), tuple(b for _, b in kept)
    options = {name: value for name, value in asdict(section).items() if name not in ("title", "x", "y")}
    if not (x and y):
        return None
    adjusted = surviving(inputs, section.adjusted, reporter)
    options |= {
        "adjusted": adjusted, "adjust": inputs.config.groups.covariates if adjusted else (),
        "reference": inputs.reference if adjusted else "",
    }  # fmt: skip
    return clinical.Correlations(
        table=inputs.path("features.tsv"), x=x, y=y, seed=inputs.config.study.seed, **options
    )


def _sample_size(inputs: StudyInputs, section: sections.SampleSize, reporter: Reporter) -> Command | None:
    variables, groups = surviving(inputs, section.variables, reporter), inputs.config.groups
    if not variables:
        return None
    return clinical.SampleSizes(
        table=inputs.path("features.tsv"), variables=variables, group=groups.column, order=groups.order,
        covariates=groups.covariates, power=section.power, alpha=section.alpha, reduction=section.reduction,
    )  # fmt: skip
