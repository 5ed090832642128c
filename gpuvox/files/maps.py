"""Maps written as NIfTI images."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike

from gpuvox.files.headers import ImageHeader
from gpuvox.files.names import FILE_TYPES, output_type, split_suffix
from gpuvox.files.text import Name
from gpuvox.files.writing import atomic
from gpuvox.grid import Grid
from gpuvox.types import AnyArray

# Maps are mostly noise: level 6 makes a t map 2 % and a map of p-values 10 % smaller, in up to twice the time.
GZIP_LEVEL = 1
# Largest dimension of a NIfTI-1 header.
MOST_IN_NIFTI1 = 32767
# Fields of a NIfTI header with the geometry, which a map takes from the input bit by bit.
GEOMETRY = ["pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"]
GEOMETRY += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]


# Bytes of a description in a NIfTI header, which ends with a zero byte.
DESCRIP_BYTES = 79


@dataclass(frozen=True)
class Label:
    """Description and intent of a map, for its header.

    Parameters
    ----------
    descrip : str
        At most 79 bytes.
    intent : str or int
        A NIfTI intent, as nibabel names it: "none", "t test", "z score", "p value", "log10 p value", …
    intent_parameters : tuple of float
        Parameters of the intent (degrees of freedom), or none.
    intent_name : str
        At most 15 bytes.
    """

    descrip: str = ""
    intent: str | int = "none"
    intent_parameters: tuple[float, ...] = ()
    intent_name: str = ""

    def __post_init__(self) -> None:
        for text, limit in ((self.descrip, DESCRIP_BYTES), (self.intent_name, 15)):
            if len(text.encode()) > limit:
                raise ValueError(
                    f"{text!r} takes {len(text.encode())} bytes in a header; at most {limit} are possible"
                )

    @classmethod
    def cut(cls, text: str, intent: str | int = "none", intent_parameters: tuple[float, ...] = ()) -> Label:
        """A label with as much of a text as a header holds, for texts with names and versions of any length."""
        descrip = text.encode()[:DESCRIP_BYTES].decode(errors="ignore")
        return cls(descrip, intent, intent_parameters)


def write_map(
    name: Name,
    values: ArrayLike,
    grid: Grid,
    header: ImageHeader | None = None,
    *,
    label: Label | None = None,
    file_type: str | None = None,
    dtype: str = "<f4",
    outside: float = 0.0,
) -> Path:
    """Write the values of the voxels of a mask as a NIfTI image, of float32 and 0 outside unless otherwise asked.

    Parameters
    ----------
    name : path
        With or without an image extension, which the file type replaces.
    values : (V,) or (n, V)
        A 3D map, or the n volumes of a 4D one.
    grid : Grid
        The mask.
    header : ImageHeader, optional
        Header of the input, whose voxel sizes, qform and sform with their codes are copied bit by bit, as in FSL. By
        default, the grid's voxel size, and its affine as sform ("aligned").
    label : Label, optional
        Description and intent.
    file_type : {"NIFTI", "NIFTI_GZ", "NIFTI_PAIR", "NIFTI_PAIR_GZ"}, optional
        By default `output_type()`.
    dtype : {"<f4", "<f8"}
        Type of the values in the file.
    outside : float
        Value of the voxels that are not in the mask.

    Returns
    -------
    Path
        The file written (the `.hdr` of a pair). Equal maps give equal bytes.

    Raises
    ------
    FileError
        The file cannot be written; an existing file of that name is unchanged.
    ValueError
        `values` is not on the grid.
    """
    volumes = np.asarray(values)
    if volumes.ndim not in (1, 2) or volumes.shape[-1] != grid.n_voxels:
        raise ValueError(f"values of shape {volumes.shape} are not on the {grid.n_voxels} voxels of the mask")
    count = volumes.shape[0] if volumes.ndim == 2 else None
    how: dict[str, Any] = {"label": label, "file_type": file_type, "dtype": dtype, "outside": outside}
    with open_map(name, grid, header, count, **how) as (path, write):
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
    dtype: str = "<f4",
    outside: float = 0.0,
) -> Iterator[tuple[Path, Callable[[AnyArray], None]]]:
    """Write an image volume by volume; see `write_map`.

    Parameters
    ----------
    n_volumes : int, optional
        Number of volumes of a 4D image, all of which must be written; a 3D image by default.

    Yields
    ------
    Path
        The file, which appears, complete, when the context is left without an error.
    callable
        Takes the (V,) values of the next volume.
    """
    stem = split_suffix(name)[0]
    header_path, data_path = (Path(stem + suffix) for suffix in FILE_TYPES[file_type or output_type()])
    single = header_path == data_path
    shape = grid.shape if n_volumes is None else (*grid.shape, n_volumes)
    nifti = _geometry(shape, grid, header, label or Label(), single)
    nifti.set_data_dtype(np.dtype(dtype))
    block: bytes = nifti.binaryblock + bytes(4)
    with contextlib.ExitStack() as stack:  # the data of a pair are renamed before its header
        header_file = stack.enter_context(_written(header_path))
        data_file = header_file if single else stack.enter_context(_written(data_path))
        header_file.write(block)
        flat = np.full(grid.mask.size, outside, dtype=dtype)

        def write(volume: AnyArray) -> None:
            flat[grid.index] = volume
            data_file.write(flat.data)

        yield header_path, write


def make_image(values: ArrayLike, grid: Grid) -> Any:
    """A map, 0 outside the mask, as a nibabel image."""
    affine = np.diag([*grid.voxel_size, 1.0]) if grid.affine is None else grid.affine
    return nib.Nifti1Image(grid.to_volume(np.asarray(values, dtype=np.float32)), affine)


def _geometry(shape: tuple[int, ...], grid: Grid, header: ImageHeader | None, label: Label, single: bool) -> Any:
    """The header as FSL writes it, which 4 bytes for no extensions follow; NIfTI-2 if a dimension is too large."""
    large = max(shape) > MOST_IN_NIFTI1
    if large:
        kind: Any = nib.Nifti2Header if single else nib.nifti2.Nifti2PairHeader
    else:
        kind = nib.Nifti1Header if single else nib.nifti1.Nifti1PairHeader
    nifti = kind(endianness="<")
    try:
        nifti.set_data_shape(shape)
        nifti.set_intent(label.intent, label.intent_parameters, label.intent_name)
    except (KeyError, HeaderDataError) as error:
        raise ValueError(f"NIfTI cannot store shape {shape}, intent {label.intent!r}: {error}") from error
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
    return nifti


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """An atomic file, gzipped if its name ends in .gz, without name or time, so that its bytes are reproducible."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as zipped:
            yield zipped  # type: ignore[misc]
