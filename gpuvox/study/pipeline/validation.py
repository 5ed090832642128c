"""Checks of a study before any stage runs: its files, and what its configuration says about them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gpuvox import files, ironmyelin, participants
from gpuvox.cuda import resolve
from gpuvox.errors import FileError
from gpuvox.findings.labels import read_regions
from gpuvox.participants import Rows
from gpuvox.plain import several
from gpuvox.study.measures import rois
from gpuvox.study.measures.image_series import find_images, shared_images
from gpuvox.study.pipeline.inputs import REGION_IMAGES, StudyInputs
from gpuvox.study.pipeline.variables import Variables
from gpuvox.tables.columns import require


def check_inputs(inputs: StudyInputs) -> None:
    """Raise `FileError` for anything that can be found wrong in advance; the message names the key and its line."""
    with inputs.config.reading(("study", "device")):
        resolve(inputs.config.study.device)
    # Maps first: if one does not exist, neither does anything that is measured in it.
    _ = inputs.maps
    _check_files(inputs)
    _check_ironmyelin(inputs)
    _check_head_size(inputs)
    clustered = [comparison.name for comparison in inputs.comparisons] if inputs.config.clusters else []
    Variables(inputs.config, inputs.columns, [*inputs.measured, *inputs.volumes], clustered).check(
        inputs.reference
    )


def _check_files(inputs: StudyInputs) -> None:
    """Check that images exist and are on one grid; 4D images need one volume per row of the table."""
    config, mask = inputs.config, None
    if config.template is not None:
        with config.reading(("template", "mask")):
            mask = files.read_header(config.file(config.template.mask))
    for name, column in inputs.stacked.items():
        with config.reading(("maps", name, "image")):
            _check_column(inputs, column, mask)
    for where, image in _given_images(inputs):
        with config.reading(where):
            header = files.read_header(image)
            if mask is not None and where != ("template", "underlay"):  # which is interpolated
                files.check_headers(header, mask)
            _check_volumes(inputs, where, image, header.shape[3])
    if mask is not None:
        with config.reading(("template", "mask")):
            files.read_mask(mask.path)
    for where in (("template", "names"), ("rois", "names"), ("ironmyelin", "model")):
        path = config.file(getattr(getattr(config, where[0]), where[1], ""))
        if path and not os.path.isfile(path):
            raise config.error(where, f"there is no file {path}")
        if path and where[1] == "names":
            with config.reading(where):
                read_regions(path)


def _check_column(inputs: StudyInputs, column: str, mask: files.ImageHeader | None) -> None:
    """Raise `FileError` if a column does not name one image of each participant, on the grid of the mask."""
    cohort = inputs.cohort
    who = Rows(tuple(cohort["participant_id"]), inputs.table)
    images = find_images(column, cohort, range(len(cohort)), who)
    if twice := shared_images(images, who):
        raise FileError(twice)
    participants.compare(who, participants.of_images([images.headers[i].path for i in range(len(cohort))], who))
    if mask is not None:
        files.check_headers(images.first, mask)


def _check_volumes(inputs: StudyInputs, where: tuple[str, ...], image: str, n_volumes: int) -> None:
    """Raise `FileError` if a 4D image does not have one volume per row of the table."""
    key = where[-1]
    if where[0] == "rois" and getattr(inputs.config.rois, key) in inputs.cohort.columns:
        if n_volumes != 1:
            raise FileError(f"{image} has {n_volumes} volumes; one volume, of one participant, is expected")
        return
    of_all = where[0] == "maps" or (where[0] == "rois" and (n_volumes > 1 or key == "jacobian"))
    if of_all and n_volumes != len(inputs.everyone):
        raise FileError(
            f"{image} has {several(n_volumes, 'volume')}; the table has {several(len(inputs.everyone), 'row')}"
        )
    if of_all:
        who = participants.of_table(inputs.everyone, inputs.table)
        participants.compare(who, participants.of_volumes(image))


def _given_images(inputs: StudyInputs) -> Iterator[tuple[tuple[str, ...], str]]:
    """Key and file of each image that the configuration names, and of the first image in a column."""
    config = inputs.config
    keys: list[tuple[str, ...]] = [("template", "labels"), ("template", "underlay"), ("ironmyelin", "mask")]
    keys += [("rois", name) for name in REGION_IMAGES]
    for section, key in keys:
        value = getattr(getattr(config, section), key, "")
        in_table = section == "rois" and value in inputs.cohort.columns
        if value:
            yield (section, key), inputs.images(value)[0] if in_table else config.file(value)
    for name, settings in config.maps.items():
        if name not in inputs.stacked:
            yield ("maps", name, "image"), config.file(settings.image)
    if config.ironmyelin is not None and "qsm" in inputs.cohort.columns:
        yield ("ironmyelin",), inputs.images("qsm")[0]


def _check_ironmyelin(inputs: StudyInputs) -> None:
    settings = inputs.config.ironmyelin
    if settings is None:
        return
    with inputs.config.reading(("ironmyelin",)):
        command = ironmyelin.Command(out="", **inputs.ironmyelin_options)
        require(inputs.cohort, ironmyelin.needed_kinds(command), inputs.table)
        images = {kind: inputs.images(kind) for kind in inputs.image_kinds if kind in inputs.cohort.columns}
        ironmyelin.check(command, inputs.cohort["participant_id"].tolist(), images)


def _check_head_size(inputs: StudyInputs) -> None:
    settings = inputs.config.rois
    if settings is not None and settings.head_size:
        with inputs.config.reading(("rois", "head_size")):
            rois.head_size(inputs.cohort, settings.head_size, inputs.table)
