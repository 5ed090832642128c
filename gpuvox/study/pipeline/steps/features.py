"""The stage that gathers a column for every variable; and which variables there are in the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from gpuvox import files
from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.statistics.adjustment import z_scores
from gpuvox.tables.columns import fitting, indicators, matching
from gpuvox.tables.conditions import evaluate, select
from gpuvox.tables.reading import gather, read_participants, with_columns


def feature_stage(inputs: StudyInputs, after: tuple[str, ...]) -> Stage:
    """Write ``features.tsv``, a column for every variable, and the z-scores that the report draws."""
    groups, patterns = inputs.config.groups, inputs.config.report.zscores

    def work(reporter: Reporter) -> None:
        features = _derived(inputs, _features(inputs))
        files.write_table(inputs.path("features.tsv"), features)
        files.write_table(inputs.path("zscores.tsv"), _z_scores(inputs, features, reporter))

    settings: dict[str, Any] = {
        "zscores": patterns,
        "covariates": groups.covariates,
        "reference": inputs.reference,
    }
    settings |= {"column": groups.column, "derived": dict(inputs.config.derived)}
    return Stage("variables", settings, ("features.tsv", "zscores.tsv"), work, after)


def _features(inputs: StudyInputs) -> pd.DataFrame:
    """Participants with every variable; see `gather`."""
    volumes = inputs.path("volumes.tsv") if inputs.config.volumes else None
    clusters = {c.name: inputs.path(f"clusters/{c.name}_subjects.tsv") for c in inputs.comparisons}
    features = gather(
        inputs.path("participants.tsv"),
        inputs.path("rois.tsv") if inputs.config.rois is not None else None,
        clusters if inputs.config.clusters is not None else None,
    )
    if volumes is None:
        return features
    added = read_participants(volumes).set_index("participant_id").loc[features["participant_id"]]
    return with_columns(features, added.reset_index(drop=True))


def _derived(inputs: StudyInputs, features: pd.DataFrame) -> pd.DataFrame:
    """The variables, and those that the configuration derives from them, in its order."""
    for name, expression in inputs.config.derived.items():
        with inputs.config.reading(("derived", name)):
            column = pd.DataFrame({name: evaluate(features, expression)}, index=features.index)
        features = with_columns(features, column)
    return features


def _z_scores(inputs: StudyInputs, features: pd.DataFrame, reporter: Reporter) -> pd.DataFrame:
    groups, config = inputs.config.groups, inputs.config
    patterns = surviving(inputs, config.report.zscores, reporter, features.columns)
    names = matching(features.columns, patterns, f"{config.path}, report.zscores")
    covariates = indicators(features, groups.covariates).to_numpy()
    scores, failures = z_scores(features[names], covariates, select(features, inputs.reference))
    for name, reason in failures.items():
        reporter.warn(f"{name} has no z-score: {reason}")
    who = ["participant_id", *([groups.column] if inputs.has_groups else [])]
    return pd.concat([features[who], scores], axis=1)


def feature_columns(inputs: StudyInputs) -> pd.Index:
    """Names of the variables that there are."""
    return files.read_table(inputs.path("features.tsv"), []).columns


def surviving(
    inputs: StudyInputs, patterns: Iterable[str], reporter: Reporter, columns: Iterable[str] | None = None
) -> tuple[str, ...]:
    """The names and patterns, without those of clusters that did not survive, about which there is a warning."""
    known = list(feature_columns(inputs) if columns is None else columns)
    clusters = [comparison.name for comparison in inputs.comparisons]
    kept = []
    for pattern in patterns:
        name, _, number = pattern.partition(".")
        if name not in clusters or fitting(known, pattern):
            kept.append(pattern)
            continue
        which = "no cluster" if f"{name}.1" not in known else f"no cluster {number.split('.')[0]}"
        reporter.warn(f"{pattern} is excluded: {which} of {name} survived")
    return tuple(kept)


def write_note(inputs: StudyInputs, out: str, note: str, reporter: Reporter) -> None:
    """Write a note in place of a table, and warn."""
    reporter.warn(note)
    files.write_json(inputs.path(f"{out}.json"), {"note": note})
