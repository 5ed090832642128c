"""The study as stages: from the table of participants and their images to the report.

Everything is written below the folder of the results:

    participants.tsv        those who are in the study
    maps/                   iron, myelin and their content
    regions/                where a condition leaves some out, 4D images of labels, lesions, Jacobians
    underlay.nii.gz         anatomy for pictures
    design.mat, design.con
    voxelwise/              what `gpuvox randomise` writes, for each map
    clusters/               what `gpuvox clusters` writes, for each map and direction
    rois.tsv                what `gpuvox rois` writes
    features.tsv            a column for every variable: table, regions, clusters
    groups/, models/        tables
    study.json, report.html
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files, ironmyelin, participants
from gpuvox.analysis import Options
from gpuvox.application import execute as randomise
from gpuvox.application.command import Command
from gpuvox.application.outputs import Wanted
from gpuvox.errors import AnotherRunError, FileError
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
from gpuvox.study import report
from gpuvox.study.ledger import Ledger
from gpuvox.study.measures import clusters, rois
from gpuvox.study.pipeline import config as config_
from gpuvox.study.pipeline import stages
from gpuvox.study.pipeline.checks import check_maps, oddities
from gpuvox.study.pipeline.config import IRONMYELIN, slug
from gpuvox.study.pipeline.inputs import IMAGES, REGION_IMAGES, Comparison, StudyInputs, copy_stage
from gpuvox.study.pipeline.manifest import describe
from gpuvox.study.pipeline.stages import Stage
from gpuvox.study.statistics import clinical, groups
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.tables.columns import fitting, indicators, matching
from gpuvox.tables.conditions import select
from gpuvox.tables.reading import MISSING, gather
from gpuvox.tables.relocate import relocated
from gpuvox.tfce import Tfce

Models = clinical.Regression | clinical.Correlations | clinical.SampleSizes


@dataclass(frozen=True, eq=False)
class Pipeline(StudyInputs):
    """The stages of a study."""

    # -- stages -------------------------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """All of them, in order.

        Raises
        ------
        FileError
            Something that the configuration names does not exist.
        """
        config = self.config
        found = [self._participants()]
        if config.ironmyelin is not None:
            found.append(self._ironmyelin())
        found += [self._copy(name, image) for name, image in self.copied.items()]
        if config.template is not None:
            found.append(self._underlay())
        if config.voxelwise is not None:
            found.append(self._design())
            found += [self._voxelwise(name) for name in dict.fromkeys(c.map for c in self.comparisons)]
        if config.clusters is not None:
            found += [self._clusters(comparison) for comparison in self.comparisons]
        if config.rois is not None:
            found.append(self._rois())
        if self.maps and config.template is not None:
            found.append(self._checks())
        found.append(self._features(tuple(stage.name for stage in found)))
        found += [*self._group_tables(), *self._models()]
        return found

    def _stage(
        self,
        name: str,
        settings: Any,
        outputs: tuple[str, ...],
        work: Callable[[Reporter], None],
        after: tuple[str, ...] = (),
        sources: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Stage:
        return Stage(
            name,
            settings if isinstance(settings, Mapping) else asdict(settings),
            outputs,
            work,
            after,
            sources or {},
        )

    def _participants(self) -> Stage:
        """Those who are in the study; paths in the table are made relative to the results."""
        rois_columns = (
            ()
            if self.config.rois is None
            else (self.config.rois.labels, self.config.rois.lesions, self.config.rois.jacobian)
        )
        with_paths = [c for c in dict.fromkeys((*IMAGES, *rois_columns)) if c in self.cohort.columns]

        def work(reporter: Reporter) -> None:
            table = relocated(self.cohort, source, self.path("participants.tsv")).copy()
            for column in with_paths:
                table[column] = [
                    value if value.strip() in MISSING else self._relative(path)
                    for value, path in zip(self.cohort[column], self._paths(column))
                ]
            files.write_table(self.path("participants.tsv"), table)
            counts = self.members.value_counts()
            reporter.say("  " + ", ".join(f"{name} {counts[name]}" for name in self.config.groups.order))
            for line in self.left_out.lines():
                reporter.say(f"  {line}")

        source = self.config.file(self.config.study.table)
        settings = {"groups": asdict(self.config.groups), "paths": with_paths}
        return self._stage("participants", settings, ("participants.tsv",), work, sources={"table": (source,)})

    def _ironmyelin(self) -> Stage:
        given = self.config.ironmyelin
        assert given is not None
        names = [column for column in IMAGES if column in self.cohort.columns]
        options = self.ironmyelin_options

        def work(reporter: Reporter) -> None:
            os.makedirs(self.path("maps"), exist_ok=True)
            command = ironmyelin.Command(
                out=self.path("maps"), table=self.path("participants.tsv"), device=self.config.study.device,
                line=self.line, **options,
            )  # fmt: skip
            with self.config.reading(("ironmyelin",)):
                ironmyelin.execute(command, reporter.progress, reporter.warn)

        sources = {name: self._column_files(name) for name in names}
        for name in ("mask", "model"):
            if options[name]:
                sources[name] = self._of_image(options[name]) if name == "mask" else (options[name],)
        made = tuple(f"maps/{name}.*" for name in IRONMYELIN if name in self.maps)
        made += ("maps/csf_reference.tsv",) if given.reference != "none" else ()
        settings = asdict(given) | {"images": self._cells(*names)}
        return self._stage("iron and myelin", settings, made, work, sources=sources)

    def _copy(self, name: str, given: str) -> Stage:
        """The volumes of a given image that are of those in the study."""

        def work(reporter: Reporter) -> None:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            header = files.read_header(given)
            grid = header.grid(np.ones(header.shape[:3], dtype=bool))
            label = files.Label(f"gpuvox: {os.path.basename(name)} of those in the study")
            opened = files.open_map(self.path(name), grid, header, len(self.cohort), label=label)
            beside = participants.sidecar(self.path(name), self.cohort["participant_id"].tolist())
            with beside, opened as (_, write):
                for values, is_chosen in zip(files.read_volumes(given), self._is_chosen):
                    if is_chosen:
                        write(values)

        settings = {"everyone": self.everyone["participant_id"].tolist(), "chosen": self._is_chosen.tolist()}
        sources = {"image": self._of_image(given)}
        return self._stage(copy_stage(name), settings, (f"{name}.*",), work, sources=sources)

    def _underlay(self) -> Stage:
        """Mean R1 of everyone, or the mean of the first map, unless an image is given."""
        assert self.config.template is not None
        given = self.config.file(self.config.template.underlay)
        first = next(iter(self.maps), "")
        after, sources = self._of_maps(first) if first else ((), {})
        if given:
            after, sources = (), {"underlay": self._of_image(given)}
        elif "r1" in self.cohort.columns:
            after, sources = (), {"r1": self._column_files("r1")}
        images = (
            [given] if given else self._images("r1") if "r1" in self.cohort.columns else [self.maps[first].image]
        )

        def work(reporter: Reporter) -> None:
            header = files.read_header(images[0])
            grid = header.grid(np.ones(header.shape[:3], dtype=bool))
            total, n = np.zeros(grid.n_voxels), 0
            for image in images:
                files.check_grid(files.read_header(image), grid, header.path)
                for values in files.read_volumes(image):
                    total += np.nan_to_num(values)
                    n += 1
            label = files.Label("gpuvox: mean image")
            files.write_map(self.path("underlay"), (total / n).astype(np.float32), grid, header, label=label)

        return self._stage("underlay", {"given": bool(given)}, ("underlay.*",), work, after, sources)

    def _design(self) -> Stage:
        groups = self.config.groups

        def work(reporter: Reporter) -> None:
            self.design.write(
                self.path("design"), participants.of_table(self.cohort, self.path("participants.tsv"))
            )
            for said in self.design.concerns():
                reporter.warn(said)

        settings = {"order": groups.order, "cells": self._cells(groups.column, *groups.covariates)}
        return self._stage("design", settings, ("design.mat", "design.con", "design_design.json"), work)

    def _voxelwise(self, name: str) -> Stage:
        given, study = self.config.voxelwise, self.config.study
        assert given is not None
        assert self.config.template is not None
        mask = self.config.file(self.config.template.mask)
        tfce = Tfce(H=given.tfce_height, E=given.tfce_extent, connectivity=given.connectivity, delta="robust")

        def work(reporter: Reporter) -> None:
            os.makedirs(self.path("voxelwise"), exist_ok=True)
            options = Options(
                statistics=Statistics(voxel=False, tfce=tfce), n_permutations=given.permutations, seed=study.seed,
                variance_mm=given.variance_smoothing, threads=study.threads or None,
            )  # fmt: skip
            checkpoint = self.path(f"voxelwise/{name}_checkpoint.tally")
            command = Command(
                self.maps[name].image, self.path(f"voxelwise/{name}"), mask, self.path("design.mat"),
                self.path("design.con"), options=options, device=study.device, line=self.line,
                wanted=Wanted(nulls=True),
            )  # fmt: skip
            _go_on(replace(command, checkpoint=checkpoint, resume=os.path.exists(checkpoint)), reporter)

        settings = {k: v for k, v in asdict(given).items() if k != "maps"} | {
            "seed": study.seed,
            "tfce_step": "robust",
        }
        after, sources = self._of_maps(name)
        outputs = (
            f"voxelwise/{name}_tstat?.*",
            f"voxelwise/{name}_tfce_corrp_*",
            f"voxelwise/{name}_randomise.json",
        )
        sources |= self._of_template("mask")
        return self._stage(f"voxelwise {name}", settings, outputs, work, ("design", *after), sources)

    def _clusters(self, comparison: Comparison) -> Stage:
        given, template, groups = self.config.clusters, self.config.template, self.config.groups
        assert given is not None
        assert template is not None
        image, root = self.maps[comparison.map].image, self.path(f"voxelwise/{comparison.map}")
        atlas, names, mask = (self.config.file(name) for name in (template.labels, template.names, template.mask))

        def work(reporter: Reporter) -> None:
            os.makedirs(self.path("clusters"), exist_ok=True)
            command = clusters.Command(
                f"{root}_tfce_corrp_tstat{comparison.contrast}", self.path(f"clusters/{comparison.name}"),
                f"{root}_tstat{comparison.contrast}", given.p, given.extent, given.connectivity, mask, atlas, names,
                image, self.path("participants.tsv"), groups.covariates, self.reference,
            )  # fmt: skip
            clusters.execute(command, indented(reporter))

        after, sources = self._of_maps(comparison.map)
        sources |= self._of_template("mask", "labels", "names")
        settings = asdict(given) | self._adjustment
        name = f"clusters/{comparison.name}"
        outputs = (f"{name}.tsv", f"{name}.nii*", f"{name}_subjects.tsv")
        after = (*after, f"voxelwise {comparison.map}")
        return self._stage(f"clusters {comparison.name}", settings, outputs, work, after, sources)

    def _rois(self) -> Stage:
        given, template = self.config.rois, self.config.template
        assert given is not None
        chosen = given.maps or tuple(self.maps)
        after, sources = self._of_maps(*chosen)
        images: dict[str, str] = {}
        for kind in REGION_IMAGES:
            image = images[kind] = self.region_image(kind)
            if f"regions/{kind}" in self.copied:
                after = (*after, copy_stage(f"regions/{kind}"))
            elif image:
                in_table = image in self.cohort.columns
                sources[kind] = self._column_files(image) if in_table else self._of_image(image)
        names = self.config.file(given.names or (template.names if template else ""))
        if names:
            sources["names"] = (names,)

        def work(reporter: Reporter) -> None:
            command = rois.Command(
                self.path("participants.tsv"), images["labels"], {name: self.maps[name].image for name in chosen},
                self.path("rois.tsv"), names, given.merge, images["jacobian"], images["lesions"], given.head_size,
                given.erosion,
            )  # fmt: skip
            rois.execute(command, reporter)

        used = [c for c in (*images.values(), given.head_size) if c in self.cohort.columns]
        settings = asdict(given) | {"maps": chosen, "cells": self._cells(*used)}
        return self._stage("regions", settings, ("rois.tsv",), work, after, sources)

    def _checks(self) -> Stage:
        """What is odd about somebody's maps within the mask."""
        assert self.config.template is not None
        mask = self.config.file(self.config.template.mask)
        after, sources = self._of_maps(*self.maps)
        sources |= self._of_template("mask")

        def work(reporter: Reporter) -> None:
            images = {name: each.image for name, each in self.maps.items()}
            found = check_maps(images, mask, self.cohort["participant_id"].tolist())
            files.write_table(self.path("checks.tsv"), found)
            for text in oddities(found):
                reporter.warn(text)

        settings = self._cells() | {"maps": list(self.maps)}
        return self._stage("checks", settings, ("checks.tsv",), work, after, sources)

    def _features(self, after: tuple[str, ...]) -> Stage:
        """A column for every variable, and the z-scores that the report draws."""
        patterns = self.config.report.zscores

        def work(reporter: Reporter) -> None:
            found = self.features()
            files.write_table(self.path("features.tsv"), found)
            files.write_table(self.path("zscores.tsv"), self._zscores(found, reporter))

        groups = self.config.groups
        settings = {"zscores": patterns, "covariates": groups.covariates, "reference": self.reference}
        settings["column"] = groups.column
        return self._stage("variables", settings, ("features.tsv", "zscores.tsv"), work, after)

    def features(self) -> pd.DataFrame:
        """Participants with every variable; see `tables.gather`."""
        given = {c.name: self.path(f"clusters/{c.name}_subjects.tsv") for c in self.comparisons}
        return gather(
            self.path("participants.tsv"),
            self.path("rois.tsv") if self.config.rois is not None else None,
            given if self.config.clusters is not None else None,
        )

    def _zscores(self, found: pd.DataFrame, reporter: Reporter) -> pd.DataFrame:
        groups = self.config.groups
        patterns = self._surviving(self.config.report.zscores, reporter, found.columns)
        chosen = matching(found.columns, patterns, f"{self.config.path}, report.zscores")
        covariates = indicators(found, groups.covariates).to_numpy()
        inside = select(found, self.reference)
        z = {}
        for name in chosen:
            if not pd.api.types.is_numeric_dtype(found[name]):
                reporter.warn(f"{name} has no z-score: it is text; numbers are expected")
                continue
            try:
                z[name] = adjusted(found[name].to_numpy(), covariates, inside)
            except ValueError as error:
                reporter.warn(f"{name} has no z-score: {error}")
        return pd.DataFrame({"participant_id": found["participant_id"], groups.column: found[groups.column], **z})

    # -- tables -------------------------------------------------------------------------------------------------

    def _group_tables(self) -> list[Stage]:
        """Demographics, and analyses of covariance."""
        found = []
        given = self.config.demographics
        if given is not None:
            options = {"demographics": given.variables, "tests": given.tests}
            found.append(self._group_table(("demographics",), "demographics", options))
        for number, table in enumerate(self.config.group_table):
            options = {name: value for name, value in asdict(table).items() if name != "title"}
            options["covariates"] = self.config.groups.covariates if table.covariates is None else table.covariates
            found.append(self._group_table(("group_table", number), slug(table.title), options))
        return found

    def _group_table(self, where: tuple[str | int, ...], file: str, options: Mapping[str, Any]) -> Stage:
        """A table of groups; where all its variables are of clusters that did not survive, a note of that."""
        out, study = f"groups/{file}", self.config.groups
        name = f"group table {file}" if len(where) > 1 else file

        def work(reporter: Reporter) -> None:
            os.makedirs(self.path("groups"), exist_ok=True)
            left = self._surviving_options(options, reporter)
            if not (left.get("variables") or left.get("families") or left.get("demographics")):
                self._note(out, f"{name}: nothing to compare, for no cluster survived that it is about", reporter)
                return
            command = groups.Command(
                table=self.path("features.tsv"), group=study.column, order=study.order, out=self.path(out), **left
            )
            with self.config.reading(where):
                groups.execute(command, indented(reporter))

        settings = dict(options) | {"group": study.column, "order": study.order}
        return self._stage(name, settings, (f"{out}.json", f"{out}*"), work, ("variables",))

    def _surviving_options(self, options: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
        """Those of a table of groups, without variables that there are not."""
        left, columns = dict(options), self._feature_columns()
        for key in ("variables", "demographics", "log"):
            if key in left:
                left[key] = self._surviving(left[key], reporter, columns)
        if "families" in left:
            families = {
                n: self._surviving(patterns, reporter, columns) for n, patterns in left["families"].items()
            }
            left["families"] = {name: patterns for name, patterns in families.items() if patterns}
        if "tests" in left:
            left["tests"] = {
                n: test for n, test in left["tests"].items() if self._surviving((n,), reporter, columns)
            }
        return left

    def _note(self, out: str, note: str, reporter: Reporter) -> None:
        """In place of a table."""
        reporter.warn(note)
        files.write_json(self.path(f"{out}.json"), {"note": note})

    def _models(self) -> list[Stage]:
        config = self.config
        found = []
        for number, regression in enumerate(config.regression):
            found.append(self._model(("regression", number), regression, self._regression))
        for number, correlation in enumerate(config.correlation):
            found.append(self._model(("correlation", number), correlation, self._correlation))
        for number, size in enumerate(config.sample_size):
            found.append(self._model(("sample_size", number), size, self._sample_size))
        return found

    def _model(self, where: tuple[str, int], given: Any, make: Callable[[Any, Reporter], Models | None]) -> Stage:
        """A table of models; where all its variables are of clusters that did not survive, a note of that."""
        kind = where[0].replace("_", "")
        out = f"models/{slug(given.title)}/{kind}"

        def work(reporter: Reporter) -> None:
            os.makedirs(os.path.dirname(self.path(out)), exist_ok=True)
            command = make(given, reporter)
            if command is None:
                self._note(
                    out, f"{given.title}: nothing to model, for no cluster survived that it is about", reporter
                )
                return
            with self.config.reading(where):
                clinical.execute(command, self.path(out), indented(reporter))

        groups, study = self.config.groups, self.config.study
        settings = asdict(given) | {"groups": asdict(groups), "seed": study.seed}
        return self._stage(
            f"{kind} {slug(given.title)}", settings, (f"{out}.json", f"{out}*"), work, ("variables",)
        )

    def _regression(self, given: config_.Regression, reporter: Reporter) -> Models | None:
        each = self._surviving(given.each, reporter)
        blocks = {name: self._surviving(names, reporter) for name, names in given.blocks.items()}
        blocks = {name: names for name, names in blocks.items() if names}
        if not self._surviving((given.outcome,), reporter) or (not each and (given.each or not blocks)):
            return None
        options = {name: getattr(given, name) for name in ("outcome", "subset", "log", "bootstrap", "correction")}
        adjusted = self._surviving(given.adjusted, reporter)
        return clinical.Regression(
            table=self.path("features.tsv"), blocks=blocks, each=each, adjusted=adjusted,
            adjust=self.config.groups.covariates if adjusted else (), reference=self.reference if adjusted else "",
            seed=self.config.study.seed, **options,
        )  # fmt: skip

    def _correlation(self, given: config_.Correlation, reporter: Reporter) -> Models | None:
        x, y = self._surviving(given.x, reporter), self._surviving(given.y, reporter)
        options = {n: v for n, v in asdict(given).items() if n not in ("title", "x", "y")}
        if not (x and y):
            return None
        return clinical.Correlations(
            table=self.path("features.tsv"), x=x, y=y, seed=self.config.study.seed, **options
        )

    def _sample_size(self, given: config_.SampleSize, reporter: Reporter) -> Models | None:
        variables = self._surviving(given.variables, reporter)
        if not variables:
            return None
        groups = self.config.groups
        return clinical.SampleSizes(
            table=self.path("features.tsv"), variables=variables, group=groups.column, order=groups.order,
            covariates=groups.covariates, power=given.power, alpha=given.alpha, reduction=given.reduction,
        )  # fmt: skip

    def _feature_columns(self) -> pd.Index:
        return files.read_table(self.path("features.tsv"), []).columns

    def _surviving(
        self, patterns: tuple[str, ...], reporter: Reporter, columns: Iterable[str] | None = None
    ) -> tuple[str, ...]:
        """Names without those of clusters where no cluster survived."""
        columns = self._feature_columns() if columns is None else columns
        clusters = [c.name for c in self.comparisons]
        gone = []
        for pattern in patterns:
            name, _, number = pattern.partition(".")
            if name in clusters and not fitting(columns, pattern):
                which = "no cluster" if f"{name}.1" not in columns else f"no cluster {number.split('.')[0]}"
                reporter.warn(f"{pattern} is left out: {which} of {name} survived")
                gone.append(pattern)
        return tuple(pattern for pattern in patterns if pattern not in gone)

    def report(self, ledger: Ledger, others: Sequence[Stage]) -> Stage:
        """The last stage: ``study.json`` and the report, of all the others."""

        def work(reporter: Reporter) -> None:
            files.write_json(self.path("study.json"), describe(self, ledger))
            # Written here: it names what the user's configuration names, wherever that lies.
            report.execute(self.path("study.json"), self.path("report.html"), Reporter.silent(), within="/")

        after = tuple(stage.name for stage in others)
        settings = {"title": self.config.study.title, "text": self.config.text}
        sources = self._of_template("mask", "labels", "names", "underlay")
        return self._stage("report", settings, ("study.json", "report.html"), work, after, sources)


def indented(reporter: Reporter) -> Reporter:
    """The same reporter; lines stand below that of their stage."""
    return replace(reporter, say=lambda text: reporter.say(f"  {text}"))


def _go_on(command: Command, reporter: Reporter) -> None:
    """Run a permutation test from where an interrupted study left it, or from the beginning where that does not fit."""

    def say(text: str) -> None:
        if text.startswith("Resuming"):
            reporter.say(f"  {text}")

    def warn(text: str) -> None:
        reporter.warn(text.replace("--resume goes on", "the next gpuvox study goes on"))

    try:
        randomise.execute(command, say, warn, reporter.progress)
    except AnotherRunError:
        os.remove(command.checkpoint)
        randomise.execute(replace(command, resume=False), say, warn, reporter.progress)


def listing(pipeline: Pipeline) -> list[str]:
    """What a run would do, a line for each stage."""
    pipeline.check()
    ledger = Ledger.open(pipeline.config.out)
    work = pipeline.stages()
    stages.check_names(work)
    planned = stages.plan([*work, pipeline.report(ledger, work)], ledger)
    return [f"{'run ' if step.reason else 'skip'}  {step.stage.name}{_because(step.reason)}" for step in planned]


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def execute(pipeline: Pipeline, reporter: Reporter) -> None:
    """Run a study: whatever is not up to date.

    Raises
    ------
    FileError, ValueError
        One sentence that says what is wrong. What was done before stays, and is not done again.
    """
    out = pipeline.config.out
    pipeline.check()
    Ledger.open(out)
    work = pipeline.stages()
    stages.check_names(work)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {out} cannot be made: {error.strerror}") from None
    with stages.locked(out, reporter.warn):
        ledger = Ledger.open(out)
        work = [*work, pipeline.report(ledger, work)]
        stages.remove_others(ledger, [stage.name for stage in work])
        stages.run(work, ledger, reporter, summary="report")
    for line in report.headlines(pipeline.path("study.json"), within="/"):
        reporter.say(line)
    reporter.say(f"Report: {pipeline.path('report.html')}")
