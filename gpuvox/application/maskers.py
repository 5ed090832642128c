"""Maskers in the manner of nilearn: an object that turns images into rows of voxels, and rows into images.

Nothing of nilearn is imported: a masker is what has `transform` and `inverse_transform`; `fit` is called if it is not
fitted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.application.arrays import real_array
from gpuvox.errors import InputError
from gpuvox.grid import Grid
from gpuvox.types import AnyArray, Ints


def is_masker(mask: Any) -> bool:
    """Whether a mask is a masker."""
    return all(callable(getattr(mask, name, None)) for name in ("transform", "inverse_transform"))


def rows_of_masker(data: Any, masker: Any) -> tuple[AnyArray, Grid, Ints]:
    """Rows of voxels of a masker, in the order of a grid.

    Parameters
    ----------
    data : (n, V) array, or images
        What the masker's `transform` returned; or images that it is applied to, and fitted on if it is not fitted.
    masker : masker
        Of volumes, with a column for every voxel of its mask.

    Returns
    -------
    rows : (n, V) array
        Columns in the order of `grid`.
    grid : Grid
    columns : (V,) int
        The masker's column of each voxel of the grid.

    Raises
    ------
    InputError
        The masker is not fitted, its columns are no voxels, or the data have another number of columns.
    """
    is_fitted = getattr(masker, "mask_img_", None) is not None
    if isinstance(data, np.ndarray) and data.ndim == 2:
        if not is_fitted:
            raise InputError("the masker is not fitted, so the voxels of the data are unknown; fit it first")
        rows = real_array(data, "the data")
    else:
        rows = _transformed(data, masker, is_fitted)
    grid, columns = grid_of_masker(masker, rows.shape[1])
    return rows[:, columns], grid, columns


def in_order_of_grid(covariates: Any, columns: Ints) -> Any:
    """Voxelwise covariates, by name or column: rows of the masker's voxels, (n, V), with their columns in the order of
    the grid; images as they are.

    Raises
    ------
    InputError
        Rows have more or fewer columns than the masker has voxels.
    """
    if not isinstance(covariates, Mapping):
        return covariates
    ordered = dict(covariates)
    for name, values in covariates.items():
        if not isinstance(values, np.ndarray | pd.DataFrame) or values.ndim != 2:
            continue
        if values.shape[1] != len(columns):
            raise InputError(
                f"the voxelwise covariate {name} has {values.shape[1]} columns, and the masker {len(columns)} voxels"
            )
        ordered[name] = values.iloc[:, columns] if isinstance(values, pd.DataFrame) else values[:, columns]
    return ordered


def _transformed(data: Any, masker: Any, is_fitted: bool) -> AnyArray:
    images = data
    if files.are_names(data):
        names = [os.fspath(path) for path in files.image_names(data)]
        images = names if len(names) > 1 else names[0]
    fitted = masker if is_fitted else masker.fit(images)
    rows = real_array(fitted.transform(images), "the rows of the masker")
    if rows.ndim != 2:
        raise InputError(f"the masker returns an array of shape {rows.shape}; a row for each image is expected")
    return rows


def grid_of_masker(masker: Any, n_columns: int) -> tuple[Grid, Ints]:
    """The grid of a masker, and its column of each voxel of the grid.

    Columns are found by the masker's `inverse_transform` of their numbers, not by an order that is assumed.
    """
    try:
        image = masker.inverse_transform(np.arange(1, n_columns + 1, dtype=np.float64)[None])
    except Exception as error:
        raise InputError(f"the masker cannot turn a row of {n_columns} columns into an image: {error}") from error
    if not hasattr(image, "dataobj"):
        raise InputError("the masker is not of volumes; only voxels of an image can be tested")
    header = files.header_of(image, "the mask of the masker")
    values = np.asarray(image.dataobj, dtype=np.float64)
    numbers = np.rint(values.reshape(header.shape[:3]))
    grid = header.grid(numbers > 0)
    columns: Ints = grid.to_vector(numbers).astype(np.int64) - 1
    if len(columns) != n_columns or not np.array_equal(np.sort(columns), np.arange(n_columns)):
        raise InputError(
            "the columns of the masker are not the voxels of its mask; a masker of voxels is expected"
        )
    return grid, columns
