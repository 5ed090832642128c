"""The stages that measure regions of interest, and read volumes that other software measured."""

from __future__ import annotations

from dataclasses import asdict

from gpuvox.reporter import Reporter
from gpuvox.study.measures import rois, volumetry
from gpuvox.study.pipeline.inputs import REGION_IMAGES, StudyInputs
from gpuvox.study.pipeline.sources import cells, column_files, copy_stage_name, image_files, of_maps, of_model
from gpuvox.study.pipeline.stages import Stage


def region_stage(inputs: StudyInputs) -> Stage:
    """Write ``rois.tsv``."""
    section = inputs.config.rois
    assert section is not None
    maps = section.maps or tuple(inputs.maps)
    after, sources = of_maps(inputs, *maps)
    images = {kind: inputs.region_image(kind) for kind in REGION_IMAGES}
    for kind, image in images.items():
        if f"regions/{kind}" in inputs.copied:
            after = (*after, copy_stage_name(f"regions/{kind}"))
        elif image:
            in_table = image in inputs.cohort.columns
            sources[kind] = column_files(inputs, image) if in_table else image_files(image)
    names = inputs.region_names
    sources |= ({"names": (names,)} if names else {}) | of_model(inputs)

    def work(reporter: Reporter) -> None:
        command = rois.Command(
            inputs.path("participants.tsv"), images["labels"], {name: inputs.maps[name].image for name in maps},
            inputs.path("rois.tsv"), names, section.merge, images["jacobian"], images["lesions"],
            section.head_size, section.erosion, inputs.model_file,
        )  # fmt: skip
        rois.execute(command, reporter)

    columns = [name for name in (*images.values(), section.head_size) if name in inputs.cohort.columns]
    settings = asdict(section) | {"maps": maps, "cells": cells(inputs, *columns)}
    return Stage("regions", settings, ("rois.tsv",), work, after, sources)


def volume_stage(inputs: StudyInputs) -> Stage:
    """Write ``volumes.tsv``."""
    config = inputs.config
    columns = inputs.volume_columns

    def work(reporter: Reporter) -> None:
        command = volumetry.Command(
            inputs.path("participants.tsv"), inputs.path("volumes.tsv"), inputs.volume_tables, columns
        )
        with config.reading(("volumes",)):
            volumetry.execute(command, reporter)

    settings = {name: asdict(each) for name, each in config.volumes.items()}
    settings |= {"cells": cells(inputs, *columns.values())}
    sources = {f"volumes {name}": paths for name, paths in inputs.volume_sources.items()}
    return Stage("volumes", settings, ("volumes.tsv",), work, ("participants",), sources)
