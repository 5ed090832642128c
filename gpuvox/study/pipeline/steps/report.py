"""The last stage: ``study.json`` and the report of everything before it."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import files
from gpuvox.reporter import Reporter
from gpuvox.study import report
from gpuvox.study.ledger import Ledger
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.manifest import describe
from gpuvox.study.pipeline.sources import of_template
from gpuvox.study.pipeline.stages import Stage


def report_stage(inputs: StudyInputs, ledger: Ledger, others: Sequence[Stage]) -> Stage:
    """Write ``study.json`` and ``report.html``."""

    def work(reporter: Reporter) -> None:
        files.write_json(inputs.path("study.json"), describe(inputs, ledger))
        # This study was just run: it may name every file that the user's configuration names, in any folder.
        report.execute(inputs.path("study.json"), inputs.path("report.html"), Reporter.silent(), within="/")

    after = tuple(stage.name for stage in others)
    settings = {"title": inputs.config.study.title, "text": inputs.config.text}
    sources = of_template(inputs, "mask", "labels", "names", "underlay")
    return Stage("report", settings, ("study.json", "report.html", "report_figures/*"), work, after, sources)
