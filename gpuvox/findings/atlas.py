"""The labels of an atlas at the voxels of an analysis, and their names as its file has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files.placement import placed
from gpuvox.findings.labels import AS_FREESURFER, Region, atlas_images, read_regions
from gpuvox.grid import Grid
from gpuvox.types import Float64

ASEG = frozenset(
    [*AS_FREESURFER, 2, 3, 5, 7, 8, 24, 30, 31, 41, 42, 44, 46, 47, 62, 63, 72, 77, 80, 85, *range(251, 256)]
)
"""Labels of FreeSurfer's aseg: an image with any other needs a file of names."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels at the voxels of a mask.

    Attributes
    ----------
    labels : (V,) int64
        0 where there is none.
    regions : dict of int to Region
        Their names; a label without a name is shown as its number.
    note : str
        How the labels came to be on this grid, if they were not; empty otherwise.
    """

    labels: NDArray[np.int64]
    regions: Mapping[int, Region] = field(default_factory=dict)
    note: str = ""

    def name(self, number: int) -> str:
        """The name of a label as its file has it, or its number; empty for the background."""
        region = self.regions.get(number)
        return "" if not number else str(number) if region is None else region.title


def read_atlas(image: str | os.PathLike[str], grid: Grid, names: str | os.PathLike[str] | None = None) -> Atlas:
    """Read an atlas at the voxels of a mask.

    Parameters
    ----------
    image : path
        A label image on any grid, or an FSL atlas in XML, which names its images. An image on another grid is resampled
        by nearest neighbour: each voxel gets the label of the atlas's voxel that contains its centre.
    grid : Grid
    names : path, optional
        See `labels`. By default the XML; a table beside the image, ``X_dseg.tsv`` beside ``X_dseg.nii.gz``; or the
        names of FreeSurfer's aseg, if all labels are of it.

    Raises
    ------
    FileError
        A file cannot be read; an image on another grid has no orientation, or lies elsewhere.
    """
    path = Path(image)
    if path.suffix.casefold() == ".xml":
        path, names = _image_of(path, grid), names or path
    header = files.read_header(path)
    if header.shape[3] != 1:
        raise FileError(
            f"{header.path} has {header.shape[3]} volumes; a label image, with one, is expected (of a probabilistic "
            "atlas: its summary image, such as …-maxprob-thr25-2mm)"
        )
    note = ""
    if is_on_grid(header, grid):
        labels = files.read_label_map(path, grid)
    else:
        labels = _resampled(header, grid)
        size = files.format_shape(header.shape[:3])
        note = f"{header.path.name} is on another grid ({size} voxels); its labels were resampled by nearest neighbour"
    named = names or _table_beside(header.path)
    regions = read_regions(named) if named else _default_names(labels)
    return Atlas(labels, regions, note)


def check_atlas(image: str | os.PathLike[str], names: str | os.PathLike[str] | None = None) -> None:
    """Raise `FileError` if the files of an atlas cannot be read, whatever the grid of the analysis."""
    path = Path(image)
    if path.suffix.casefold() == ".xml":
        _images_of(path)
        names = names or path
    else:
        files.read_header(path)
    if names:
        read_regions(names)


def is_on_grid(header: files.ImageHeader, grid: Grid) -> bool:
    """Whether an image has the voxels of a grid, in any order of its axes."""
    try:
        placed(header, grid)
    except FileError:
        return False
    return True


def _default_names(labels: NDArray[np.int64]) -> Mapping[int, Region]:
    there = set(np.unique(labels).tolist()) - {0}
    return read_regions(None) if there <= ASEG else {}


def _table_beside(image: Path) -> Path | None:
    table = Path(f"{files.split_suffix(image)[0]}.tsv")
    return table if table.is_file() else None


def _image_of(xml: Path, grid: Grid) -> Path:
    """The label image of an FSL atlas: of several, the one on this grid, or the first that is there."""
    there = _images_of(xml)
    return next((path for path in there if is_on_grid(files.read_header(path), grid)), there[0])


def _images_of(xml: Path) -> list[Path]:
    """The images that an FSL atlas names, as far as they are there."""
    there = []
    for name in atlas_images(xml):
        for path in (xml.parent / name.lstrip("/"), xml.parent.parent / name.lstrip("/")):
            try:
                there.append(files.find_image(path))
                break
            except FileError:
                continue
    if not there:
        raise FileError(f"none of the images that {xml} names is there: {', '.join(atlas_images(xml))}")
    return there


def _resampled(header: files.ImageHeader, grid: Grid) -> NDArray[np.int64]:
    """Labels of the atlas's voxels that contain the centres of the mask's voxels; 0 outside of it."""
    if grid.affine is None or not header.oriented:
        without = header.path if not header.oriented else "the analysis"
        raise FileError(
            f"{header.path} is on another grid than the analysis, and {without} has no orientation (neither qform nor "
            "sform), so the labels cannot be resampled"
        )
    volume = next(files.read_labels(header.path))
    index = _indices(grid, header.affine)
    inside = ((index >= 0) & (index < np.array(header.shape[:3]))).all(axis=1)
    if not inside.any():
        raise FileError(f"{header.path} lies outside the analysis: no voxel of the mask is in it")
    labels = np.zeros(grid.n_voxels, dtype=np.int64)
    labels[inside] = volume[np.ravel_multi_index(tuple(index[inside].T), header.shape[:3], order="F")]
    return labels


def _indices(grid: Grid, affine: Float64) -> NDArray[np.int64]:
    """(V, 3) The voxels of an image with an affine that contain the centres of a mask's voxels."""
    assert grid.affine is not None
    positions = np.stack(np.unravel_index(grid.index, grid.shape, order="F"), axis=1)
    step = np.linalg.inv(affine) @ grid.affine
    rounded: NDArray[np.int64] = np.floor(positions @ step[:3, :3].T + step[:3, 3] + 0.5).astype(np.int64)
    return rounded
