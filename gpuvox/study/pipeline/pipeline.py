"""The study as stages: from the table of participants and their images to the report.

Everything is written below the folder of the results:

    participants.tsv        the participants in the study
    maps/                   iron, myelin and their content
    regions/                if a condition excludes rows of the table, 4D images of labels, lesions, Jacobians
    underlay.nii.gz         anatomy for pictures
    design.mat, design.con
    voxelwise/              output of `gpuvox randomise`, for each map
    clusters/               output of `gpuvox clusters`, for each map and direction
    rois.tsv                output of `gpuvox rois`
    features.tsv            a column for every variable: table, regions, clusters
    visits/                 of a table of visits: iron and myelin, regions
    groups/, models/        tables
    study.json, report.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gpuvox.errors import FileError
from gpuvox.reporter import Reporter
from gpuvox.study import report
from gpuvox.study.ledger import Ledger
from gpuvox.study.pipeline import stages
from gpuvox.study.pipeline.config import Config
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.pipeline.steps.cohort import participants_stage
from gpuvox.study.pipeline.steps.csf import coefficient_stages, csf_stages
from gpuvox.study.pipeline.steps.features import feature_stage
from gpuvox.study.pipeline.steps.groups import group_stages
from gpuvox.study.pipeline.steps.maps import check_stage, map_stages
from gpuvox.study.pipeline.steps.models import model_stages
from gpuvox.study.pipeline.steps.regions import region_stage, volume_stage
from gpuvox.study.pipeline.steps.report import report_stage
from gpuvox.study.pipeline.steps.visits import visit_stages
from gpuvox.study.pipeline.steps.voxelwise import cluster_stages, voxelwise_stages
from gpuvox.study.pipeline.validation import check_inputs


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A study that can be run.

    Attributes
    ----------
    config : Config
    line : tuple of str
        The command line, for the record.
    """

    config: Config
    line: tuple[str, ...] = ()

    @cached_property
    def inputs(self) -> StudyInputs:
        """Participants, maps, comparisons and variables."""
        return StudyInputs(self.config, self.line)

    def stages(self) -> list[Stage]:
        """All stages except the report, in order; the inputs are checked first.

        Raises
        ------
        InputError
            One sentence that names the key of the configuration and its line.
        """
        inputs, config = self.inputs, self.config
        check_inputs(inputs)
        work = [
            participants_stage(inputs),
            *map_stages(inputs),
            *voxelwise_stages(inputs),
            *cluster_stages(inputs),
        ]
        if config.rois is not None:
            work.append(region_stage(inputs))
        if config.volumes:
            work.append(volume_stage(inputs))
        if inputs.maps and config.template is not None:
            work.append(check_stage(inputs))
        work.append(feature_stage(inputs, tuple(stage.name for stage in work)))
        work += [*csf_stages(inputs), *coefficient_stages(inputs), *group_stages(inputs), *model_stages(inputs)]
        work += visit_stages(inputs)
        stages.check_names(work)
        return work


def listing(pipeline: Pipeline) -> list[str]:
    """What a run would do, one line per stage."""
    work, ledger = pipeline.stages(), Ledger.open(pipeline.config.out)
    planned = stages.plan([*work, report_stage(pipeline.inputs, ledger, work)], ledger)
    return [
        f"run   {each.stage.name}: {each.reason}" if each.reason else f"skip  {each.stage.name}"
        for each in planned
    ]


def execute(pipeline: Pipeline, reporter: Reporter) -> None:
    """Run all stages of a study that are not up to date.

    Raises
    ------
    InputError
        The message is one sentence. Finished stages are kept and not repeated.
    """
    inputs, out = pipeline.inputs, pipeline.config.out
    work = pipeline.stages()
    Ledger.open(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {out} cannot be made: {error.strerror}") from None
    with stages.locked(out, reporter.warn):
        ledger = Ledger.open(out)
        work = [*work, report_stage(inputs, ledger, work)]
        stages.remove_others(ledger, [stage.name for stage in work])
        stages.run(work, ledger, reporter, summary="report")
    for line in report.headlines(inputs.path("study.json"), within="/"):
        reporter.say(line)
    reporter.say(f"Report: {inputs.path('report.html')}")
