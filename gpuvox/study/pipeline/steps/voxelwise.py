"""Stages of the voxelwise tests: the design, a permutation test of every map, and the clusters of every contrast."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gpuvox import files, participants
from gpuvox.analysis import Options
from gpuvox.application.command import RunDescription
from gpuvox.application.execute import execute
from gpuvox.application.outputs import OutputOptions
from gpuvox.errors import AnotherRunError
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
from gpuvox.study.measures import clusters
from gpuvox.study.measures.image_series import write_volumes
from gpuvox.study.pipeline.hypotheses import RunOfTests
from gpuvox.study.pipeline.inputs import Comparison, StudyInputs
from gpuvox.study.pipeline.sources import adjustment_settings, cells, of_maps, of_template
from gpuvox.study.pipeline.stages import Stage, indented
from gpuvox.tfce import Tfce


def voxelwise_stages(inputs: StudyInputs) -> list[Stage]:
    """The design, and the tests of every map."""
    section = inputs.config.voxelwise
    if section is None:
        return []
    names = list(dict.fromkeys(comparison.map for comparison in inputs.comparisons))
    return [
        _design(inputs),
        *(_difference(inputs, name, section.against[name]) for name in names if name in section.against),
        *(_test(inputs, name, run) for name in names for run in inputs.hypotheses.runs),
    ]


def cluster_stages(inputs: StudyInputs) -> list[Stage]:
    """The clusters of every map and direction."""
    if inputs.config.clusters is None:
        return []
    return [_clusters(inputs, comparison) for comparison in inputs.comparisons]


def _design(inputs: StudyInputs) -> Stage:
    groups, section = inputs.config.groups, inputs.config.voxelwise
    assert section is not None
    tested = inputs.hypotheses

    def work(reporter: Reporter) -> None:
        who = participants.of_table(inputs.cohort, inputs.path("participants.tsv"))
        tested.design.write(inputs.path("design"), who)
        for run in tested.runs:
            run.design.write(inputs.path(run.of("design")), who)
            _say_tests(run, reporter)
        for text in (*tested.warnings, *tested.runs[0].design.concerns()):
            reporter.warn(text)

    columns = [groups.column] if inputs.has_groups else []
    settings: dict[str, Any] = {"order": groups.order, "cells": cells(inputs, *columns, *groups.covariates)}
    if section.in_words:
        settings["designs"] = [_record_of(run) for run in tested.runs]
    endings = [f"{run.of('design')}{end}" for run in tested.runs for end in (".mat", ".con", "_design.json")]
    return Stage("design", settings, tuple(dict.fromkeys([*endings, "design.*"])), work)


def _say_tests(run: RunOfTests, reporter: Reporter) -> None:
    """Say what the tests of a run mean."""
    for test in run.tests:
        if test.sentence:
            reporter.say(f"  {test.title}: {test.sentence}")


def _record_of(run: RunOfTests) -> dict[str, Any]:
    """A design, as part of the settings of a stage."""
    design = run.design
    return {
        "matrix": design.matrix.tolist(), "contrasts": design.contrasts.tolist(), "f_tests": design.f_tests.tolist(),
        "blocks": None if design.blocks is None else design.blocks.tolist(), "names": design.names,
        "tests": [asdict(test) for test in run.tests],
    }  # fmt: skip


def _difference(inputs: StudyInputs, name: str, constant: float) -> Stage:
    """A map less the constant with which its mean is compared."""
    out = _minus(name)

    def work(reporter: Reporter) -> None:
        image, ids = inputs.maps[name].image, inputs.cohort["participant_id"].tolist()
        less = ((volume.astype(np.float64) - constant).astype(np.float32) for volume in files.read_volumes(image))
        os.makedirs(inputs.path("maps"), exist_ok=True)
        header, text = files.read_header(image), f"{name} minus {constant:g}"
        with ExitStack() as stack:
            write_volumes(stack, inputs.path(out), header, less, ids, text)

    after, sources = of_maps(inputs, name)
    return Stage(f"map {name} minus", {"constant": constant}, (f"{out}.*",), work, after, sources)


def _minus(name: str) -> str:
    return f"maps/{name}_minus"


def _is_minus(inputs: StudyInputs, name: str, run: RunOfTests) -> bool:
    """Whether the mean of a map is compared with a constant."""
    section = inputs.config.voxelwise
    return section is not None and run.is_mean and name in section.against


def _test(inputs: StudyInputs, name: str, run: RunOfTests) -> Stage:
    section = inputs.config.voxelwise
    assert section is not None
    root = run.of(f"voxelwise/{name}")

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("voxelwise"), exist_ok=True)
        _resume(_describe(inputs, name, run, inputs.path(root)), reporter)

    words = ("maps", "model", "tests", "against", "paired", "within", "blocks", "whole")
    settings = {key: value for key, value in asdict(section).items() if key not in words}
    settings |= {"seed": inputs.config.study.seed, "tfce_step": "robust"}
    after, sources = of_maps(inputs, name)
    if _is_minus(inputs, name, run):
        after = (*after, f"map {name} minus")
    kinds = dict.fromkeys("fstat" if test.is_f else "tstat" for test in run.tests)
    outputs = tuple(f"{root}_{each}" for kind in kinds for each in (f"{kind}?.*", f"tfce_corrp_{kind}*"))
    sources |= of_template(inputs, "mask")
    stage = _stage_of(name, run)
    return Stage(stage, settings, (*outputs, f"{root}_randomise.json"), work, ("design", *after), sources)


def _stage_of(name: str, run: RunOfTests) -> str:
    """Name of the stage that tests a map."""
    return f"voxelwise {name} {run.name}".rstrip()


def _describe(inputs: StudyInputs, name: str, run: RunOfTests, root: str) -> RunDescription:
    section, template, study = inputs.config.voxelwise, inputs.config.template, inputs.config.study
    assert section is not None
    assert template is not None
    tfce = Tfce(H=section.tfce_height, E=section.tfce_extent, connectivity=section.connectivity, delta="robust")
    options = Options(
        statistics=Statistics(voxel=False, tfce=tfce), n_permutations=section.permutations, seed=study.seed,
        variance_mm=section.variance_smoothing, threads=study.threads or None,
    )  # fmt: skip
    design = inputs.path(run.of("design"))
    return RunDescription(
        inputs.path(_minus(name)) if _is_minus(inputs, name, run) else inputs.maps[name].image, root,
        inputs.config.file(template.mask), f"{design}.mat", f"{design}.con",
        f"{design}.fts" if len(run.design.f_tests) else None,
        f"{design}.grp" if run.design.blocks is not None else None,
        options=run.options(options), device=study.device, line=inputs.line, outputs=OutputOptions(nulls=True),
        checkpoint=f"{root}_checkpoint.tally",
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
    image, root, fsl = inputs.maps[comparison.map].image, inputs.path(comparison.root), comparison.test.fsl
    labels, names, mask = (config.file(name) for name in (template.labels, template.names, template.mask))

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("clusters"), exist_ok=True)
        command = clusters.Command(
            f"{root}_tfce_corrp_{fsl}", inputs.path(f"clusters/{comparison.name}"), f"{root}_{fsl}", section.p,
            section.extent, section.connectivity, mask, labels,
            names, image, inputs.path("participants.tsv"), config.groups.covariates, inputs.reference,
        )  # fmt: skip
        clusters.execute(command, indented(reporter))

    after, sources = of_maps(inputs, comparison.map)
    sources |= of_template(inputs, "mask", "labels", "names")
    name = f"clusters/{comparison.name}"
    outputs = (f"{name}.tsv", f"{name}.nii*", f"{name}_subjects.tsv")
    after = (*after, _stage_of(comparison.map, comparison.run))
    settings = asdict(section) | adjustment_settings(inputs)
    return Stage(f"clusters {comparison.name}", settings, outputs, work, after, sources)
