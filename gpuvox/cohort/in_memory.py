"""Images that are in memory: nibabel images and arrays, from Python.

They are joined with the rows of a table by id where they have ids: a DataFrame (n, V) has them as its index, unless
that only counts rows, and nibabel images that were loaded from files have the names of these files, which are compared
with the table, also where only some of a list have one. What has no ids holds one image for each row of the table, in
the order of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files, participants
from gpuvox.cohort.images import CohortImages, check_separate
from gpuvox.cohort.table import Cohort
from gpuvox.errors import FileError, InputError
from gpuvox.participants import Rows
from gpuvox.plain import several
from gpuvox.reporter import Reporter


def is_in_memory(images: Any) -> bool:
    """Whether these are nibabel images or arrays, instead of names."""
    if isinstance(images, list | tuple):
        return bool(images) and any(hasattr(each, "dataobj") or isinstance(each, np.ndarray) for each in images)
    return hasattr(images, "dataobj") or isinstance(images, np.ndarray | pd.DataFrame)


def join_in_memory(images: Any, cohort: Cohort, reporter: Reporter) -> CohortImages:
    """Images in memory, joined with the rows of a table.

    Parameters
    ----------
    images : nibabel image, array, DataFrame, or list of 3D nibabel images or arrays
        A 4D image; a (nx, ny, nz, n) or (n, V) array; a DataFrame (n, V) whose index names the participants. A list
        has None for rows without an image.
    cohort : Cohort
    reporter : Reporter
        Warned if ids of the table and names of the files have nothing in common.

    Raises
    ------
    InputError
        The number of images differs from that of the rows, or an array has another number of dimensions.
    FileError
        The images were read from files that belong to other rows, or an index has no participant of the table.
    """
    if isinstance(images, pd.DataFrame):
        values, ids, _ = participants.values_and_names(images)
        if ids:
            return _by_index(np.asarray(values), ids, cohort)
        images = np.asarray(values)
    if isinstance(images, list | tuple):
        return _by_list(images, cohort, reporter)
    shape = tuple(images.shape)
    if len(shape) != 4 and (len(shape) != 2 or hasattr(images, "dataobj")):
        raise InputError(f"the images have shape {shape}; (nx, ny, nz, n) is expected, or an array (n, V)")
    n = shape[-1 if len(shape) == 4 else 0]
    name = participants.files_of(images)
    who = None
    if isinstance(name, list) and len(name) == 1:
        who = participants.of_volumes(name[0], cohort.visit_column)
    if who is not None:
        return _joined(who, n, images, cohort)
    _check_number(n, cohort)
    return CohortImages({}, {}, {row: row for row in range(n)}, n, memory=images)


def _by_index(values: Any, ids: tuple[str, ...], cohort: Cohort) -> CohortImages:
    if cohort.who.visits:
        raise InputError(
            "the index of the images has participants, who have several rows in the table; give an array with a row "
            "for each row of the table"
        )
    return _joined(Rows(ids, "the index of the images", "row"), len(ids), values, cohort)


def _joined(who: Rows, n: int, images: Any, cohort: Cohort) -> CohortImages:
    volumes = participants.join(cohort.who, who)
    missing = {row: f"no image in {who.origin}" for row in range(len(cohort)) if row not in volumes}
    return CohortImages({}, missing, volumes, n, memory=images)


def _by_list(images: Sequence[Any], cohort: Cohort, reporter: Reporter) -> CohortImages:
    _check_number(len(images), cohort)
    there = [row for row, image in enumerate(images) if image is not None]
    missing = {row: "no image" for row in range(len(images)) if images[row] is None}
    names = [participants.files_of(images[row]) for row in there]
    found = CohortImages({}, missing, {row: row for row in there}, len(images), memory=list(images))
    paths = {row: files.find_image(name[0]) for row, name in zip(there, names) if isinstance(name, list)}
    check_separate(CohortImages(paths, missing, {}), cohort, reporter)
    return found


def _check_number(n: int, cohort: Cohort) -> None:
    if n != len(cohort):
        raise FileError(
            f"there are {several(n, 'image')}, and {several(len(cohort), 'row')} in {cohort.origin}; images in memory "
            "need one for each row, in the order of the table"
        )


def select_in_memory(images: CohortImages, rows: Sequence[int]) -> Any:
    """The images of some rows, in this order, in the form in which they are held."""
    numbers, held = [images.volumes[row] for row in rows], images.memory
    if isinstance(held, list):
        return [held[number] for number in numbers]
    if numbers == list(range(images.total)):
        return held
    if hasattr(held, "dataobj"):
        return files.some_volumes(held, numbers)
    return held[..., numbers] if held.ndim == 4 else held[numbers]
