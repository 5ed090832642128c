"""Stages of the voxelwise tests: the design, a permutation test of every map, and the clusters of every contrast."""

from __future__ import annotations

import os
from dataclasses import asdict, replace

from gpuvox import participants
from gpuvox.analysis import Options
from gpuvox.application.command import RunDescription
from gpuvox.application.execute import execute
from gpuvox.application.outputs import OutputOptions
from gpuvox.errors import AnotherRunError
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
from gpuvox.study.measures import clusters
from gpuvox.study.pipeline.inputs import Comparison, StudyInputs
from gpuvox.study.pipeline.sources import adjustment_settings, cells, of_maps, of_template
from gpuvox.study.pipeline.stages import Stage, indented
from gpuvox.tfce import Tfce


def voxelwise_stages(inputs: StudyInputs) -> list[Stage]:
    """The design, and a test of every map."""
    if inputs.config.voxelwise is None:
        return []
    return [_design(inputs), *(_test(inputs, name) for name in dict.fromkeys(c.map for c in inputs.comparisons))]


def cluster_stages(inputs: StudyInputs) -> list[Stage]:
    """The clusters of every map and direction."""
    if inputs.config.clusters is None:
        return []
    return [_clusters(inputs, comparison) for comparison in inputs.comparisons]


def _design(inputs: StudyInputs) -> Stage:
    groups = inputs.config.groups

    def work(reporter: Reporter) -> None:
        who = participants.of_table(inputs.cohort, inputs.path("participants.tsv"))
        inputs.design.write(inputs.path("design"), who)
        for text in inputs.design.concerns():
            reporter.warn(text)

    settings = {"order": groups.order, "cells": cells(inputs, groups.column, *groups.covariates)}
    return Stage("design", settings, ("design.mat", "design.con", "design_design.json"), work)


def _test(inputs: StudyInputs, name: str) -> Stage:
    section = inputs.config.voxelwise
    assert section is not None
    root = f"voxelwise/{name}"

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("voxelwise"), exist_ok=True)
        _resume(_describe(inputs, name, inputs.path(root)), reporter)

    settings = {key: value for key, value in asdict(section).items() if key != "maps"}
    settings |= {"seed": inputs.config.study.seed, "tfce_step": "robust"}
    after, sources = of_maps(inputs, name)
    outputs = (f"{root}_tstat?.*", f"{root}_tfce_corrp_*", f"{root}_randomise.json")
    sources |= of_template(inputs, "mask")
    return Stage(f"voxelwise {name}", settings, outputs, work, ("design", *after), sources)


def _describe(inputs: StudyInputs, name: str, root: str) -> RunDescription:
    section, template, study = inputs.config.voxelwise, inputs.config.template, inputs.config.study
    assert section is not None
    assert template is not None
    tfce = Tfce(H=section.tfce_height, E=section.tfce_extent, connectivity=section.connectivity, delta="robust")
    options = Options(
        statistics=Statistics(voxel=False, tfce=tfce), n_permutations=section.permutations, seed=study.seed,
        variance_mm=section.variance_smoothing, threads=study.threads or None,
    )  # fmt: skip
    return RunDescription(
        inputs.maps[name].image, root, inputs.config.file(template.mask), inputs.path("design.mat"),
        inputs.path("design.con"), options=options, device=study.device, line=inputs.line,
        outputs=OutputOptions(nulls=True), checkpoint=f"{root}_checkpoint.tally",
    )  # fmt: skip


def _resume(description: RunDescription, reporter: Reporter) -> None:
    """Run a test from the checkpoint of an interrupted study, or from the beginning if that is of other settings."""

    quiet = replace(reporter, say=Reporter.silent().say)
    try:
        done = execute(replace(description, resume=os.path.exists(description.checkpoint)), quiet)
    except AnotherRunError:
        os.remove(description.checkpoint)
        done = execute(description, quiet)
    if done:
        reporter.say(f"  Resumed from {description.checkpoint}: {done} permutations were already done")


def _clusters(inputs: StudyInputs, comparison: Comparison) -> Stage:
    config = inputs.config
    section, template = config.clusters, config.template
    assert section is not None
    assert template is not None
    image, root = inputs.maps[comparison.map].image, inputs.path(f"voxelwise/{comparison.map}")
    labels, names, mask = (config.file(name) for name in (template.labels, template.names, template.mask))

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("clusters"), exist_ok=True)
        command = clusters.Command(
            f"{root}_tfce_corrp_tstat{comparison.contrast}", inputs.path(f"clusters/{comparison.name}"),
            f"{root}_tstat{comparison.contrast}", section.p, section.extent, section.connectivity, mask, labels,
            names, image, inputs.path("participants.tsv"), config.groups.covariates, inputs.reference,
        )  # fmt: skip
        clusters.execute(command, indented(reporter))

    after, sources = of_maps(inputs, comparison.map)
    sources |= of_template(inputs, "mask", "labels", "names")
    name = f"clusters/{comparison.name}"
    outputs = (f"{name}.tsv", f"{name}.nii*", f"{name}_subjects.tsv")
    after = (*after, f"voxelwise {comparison.map}")
    settings = asdict(section) | adjustment_settings(inputs)
    return Stage(f"clusters {comparison.name}", settings, outputs, work, after, sources)
