"""Data and masks given from Python: files, nibabel images and arrays, or lists with one per participant.

An image is anything with a `dataobj`. Affines are compared as for files: a mask on another grid is refused, and
a mask without an affine takes that of the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from gpuvox import files
from gpuvox.errors import InputError
from gpuvox.files.orientation import differing_affines, differing_shapes
from gpuvox.files.rounding import Rounding, may_round
from gpuvox.grid import Grid
from gpuvox.scratch import Data
from gpuvox.types import AnyArray, Bools, Float32


def real_array(array: Any, what: str) -> AnyArray:
    """An array of real numbers.

    Parameters
    ----------
    array : array_like
        Any byte order and memory layout; read-only or memory-mapped arrays; a DataFrame.
    what : str
        Description for messages, in the plural: "the data".

    Raises
    ------
    InputError
        The array has masked values, complex numbers, text, objects, or rows of different length.
    """
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError(
                f"{what} are a masked array, of which {np.count_nonzero(np.ma.getmaskarray(array))} values are masked; "
                "fill them, and leave their voxels out by mask="
            )
        array = array.data
    try:
        values = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{what} are no array: {error}") from None
    if values.dtype.kind not in "biuf":
        raise InputError(f"{what} hold values of type {values.dtype}; real numbers are expected")
    return values


def as_cohort(
    data: Any, mask: Any = None, scratch: str = "", what: str = "the data", *, missing: bool = False
) -> tuple[Data, Grid, files.ImageHeader | None]:
    """A cohort from a file, an image in memory or an array.

    Parameters
    ----------
    data : path, nibabel image, array, or list of paths or of 3D images
        4D, or 3D images, one per participant; an array is (nx, ny, nz, n), or (n, V) with a `Grid` as mask, or without
        one (positions of the voxels unknown).
    mask : path, nibabel image, (nx, ny, nz) array or Grid, optional
        By default every voxel that varies.
    scratch : str
        Folder for data read from files, see `files.read_tiles`; arrays stay in memory.
    what : str
        What the data are called in messages.
    missing : bool
        Whether values may be NaN.

    Returns
    -------
    data : (n, V) float32, array or `scratch.Tiles`
    grid : Grid
    header : files.ImageHeader, or None
        If the data come from a file.

    Raises
    ------
    FileError
        As for `files.read_cohort` and `files.read_mask`.
    InputError
        An array has another shape, a mask another affine, or values are not real or not finite.
    """
    data = _unlisted(data)
    if files.are_names(data):
        return _from_files(data, mask, scratch, missing)
    place = files.header_of(data, what) if hasattr(data, "dataobj") else None
    values = real_array(data if place is None else np.asanyarray(data.dataobj), what)
    kind = values.shape[-1 if values.ndim == 4 else 0] if values.ndim else 0, values.dtype
    if values.ndim == 2 and place is None:
        grid = _grid_of_rows(values, mask, what)
        return _held(iter(values), kind, grid, what, missing), grid, None
    if values.ndim != 4:
        raise InputError(f"{what} have shape {values.shape}; expected (nx, ny, nz, n) or (n, V)")
    whole = Grid(np.ones(values.shape[:3], dtype=bool))
    template = whole if place is None else place.grid(whole.mask)
    grid = replace(template, mask=_varying(values, what)) if mask is None else as_grid(mask, template, what)
    volumes = (grid.to_vector(values[..., i]) for i in range(values.shape[3]))
    return _held(volumes, kind, grid, what, missing), grid, None


def one_map(image: Any, grid: Grid, what: str) -> Float32:
    """(V,) The values of a single volume, from a file or a nibabel image; errors as for `as_cohort`."""
    if isinstance(image, str | os.PathLike):
        return files.read_map(image, grid)
    return np.asarray(as_cohort([image], grid, what=what)[0])[0]


def _from_files(names: Any, mask: Any, scratch: str, missing: bool) -> tuple[Data, Grid, files.ImageHeader]:
    first = files.read_header(files.image_names(names)[0])
    if mask is None:
        grid = files.automatic_mask(names)
    elif isinstance(mask, str | os.PathLike):
        grid, first = files.read_mask(mask, first), files.read_header(mask)
    else:
        grid = as_grid(mask, first.grid(np.ones(first.shape[:3], dtype=bool)), os.fspath(first.path))
    values: Data = (
        files.read_tiles(names, grid, scratch) if scratch else files.read_cohort(names, grid, missing=missing)
    )
    return values, grid, first


def _grid_of_rows(values: AnyArray, mask: Any, what: str) -> Grid:
    """The grid of (n, V) data: the given `Grid`, or a row of voxels."""
    if mask is None:
        return Grid(np.ones((values.shape[1], 1, 1), dtype=bool))
    if not isinstance(mask, Grid):
        raise InputError(
            f"{what} have shape {values.shape}, but the mask does not define the order of its voxels: "
            "give (nx, ny, nz, n) data, or as mask a gpuvox.Grid, whose to_vector lists them"
        )
    if values.shape[1] != mask.n_voxels:
        raise InputError(f"{what} have {values.shape[1]} voxels; the mask has {mask.n_voxels}")
    return mask


def _held(
    volumes: Iterable[AnyArray], kind: tuple[int, np.dtype], grid: Grid, what: str, missing: bool = False
) -> Float32:
    """(n, V) float32 from volumes; warns about lost precision, and refuses values that are not finite.

    With `missing`, they may be NaN.
    """
    n, dtype = kind
    held = np.empty((n, grid.n_voxels), dtype=np.float32)
    bad, first, has_nan = np.zeros(grid.n_voxels, dtype=bool), "", False
    rounding = Rounding(grid.n_voxels) if may_round(dtype) else None
    for i, volume in enumerate(volumes):
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            held[i] = volume
        wrong = np.isinf(held[i]) if missing else ~np.isfinite(held[i])
        if wrong.any() and not first:
            voxel = int(np.argmax(wrong))
            at = "" if grid.shape[1:] == (1, 1) else f", voxel {grid.position(voxel)}"
            first = f"volume {i + 1}{at or f', column {voxel}'}: {volume[voxel]}"
        bad |= wrong
        has_nan = has_nan or bool(np.isnan(held[i][wrong]).any())
        if rounding:
            rounding.add(volume, held[i])
    if first:
        raise InputError(
            f"{what} are not finite in {np.count_nonzero(bad)} of the {len(bad)} voxels that are analysed, or beyond "
            f"float32 (3.4e38), first in {first}; leave these voxels out by a mask, or mend the data"
            + "; gpuvox.voxelwise takes NaN as missing data with missing='voxelwise'"
            * has_nan
        )
    said = rounding.sentence(what) if rounding else ""
    if said:
        files.notice(said)
    return held


def _varying(volumes: AnyArray, what: str) -> Bools:
    """Voxels whose value is not the same in all volumes, as in `files.automatic_mask`."""
    first = volumes[..., 0]
    varies = np.zeros(first.shape, dtype=bool)
    for i in range(1, volumes.shape[3]):
        values = volumes[..., i]
        varies |= (values != first) & ~((values != values) & (first != first))  # NaN is not itself
    if not varies.any():
        raise InputError(f"no voxel of {what} varies over the {volumes.shape[3]} volumes; a mask cannot be found")
    return varies


def as_grid(mask: Any, place: Grid, what: str = "the data") -> Grid:
    """A mask as a grid, checked against the grid of the data.

    Parameters
    ----------
    mask : path, nibabel image, (nx, ny, nz) array or Grid
    place : Grid
        Grid of the data.
    what : str
        What the data are called in messages.

    Returns
    -------
    Grid
        With voxel size and affine of the data if the mask has no affine.

    Raises
    ------
    FileError
        As for `files.read_mask`.
    InputError
        Shape or affine differ, there is no voxel, or values are not real numbers.
    """
    if isinstance(mask, str | os.PathLike):  # before anything too large is decompressed
        _check_shape(files.read_header(mask).shape[:3], place, what)
    grid = _mask_alone(mask)
    _check_shape(grid.shape, place, what)
    if grid.affine is None:
        sized = isinstance(mask, Grid) and grid.voxel_size != (1.0, 1.0, 1.0)
        return grid if sized and place.affine is None else replace(place, mask=grid.mask)
    if place.affine is not None and not files.affines_match(grid.affine, place.affine, place.voxel_size):
        raise InputError(differing_affines("the mask", grid.affine, what, place.affine))
    return grid


def _check_shape(shape: tuple[int, ...], place: Grid, what: str) -> None:
    if shape != place.shape:
        raise InputError(differing_shapes("the mask", shape, what, place.shape))


def _mask_alone(mask: Any) -> Grid:
    if isinstance(mask, Grid):
        return mask
    if isinstance(mask, str | os.PathLike):
        return files.read_mask(mask)
    header = files.header_of(mask, "the mask") if hasattr(mask, "dataobj") else None
    values = real_array(np.asanyarray(mask.dataobj) if header else mask, "the values of the mask")
    if values.ndim == 4:
        if values.shape[3] != 1:
            files.notice(f"the mask has {values.shape[3]} volumes; the first one is the mask")
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(f"the mask has shape {values.shape}; expected (nx, ny, nz)")
    chosen = files.mask_of(values, "given")
    return Grid(chosen) if header is None else header.grid(chosen)


def _unlisted(data: Any) -> Any:
    """Combine a list of 3D images or arrays, one per participant, to a 4D one; other data are returned unchanged.

    Raises
    ------
    InputError
        Images have different grids, an image is not 3D, or images are mixed with names.
    """
    if not isinstance(data, list | tuple):
        return data
    if data and all(isinstance(each, np.ndarray) and each.ndim == 3 for each in data):
        shapes = list(dict.fromkeys(each.shape for each in data))
        if len(shapes) > 1:
            raise InputError(
                f"the arrays of the data have shapes {shapes[0]} and {shapes[1]}; one shape is expected"
            )
        return np.stack([real_array(each, "the arrays of the data") for each in data], axis=3)
    if not any(hasattr(each, "dataobj") for each in data):
        return data
    if not all(hasattr(each, "dataobj") for each in data):
        raise InputError("the data are a list that mixes images with something else; expected a list of one kind")
    return files.stacked(data)
