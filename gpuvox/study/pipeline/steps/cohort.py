"""The stage that writes the table of the participants in the study."""

from __future__ import annotations

from dataclasses import asdict

from gpuvox import files
from gpuvox.reporter import Reporter
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.sources import relative
from gpuvox.study.pipeline.stages import Stage
from gpuvox.tables.reading import MISSING
from gpuvox.tables.relocate import relocated


def participants_stage(inputs: StudyInputs) -> Stage:
    """Write ``participants.tsv``; paths in the table are made relative to the results."""
    config, cohort = inputs.config, inputs.cohort
    columns = [*inputs.image_kinds, *inputs.stacked.values()]
    if config.rois is not None:
        columns += [config.rois.labels, config.rois.lesions, config.rois.jacobian]
    columns += inputs.volume_columns.values()
    with_paths = [column for column in dict.fromkeys(columns) if column in cohort.columns]

    def work(reporter: Reporter) -> None:
        table = relocated(cohort, inputs.table, inputs.path("participants.tsv")).copy()
        for column in with_paths:
            table[column] = [
                value if value.strip() in MISSING else relative(inputs, path)
                for value, path in zip(cohort[column], inputs.paths(column))
            ]
        files.write_table(inputs.path("participants.tsv"), table)
        counts = inputs.members.value_counts()
        reporter.say("  " + ", ".join(f"{name} {counts[name]}" for name in inputs.levels))
        for line in inputs.excluded.lines():
            reporter.say(f"  {line}")

    settings = {"groups": asdict(config.groups), "paths": with_paths}
    return Stage("participants", settings, ("participants.tsv",), work, sources={"table": (inputs.table,)})
