"""The images of a study: its mask, underlay and labels, and the maps of its voxelwise tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.findings.clusters import is_p
from gpuvox.findings.labels import read_regions
from gpuvox.findings.scene import Scene, VoxelwiseTest, peak_of, significant
from gpuvox.grid import Grid
from gpuvox.study.report.contents import Contents
from gpuvox.study.report.kinds import kind_of
from gpuvox.types import AnyArray


@dataclass(frozen=True, eq=False)
class StudyTest(VoxelwiseTest):
    """A test of a study.

    Attributes
    ----------
    contents : Contents
        What else the study says of it.
    """

    contents: Contents = field(kw_only=True)


def read_scene(contents: Contents) -> Scene | None:
    """Mask, underlay and labels of a study; None where it has no voxelwise test and no mask.

    Raises
    ------
    FileError
        An image cannot be read, or is on another grid; the message names the key.
    """
    grid = _mask(contents)
    if grid is None:
        return None
    bare = Scene.around(grid)
    labels = _whole(contents, "labels", bare, files.read_labels)
    names = contents.file("names")
    with contents.reading("names"):
        regions = read_regions(names) if labels is not None else {}
    return bare.holding(_whole(contents, "underlay", bare), labels, regions)


def _mask(contents: Contents) -> Grid | None:
    path = contents.file("mask")
    if path is not None:
        tests = (part.file("statistic") for part in contents.parts("tests"))
        first = next((test for test in tests if test is not None), None)
        with contents.reading("mask"):
            return files.read_mask(path, files.read_header(first) if first else None)
    for test in contents.parts("tests"):
        statistic = test.file("statistic")
        with test.reading("statistic"):
            header = files.read_header(statistic or test.need("statistic", str))
            return header.grid(np.ones(header.shape[:3], dtype=bool))
    return None


def _whole(
    contents: Contents, key: str, scene: Scene, read: Callable[[Path], Iterator[AnyArray]] = files.read_volumes
) -> AnyArray | None:
    """An image in the box, inside and outside the mask; values that are not finite become 0."""
    path = contents.file(key)
    if path is None:
        return None
    with contents.reading(key):
        files.check_grid(files.read_header(path), scene.grid)
        volume = next(read(path)).reshape(scene.grid.shape, order="F")
    return scene.shown(np.nan_to_num(volume, posinf=0, neginf=0))


def read_tests(contents: Contents, scene: Scene | None) -> list[StudyTest]:
    """The voxelwise tests, with their maps.

    Raises
    ------
    FileError
        A key or a file is missing or wrong.
    """
    if scene is None:
        return []
    level = contents.get("level", 0.05)
    if not 0 < level < 1:
        raise contents.error("level", f"is {level:g}; expected a number between 0 and 1")
    return [_read_test(part, number, scene, level) for number, part in enumerate(contents.parts("tests"))]


def _read_test(part: Contents, number: int, scene: Scene, level: float) -> StudyTest:
    statistic, corrected = (_map(part, key, scene) for key in ("statistic", "corrected"))
    if corrected.min() < 0 or corrected.max() > 1:
        raise part.error(
            "corrected", f"has values from {corrected.min():g} to {corrected.max():g}; expected 1 - p"
        )
    if is_p(corrected):
        raise part.error("corrected", "is 1 in some voxels, as p can be and 1 - p cannot; expected 1 - p")
    permutations = part.get("permutations", 0)
    survivors = significant(corrected, scene.mask, level)
    name = part.need("name", str)
    return StudyTest(
        number, name, part.get("map", name), part.get("title", part.get("map", name)), part.get("unit", ""),
        part.need("contrast", str), part.get("method", ""), kind_of(part), permutations, statistic, corrected,
        survivors, peak_of(statistic, survivors, scene.mask), part.number("critical"), part.number("observed_maximum"),
        contents=part,
    )  # fmt: skip


def _map(part: Contents, key: str, scene: Scene) -> NDArray[np.float32]:
    path: Path = part.located(key, part.need(key, str))
    with part.reading(key):
        return scene.shown(scene.grid.to_volume(files.read_map(path, scene.grid)))
