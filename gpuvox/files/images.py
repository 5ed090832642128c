"""Masks, maps and cohorts as arrays of the voxels of a mask.

A cohort is decompressed once, from the first volume to the last, with one volume in memory at a time, and only the
voxels of the mask are kept, as float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import FileError, InputError
from gpuvox.files.headers import ImageHeader, read_header
from gpuvox.files.names import image_names
from gpuvox.files.notices import notice
from gpuvox.files.placement import all_placed, placed_like
from gpuvox.files.rounding import Rounding, may_round
from gpuvox.files.text import Name
from gpuvox.files.volumes import Progress, all_volumes, read_labels, volumes
from gpuvox.grid import Grid, inside
from gpuvox.scratch import Tiles
from gpuvox.types import AnyArray


def read_mask(name: Name, on: ImageHeader | None = None) -> Grid:
    """Read a mask: voxels whose value is above 0.5, see `grid.inside`.

    Parameters
    ----------
    name : path
        A 3D image; of a 4D image, the first volume, with an `InputWarning`.
    on : ImageHeader, optional
        The image that the mask is for. If the mask is on another grid, only its header is read.

    Returns
    -------
    Grid
        With the voxel size of `pixdim` and the affine of the header (None if no form has a code).

    Raises
    ------
    FileError
        As for `read_header`; the grid differs from that of `on`; the mask is empty.
    """
    header = read_header(name)
    if on is not None:
        placed_like(on, header)
    return _grid_of_mask(header)


def read_mask_on(name: Name, on: ImageHeader) -> Grid:
    """Read a mask in the order of axes of an image on the same grid.

    Raises
    ------
    FileError
        As for `read_mask`; the mask is on another grid.
    """
    return on.grid(_grid_of_mask(placed_like(read_header(name), on)).mask)


def _grid_of_mask(header: ImageHeader) -> Grid:
    if header.shape[3] != 1:
        notice(f"{header.path} has {header.shape[3]} volumes; the first is used as the mask")
    values = next(volumes(header))
    return header.grid(mask_of(values, os.fspath(header.path)).reshape(header.shape[:3], order="F"))


def mask_of(values: AnyArray, name: str) -> NDArray[np.bool_]:
    """The voxels that a mask's values take in (`grid.inside`); an `InputWarning` if they are not 0 and one label.

    Parameters
    ----------
    values : array of any shape
    name : str
        Name of the mask in messages.

    Raises
    ------
    FileError
        The mask is empty.
    """
    chosen = inside(values)
    count = np.count_nonzero(chosen)
    if not count:
        finite = values[np.isfinite(values)]
        largest = f"; its largest value is {finite.max():g}" if finite.size else ""
        raise FileError(f"the mask {name} is empty: none of its {values.size} voxels is above 0.5{largest}")
    others = values[values != 0]
    if not (others == others[0]).all():  # a single label, such as 255, is as clear as 1
        numbers = values[~np.isnan(values)]
        nan = " and NaN" if len(numbers) < values.size else ""
        notice(
            f"the mask {name} holds values other than 0 and 1 ({numbers.min():g} to {numbers.max():g}{nan}); "
            f"its {count} voxels above 0.5 are analysed"
        )
    return chosen


def read_map(name: Name, grid: Grid) -> NDArray[np.float32]:
    """Read one volume within a mask: (V,) float32. Errors as for `read_cohort`, or several volumes."""
    header = all_placed([_single_volume(name)], grid)[0]
    values = next(volumes(header, grid.index))
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise FileError(f"{header.path} is not finite in {bad} of the {grid.n_voxels} voxels of the mask")
    return values


def read_label_map(name: Name, grid: Grid) -> NDArray[np.int64]:
    """Read the labels of the voxels of a mask: (V,). Errors as for `read_labels` and `read_map`."""
    header = all_placed([_single_volume(name)], grid)[0]
    return next(read_labels(name)).take(grid.index if header.order is None else header.order[grid.index])


def count_volumes(names: Name | Sequence[Name]) -> int:
    """Number of volumes of a cohort, from its headers; errors as for `read_cohort`."""
    return sum(header.shape[3] for header in _cohort_headers(names))


def read_cohort(
    names: Name | Sequence[Name], grid: Grid, *, progress: Progress | None = None, missing: bool = False
) -> NDArray[np.float32]:
    """Read the images of a cohort within a mask, with one volume in memory at a time (one per thread if several).

    Parameters
    ----------
    names : path or sequence of paths
        A 4D image, or several 3D ones; see `image_names`.
    grid : Grid
        The mask.
    progress : callable, optional
        Called as `progress(volumes read, total)` after each volume.
    missing : bool
        Whether values may be NaN.

    Returns
    -------
    (n, V) float32
        A row for each volume, in the order of the files, scaled as the header specifies.

    Raises
    ------
    FileError
        As for `read_header`; fewer than two volumes; a 4D image among several; a grid that differs from the mask's; a
        truncated or damaged file; values within the mask that are not finite (NaN, infinite, or beyond float32).
    """
    headers = _headers_on(names, grid)
    data = np.empty((sum(header.shape[3] for header in headers), grid.n_voxels), dtype=np.float32)
    _read_rows(headers, grid, data.__setitem__, progress, missing)
    return data


def read_tiles(
    names: Name | Sequence[Name], grid: Grid, folder: str, *, progress: Progress | None = None
) -> Tiles:
    """Like `read_cohort`, but into an unnamed file in a scratch folder.

    Raises
    ------
    FileError
        As for `read_cohort`.
    ScratchError
        The folder has too little space, or cannot be used.
    """
    headers = _headers_on(names, grid)
    tiles = Tiles(sum(header.shape[3] for header in headers), grid.n_voxels, folder)
    _read_rows(headers, grid, tiles.writer(), progress, False)
    return tiles


def _headers_on(names: Name | Sequence[Name], grid: Grid) -> list[ImageHeader]:
    return all_placed(_cohort_headers(names), grid)


def _read_rows(
    headers: Sequence[ImageHeader],
    grid: Grid,
    put: Callable[[int, NDArray[np.float32]], None],
    progress: Progress | None,
    missing: bool,
) -> None:
    """Pass on the volumes one after the other; `FileError` at the end if any value was not finite.

    With `missing`, values may be NaN.
    """
    n = sum(header.shape[3] for header in headers)
    bad = np.zeros(grid.n_voxels, dtype=bool)
    first, has_nan = "", False
    rounding = Rounding(grid.n_voxels) if any(_may_round(header) for header in headers) else None
    for i, (header, volume, values) in enumerate(all_volumes(headers, grid.index, rounding)):
        put(i, values)
        wrong = np.isinf(values) if missing else ~np.isfinite(values)
        if wrong.any():
            bad |= wrong
            has_nan = has_nan or bool(np.isnan(values[wrong]).any())
            voxel = grid.position(int(np.argmax(wrong)))
            # A path through a folder of results does not last if that folder is removed after this error.
            path = os.path.realpath(header.path) if ".." in header.path.parts else header.path
            first = first or f"volume {volume} of {path} (participant {i + 1}), voxel {voxel}"
        if progress is not None:
            progress(i + 1, n)
    if first:
        count = np.count_nonzero(bad)
        raise FileError(
            f"the data are not finite in {count} of the {len(bad)} voxels that are analysed, first in {first}: NaN, "
            "infinite or beyond float32 (3.4e38); leave these voxels out by a mask, or mend the image"
            + "; gpuvox voxelwise takes NaN as missing data with --missing voxelwise"
            * has_nan
        )
    sentence = rounding.sentence(os.fspath(headers[0].path)) if rounding else ""
    if sentence:
        notice(sentence)


def _may_round(header: ImageHeader) -> bool:
    return may_round(header.proxy.dtype) or header.proxy.inter != 0


def first_volumes(
    names: Name | Sequence[Name], count: int, index: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """The first volumes of a cohort at given voxels (by default all): (at most count, voxels) float32, NaN as 0.

    Raises
    ------
    FileError
        As for `read_header`; a size that differs from the first image's; a truncated or damaged file.
    """
    headers = _cohort_headers(names)[:count]
    template = headers[0].grid(np.ones(headers[0].shape[:3], dtype=bool))
    headers = all_placed(headers, template, headers[0].path)
    volumes = (values for _, _, values in all_volumes(headers, index))
    finite: NDArray[np.float32] = np.nan_to_num(np.array(list(islice(volumes, count))), posinf=0, neginf=0)
    return finite


def automatic_mask(names: Name | Sequence[Name], *, progress: Progress | None = None) -> Grid:
    """The mask that FSL uses by default: every voxel whose value varies over the volumes.

    The image is read once more, one volume at a time. Voxels that are NaN in every volume count as constant.

    Parameters
    ----------
    names, progress
        As for `read_cohort`.

    Returns
    -------
    Grid
        As for `read_mask`.

    Raises
    ------
    FileError
        As for `read_cohort`; every voxel is constant.
    """
    headers = _cohort_headers(names)
    n = sum(header.shape[3] for header in headers)
    reference, template = headers[0], headers[0].grid(np.ones(headers[0].shape[:3], dtype=bool))
    volumes = all_volumes(all_placed(headers, template, reference.path))
    _, _, first = next(volumes)
    varies = np.zeros(template.mask.size, dtype=bool)
    for i, (_, _, values) in enumerate(volumes, start=2):
        varies |= (values != first) & ~(np.isnan(values) & np.isnan(first))
        if progress is not None:
            progress(i, n)
    if not varies.any():
        raise FileError(f"no voxel of {reference.path} varies over the {n} volumes; no mask can be derived")
    return reference.grid(varies.reshape(reference.shape[:3], order="F"))


def stacked(images: Sequence[Any]) -> Any:
    """Nibabel images, one for each subject, as one 4D image.

    Raises
    ------
    InputError
        The images are on different grids, or an image is not 3D.
    """
    first = images[0]
    for i, image in enumerate(images, start=1):
        if len(image.shape) != 3 and tuple(image.shape[3:]) != (1,):
            raise InputError(f"image {i} of the data has the shape {tuple(image.shape)}; each image must be 3D")
        if image.shape[:3] != first.shape[:3] or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise InputError(f"image {i} of the data is on another grid than the first")
    volumes = [np.asanyarray(image.dataobj).reshape(first.shape[:3]) for image in images]
    return nib.Nifti1Image(np.stack(volumes, axis=3), first.affine, first.header)


def some_volumes(image: Any, numbers: Sequence[int]) -> Any:
    """Some volumes of a 4D nibabel image, by their numbers from 0."""
    return nib.Nifti1Image(np.asanyarray(image.dataobj)[..., list(numbers)], image.affine, image.header)


def read_volumes_like(
    name: Name,
    reference: ImageHeader,
    index: NDArray[np.int64] | None = None,
    rounding: Rounding | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The volumes of an image, in the order of another image on the same grid; NaN is allowed.

    Parameters
    ----------
    name : path
    reference : ImageHeader
        Of that other image.
    index : (V,) int, optional
        The voxels that are read; all by default.
    rounding : Rounding, optional
        Takes note of what conversion to float32 loses.
    """
    header = placed_like(read_header(name), reference)
    noted = rounding if _may_round(header) else None
    yield from (values for _, _, values in all_volumes([header], index, noted))


def combined_volumes(image: Any, weights: AnyArray) -> Any:
    """A 4D nibabel image of weighted sums of the volumes of another: weights (volumes here, volumes there)."""
    values = weighted_sums(np.moveaxis(np.asanyarray(image.dataobj), 3, 0), weights)
    return nib.Nifti1Image(np.moveaxis(values, 0, 3), image.affine)


def weighted_sums(values: AnyArray, weights: AnyArray) -> NDArray[np.float32]:
    """(m, …) Sums in float64 of the rows of (n, …) values, with weights (m, n), over those whose weight is not 0."""
    sums = np.empty((len(weights), *values.shape[1:]), dtype=np.float32)
    for i, row in enumerate(weights):
        # A row without weight may be NaN, and 0 times NaN is not 0.
        total = np.zeros(values.shape[1:])
        for j in np.flatnonzero(row):
            total += row[j] * values[j].astype(np.float64)
        sums[i] = total
    return sums


def _single_volume(name: Name) -> ImageHeader:
    header = read_header(name)
    if header.shape[3] != 1:
        raise FileError(f"{header.path} has {header.shape[3]} volumes; one volume is expected")
    return header


def _cohort_headers(names: Name | Sequence[Name]) -> list[ImageHeader]:
    headers = [read_header(path) for path in image_names(names)]
    if len(headers) == 1 and headers[0].shape[3] == 1:
        raise FileError(
            f"{headers[0].path} has one volume; a 4D image with one volume per participant is expected"
        )
    wrong = [header for header in headers if len(headers) > 1 and header.shape[3] != 1]
    if wrong:
        raise FileError(
            f"{wrong[0].path} has {wrong[0].shape[3]} volumes; "
            f"of several images ({len(headers)} here) each must have one"
        )
    return headers
