"""Whether images are on the same grid, voxel for voxel, whatever the order and direction of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.files.headers import ImageHeader
from gpuvox.files.notices import notice
from gpuvox.files.orientation import affines_match, differing_affines, differing_shapes, storage_order
from gpuvox.files.text import Name
from gpuvox.grid import Grid


def check_grid(header: ImageHeader, grid: Grid, other: Name = "the mask") -> None:
    """Raise `FileError` unless an image is on the grid, voxel for voxel; affines count if both have one."""
    _check_place(header, grid.shape, grid.affine, grid.voxel_size, other)


def check_headers(header: ImageHeader, other: ImageHeader) -> None:
    """The same for two images, from their headers alone."""
    affine = other.affine if other.oriented else None
    _check_place(header, other.shape[:3], affine, other.voxel_size, other.path)


def placed(header: ImageHeader, grid: Grid, other: Name = "the mask") -> ImageHeader:
    """The header of an image on the grid, to be read in the grid's order of voxels.

    Images with the same voxels in world space may store their axes in a different order or direction.

    Raises
    ------
    FileError
        As for `check_grid`.
    """
    return _placed(header, grid.shape, grid.affine, grid.voxel_size, other)


def placed_like(header: ImageHeader, other: ImageHeader) -> ImageHeader:
    """The same for two images, from their headers alone."""
    return _placed(header, other.shape[:3], other.affine if other.oriented else None, other.voxel_size, other.path)


def all_placed(headers: Sequence[ImageHeader], grid: Grid, other: Name = "the mask") -> list[ImageHeader]:
    """The headers of images on one grid, with an `InputWarning` if some are stored in a different orientation."""
    on_grid = [placed(header, grid, other) for header in headers]
    turned = [header.path for header in on_grid if header.order is not None]
    if turned:
        more = f" and {len(turned) - 1} more images have" if len(turned) > 1 else " has"
        notice(f"{turned[0]}{more} the voxels of {other} along exchanged or reversed axes; reoriented exactly")
    return on_grid


def _placed(
    header: ImageHeader,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64] | None,
    voxel_size: tuple[float, float, float],
    other: Name,
) -> ImageHeader:
    if affine is not None and header.oriented:
        order = storage_order(header.affine, header.shape[:3], affine, shape, voxel_size)
        if order is not None:
            return replace(header, shape=(*shape, header.shape[3]), affine=affine, order=order)
    _check_place(header, shape, affine, voxel_size, other)
    return header


def _check_place(
    header: ImageHeader,
    shape: tuple[int, ...],
    affine: NDArray[np.float64] | None,
    voxel_size: tuple[float, ...],
    other: Name,
) -> None:
    if header.shape[:3] != shape:
        raise FileError(differing_shapes(header.path, header.shape[:3], other, shape))
    if affine is None or not header.oriented:
        return
    if not affines_match(header.affine, affine, voxel_size):
        raise FileError(differing_affines(header.path, header.affine, other, affine))
