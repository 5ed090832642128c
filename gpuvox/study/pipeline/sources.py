"""What the stages of a study depend on: input files, earlier stages, and cells of the table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from gpuvox import files
from gpuvox.study.pipeline.inputs import StudyInputs
from gpuvox.tables.conditions import select

Sources = dict[str, tuple[str, ...]]
"""Input files, by their role in a stage."""


def image_files(name: str) -> tuple[str, ...]:
    """Files of an image, and the JSON file beside it if there is one."""
    paths = [os.fspath(path) for path in files.image_files(name)]
    sidecar = files.split_suffix(paths[0])[0] + ".json"
    return (*paths, *([sidecar] if os.path.exists(sidecar) else []))


def column_files(inputs: StudyInputs, column: str) -> tuple[str, ...]:
    """Files of the images that a column of the table names."""
    return files_of(inputs.images(column))


def files_of(images: Iterable[str]) -> tuple[str, ...]:
    """Files of images, each once."""
    return tuple(file for image in dict.fromkeys(images) for file in image_files(image))


def of_maps(inputs: StudyInputs, *names: str) -> tuple[tuple[str, ...], Sources]:
    """(earlier stages, input files) that maps depend on."""
    from_config = [name for name in names if name in inputs.config.maps]
    computed = ("iron and myelin",) * (len(from_config) < len(names))
    made = [name for name in from_config if name in inputs.stacked or f"maps/{name}" in inputs.copied]
    computed += tuple(copy_stage_name(f"maps/{name}") for name in made)
    return computed, {
        f"map {name}": image_files(inputs.maps[name].image) for name in from_config if name not in made
    }


def of_model(inputs: StudyInputs) -> Sources:
    """The file of the tissue model, if there is one."""
    return {"model": (inputs.model_file,)} if inputs.model_file else {}


def of_ironmyelin(inputs: StudyInputs) -> Sources:
    """The mask and the tissue model of ``[ironmyelin]``, as far as it names them."""
    mask = inputs.ironmyelin_options["mask"]
    return ({"mask": image_files(mask)} if mask else {}) | of_model(inputs)


def of_template(inputs: StudyInputs, *names: str) -> Sources:
    """Files of the template, by the keys that name them."""
    template = inputs.config.template
    paths = {name: inputs.config.file(getattr(template, name)) for name in names if getattr(template, name, "")}
    return {name: (path,) if name == "names" else image_files(path) for name, path in paths.items()}


def cells(inputs: StudyInputs, *names: str) -> dict[str, Any]:
    """Cells of the table that a stage reads, as part of its settings; changes of other cells do not matter."""
    return {name: inputs.cohort[name].str.strip().tolist() for name in ("participant_id", *names)}


def adjustment_settings(inputs: StudyInputs) -> dict[str, Any]:
    """What z-scores depend on."""
    in_reference = [bool(each) for each in select(inputs.columns, inputs.reference)]
    return {"covariates": cells(inputs, *inputs.config.groups.covariates), "reference": in_reference}


def copy_stage_name(name: str) -> str:
    """Name of the stage that copies an image of all rows of the table: ``map fa``, ``regions jacobian``."""
    folder, image = name.split("/")
    return f"{'map' if folder == 'maps' else folder} {image}"


def relative(inputs: StudyInputs, path: str) -> str:
    """A file, relative to the folder of the results; links are followed, as opening it does."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(inputs.config.out))
