"""Headers of images, read without their data."""

from __future__ import annotations

import contextlib
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.files.contents import READ_SIZE, read_json, some_bytes
from gpuvox.files.names import find_image, split_suffix
from gpuvox.files.notices import notice
from gpuvox.files.orientation import format_sizes
from gpuvox.files.streams import DAMAGE, open_stream, starts_with
from gpuvox.files.text import Name, reason
from gpuvox.grid import Grid

# The first bytes of an uncompressed NIfTI file: the size of its header, in either byte order.
NIFTI_SIZES: dict[Any, tuple[bytes, ...]] = {
    nib.Nifti1Image: (b"\x5c\1\0\0", b"\0\0\1\x5c"),
    nib.Nifti2Image: (b"\x1c\2\0\0", b"\0\0\2\x1c"),
}
# Highest compression ratio of gzip.
MOST_DEFLATED = 1032
# Bytes of a NIfTI header with its extensions. No real one is larger; a forged size would fill the memory.
MOST_HEADER = 1 << 24
# Units of length in a NIfTI header (the lowest bits of xyzt_units) other than millimetres, or none given.
SPACE_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """The header of an image; the data stay in the file.

    Attributes
    ----------
    path : Path
        The image, or the `.hdr` of a pair.
    shape : (nx, ny, nz, n)
        Voxels along x, y and z, and the number of volumes, 1 for a 3D image.
    affine : (4, 4) float64
        From voxels to world coordinates in millimetres.
    nifti : nibabel header
        The header as read.
    proxy : nibabel.arrayproxy.ArrayProxy
        File and position of the data, their type and scaling.
    order : (nx·ny·nz,) int64, optional
        Where the file stores each voxel, if shape and affine are those of a grid whose axes the file stores in a
        different order or direction; see `placement.placed`.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64]
    nifti: Any
    proxy: Any
    order: NDArray[np.int64] | None = None

    @property
    def zooms(self) -> tuple[float, ...]:
        """(dx, dy, dz, dt) of the header, absolute; 1 for dimensions that the image lacks."""
        zooms = [abs(float(zoom)) for zoom in self.nifti.get_zooms()[:4]]
        return (*zooms, *[1.0] * (4 - len(zooms)))

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Millimetres along x, y and z, from `pixdim` (nibabel reads zero as 1, with a warning)."""
        dx, dy, dz = self.zooms[:3]
        known = isinstance(self.nifti, nib.AnalyzeHeader) and "xyzt_units" in self.nifti
        units = SPACE_UNITS.get(int(self.nifti["xyzt_units"]) & 7 if known else 0)
        if units:
            raise FileError(
                f"{self.path} says that its voxels of {dx:g} × {dy:g} × {dz:g} are in {units} (xyzt_units), but "
                "millimetres are expected: correct the units, or sizes and affine"
            )
        if not all(math.isfinite(d) and d > 0 for d in (dx, dy, dz)):
            raise FileError(f"{self.path} has voxels of {dx:g} × {dy:g} × {dz:g} mm; sizes must be positive")
        return dx, dy, dz

    @property
    def oriented(self) -> bool:
        """Whether the header gives the orientation: a qform or an sform with a code other than 0."""
        if not isinstance(
            self.nifti, nib.AnalyzeHeader
        ):  # an image in memory, of a format that always has an orientation
            return True
        return any(int(self.nifti[key]) > 0 for key in ("qform_code", "sform_code") if key in self.nifti)

    def grid(self, mask: NDArray[np.bool_]) -> Grid:
        """The grid of this image with the given (nx, ny, nz) mask, without an affine if the header has none."""
        if not self.oriented:
            return Grid(mask, self.voxel_size)
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        if not np.allclose(sizes, self.voxel_size, rtol=0.01):
            notice(
                f"the voxels of {self.path} are {format_sizes(self.voxel_size)} by pixdim, "
                f"{format_sizes(sizes)} by its affine; pixdim is used"
            )
        return Grid(mask, self.voxel_size, self.affine)


def read_header(name: Name) -> ImageHeader:
    """Read the header of an image, without its data.

    Raises
    ------
    FileError
        As for `find_image`; not a NIfTI or Analyze image, not of real numbers, or with more than four dimensions.
    """
    path = find_image(name)
    _check_extensions(path)
    try:
        image: Any = _load(path)
        dims, proxy = tuple(int(n) for n in image.shape), image.dataobj
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, *DAMAGE) as error:
        raise FileError(f"{path} cannot be read as an image: {reason(error)}") from error
    if not isinstance(image.header, nib.AnalyzeHeader):
        raise FileError(f"{path} is a {type(image).__name__}; a NIfTI image is expected")
    _check_offset(path, image.header, int(proxy.offset))
    if proxy.dtype.kind not in "iuf":
        raise FileError(f"{path} holds values of type {proxy.dtype}; real numbers are expected")
    if min(dims, default=0) < 1 or any(n > 1 for n in dims[4:]):
        raise FileError(f"{path} has dimensions {dims}; three are expected, or four with volumes")
    _check_size(proxy, dims)
    nx, ny, nz, n = (*dims, 1, 1, 1)[:4] if len(dims) < 4 else dims[:4]
    return ImageHeader(path, (nx, ny, nz, n), np.array(image.affine, dtype=np.float64), image.header, proxy)


def header_of(image: Any, what: str) -> ImageHeader:
    """The header of an image in memory, which messages call `what`; its data are not read."""
    nx, ny, nz, n = (*(int(size) for size in image.shape), 1, 1, 1)[:4]
    affine = np.array(image.affine, dtype=np.float64)
    return ImageHeader(Path(what), (nx, ny, nz, n), affine, image.header, None)


def sidecar(name: Name) -> dict[str, Any]:
    """The content of the JSON file beside an image; empty if there is none.

    Raises
    ------
    FileError
        The file is not a JSON object.
    """
    return read_json(split_suffix(find_image(name))[0] + ".json")


def _load(path: Path) -> Any:
    """An image as nibabel loads it; also an uncompressed image whose name ends in .gz."""
    kinds = [kind for kind, sizes in NIFTI_SIZES.items() if path.suffix == ".gz" and starts_with(path, sizes)]
    if not kinds:
        return nib.load(path)
    with open(path, "rb") as file:
        image: Any = kinds[0].from_file_map({"image": nib.FileHolder(fileobj=file)})
        image.dataobj.file_like = os.fspath(path)
        return image


def _check_offset(path: Path, header: Any, offset: int) -> None:
    """In a single file the data begin after the header; some programs write 0, which would make the header voxels."""
    least = getattr(header, "single_vox_offset", 0) if getattr(header, "is_single", False) else 0
    if offset < least:
        raise FileError(
            f"{path} has a vox_offset of {offset}, within its header; in a single file the data begin at byte {least} "
            "or later"
        )


def _check_size(proxy: Any, dims: tuple[int, ...]) -> None:
    """Reserve no memory for data that the file cannot hold. Files that are slightly short are found while reading."""
    path = Path(proxy.file_like)
    size = path.stat().st_size
    most = size * MOST_DEFLATED if path.suffix == ".gz" else size
    claimed = proxy.offset + math.prod(dims) * proxy.dtype.itemsize
    if claimed > most + READ_SIZE:
        raise FileError(
            f"{path} is truncated or damaged: its header announces {claimed:.4g} bytes of data, which a file of {size} "
            "bytes cannot hold"
        )


def _check_extensions(path: Path) -> None:
    """Reserve no memory for extensions that the file cannot hold; nibabel reads each in full, whatever its size."""
    with contextlib.suppress(*DAMAGE, struct.error), open_stream(path) as file:
        start = some_bytes(file, 544)
        order = "<" if start[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
        (size,) = struct.unpack_from(f"{order}i", start)
        if size not in (348, 540):
            return
        kind, place = ("f", 108) if size == 348 else ("q", 168)
        (offset,) = struct.unpack_from(order + kind, start, place)
        is_single = ".nii" in split_suffix(path)[1]
        if is_single and not offset <= MOST_HEADER:
            raise FileError(
                f"{path} is truncated or damaged: its data begin at byte {offset:.4g}, but no header is that long"
            )
        if start[size : size + 1] in (b"", b"\0"):
            return
        stop = max(int(offset), 0) if is_single else MOST_HEADER + 1
        block = start[:stop] + some_bytes(file, stop - len(start))
        _walk_extensions(path, block, size + 4, order)


def _walk_extensions(path: Path, block: bytes, place: int, order: str) -> None:
    """Each extension starts with its size and ends within the header."""
    while len(block) - place >= 16:
        (size,) = struct.unpack_from(f"{order}i", block, place)
        place += size
        if size < 8 or place > min(len(block), MOST_HEADER):
            raise FileError(
                f"{path} is truncated or damaged: an extension of its header claims {size} bytes, more than there are"
            )
