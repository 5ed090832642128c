"""Every file that is read or written: NIfTI images, FSL's VEST matrices, tables, permutations, JSON.

Images are streamed: a cohort is decompressed once, from the first volume to the last, with one volume in
memory, and only the voxels of the mask are kept, as float32. Files are written under a temporary name in the
folder they belong to and renamed when complete, so that a name never stands for half a file.

All that can be wrong with a file is a `FileError` whose one sentence names the file.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import math
import os
import re
import secrets
import stat
import struct
import tempfile
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import ArrayLike, NDArray

from gpuvox.errors import FileError, InputWarning
from gpuvox.files.missing import EXPECTED, expand, what_is_there
from gpuvox.files.orientation import lie_alike, order_on
from gpuvox.files.rounding import Rounding, may_round
from gpuvox.files.text import (
    Row,
    as_number,
    check_names,
    check_rows,
    decode_text,
    format_table,
    lines_of,
    parse_table,
)
from gpuvox.files.text import Table as TextTable
from gpuvox.files.text import reason as _reason
from gpuvox.grid import Grid, inside
from gpuvox.runtime.pool import Pool
from gpuvox.scratch import Tiles

Name = str | os.PathLike[str]
Progress = Callable[[int, int], None]
Convert = Callable[[NDArray, float, float], NDArray]

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img")
# What FSLOUTPUTTYPE may say: the suffixes of the file with the header and of the one with the data.
FILE_TYPES = {
    "NIFTI": (".nii", ".nii"),
    "NIFTI_GZ": (".nii.gz", ".nii.gz"),
    "NIFTI_PAIR": (".hdr", ".img"),
    "NIFTI_PAIR_GZ": (".hdr.gz", ".img.gz"),
}
# Maps are noise: level 6 makes a t map 2 % smaller, a map of p values 10 %, in up to twice the time.
GZIP_LEVEL = 1
# Voxels along a side, or volumes, that a NIfTI-1 header can tell of.
MOST_IN_NIFTI1 = 32767
# Bytes asked of a file at once; gzip holds some as well.
READ_SIZE = 1 << 20
# How a gzip file, and each of its members, begins.
GZIP_MAGIC = b"\x1f\x8b"
# How a NIfTI file that is not compressed begins: the size of its header, of either byte order.
NIFTI_SIZES: dict[Any, tuple[bytes, ...]] = {
    nib.Nifti1Image: (b"\x5c\1\0\0", b"\0\0\1\x5c"),
    nib.Nifti2Image: (b"\x1c\2\0\0", b"\0\0\2\x1c"),
}
# Bytes that a byte of a gzip file can stand for.
MOST_DEFLATED = 1032
# Bytes of a NIfTI header with its extensions; of a table, a matrix or permutations; of JSON or TOML: no real file is
# larger, and one that is would fill the memory before anything could be said of it.
MOST_HEADER = 1 << 24
MOST_TEXT = 1 << 30
MOST_SETTINGS = 1 << 26
# Files that are read at the same time, each with a volume in memory.
MOST_READERS = 8
# Units of length in a NIfTI header (the lowest bits of xyzt_units) other than millimetres, or none given.
SPACE_UNITS = {1: "metres", 3: "micrometres"}
# Columns that say whose a row is, and what it is called, in a table of numbers.
ID_COLUMNS = ("participant_id", "participant", "subject_id", "subject", "id")
NAME_COLUMNS = ("", "contrast", "contrasts", "contrast_name", "name", "test", "f_test")
# Where a voxel lies; the fields of a NIfTI header that a map takes over from the input, bit by bit.
GEOMETRY = ["pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"]
GEOMETRY += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]
# What zlib, gzip and the system raise for a file that is cut short or damaged; absurd offsets overflow.
_DAMAGE = (OSError, EOFError, zlib.error, OverflowError)


def notice(said: str) -> None:
    """Warn of something about a file (`InputWarning`)."""
    warnings.warn(" ".join(said.splitlines()), InputWarning, stacklevel=3)


# ---------------------------------------------------------------------------------------------------- names


def find_image(name: Name) -> Path:
    """The image that a name stands for, as FSL takes names: with or without extension.

    Parameters
    ----------
    name : path
        `data`, `data.nii`, `data.nii.gz`, `data.hdr`, `data.img` (either of them gzipped) … A file of
        exactly this name comes first; otherwise the name without its extension is looked for with each.

    Returns
    -------
    Path
        The file with the header: the image, or the `.hdr` of a pair.

    Raises
    ------
    FileError
        No such image, several with that name, or a pair of which one file is missing.
    """
    stem, suffix = split_suffix(name)
    if suffix and os.path.isfile(name):
        return _header_file(stem, suffix)
    found = [s for s in IMAGE_SUFFIXES if os.path.isfile(stem + s) and not s.startswith(".img")]
    if not found:
        looked_for = ", ".join(IMAGE_SUFFIXES[:4])
        there = what_is_there(os.fspath(name), stem, IMAGE_SUFFIXES)
        raise FileError(there or f"there is no image {name}: looked for {stem} with {looked_for}")
    if len(found) > 1:
        raise FileError(f"the image name {name} is ambiguous: there are {_listed(stem + s for s in found)}")
    return _header_file(stem, found[0])


def split_suffix(name: Name) -> tuple[str, str]:
    """A name without its image extension, and that extension ("" if there is none)."""
    text = os.fspath(name)
    suffix = next((s for s in IMAGE_SUFFIXES if text.endswith(s)), "")
    return text.removesuffix(suffix), suffix


def image_files(name: Name) -> tuple[Path, ...]:
    """The files an image consists of: one, or the `.hdr` and the `.img` of a pair; errors of `find_image`."""
    path = find_image(name)
    stem, suffix = split_suffix(path)
    return (path, Path(stem + suffix.replace("hdr", "img"))) if "hdr" in suffix else (path,)


def image_names(names: Name | Sequence[Name]) -> list[Path]:
    """The images that a name, a pattern, a file of names, a column of a table or a list of names stand for.

    Parameters
    ----------
    names : path or sequence of paths
        One image; a pattern with `*`, `**` (folders of any depth), `?` or `[`, whose matches are taken in the order
        of their names, as a shell lists them; a `.txt` file with a name a line, relative to the folder of that
        file (empty lines and lines that start with `#` are skipped); `participants.tsv:column`, a column of a
        table (TSV or CSV) with names relative to the table's folder; or a list of images, whose order is kept.

    Returns
    -------
    list of Path
        As of `find_image`.

    Raises
    ------
    FileError
        Nothing matches, an empty list, or any error of `find_image`.
    """
    if not isinstance(names, str | os.PathLike):
        found = [find_image(name) for name in names]
        if not found:
            raise FileError("the list of images is empty; it must name at least one")
        return found
    text = os.fspath(names)
    if text.endswith(".txt"):
        return _listed_images(Path(text))
    table, colon, column = text.rpartition(":")
    if colon and table.endswith((".tsv", ".csv")):
        path = Path(table)
        return [
            _image_of_row(path, column, i, name)
            for i, name in enumerate(read_table(path, [column], long=True)[column], 1)
        ]
    if text.endswith((".tsv", ".csv")):
        raise FileError(f"{text} is a table; {text}:COLUMN expected, with the column that names the images")
    if glob.has_magic(text) and not _is_there(text):
        return _matching_images(text)
    return [find_image(text)]


def _is_there(name: str) -> bool:
    """Whether an image has this very name, with or without its extension; brackets are then no pattern."""
    return any(os.path.lexists(path) for path in (name, *(split_suffix(name)[0] + s for s in IMAGE_SUFFIXES)))


def _header_file(stem: str, suffix: str) -> Path:
    if suffix.startswith(".nii"):
        return Path(stem + suffix)
    header, data = (stem + suffix.replace(old, new) for old, new in (("img", "hdr"), ("hdr", "img")))
    for missing, other in ((header, data), (data, header)):
        if not os.path.isfile(missing):
            raise FileError(f"the image {other} is half of a pair: {missing} is missing")
    return Path(header)


def _image_of_row(path: Path, column: str, row: int, name: str) -> Path:
    try:
        return find_image(path.parent / name.strip())
    except FileError as error:
        raise FileError(f"{path}, column {column!r} of row {row}: {error}") from None


def _listed_images(path: Path) -> list[Path]:
    lines = [line.strip() for line in _text_lines(path)]
    names = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not names:
        raise FileError(f"{path} names no image; expected one name a line")
    return [find_image(name) for name in names]


def _matching_images(pattern: str) -> list[Path]:
    others: list[str] = []
    for tried in (pattern, f"{pattern}.*"):
        every = list(expand(tried))
        matches = [match for match in every if split_suffix(match)[1]]
        if matches:
            return list(dict.fromkeys(find_image(match) for match in matches))  # a pair matches twice
        others += every
    hint = f"; {others[0]} does, which is not in a form that is read: {EXPECTED}" if others else ""
    raise FileError(f"no image matches {pattern}{hint}")


def _listed(names: Iterator[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"


# --------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """What an image says about itself; the data stay in the file.

    Attributes
    ----------
    path : Path
        The image, or the `.hdr` of a pair.
    shape : (nx, ny, nz, n)
        Voxels along x, y, z, and volumes: 1 for a 3D image.
    affine : (4, 4) float64
        Voxel to world, millimetres.
    nifti : nibabel header
        The header as it was read.
    proxy : nibabel.arrayproxy.ArrayProxy
        Where in which file the data lie, their type and scaling.
    order : (nx·ny·nz,) int64, optional
        Where the file stores each voxel, if shape and affine are those of a grid whose axes it has in another order or
        direction; see `placed`.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64]
    nifti: Any
    proxy: Any
    order: NDArray[np.int64] | None = None

    @property
    def zooms(self) -> tuple[float, ...]:
        """(dx, dy, dz, dt) as the header has them, absolute; 1 where the image has no such dimension."""
        zooms = [abs(float(zoom)) for zoom in self.nifti.get_zooms()[:4]]
        return (*zooms, *[1.0] * (4 - len(zooms)))

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Millimetres along x, y, z, from `pixdim` (nibabel reads a zero as 1 and says so)."""
        dx, dy, dz = self.zooms[:3]
        known = isinstance(self.nifti, nib.AnalyzeHeader) and "xyzt_units" in self.nifti
        units = SPACE_UNITS.get(int(self.nifti["xyzt_units"]) & 7 if known else 0)
        if units:
            raise FileError(
                f"{self.path} says that its voxels of {dx:g} × {dy:g} × {dz:g} are in {units} (xyzt_units); "
                "millimetres are expected: correct the units, or sizes and affine"
            )
        if not all(math.isfinite(d) and d > 0 for d in (dx, dy, dz)):
            raise FileError(f"{self.path} has voxels of {dx:g} × {dy:g} × {dz:g} mm; sizes must be positive")
        return dx, dy, dz

    @property
    def oriented(self) -> bool:
        """Whether the header says where the image lies: a qform or an sform with a code other than 0."""
        if not isinstance(self.nifti, nib.AnalyzeHeader):  # an image in memory of a format that always says it
            return True
        return any(int(self.nifti[key]) > 0 for key in ("qform_code", "sform_code") if key in self.nifti)

    def grid(self, mask: NDArray[np.bool_]) -> Grid:
        """The grid of this image with the given (nx, ny, nz) mask; no affine if the header gives none."""
        if not self.oriented:
            return Grid(mask, self.voxel_size)
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        if not np.allclose(sizes, self.voxel_size, rtol=0.01):
            notice(
                f"the voxels of {self.path} are {by_mm(self.voxel_size)} by pixdim, {by_mm(sizes)} by its affine; "
                "pixdim is taken"
            )
        return Grid(mask, self.voxel_size, self.affine)


def read_header(name: Name) -> ImageHeader:
    """Read the header of an image, without its data.

    Raises
    ------
    FileError
        As of `find_image`; not a NIfTI or Analyze image; not of real numbers; more than four dimensions.
    """
    path = find_image(name)
    _check_extensions(path)
    try:
        image: Any = _load(path)
        dims, proxy = tuple(int(n) for n in image.shape), image.dataobj
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, *_DAMAGE) as error:
        raise FileError(f"{path} is not an image that can be read: {_reason(error)}") from error
    if not isinstance(image.header, nib.AnalyzeHeader):
        raise FileError(f"{path} is a {type(image).__name__}; a NIfTI image is expected")
    _check_offset(path, image.header, int(proxy.offset))
    if proxy.dtype.kind not in "iuf":
        raise FileError(f"{path} holds values of type {proxy.dtype}; real numbers are expected")
    if min(dims, default=0) < 1 or any(n > 1 for n in dims[4:]):
        raise FileError(f"{path} has dimensions {dims}; an image has three, or four with the volumes")
    _check_size(proxy, dims)
    nx, ny, nz, n = (*dims, 1, 1, 1)[:4] if len(dims) < 4 else dims[:4]
    return ImageHeader(path, (nx, ny, nz, n), np.array(image.affine, dtype=np.float64), image.header, proxy)


def _load(path: Path) -> Any:
    """An image as nibabel loads it; one that is called .nii.gz and is not compressed too, as zlib reads it."""
    kinds = [kind for kind, sizes in NIFTI_SIZES.items() if path.suffix == ".gz" and _starts_with(path, sizes)]
    if not kinds:
        return nib.load(path)
    with open(path, "rb") as file:
        image: Any = kinds[0].from_file_map({"image": nib.FileHolder(fileobj=file)})
        image.dataobj.file_like = os.fspath(path)
        return image


def _starts_with(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    with open(path, "rb") as file:
        return file.read(max(map(len, beginnings))).startswith(beginnings)


def _check_offset(path: Path, header: Any, offset: int) -> None:
    """In a single file the data begin after the header; from byte 0, as some writers say, its bytes would be voxels."""
    least = getattr(header, "single_vox_offset", 0) if getattr(header, "is_single", False) else 0
    if offset < least:
        raise FileError(
            f"{path} says that its data begin at byte {offset} (vox_offset), within its header; in a single file they "
            f"begin at byte {least} or later"
        )


def _check_size(proxy: Any, dims: tuple[int, ...]) -> None:
    """No memory for what cannot be there: a header may claim any size. Files a little short are found on reading."""
    path = Path(proxy.file_like)
    size = path.stat().st_size
    most = size * MOST_DEFLATED if path.suffix == ".gz" else size
    claimed = proxy.offset + math.prod(dims) * proxy.dtype.itemsize
    if claimed > most + READ_SIZE:
        raise FileError(
            f"{path} is truncated or damaged: its header promises {claimed:.4g} bytes of data, which a file of {size} "
            "bytes cannot hold"
        )


def _check_extensions(path: Path) -> None:
    """No memory for extensions that cannot be there: nibabel reads each whole, however large it says that it is."""
    with contextlib.suppress(*_DAMAGE, struct.error), _opened(path) as file:
        start = _some_bytes(file, 544)
        order = "<" if start[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
        (size,) = struct.unpack_from(f"{order}i", start)
        if size not in (348, 540):
            return
        kind, place = ("f", 108) if size == 348 else ("q", 168)
        (offset,) = struct.unpack_from(order + kind, start, place)
        is_single = ".nii" in split_suffix(path)[1]
        if is_single and not offset <= MOST_HEADER:
            raise FileError(
                f"{path} is truncated or damaged: its data begin at byte {offset:.4g}; no header is so long"
            )
        if start[size : size + 1] in (b"", b"\0"):
            return
        stop = max(int(offset), 0) if is_single else MOST_HEADER + 1
        block = start[:stop] + _some_bytes(file, stop - len(start))
        _walk_extensions(path, block, size + 4, order)


def _walk_extensions(path: Path, block: bytes, place: int, order: str) -> None:
    """Each extension begins with its size, and ends within the header."""
    while len(block) - place >= 16:
        (size,) = struct.unpack_from(f"{order}i", block, place)
        place += size
        if size < 8 or place > min(len(block), MOST_HEADER):
            raise FileError(
                f"{path} is truncated or damaged: an extension of its header claims {size} bytes, more than there are"
            )


def _some_bytes(file: Any, count: int) -> bytes:
    """So many bytes, or all that there are."""
    found: list[bytes] = []
    while count > 0 and (more := file.read(min(count, READ_SIZE))):
        found.append(more)
        count -= len(more)
    return b"".join(found)


def read_mask(name: Name, on: ImageHeader | None = None) -> Grid:
    """Read a mask: voxels whose value is above 0.5, see `grid.inside`.

    Parameters
    ----------
    name : path
        A 3D image; of a 4D one the first volume, with a `InputWarning`.
    on : ImageHeader, optional
        An image that the mask is for: nothing but the header is read of a mask that lies on another grid.

    Returns
    -------
    Grid
        With the voxel size of `pixdim` and the affine of the header (None if no form has a code).

    Raises
    ------
    FileError
        As of `read_header`; another grid than that of `on`; no voxel in the mask.
    """
    header = read_header(name)
    if on is not None:
        placed_like(on, header)
    return _grid_of_mask(header)


def read_mask_on(name: Name, on: ImageHeader) -> Grid:
    """Read a mask as voxels of the grid of an image, in that image's order of axes.

    Raises
    ------
    FileError
        As of `read_mask`; it lies on another grid.
    """
    return on.grid(_grid_of_mask(placed_like(read_header(name), on)).mask)


def _grid_of_mask(header: ImageHeader) -> Grid:
    if header.shape[3] != 1:
        notice(f"{header.path} has {header.shape[3]} volumes; the first one is the mask")
    values = next(_volumes(header))
    return header.grid(mask_of(values, os.fspath(header.path)).reshape(header.shape[:3], order="F"))


def mask_of(values: NDArray, name: str) -> NDArray[np.bool_]:
    """The voxels that a mask's values take in (`grid.inside`); an `InputWarning` if they are not 0 and one label.

    Parameters
    ----------
    values : array of any shape
    name : str
        What the mask is called in messages.

    Raises
    ------
    FileError
        No voxel is in the mask.
    """
    chosen = inside(values)
    count = np.count_nonzero(chosen)
    if not count:
        finite = values[np.isfinite(values)]
        largest = f"; its largest value is {finite.max():g}" if finite.size else ""
        raise FileError(f"the mask {name} is empty: none of its {values.size} voxels is above 0.5{largest}")
    others = values[values != 0]
    if not (others == others[0]).all():  # one label, such as 255, is as clear as 1
        numbers = values[~np.isnan(values)]
        nan = " and NaN" if len(numbers) < values.size else ""
        notice(
            f"the mask {name} holds values other than 0 and 1 ({numbers.min():g} to {numbers.max():g}{nan}); "
            f"its {count} voxels above 0.5 are analysed"
        )
    return chosen


def read_map(name: Name, grid: Grid) -> NDArray[np.float32]:
    """Read one volume within a mask: (V,) float32. Errors as of `read_cohort`, and several volumes."""
    header = _all_placed([_single_volume(name)], grid)[0]
    values = next(_volumes(header, grid.index))
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise FileError(f"{header.path} is not finite in {bad} of the {grid.n_voxels} voxels of the mask")
    return values


def read_label_map(name: Name, grid: Grid) -> NDArray[np.int64]:
    """Read the labels of the voxels of a mask: (V,). Errors as of `read_labels` and `read_map`."""
    header = _all_placed([_single_volume(name)], grid)[0]
    return next(read_labels(name)).take(grid.index if header.order is None else header.order[grid.index])


def count_volumes(names: Name | Sequence[Name]) -> int:
    """Number of volumes of a cohort, from its headers; errors as of `read_cohort`."""
    return sum(header.shape[3] for header in _cohort_headers(names))


def read_cohort(
    names: Name | Sequence[Name], grid: Grid, *, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Read the images of a cohort within a mask, a volume in memory at a time (of several files, one a thread).

    Parameters
    ----------
    names : path or sequence of paths
        A 4D image, or several 3D ones; see `image_names`.
    grid : Grid
        The mask.
    progress : callable, optional
        Called as `progress(volumes read, volumes in all)` after each.

    Returns
    -------
    (n, V) float32
        A volume a row, in the order of the files; scaled as the header says.

    Raises
    ------
    FileError
        As of `read_header`; fewer than two volumes; a 4D image among several; another grid than the mask's;
        a truncated or damaged file; values within the mask that are not finite (NaN, infinite, or beyond
        float32).
    """
    headers = _headers_on(names, grid)
    data = np.empty((sum(header.shape[3] for header in headers), grid.n_voxels), dtype=np.float32)
    _read_rows(headers, grid, data.__setitem__, progress)
    return data


def read_tiles(
    names: Name | Sequence[Name], grid: Grid, folder: str, *, progress: Progress | None = None
) -> Tiles:
    """Like `read_cohort`, into a file without a name in a scratch folder.

    Raises
    ------
    FileError
        As of `read_cohort`.
    ScratchError
        The folder has no room, or cannot be used.
    """
    headers = _headers_on(names, grid)
    tiles = Tiles(sum(header.shape[3] for header in headers), grid.n_voxels, folder)
    _read_rows(headers, grid, tiles.writer(), progress)
    return tiles


def _headers_on(names: Name | Sequence[Name], grid: Grid) -> list[ImageHeader]:
    return _all_placed(_cohort_headers(names), grid)


def _read_rows(
    headers: Sequence[ImageHeader],
    grid: Grid,
    put: Callable[[int, NDArray[np.float32]], None],
    progress: Progress | None,
) -> None:
    """Hand over the volumes one after the other; at the end, complain of values that are not finite."""
    n = sum(header.shape[3] for header in headers)
    bad = np.zeros(grid.n_voxels, dtype=bool)
    first = ""
    rounding = Rounding(grid.n_voxels) if any(_may_round(header) for header in headers) else None
    for i, (header, volume, values) in enumerate(_all_volumes(headers, grid.index, rounding)):
        put(i, values)
        wrong = ~np.isfinite(values)
        if wrong.any():
            bad |= wrong
            voxel = grid.position(int(np.argmax(wrong)))
            first = first or f"volume {volume} of {header.path} (subject {i + 1}), voxel {voxel}"
        if progress is not None:
            progress(i + 1, n)
    if first:
        count = np.count_nonzero(bad)
        raise FileError(
            f"the data are not finite in {count} of the {len(bad)} voxels of the mask, first in {first}: NaN, infinite "
            "or beyond float32 (3.4e38); leave these voxels out of the mask, or mend the image"
        )
    said = rounding.sentence(os.fspath(headers[0].path)) if rounding else ""
    if said:
        notice(said)


def _may_round(header: ImageHeader) -> bool:
    return may_round(header.proxy.dtype) or header.proxy.inter != 0


def first_volumes(
    names: Name | Sequence[Name], count: int, index: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """The first volumes of a cohort at some voxels (all by default): (at most count, voxels) float32, NaN as 0.

    Raises
    ------
    FileError
        As of `read_header`; another size than the first image; a truncated or damaged file.
    """
    headers = _cohort_headers(names)[:count]
    template = headers[0].grid(np.ones(headers[0].shape[:3], dtype=bool))
    headers = _all_placed(headers, template, headers[0].path)
    volumes = (values for _, _, values in _all_volumes(headers, index))
    return np.nan_to_num(np.array(list(islice(volumes, count))), posinf=0, neginf=0)


def automatic_mask(names: Name | Sequence[Name], *, progress: Progress | None = None) -> Grid:
    """The mask FSL uses when none is given: every voxel whose value is not the same in all volumes.

    The image is read once more, one volume at a time. Voxels that are NaN in every volume are constant too.

    Parameters
    ----------
    names, progress
        As of `read_cohort`.

    Returns
    -------
    Grid
        As of `read_mask`.

    Raises
    ------
    FileError
        As of `read_cohort`; every voxel is constant.
    """
    headers = _cohort_headers(names)
    n = sum(header.shape[3] for header in headers)
    reference, template = headers[0], headers[0].grid(np.ones(headers[0].shape[:3], dtype=bool))
    volumes = _all_volumes(_all_placed(headers, template, reference.path))
    _, _, first = next(volumes)
    varies = np.zeros(template.mask.size, dtype=bool)
    for i, (_, _, values) in enumerate(volumes, start=2):
        varies |= (values != first) & ~(np.isnan(values) & np.isnan(first))
        if progress is not None:
            progress(i, n)
    if not varies.any():
        raise FileError(f"no voxel of {reference.path} varies over the {n} volumes; a mask cannot be found")
    return reference.grid(varies.reshape(reference.shape[:3], order="F"))


def are_names(data: Any) -> bool:
    """Whether data are the name of a file, or a list of names."""
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(each, str | os.PathLike) for each in data)
    return isinstance(data, str | os.PathLike)


def stacked(images: Sequence[Any]) -> Any:
    """Images of nibabel's, one of each subject, as one 4D image.

    Raises
    ------
    ValueError
        Images of several grids, or an image that is not 3D.
    """
    first = images[0]
    for i, image in enumerate(images, start=1):
        if len(image.shape) != 3 and tuple(image.shape[3:]) != (1,):
            raise ValueError(
                f"image {i} of the data has the shape {tuple(image.shape)}; that of one subject is 3D"
            )
        if image.shape[:3] != first.shape[:3] or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise ValueError(f"image {i} of the data lies on another grid than the first")
    volumes = [np.asanyarray(image.dataobj).reshape(first.shape[:3]) for image in images]
    return nib.Nifti1Image(np.stack(volumes, axis=3), first.affine, first.header)


def header_of(image: Any, what: str) -> ImageHeader:
    """The header of an image in memory, called `what` in messages; its data are not touched."""
    nx, ny, nz, n = (*(int(size) for size in image.shape), 1, 1, 1)[:4]
    affine = np.array(image.affine, dtype=np.float64)
    return ImageHeader(Path(what), (nx, ny, nz, n), affine, image.header, None)


def make_image(values: ArrayLike, grid: Grid) -> Any:
    """A map, 0 outside the mask, as a nibabel image."""
    affine = np.diag([*grid.voxel_size, 1.0]) if grid.affine is None else grid.affine
    return nib.Nifti1Image(grid.to_volume(np.asarray(values, dtype=np.float32)), affine)


def _single_volume(name: Name) -> ImageHeader:
    header = read_header(name)
    if header.shape[3] != 1:
        raise FileError(f"{header.path} has {header.shape[3]} volumes; a single one is expected")
    return header


def _cohort_headers(names: Name | Sequence[Name]) -> list[ImageHeader]:
    headers = [read_header(path) for path in image_names(names)]
    if len(headers) == 1 and headers[0].shape[3] == 1:
        raise FileError(f"{headers[0].path} has one volume; a 4D image with one volume a subject is expected")
    wrong = [header for header in headers if len(headers) > 1 and header.shape[3] != 1]
    if wrong:
        raise FileError(
            f"{wrong[0].path} has {wrong[0].shape[3]} volumes; "
            f"of several images ({len(headers)} here) each must have one, that of one subject"
        )
    return headers


def check_grid(header: ImageHeader, grid: Grid, other: Name = "the mask") -> None:
    """An image must lie where the grid lies, voxel for voxel; orientation counts where both have one."""
    _check_place(header, grid.shape, grid.affine, grid.voxel_size, other)


def placed(header: ImageHeader, grid: Grid, other: Name = "the mask") -> ImageHeader:
    """The header of an image as one that lies where the grid lies, to be read in the grid's order of voxels.

    Images of the same voxels in the world may store their axes in another order or direction.

    Raises
    ------
    FileError
        As of `check_grid`.
    """
    return _placed(header, grid.shape, grid.affine, grid.voxel_size, other)


def placed_like(header: ImageHeader, other: ImageHeader) -> ImageHeader:
    """The same of two images, from their headers: before anything is read that takes memory."""
    return _placed(header, other.shape[:3], other.affine if other.oriented else None, other.voxel_size, other.path)


def _placed(
    header: ImageHeader,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64] | None,
    voxel_size: tuple[float, float, float],
    other: Name,
) -> ImageHeader:
    if affine is not None and header.oriented:
        order = order_on(header.affine, header.shape[:3], affine, shape, voxel_size)
        if order is not None:
            return replace(header, shape=(*shape, header.shape[3]), affine=affine, order=order)
    _check_place(header, shape, affine, voxel_size, other)
    return header


def _all_placed(headers: Sequence[ImageHeader], grid: Grid, other: Name = "the mask") -> list[ImageHeader]:
    """All images on one grid, with a `InputWarning` where some are stored in another way."""
    found = [placed(header, grid, other) for header in headers]
    turned = [header.path for header in found if header.order is not None]
    if turned:
        more = f" and {len(turned) - 1} more images have" if len(turned) > 1 else " has"
        notice(f"{turned[0]}{more} the voxels of {other} along other or reversed axes; reoriented exactly")
    return found


def check_headers(header: ImageHeader, other: ImageHeader) -> None:
    """The same of two images, from their headers: before anything is read that takes memory."""
    affine = other.affine if other.oriented else None
    _check_place(header, other.shape[:3], affine, other.voxel_size, other.path)


def _check_place(
    header: ImageHeader,
    shape: tuple[int, ...],
    affine: NDArray[np.float64] | None,
    voxel_size: tuple[float, ...],
    other: Name,
) -> None:
    if header.shape[:3] != shape:
        raise FileError(
            f"{header.path} has {by(header.shape[:3])} voxels, {other} {by(shape)}; they must be on the same grid"
        )
    if affine is None or not header.oriented:
        return
    if not lie_alike(header.affine, affine, voxel_size):
        raise FileError(
            f"{header.path} and {other} have different affines, "
            f"{rows(header.affine)} and {rows(affine)}; they must be on the same grid"
        )


def by(sizes: Sequence[int]) -> str:
    """Sizes in print: 5 × 6 × 4."""
    return " × ".join(str(size) for size in sizes)


def by_mm(sizes: Sequence[float] | NDArray) -> str:
    """Sizes in print: 2 × 2 × 3.5 mm."""
    return " × ".join(f"{size:.3g}" for size in sizes) + " mm"


def rows(affine: NDArray[np.float64]) -> str:
    """An affine in print, its first three rows."""
    return "[" + "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3]) + "]"


def _all_volumes(
    headers: Sequence[ImageHeader], index: NDArray[np.int64] | None = None, rounding: Rounding | None = None
) -> Iterator[tuple[ImageHeader, int, NDArray[np.float32]]]:
    """(header, number of the volume in its file from 1, values) of all volumes of all images, in order.

    Of several images, which have one volume each, as many are read at a time as there are processors: what takes time
    is gzip, which lets other threads run. The volumes of one file follow from each other, and are read in order.
    `rounding` takes note of each.
    """
    convert = _scaled if rounding is None else partial(_noted, rounding)
    if len(headers) == 1:
        for volume, values in enumerate(_volumes(headers[0], index, convert), start=1):
            yield headers[0], volume, values
        return
    threads = min(os.cpu_count() or 1, MOST_READERS, len(headers))
    with Pool(threads) as pool:
        waiting = deque(pool.submit(_only_volume, header, index, convert) for header in headers[:threads])
        try:
            for i, header in enumerate(headers):
                values = waiting.popleft().result()
                following = headers[i + threads : i + threads + 1]
                waiting.extend(pool.submit(_only_volume, other, index, convert) for other in following)
                yield header, 1, values
        finally:
            for future in waiting:
                future.cancel()


def _only_volume(header: ImageHeader, index: NDArray[np.int64] | None, convert: Convert) -> NDArray[np.float32]:
    return next(_volumes(header, index, convert))


def _volumes(
    header: ImageHeader,
    index: NDArray[np.int64] | None = None,
    convert: Convert | None = None,
) -> Iterator[NDArray]:
    """The volumes of an image one after the other, at the voxels of `index` (all, if None).

    `convert` makes values of what is stored, slope and intercept; float32 by default.
    """
    convert = convert or _scaled
    proxy = header.proxy
    raw = np.empty(math.prod(header.shape[:3]), dtype=proxy.dtype)
    n = header.shape[3]
    if header.order is not None:
        index = header.order if index is None else header.order[index]
    volume = 0
    try:
        with _opened(Path(proxy.file_like)) as file:
            file.seek(proxy.offset)
            for volume in range(1, n + 1):
                _fill(file, raw)
                if volume == n and isinstance(file, _Unzipped):
                    _check_end(file, proxy.file_like)
                yield convert(raw if index is None else raw.take(index), proxy.slope, proxy.inter)
    except _DAMAGE as error:
        raise FileError(
            f"{proxy.file_like} is truncated or damaged: "
            f"volume {max(volume, 1)} of {n} cannot be read ({_reason(error)})"
        ) from error


def _check_end(file: _Unzipped, name: Name) -> None:
    """Read to the very end, where gzip has its checksum; no more than a little padding may come before it."""
    if len(_some_bytes(file, READ_SIZE + 1)) > READ_SIZE:
        raise FileError(f"{os.fspath(name)} is damaged: it holds more data than its header promises")


def _opened(path: Path) -> Any:
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    return _Unzipped(file) if path.suffix == ".gz" and _starts_with(path, (GZIP_MAGIC,)) else file


class _Unzipped(contextlib.AbstractContextManager[Any]):
    """A gzip file, read from its beginning in large steps.

    Python's own reader asks zlib for some kilobytes at a time, and threads that do so spend their time waiting for the
    interpreter: two were slower than one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._member, self._rest = file, zlib.decompressobj(zlib.MAX_WBITS | 16), b""
        self._ended = False

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end; zlib checks the checksum of each member of the file there."""
        while True:
            if self._ended or (self._member.eof and not self._next_member()):
                return b""
            packed = self._rest or self._file.read(READ_SIZE // 4)
            if not packed:
                raise EOFError("the compressed data end early")
            values = self._member.decompress(packed, size)
            self._rest = self._member.unconsumed_tail
            if values:
                return values

    def _next_member(self) -> bool:
        """Whether another member follows; what is none (zeros of a tape, other padding) is ignored, as by gzip."""
        self._rest = (self._member.unused_data + self._rest).lstrip(b"\0")
        while len(self._rest) < len(GZIP_MAGIC):
            found = self._file.read(READ_SIZE // 4)
            if not found:
                break
            self._rest = (self._rest + found).lstrip(b"\0")
        self._ended = not self._rest.startswith(GZIP_MAGIC)
        if not self._ended:
            self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return not self._ended

    def readinto(self, view: memoryview) -> int:
        """Like `read`, into memory."""
        values = self.read(len(view))
        view[: len(values)] = values
        return len(values)

    def seek(self, offset: int) -> None:
        """Leave out the first bytes of the file."""
        while offset > 0 and (values := self.read(min(offset, READ_SIZE))):
            offset -= len(values)


def _fill(file: IO[bytes], array: NDArray) -> None:
    """Read as many bytes as the array has into it."""
    view = array.view(np.uint8).data
    while len(view):
        count = file.readinto(view[:READ_SIZE])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(view)} bytes early")
        view = view[count:]


def _scaled(values: NDArray, slope: float, inter: float) -> NDArray[np.float32]:
    """`slope · values + inter` as float32, always a new array; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if slope != 1 or inter != 0:
            values = values.astype(np.float64) * slope + inter
        return values.astype(np.float32)


def _noted(rounding: Rounding, values: NDArray, slope: float, inter: float) -> NDArray[np.float32]:
    """As `_scaled`; `rounding` takes note."""
    held = _scaled(values, slope, inter)
    rounding.add(values.astype(np.float64) * slope + inter, held)
    return held


# ------------------------------------------------------------------------------------------- writing images


@dataclass(frozen=True)
class Label:
    """What a map says it is, in its header.

    Parameters
    ----------
    descrip : str
        At most 79 bytes.
    intent : str or int
        A NIfTI intent, as nibabel names it: "none", "t test", "z score", "p value", "log10 p value", …
    intent_parameters : tuple of float
        As many as the intent has (degrees of freedom), or none.
    intent_name : str
        At most 15 bytes.
    """

    descrip: str = ""
    intent: str | int = "none"
    intent_parameters: tuple[float, ...] = ()
    intent_name: str = ""

    def __post_init__(self) -> None:
        for text, limit in ((self.descrip, 79), (self.intent_name, 15)):
            if len(text.encode()) > limit:
                raise ValueError(f"{text!r} takes {len(text.encode())} bytes in a header; at most {limit} fit")


def output_type() -> str:
    """The file type for images: FSLOUTPUTTYPE of the environment, NIFTI_GZ if it is not set.

    Raises
    ------
    FileError
        A type that is not written.
    """
    value = os.environ.get("FSLOUTPUTTYPE") or "NIFTI_GZ"
    if value not in FILE_TYPES:
        raise FileError(f"FSLOUTPUTTYPE is {value}; it must be one of {', '.join(FILE_TYPES)}")
    return value


def write_map(
    name: Name,
    values: ArrayLike,
    grid: Grid,
    header: ImageHeader | None = None,
    *,
    label: Label | None = None,
    file_type: str | None = None,
) -> Path:
    """Write the values of the voxels of a mask as a float32 NIfTI image, 0 outside.

    Parameters
    ----------
    name : path
        With or without an image extension; the file type decides.
    values : (V,) or (n, V)
        A 3D map, or the n volumes of a 4D one.
    grid : Grid
        The mask.
    header : ImageHeader, optional
        Of the input: its voxel sizes, qform and sform with their codes are taken over bit by bit, as FSL
        does. By default, the grid's voxel size, and its affine as sform ("aligned").
    label : Label, optional
        Description and intent.
    file_type : {"NIFTI", "NIFTI_GZ", "NIFTI_PAIR", "NIFTI_PAIR_GZ"}, optional
        By default `output_type()`.

    Returns
    -------
    Path
        The file written (the `.hdr` of a pair). The same map gives the same bytes.

    Raises
    ------
    FileError
        The file cannot be written; nothing of it is left, and a file of that name stays as it was.
    ValueError
        `values` is not on the grid.
    """
    volumes = np.asarray(values)
    if volumes.ndim not in (1, 2) or volumes.shape[-1] != grid.n_voxels:
        raise ValueError(f"values of shape {volumes.shape} are not on the {grid.n_voxels} voxels of the mask")
    count = volumes.shape[0] if volumes.ndim == 2 else None
    with open_map(name, grid, header, count, label=label, file_type=file_type) as (path, write):
        for volume in np.atleast_2d(volumes):
            write(volume)
    return path


@contextlib.contextmanager
def open_map(
    name: Name,
    grid: Grid,
    header: ImageHeader | None = None,
    n_volumes: int | None = None,
    *,
    label: Label | None = None,
    file_type: str | None = None,
) -> Iterator[tuple[Path, Callable[[NDArray], None]]]:
    """Write an image volume by volume; see `write_map`.

    Parameters
    ----------
    n_volumes : int, optional
        Of a 4D image; a 3D one by default. So many must be written.

    Yields
    ------
    Path
        Of the file, which appears, whole, when the context is left without an error.
    callable
        Takes the (V,) values of the next volume.
    """
    stem = split_suffix(name)[0]
    header_path, data_path = (Path(stem + suffix) for suffix in FILE_TYPES[file_type or output_type()])
    single = header_path == data_path
    shape = grid.shape if n_volumes is None else (*grid.shape, n_volumes)
    block = _header_block(shape, grid, header, label or Label(), single)
    with contextlib.ExitStack() as stack:  # the data of a pair take their place before its header
        header_file = stack.enter_context(_written(header_path))
        data_file = header_file if single else stack.enter_context(_written(data_path))
        header_file.write(block)
        flat = np.zeros(grid.mask.size, dtype="<f4")

        def write(volume: NDArray) -> None:
            flat[grid.index] = volume
            data_file.write(flat.data)

        yield header_path, write


def read_volumes(name: Name) -> Iterator[NDArray[np.float32]]:
    """The volumes of an image one after the other: every voxel, x fastest, as float32; NaN is let through.

    Raises
    ------
    FileError
        As of `read_header`; a truncated or damaged file.
    """
    yield from _volumes(read_header(name))


def read_labels(name: Name) -> Iterator[NDArray[np.int64]]:
    """The volumes of a label image one after the other: every voxel, x fastest, as whole numbers in full precision.

    Raises
    ------
    FileError
        As of `read_header`; a truncated or damaged file; values that are not whole numbers; numbers so large that the
        file, which holds floats, does not tell neighbours apart.
    """
    header = read_header(name)

    def convert(values: NDArray, slope: float, inter: float) -> NDArray[np.int64]:
        try:
            return _whole(values, slope, inter)
        except ValueError as error:
            raise FileError(f"{header.path} {error}") from None

    yield from _volumes(header, convert=convert)


def _whole(values: NDArray, slope: float, inter: float) -> NDArray[np.int64]:
    """Stored values as whole numbers; `ValueError` if they are none, or are too large to be exact."""
    most = 2.0**53 if (slope, inter) != (1, 0) or values.dtype.kind == "f" else 2.0**63
    if values.dtype.kind == "f":
        most = min(most, 2.0 ** (np.finfo(values.dtype).nmant + 1))
    if (slope, inter) != (1, 0):
        values = values.astype(np.float64) * slope + inter
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():  # nor NaN
        raise ValueError("has values that are not whole numbers; labels expected")
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if largest >= most:
        raise ValueError(
            f"has labels up to {largest:.0f}; those from {most:.0f} on are not told apart in it: save it with integers"
        )
    return values.astype(np.int64)


def _header_block(
    shape: tuple[int, ...], grid: Grid, header: ImageHeader | None, label: Label, single: bool
) -> bytes:
    """The bytes of a header as FSL writes them, and 4 that say: no extension; NIfTI-2 where a side is too long."""
    large = max(shape) > MOST_IN_NIFTI1
    if large:
        nifti: Any = (nib.Nifti2Header if single else nib.nifti2.Nifti2PairHeader)(endianness="<")
    else:
        nifti = (nib.Nifti1Header if single else nib.nifti1.Nifti1PairHeader)(endianness="<")
    try:
        nifti.set_data_shape(shape)
        nifti.set_intent(label.intent, label.intent_parameters, label.intent_name)
    except (KeyError, HeaderDataError) as error:
        raise ValueError(f"NIfTI has no header for shape {shape}, intent {label.intent!r}: {error}") from error
    nifti.set_data_dtype(np.float32)
    if header is None:
        nifti["pixdim"][1:4] = grid.voxel_size
        if grid.affine is not None:
            nifti.set_sform(grid.affine, code="aligned")
    else:
        for key in GEOMETRY:
            if key in header.nifti:
                nifti[key] = header.nifti[key]
    fixed = {"vox_offset": len(nifti.binaryblock) + 4 if single else 0, "scl_slope": 1, "scl_inter": 0}
    fsl: dict[str, Any] = {"xyzt_units": 10}  # millimetres and seconds
    fsl |= {} if large else {"extents": 16384, "regular": b"r"}
    for key, value in {**fixed, **fsl, "descrip": label.descrip.encode()}.items():
        nifti[key] = value
    return nifti.binaryblock + bytes(4)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """An atomic file, gzipped if its name says so; without name or time in it, so always the same bytes."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as zipped:
            yield zipped  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------- matrices


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix from a file.

    Attributes
    ----------
    values : (rows, columns) float64
        Finite.
    row_names : tuple of str
        `/ContrastName1` … of a VEST file, "" where one is missing; the column of names of a table (`participant_id`,
        `contrast`, or the first if it has no name, as pandas writes an index); empty if there are none.
    column_names : tuple of str
        The header row of a table, without the column of names; empty for a VEST file.
    """

    values: NDArray[np.float64]
    row_names: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()


def read_matrix(path: Name) -> NDArray[np.float64]:
    """Read a design, contrasts, F-tests or groups: `read_named_matrix` without the names."""
    return read_named_matrix(path).values


def read_named_matrix(path: Name) -> Matrix:
    """Read a matrix from a VEST file or a table, whichever the file is.

    Parameters
    ----------
    path : path
        A VEST file has a line `/Matrix`, or starts with `/`. Anything else is a table: a first row of names, then
        rows of numbers, separated by tabs if the first row has one, by commas otherwise. Numbers without names are
        neither.

    Returns
    -------
    Matrix

    Raises
    ------
    FileError
        Missing, empty or not text; anything that `read_vest` refuses; a table without names, with a name
        missing or used twice, rows of another length, or an entry that is not a finite number.
    """
    path, text = Path(path), decode_text(path, read_bytes(path))
    lines = lines_of(text)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise FileError(f"{path} is empty; a VEST matrix, or a table with a row of names, is expected")
    is_vest = first.lstrip().startswith("/") or any(line.split(maxsplit=1)[:1] == ["/Matrix"] for line in lines)
    return _parse_vest(path, lines) if is_vest else _parse_table(path, text)


def read_vest(path: Name) -> NDArray[np.float64]:
    """Read FSL's VEST format: `/NumWaves` columns, `/NumPoints` or `/NumContrasts` rows, after `/Matrix`.

    Other lines of the header are ignored. A row may go over several lines, and a line may hold several rows, as long
    as the lines are alike.

    Returns
    -------
    (rows, columns) float64
        Finite.

    Raises
    ------
    FileError
        Missing or not text; no `/Matrix`, no counts, or counts that the matrix does not have; an entry that
        is not a finite number.
    """
    return _parse_vest(Path(path), _text_lines(path)).values


def write_vest(path: Name, matrix: ArrayLike, kind: str = "mat", *, names: Sequence[str] = ()) -> None:
    """Write FSL's VEST format; the numbers are read back bit by bit.

    Parameters
    ----------
    path : path
    matrix : (rows, columns) or (rows,)
    kind : {"mat", "con", "fts", "grp"}
        Rows are points ("mat", "grp") or contrasts ("con", "fts").
    names : sequence of str, optional
        Of the contrasts.
    """
    if kind not in ("mat", "con", "fts", "grp"):
        raise ValueError(f"kind is {kind!r}; it must be 'mat', 'con', 'fts' or 'grp'")
    values = np.asarray(matrix, dtype=np.float64)
    values = values.reshape(len(values), -1)
    rows, columns = values.shape
    lines = [f"/ContrastName{i}\t{name}" for i, name in enumerate(names, start=1)]
    lines += [f"/NumWaves {columns}", f"/Num{'Points' if kind in ('mat', 'grp') else 'Contrasts'} {rows}"]
    lines += ["", "/Matrix"]
    lines += [" ".join(repr(value).removesuffix(".0") for value in row) for row in values.tolist()]
    write_text(path, "\n".join(lines) + "\n")


def _parse_vest(path: Path, lines: Sequence[str]) -> Matrix:
    start = next((i for i, line in enumerate(lines) if line.split(maxsplit=1)[:1] == ["/Matrix"]), None)
    if start is None:
        raise FileError(f"{path} has no /Matrix; a VEST file is expected")
    header = [line.strip().split(maxsplit=1) for line in lines[:start] if line.lstrip().startswith("/")]
    keys = {key: value[0] if value else "" for key, *value in header}
    columns = _count(path, keys, "/NumWaves")
    rows_key = "/NumPoints" if "/NumPoints" in keys else "/NumContrasts"
    rows = _count(path, keys, rows_key)
    numbered = [(i, line.split()) for i, line in enumerate(lines[start + 1 :], start + 2) if line.strip()]
    numbered = _unwrapped(numbered, rows, columns)
    values = [_finite_row(path, i, fields, columns, "/NumWaves") for i, fields in numbered]
    if len(values) != rows:
        raise FileError(f"{path} has {len(values)} rows after /Matrix; {rows_key} says {rows}")
    names = tuple(keys.get(f"/ContrastName{i}", "") for i in range(1, rows + 1))
    return Matrix(np.array(values), names if any(names) else ())


def _count(path: Path, keys: Mapping[str, str], key: str) -> int:
    if key not in keys:
        also = "neither /NumPoints nor /NumContrasts" if key == "/NumContrasts" else f"no {key}"
        raise FileError(f"{path} has {also} before /Matrix; a VEST file needs the number of columns and of rows")
    if not re.fullmatch(r"[1-9]\d*", keys[key]):
        raise FileError(f"{path}: {key} is {keys[key]!r}; it must be a whole number of at least 1")
    return int(keys[key])


def _unwrapped(numbered: list[tuple[int, list[str]]], rows: int, columns: int) -> list[tuple[int, list[str]]]:
    """Rows of a matrix that was written in lines of another length, if there is no doubt where they end.

    FSL reads numbers in a row, whatever the lines are. A number too few in one row and one too many in another would
    go unseen so: lines are taken for wrapped rows only if each holds whole rows, if each row begins a line, or if all
    but the last are of one length.
    """
    counts = [len(fields) for _, fields in numbered]
    if sum(counts) != rows * columns or counts == [columns] * rows:
        return numbered
    ends = {columns * (i + 1) for i in range(rows)}
    begins = ends <= set(np.cumsum(counts).tolist())
    alike = len(set(counts[:-1])) == 1 and counts[-1] <= counts[0]
    if not (begins or alike or all(count % columns == 0 for count in counts)):
        return numbered
    fields = [(i, field) for i, line in numbered for field in line]
    starts = range(0, len(fields), columns)
    return [(fields[k][0], [field for _, field in fields[k : k + columns]]) for k in starts]


def _parse_table(path: Path, text: str) -> Matrix:
    table = parse_table(path, text)
    if table is None or not table.names:
        raise FileError(
            f"{path} holds nothing but comments; a VEST matrix, or a table with a row of names, is expected"
        )
    names = table.names
    if any(name and all(math.isfinite(as_number(word)) for word in name.split()) for name in names):
        raise FileError(
            f"{path} starts with the numbers {table.first.strip()!r}; a table needs a first row of names, "
            "and a VEST matrix its header with /Matrix (Text2Vest writes it)"
        )
    where = _column_of_names(names, table.rows)
    columns = [name for i, name in enumerate(names) if i != where]
    if not columns or "" in columns or len(set(columns)) < len(columns):
        raise FileError(f"{path}: the columns are called {names}; each needs a name of its own")
    if not table.rows:
        raise FileError(f"{path} has a row of names but no numbers")
    _check_separator(path, table)
    of_rows, values = [], []
    for row in table.rows:
        line, fields = row.line, row.cells
        if where is not None and len(fields) == len(names):
            of_rows.append(fields[where].strip())
            fields = [field for i, field in enumerate(fields) if i != where]
            values.append(_finite_row(path, line, fields, len(columns), "the row of names"))
        else:
            values.append(_finite_row(path, line, fields, len(names), "the row of names"))
    if "" in of_rows:
        raise FileError(f"{path}: row {of_rows.index('') + 1} has nothing in column {names[where or 0]!r}")
    counts = where is not None and not names[where] and all(name.isdecimal() for name in of_rows)
    return Matrix(np.array(values), () if counts else tuple(of_rows), tuple(columns))


def _column_of_names(names: Sequence[str], rows: Sequence[Row]) -> int | None:
    """Which column of a table of numbers names its rows, if one does.

    One of `ID_COLUMNS` always; the first, if it is called as in `NAME_COLUMNS` (pandas and R write an index under no
    name), where its cells are no numbers; without a name also where they count up, and then they name nothing.
    """
    ids = [i for i, name in enumerate(names) if name.casefold() in ID_COLUMNS]
    if ids:
        return ids[0]
    first = [row.cells[0] for row in rows]
    are_text = any(not math.isfinite(as_number(field)) for field in first)
    whole = not names[0] and len(first) > 1 and all(field.strip().isdecimal() for field in first)
    counts = whole and all(a < b for a, b in pairwise(map(as_number, first)))
    return 0 if counts or (names[0].casefold() in NAME_COLUMNS and are_text) else None


def _check_separator(path: Path, table: TextTable) -> None:
    """Raise `FileError` for a table that is separated by blanks."""
    words = table.names[0].split()
    if len(table.names) == 1 < len(words) and all(len(row.cells[0].split()) == len(words) for row in table.rows):
        raise FileError(f"{path} is separated by blanks; tabs or commas expected, or a VEST matrix with /Matrix")


def _finite_row(path: Path, line: int, fields: Sequence[str], columns: int, origin: str) -> list[float]:
    if len(fields) != columns:
        raise FileError(f"{path}, line {line}: {len(fields)} numbers in the row; {origin} says {columns}")
    values = [as_number(field) for field in fields]
    for field, value in zip(fields, values):
        if not math.isfinite(value):
            raise FileError(f"{path}, line {line}: {field!r} is not a finite number")
    return values


def read_table(path: Name, required: Sequence[str] = (), *, long: bool = False, may_be_empty: bool = False) -> Any:
    """Read a table with a header row, TSV or CSV, as text.

    Parameters
    ----------
    path : path
        ``participants.tsv`` and the like; commas if the first line has no tab.
    required : sequence of str
        Columns that there must be, without empty cells.
    long : bool
        Several rows of a participant are in order.
    may_be_empty : bool
        No row below the header is in order.

    Returns
    -------
    pandas.DataFrame of str
        Of a table of participants, ``attrs["levels"]`` names the columns that a JSON file beside it gives ``Levels``.

    Raises
    ------
    FileError
        Not a table; no row; a column or a cell is missing; `participant_id` occurs twice.
    """
    path = Path(path)
    table = _frame(_checked_table(path))
    missing = [column for column in required if column not in table.columns]
    if missing:
        there = ", ".join(table.columns[:20]) + (" …" if len(table.columns) > 20 else "")
        raise FileError(f"{path} has no column {missing[0]!r}; it has {there}")
    if not (len(table) or may_be_empty):
        raise FileError(f"{path} has no row below its header")
    for column in required:
        empty = np.flatnonzero(table[column].str.strip().isin(["", "n/a"]))
        if len(empty):
            raise FileError(f"{path} has nothing in column {column!r} of row {empty[0] + 1}")
    if "participant_id" in table.columns:
        table["participant_id"] = table["participant_id"].str.strip()
    if "participant_id" in table.columns and not long:
        twice = table["participant_id"][table["participant_id"].duplicated()]
        if len(twice):
            raise FileError(f"{path} has participant_id {twice.iloc[0]} twice")
    if "participant_id" in table.columns:
        table.attrs["levels"] = _declared(path)
    return table


def _checked_table(path: Path) -> TextTable:
    table = parse_table(path, decode_text(path, read_bytes(path), strict=True))
    if table is None:
        raise FileError(f"{path} is empty; a table with a header row expected")
    names = table.names
    if "" in names and len(set(names)) == len(names):
        names[names.index("")] = f"Unnamed: {names.index('')}"  # as pandas calls the row names that R writes
    check_names(path, table)
    check_rows(path, table)
    if len(names) == 1 and "participant_id" in names[0].split()[1:] + names[0].split()[:-1]:
        raise FileError(f"{path} is separated by blanks; tabs or commas expected")
    return table


def _declared(path: Path) -> tuple[str, ...]:
    """Columns that the JSON file beside a table describes as categories, as BIDS does."""
    beside = path.with_suffix(".json")
    if path.suffix == ".json" or not beside.is_file():
        return ()
    described = read_json(beside)
    return tuple(name for name, column in described.items() if isinstance(column, dict) and "Levels" in column)


def _frame(table: TextTable) -> Any:
    import pandas as pd

    cells = np.empty((len(table.rows), len(table.names)), dtype=object)
    for i, row in enumerate(table.rows):
        cells[i] = row.cells
    return pd.DataFrame(cells, columns=table.names, dtype=object)


def sidecar(name: Name) -> dict[str, Any]:
    """Content of the JSON file beside an image; empty if there is none.

    Raises
    ------
    FileError
        It is not a JSON object.
    """
    return read_json(split_suffix(find_image(name))[0] + ".json")


def read_json(name: Name) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none; a `FileError` if it is not a JSON object."""
    path = Path(name)
    if not path.exists():
        return {}
    try:
        content = json.loads(read_bytes(path, MOST_SETTINGS).decode("utf-8-sig"))
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object")
    return content


def read_bytes(path: Name, most: int = MOST_TEXT) -> bytes:
    """The content of a file of at most so many bytes.

    Raises
    ------
    FileError
        It cannot be read, or is larger: by its size, before anything is read.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and status.st_size > most):
                content = _some_bytes(file, most + 1)
                if len(content) <= most:
                    return content
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise FileError(f"{os.fspath(path)} cannot be read: {_reason(error)}") from error
    raise FileError(f"{os.fspath(path)} has more than {most >> 20} MiB; no file of its kind is so large")


def _text_lines(path: Name) -> list[str]:
    return lines_of(decode_text(path, read_bytes(path)))


# ------------------------------------------------------------------------------ permutations, null maxima


def read_permutations(path: Name) -> NDArray[np.int64]:
    """Read permutations or sign flips, a row each, as `randomise -P` writes them or as plain integers.

    Returns
    -------
    (N, n) int64
        Every row holds 1 … n in some order, or every row holds ±1.

    Raises
    ------
    FileError
        Missing, empty or not text; rows of different length; an entry that is not an integer; a row of
        another kind than the first.
    """
    path = Path(path)
    numbered = [(i, line.split()) for i, line in enumerate(_text_lines(path), 1) if line.strip()]
    if not numbered:
        raise FileError(f"{path} is empty; a permutation or sign flip a line is expected")
    n = len(numbered[0][1])
    values = np.array([_finite_row(path, i, fields, n, "the first row") for i, fields in numbered])
    flips = bool((np.abs(values[0]) == 1).all())
    right = np.abs(values) == 1 if flips else np.sort(values, axis=1) == np.arange(1, n + 1)
    if not right.all():
        line, fields = numbered[int(np.argmin(right.all(axis=1)))]
        kind = "1 and -1 only" if flips else f"the numbers 1 to {n}, each once"
        raise FileError(f"{path}, line {line}: {_shortened(fields)} is not a row of {kind}")
    return values.astype(np.int64)


def write_permutations(path: Name, permutations: ArrayLike) -> None:
    """Write (N, n) 1-based permutations or ±1 as `randomise -P` does: `1.000000 3.000000 2.000000 `."""
    rows = np.asarray(permutations)
    fields = {value: f"{value}.000000 " for value in np.unique(rows).tolist()}
    write_text(path, "".join("".join(map(fields.__getitem__, row)) + "\n" for row in rows.tolist()))


def write_column(path: Name, values: ArrayLike) -> None:
    """Write (N,) null maxima as `randomise -N` does: `84.000000 `, one a line."""
    write_text(path, "".join(f"{value:.6f} \n" for value in np.asarray(values).tolist()))


def _shortened(fields: Sequence[str]) -> str:
    return " ".join(fields) if len(fields) <= 12 else " ".join(fields[:10]) + " …"


# ------------------------------------------------------------------------------------------- writing, hashing


@contextlib.contextmanager
def atomic(path: Name) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` at the end, or removed on any failure.

    Raises
    ------
    FileError
        For every `OSError` within: no such folder, no permission, disk full.
    """
    path = Path(path)
    temporary = path.with_name(f".gpuvox-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Name, text: str) -> None:
    """Write a text file, whole or not at all (`FileError`)."""
    with atomic(path) as temporary:
        # Names of files that are not UTF-8 come as lone surrogates; as \udcXX they are right in JSON, too.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_table(path: Name, table: Any) -> None:
    """Write a table as TSV: eight digits, ``n/a`` for what is missing; whole or not at all.

    Cells with tabs, line breaks or quotation marks are in quotation marks, and `read_table` reads them back.

    Parameters
    ----------
    path : path
    table : pandas.DataFrame
        Its index is not written.

    Raises
    ------
    FileError
        A cell holds what no text file can, or the file cannot be written.
    """
    names = [_cell(path, name) for name in table.columns]
    rows = [[_cell(path, value) for value in row] for row in table.itertuples(index=False, name=None)]
    write_text(path, format_table(names, rows) if names else "\n")


def _cell(path: Name, value: Any) -> str:
    if value is None or value != value:
        return "n/a"
    text = f"{value:.8g}" if isinstance(value, float | np.floating) else str(value)
    if "\0" in text:
        raise FileError(f"{os.fspath(path)} cannot be written: {text!r} holds a zero byte")
    return text


def write_json(path: Name, content: Mapping[str, Any]) -> None:
    """Write JSON, keys sorted, indented, whole or not at all.

    numpy arrays and numbers, paths and tuples are taken too; NaN and infinity are a `FileError`, for JSON
    has no such numbers.
    """
    try:
        text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {error}") from error
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} has no form in JSON")


def hash_file(path: Name) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be read: {_reason(error)}") from error


def check_not_read(written: Iterable[Name], read: Iterable[Name]) -> None:
    """Make sure that a command writes over nothing that it reads.

    Raises
    ------
    FileError
        It would, under whatever name.
    """
    there = [path for path in read if os.fspath(path) and os.path.exists(path)]
    for path in written:
        if os.path.exists(path) and any(os.path.samefile(path, other) for other in there):
            raise FileError(f"the output would write over {os.fspath(path)}, which is read; choose another name")


def check_output_root(root: Name) -> None:
    """Make sure that files named `root…` can be created, before any work is done.

    Raises
    ------
    FileError
        The folder does not exist or nothing can be written there.
    """
    folder = os.path.dirname(os.fspath(root)) or "."
    if not os.path.isdir(folder):
        raise FileError(f"the output {os.fspath(root)} cannot be written: there is no folder {folder}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileError(
            f"the output {os.fspath(root)} cannot be written: "
            f"no file can be created in {folder} ({_reason(error)})"
        ) from error
