"""Stages of visits: their table, iron and myelin, regions, and linear mixed models of change."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from gpuvox import files, ironmyelin
from gpuvox.reporter import Reporter
from gpuvox.study.measures import rois
from gpuvox.study.pipeline.config import Mixed, slug
from gpuvox.study.pipeline.inputs import REGION_IMAGES, StudyInputs
from gpuvox.study.pipeline.sources import files_of, image_files, of_ironmyelin, of_model
from gpuvox.study.pipeline.stages import Stage, indented
from gpuvox.study.pipeline.visits import Visits
from gpuvox.study.statistics import clinical

TABLE, REGIONS = "visits/visits.tsv", "visits/rois.tsv"


def visit_stages(inputs: StudyInputs) -> list[Stage]:
    """The visits and what is measured at them, if the configuration has a table of them."""
    section = inputs.config.visits
    if section is None:
        return []
    visits = Visits(inputs, section)
    visits.check()
    stages = [_table(visits)]
    if visits.has_ironmyelin:
        stages.append(_ironmyelin(visits))
    if visits.has_regions:
        stages.append(_regions(visits))
    return [*stages, *(_model(visits, number, model) for number, model in enumerate(inputs.config.mixed))]


def _table(visits: Visits) -> Stage:
    inputs = visits.inputs
    out = inputs.path(TABLE)

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("visits"), exist_ok=True)
        files.write_table(out, visits.with_paths(out))
        for line in visits.left_out:
            reporter.say(f"  {line}")

    settings = {"participants": inputs.cohort.to_dict("list"), "images": visits.image_columns}
    return Stage("visits", settings, (TABLE,), work, ("participants",), {"table": (visits.path,)})


def _ironmyelin(visits: Visits) -> Stage:
    inputs = visits.inputs
    section, options = inputs.config.ironmyelin, inputs.ironmyelin_options
    assert section is not None

    def work(reporter: Reporter) -> None:
        command = ironmyelin.Command(
            out=inputs.path("visits"), table=inputs.path(TABLE), visit=visits.section.column,
            device=inputs.config.study.device, line=inputs.line, **options,
        )  # fmt: skip
        with inputs.config.reading(("ironmyelin",)):
            ironmyelin.execute(command, reporter)

    names = [name for name in visits.maps if name not in inputs.config.maps]
    outputs = tuple(f"visits/{name}.*" for name in names)
    outputs += ("visits/csf_reference.tsv",) if section.reference != "none" else ()
    sources = {name: files_of(visits.images(name)) for name in inputs.image_kinds if name in visits.rows.columns}
    sources |= of_ironmyelin(inputs)
    return Stage("iron and myelin of visits", asdict(section), outputs, work, ("visits",), sources)


def _regions(visits: Visits) -> Stage:
    inputs = visits.inputs
    section = inputs.config.rois
    assert section is not None
    images = {kind: visits.region_image(kind) for kind in REGION_IMAGES}
    chosen = {name: image for name, image in visits.maps.items() if name in (section.maps or visits.maps)}
    names = inputs.region_names

    def work(reporter: Reporter) -> None:
        command = rois.Command(
            inputs.path(TABLE), images["labels"], chosen, inputs.path(REGIONS), names, section.merge,
            images["jacobian"], images["lesions"], section.head_size, section.erosion, inputs.model_file,
            visits.section.column,
        )  # fmt: skip
        with inputs.config.reading(("rois",)):
            rois.execute(command, reporter)

    after = ("visits", *(["iron and myelin of visits"] if visits.has_ironmyelin else []))
    sources = ({"names": (names,)} if names else {}) | of_model(inputs)
    for image in dict.fromkeys([*images.values(), *chosen.values()]):
        if image in visits.rows.columns:
            sources[image] = files_of(visits.images(image))
        elif image and image not in (inputs.path(f"visits/{name}") for name in chosen):
            sources[image] = image_files(image)
    return Stage("regions of visits", asdict(section) | {"maps": list(chosen)}, (REGIONS,), work, after, sources)


def _model(visits: Visits, number: int, model: Mixed) -> Stage:
    inputs = visits.inputs
    out, section = f"models/{slug(model.title)}/mixed", visits.section
    order = visits.order_of(model)
    options = {name: value for name, value in asdict(model).items() if name not in ("title", "trial")}
    options |= {"order": order, "covariates": visits.covariates_of(model), "visits": model.trial}
    options |= {"time": section.time, "group": inputs.config.groups.column if order else ""}

    def work(reporter: Reporter) -> None:
        os.makedirs(os.path.dirname(inputs.path(out)), exist_ok=True)
        regions: dict[str, Any] = (
            {"rois": inputs.path(REGIONS), "visit": section.column} if visits.has_regions else {}
        )
        command = clinical.Mixed(table=inputs.path(TABLE), **regions, **options)
        with inputs.config.reading(("mixed", number)):
            clinical.execute(command, inputs.path(out), indented(reporter))

    after = ("visits", *(["regions of visits"] if visits.has_regions else []))
    return Stage(f"mixed {slug(model.title)}", options, (f"{out}.json", f"{out}*"), work, after)
