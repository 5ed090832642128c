"""Stages that make maps: iron and myelin, the images of the participants in the study, the underlay; and check them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np

from gpuvox import files, ironmyelin
from gpuvox.grid import Grid
from gpuvox.participants import Rows
from gpuvox.reporter import Reporter
from gpuvox.study.measures.image_series import (
    copy_volumes,
    counted,
    find_images,
    mean_image,
    on_grid,
    write_images,
)
from gpuvox.study.measures.map_checks import check_maps, warnings_about_maps
from gpuvox.study.pipeline.config import IRONMYELIN
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.study.pipeline.sources import (
    cells,
    column_files,
    copy_stage_name,
    image_files,
    of_ironmyelin,
    of_maps,
    of_template,
)
from gpuvox.study.pipeline.stages import Stage
from gpuvox.types import Float32


def map_stages(inputs: StudyInputs) -> list[Stage]:
    """Iron and myelin, copies of images, and the underlay, as far as the configuration asks for them."""
    config = inputs.config
    stages = [_ironmyelin(inputs)] if config.ironmyelin is not None else []
    stages += [_stack(inputs, name, column) for name, column in inputs.stacked.items()]
    stages += [_copy(inputs, name, image) for name, image in inputs.copied.items()]
    return [*stages, _underlay(inputs)] if inputs.has_underlay else stages


def _ironmyelin(inputs: StudyInputs) -> Stage:
    section, study = inputs.config.ironmyelin, inputs.config.study
    assert section is not None
    names = [column for column in inputs.image_kinds if column in inputs.cohort.columns]
    options = inputs.ironmyelin_options

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("maps"), exist_ok=True)
        command = ironmyelin.Command(
            out=inputs.path("maps"), table=inputs.path("participants.tsv"), device=study.device, line=inputs.line,
            **options,
        )  # fmt: skip
        with inputs.config.reading(("ironmyelin",)):
            ironmyelin.execute(command, reporter)

    sources = {name: column_files(inputs, name) for name in names}
    sources |= of_ironmyelin(inputs)
    outputs = tuple(f"maps/{name}.*" for name in IRONMYELIN if name in inputs.maps)
    outputs += ("maps/csf_reference.tsv",) if section.reference != "none" else ()
    settings = asdict(section) | {"images": cells(inputs, *names)}
    return Stage("iron and myelin", settings, outputs, work, sources=sources)


def _copy(inputs: StudyInputs, name: str, image: str) -> Stage:
    """Copy the volumes of the participants in the study from an image of all rows of the table."""

    def work(reporter: Reporter) -> None:
        os.makedirs(os.path.dirname(inputs.path(name)), exist_ok=True)
        ids = inputs.cohort["participant_id"].tolist()
        copy_volumes(image, inputs.path(name), inputs.is_included, ids)

    settings = {"everyone": inputs.everyone["participant_id"].tolist(), "chosen": inputs.is_included.tolist()}
    sources = {"image": image_files(image)}
    return Stage(copy_stage_name(name), settings, (f"{name}.*",), work, sources=sources)


def _stack(inputs: StudyInputs, name: str, column: str) -> Stage:
    """Write the images that a column of the table names to a 4D image."""
    out = f"maps/{name}"

    def work(reporter: Reporter) -> None:
        os.makedirs(inputs.path("maps"), exist_ok=True)
        rows = list(range(len(inputs.cohort)))
        who = Rows(tuple(inputs.cohort["participant_id"]), inputs.table)
        images = find_images(column, inputs.cohort, rows, who)
        volumes = counted(images.volumes(rows), out, len(rows), reporter.progress)
        with ExitStack() as stack:
            write_images(stack, inputs.path(out), images, volumes, who, "images of a study")

    sources = {column: column_files(inputs, column)}
    return Stage(copy_stage_name(out), {"images": cells(inputs, column)}, (f"{out}.*",), work, sources=sources)


def _underlay(inputs: StudyInputs) -> Stage:
    """The image that the configuration names; else mean R1, or the mean of the first map."""
    assert inputs.config.template is not None
    image = inputs.config.file(inputs.config.template.underlay)
    after: tuple[str, ...] = ()
    if image:
        images, sources = [image], {"underlay": image_files(image)}
    elif "r1" in inputs.cohort.columns:
        images, sources = inputs.images("r1"), {"r1": column_files(inputs, "r1")}
    else:
        first = next(iter(inputs.maps))
        images = [inputs.maps[first].image]
        after, sources = of_maps(inputs, first)

    def work(reporter: Reporter) -> None:
        mean, grid, header = _given(images[0]) if image else mean_image(images)
        files.write_map(inputs.path("underlay"), mean, grid, header, label=files.Label("gpuvox: mean image"))

    def _given(name: str) -> tuple[Float32, Grid, files.ImageHeader]:
        """An image on the grid of the mask."""
        assert inputs.config.template is not None
        of_mask = files.read_header(inputs.config.file(inputs.config.template.mask))
        grid = of_mask.grid(np.ones(of_mask.shape[:3], dtype=bool))
        return on_grid(name, grid), grid, of_mask

    sources |= of_template(inputs, "mask") if image else {}
    return Stage("underlay", {"given": bool(image)}, ("underlay.*",), work, after, sources)


def check_stage(inputs: StudyInputs) -> Stage:
    """Check the values of every participant's maps within the mask."""
    assert inputs.config.template is not None
    mask = inputs.config.file(inputs.config.template.mask)
    after, sources = of_maps(inputs, *inputs.maps)
    sources |= of_template(inputs, "mask")

    def work(reporter: Reporter) -> None:
        images = {name: each.image for name, each in inputs.maps.items()}
        table = check_maps(images, mask, inputs.cohort["participant_id"].tolist())
        files.write_table(inputs.path("checks.tsv"), table)
        for text in warnings_about_maps(table):
            reporter.warn(text)

    settings = cells(inputs) | {"maps": list(inputs.maps)}
    return Stage("checks", settings, ("checks.tsv",), work, after, sources)
