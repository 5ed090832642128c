"""Images with the same voxels in world space whose axes are stored in a different order or direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuvox.types import AnyArray

TOLERANCE = 1e-3
"""Largest distance, in voxels, between the positions of corresponding voxels."""


def affines_match(affine: AnyArray, other: AnyArray, voxel_size: Sequence[float]) -> bool:
    """Whether two affines are one, within a thousandth of a voxel."""
    return bool(np.abs(affine - other).max() <= TOLERANCE * min(voxel_size))  # nor NaN


def differing_shapes(name: object, shape: Sequence[int], other: object, other_shape: Sequence[int]) -> str:
    """The sentence that refuses an image with other numbers of voxels than another."""
    return (
        f"{name} has {format_shape(shape)} voxels, {other} {format_shape(other_shape)}; "
        "they must be on the same grid"
    )


def differing_affines(name: object, affine: AnyArray, other: object, other_affine: AnyArray) -> str:
    """The sentence that refuses an image that lies elsewhere than another."""
    return (
        f"{name} and {other} have different affines, {format_affine(affine)} and {format_affine(other_affine)}; "
        "they must be on the same grid"
    )


def storage_order(
    affine: AnyArray,
    shape: Sequence[int],
    other: AnyArray,
    other_shape: Sequence[int],
    voxel_size: Sequence[float],
) -> NDArray[np.int64] | None:
    """Where an image stores the voxels of a grid, if the two differ only in the order or direction of their axes.

    Parameters
    ----------
    affine, shape : (4, 4), (3,)
        Affine and shape of the image.
    other, other_shape : (4, 4), (3,)
        Affine and shape of the grid.
    voxel_size : (3,)
        Of the grid, millimetres.

    Returns
    -------
    (nx·ny·nz,) int64
        For each voxel of the grid, x fastest, its position in the image, x fastest; None if the two do not have the
        same voxels, or have the same orientation.
    """
    try:
        turn = np.rint(np.linalg.inv(affine)[:3, :3] @ other[:3, :3])
    except np.linalg.LinAlgError:
        return None
    if not (
        np.isfinite(turn).all() and (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    ):
        return None
    axis = np.abs(turn).argmax(axis=1)  # of the grid, for each axis of the image
    sign = turn[np.arange(3), axis]
    if tuple(np.asarray(other_shape)[axis]) != tuple(shape):
        return None
    step = np.eye(4)
    step[:3, :3] = turn
    step[:3, 3] = np.where(sign < 0, np.asarray(shape) - 1, 0)
    if not affines_match(affine @ step, other, voxel_size) or np.array_equal(step, np.eye(4)):
        return None
    places = np.arange(np.prod(shape)).reshape(shape, order="F")
    for k in range(3):
        if sign[k] < 0:
            places = np.flip(places, k)
    return np.ascontiguousarray(places.transpose(np.argsort(axis)).ravel(order="F"))


def format_shape(sizes: Sequence[int]) -> str:
    """A shape in words: 5 × 6 × 4."""
    return " × ".join(str(size) for size in sizes)


def format_sizes(sizes: Sequence[float] | AnyArray) -> str:
    """Sizes in print: 2 × 2 × 3.5 mm."""
    return " × ".join(f"{size:.3g}" for size in sizes) + " mm"


def format_affine(affine: NDArray[np.float64]) -> str:
    """The first three rows of an affine, in words."""
    return "[" + "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3]) + "]"
