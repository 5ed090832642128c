"""The volumes of images, one after the other, with one in memory at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.files.headers import ImageHeader, read_header
from gpuvox.files.rounding import Rounding
from gpuvox.files.streams import DAMAGE, GzipStream, check_end, fill, open_stream
from gpuvox.files.text import Name, reason
from gpuvox.runtime.pool import Pool
from gpuvox.types import AnyArray

Progress = Callable[[int, int], None]
Convert = Callable[[AnyArray, float, float], AnyArray]
# Files that are read at the same time, each with a volume in memory.
MOST_READERS = 8


def read_volumes(name: Name) -> Iterator[NDArray[np.float32]]:
    """The volumes of an image one after the other: every voxel, x fastest, as float32; NaN is allowed.

    Raises
    ------
    FileError
        As for `read_header`; a truncated or damaged file.
    """
    yield from volumes(read_header(name))


def read_labels(name: Name) -> Iterator[NDArray[np.int64]]:
    """The volumes of a label image one after the other: every voxel, x fastest, as whole numbers in full precision.

    Raises
    ------
    FileError
        As for `read_header`; a truncated or damaged file; values that are not whole numbers, or are too large for the
        file's type of number to represent exactly.
    """
    header = read_header(name)
    yield from volumes(header, convert=partial(_whole_numbers, header.path))


def _whole_numbers(path: Path, values: AnyArray, slope: float, inter: float) -> NDArray[np.int64]:
    """Stored values as whole numbers; `FileError` if they are not, or are too large to be exact."""
    most = 2.0**53 if (slope, inter) != (1, 0) or values.dtype.kind == "f" else 2.0**63
    if values.dtype.kind == "f":
        most = min(most, 2.0 ** (np.finfo(values.dtype).nmant + 1))
    if (slope, inter) != (1, 0):
        values = values.astype(np.float64) * slope + inter
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():  # nor NaN
        raise FileError(f"{path} has values that are not whole numbers; labels are expected")
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if largest >= most:
        raise FileError(
            f"{path} has labels up to {largest:.0f}; those from {most:.0f} on cannot be distinguished in it: "
            "save it with integers"
        )
    return values.astype(np.int64)


def all_volumes(
    headers: Sequence[ImageHeader], index: NDArray[np.int64] | None = None, rounding: Rounding | None = None
) -> Iterator[tuple[ImageHeader, int, NDArray[np.float32]]]:
    """(header, number of the volume in its file from 1, values) of all volumes of all images, in order.

    Several images, which have one volume each, are read in as many threads as there are processors, because most of
    the time goes to decompression, which releases the interpreter lock. The volumes of one file are read in order.
    Each is added to `rounding`.
    """
    convert = _scaled if rounding is None else partial(_scaled_and_recorded, rounding)
    if len(headers) == 1:
        for volume, values in enumerate(volumes(headers[0], index, convert), start=1):
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
    return next(volumes(header, index, convert))


def volumes(
    header: ImageHeader,
    index: NDArray[np.int64] | None = None,
    convert: Convert | None = None,
) -> Iterator[AnyArray]:
    """The volumes of an image one after the other, at the voxels of `index` (all, if None).

    `convert` turns stored values, slope and intercept into values; float32 by default.
    """
    convert = convert or _scaled
    proxy = header.proxy
    raw = np.empty(math.prod(header.shape[:3]), dtype=proxy.dtype)
    n = header.shape[3]
    if header.order is not None:
        index = header.order if index is None else header.order[index]
    volume = 0
    try:
        with open_stream(Path(proxy.file_like)) as file:
            file.seek(proxy.offset)
            for volume in range(1, n + 1):
                fill(file, raw)
                if volume == n and isinstance(file, GzipStream):
                    check_end(file, proxy.file_like)
                yield convert(raw if index is None else raw.take(index), proxy.slope, proxy.inter)
    except DAMAGE as error:
        raise FileError(
            f"{proxy.file_like} is truncated or damaged: "
            f"volume {max(volume, 1)} of {n} cannot be read ({reason(error)})"
        ) from error


def _scaled(values: AnyArray, slope: float, inter: float) -> NDArray[np.float32]:
    """`slope · values + inter` as float32, always a new array; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if slope != 1 or inter != 0:
            values = values.astype(np.float64) * slope + inter
        return values.astype(np.float32)


def _scaled_and_recorded(rounding: Rounding, values: AnyArray, slope: float, inter: float) -> NDArray[np.float32]:
    """As `_scaled`; `rounding` takes note."""
    held = _scaled(values, slope, inter)
    rounding.add(values.astype(np.float64) * slope + inter, held)
    return held
