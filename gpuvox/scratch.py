"""Arrays of n × V float32 values in tiles of voxels: in memory or, where memory is too small, in an unnamed file.

A tile holds all n values of `WIDTH` voxels, one row after the other, so that a loop over voxels works on contiguous
memory and a disk is read sequentially. The bits of a result do not depend on where the tiles are.

The file is memory-mapped: the system owns its pages, reads ahead (`Tiles.sweep`), keeps as many pages as fit, and drops
the rest. Threads that sweep at the same time follow each other, so that a page read for one of them is available to the
others (a cooperative scan: Zukowski et al. 2007, VLDB).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeAlias

import numpy as np

from gpuvox.errors import ScratchError
from gpuvox.types import AnyArray, Float32, Ints

WIDTH = 64
"""Voxels of a tile."""
READ_BYTES = 32 << 20
"""Bytes of a file that are requested ahead of their use."""
WRITE_BYTES = 64 << 20
"""Bytes of rows that are collected before they are written into tiles."""


class Tiles:
    """(n, V) float32 values in tiles.

    Parameters
    ----------
    n, n_voxels : int
    folder : str
        Folder of the file; "" for memory. The file has no name, so nothing remains of it, however the process ends.

    Attributes
    ----------
    values : (tiles, n, WIDTH) float32
        0 beyond the last voxel.

    Raises
    ------
    ScratchError
        The folder does not exist, cannot be written to, or does not have enough space.
    """

    def __init__(self, n: int, n_voxels: int, folder: str = "") -> None:
        self.shape = n, n_voxels
        shape = -(-n_voxels // WIDTH), n, WIDTH
        self._map: mmap.mmap | None = None
        self._at = 0
        if folder and n * n_voxels:
            self._map = _mapped(folder, 4 * shape[0] * n * WIDTH)
            self.values: Float32 = np.frombuffer(self._map, dtype=np.float32).reshape(shape)
        else:
            self.values = np.empty(shape, dtype=np.float32)
            self.values[-1:] = 0
        self._per_read = max(1, READ_BYTES // (4 * WIDTH * max(n, 1)))

    @property
    def in_file(self) -> bool:
        """Whether the tiles are in a file."""
        return self._map is not None

    def sweep(self) -> Iterator[tuple[int, int]]:
        """Ranges of tiles that cover all data; each is read ahead while the one before it is used.

        In a file, the first range is the one that any thread used last.
        """
        n_tiles = len(self.values)
        if self._map is None:
            if n_tiles:
                yield 0, n_tiles
            return
        starts = range(0, n_tiles, self._per_read)
        first = self._at
        for k in range(len(starts)):
            self._at = (first + k) % len(starts)
            start = starts[self._at]
            self.read_ahead(start)
            yield start, min(start + self._per_read, n_tiles)

    def read_ahead(self, tile: int) -> None:
        """If a range of `sweep` begins at this tile, ask the system to read the range after it."""
        if self._map is None or tile % self._per_read or not hasattr(mmap, "MADV_WILLNEED"):
            return
        start = tile + self._per_read if tile + self._per_read < len(self.values) else 0
        stop = min(start + self._per_read, len(self.values))
        size = 4 * WIDTH * self.shape[0]
        first = start * size // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, first, stop * size - first)

    def pieces(self) -> Iterator[tuple[int, Float32]]:
        """Number of the first voxel, and the (n, WIDTH) values, of each tile."""
        for start, stop in self.sweep():
            for tile in range(start, stop):
                yield tile * WIDTH, self.values[tile]

    def block(self, rows: slice, voxels: slice) -> Float32:
        """(rows, voxels) Copy of a rectangle of the data."""
        start, stop, _ = voxels.indices(self.shape[1])
        first = start // WIDTH
        tiles = self.values[first : -(-stop // WIDTH), rows]
        wide = tiles.transpose(1, 0, 2).reshape(tiles.shape[1], len(tiles) * WIDTH)
        return np.ascontiguousarray(wide[:, start - first * WIDTH : stop - first * WIDTH])

    def set_rows(self, first: int, rows: Float32) -> None:
        """Write whole rows (m, V), from row `first` on."""
        whole, rest = divmod(self.shape[1], WIDTH)
        part = slice(first, first + len(rows))
        body = rows[:, : whole * WIDTH].reshape(len(rows), whole, WIDTH)
        for tile in range(whole):
            self.values[tile, part] = body[:, tile]
        if rest:
            self.values[whole, part, :rest] = rows[:, whole * WIDTH :]

    @property
    def rows_at_a_time(self) -> int:
        """Number of rows to collect before they are written."""
        return min(self.shape[0], max(1, WRITE_BYTES // (4 * max(self.shape[1], 1))))

    def writer(self) -> Callable[[int, Float32], None]:
        """A function to call with number and values (V,) of each row in order; it writes several rows at a time."""
        held = np.empty((self.rows_at_a_time, self.shape[1]), dtype=np.float32)

        def put(row: int, values: Float32) -> None:
            held[row % len(held)] = values
            if row % len(held) == len(held) - 1 or row == self.shape[0] - 1:
                first = row - row % len(held)
                self.set_rows(first, held[: row - first + 1])

        return put


Data: TypeAlias = Float32 | Tiles
"""(n, V) float32: an array, or tiles."""


def _mapped(folder: str, size: int) -> mmap.mmap:
    """A new unnamed file, mapped. Its space is allocated at once, or a full disk would kill the process later."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="gpuvox-") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                _fill(file, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ScratchError(
            f"the scratch folder {folder} cannot hold a file of {size / 2**30:.2f} GiB ({error.strerror or error})"
        ) from None


def _fill(file: BinaryIO, size: int) -> None:
    zeros = bytes(1 << 20)
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])
    file.flush()


def as_tiles(data: Data, folder: str) -> Tiles:
    """The same values in tiles."""
    if isinstance(data, Tiles):
        return data
    tiles = Tiles(data.shape[0], data.shape[1], folder)
    step = tiles.rows_at_a_time
    for start in range(0, len(data), step):
        tiles.set_rows(start, data[start : start + step])
    return tiles


def pieces(data: Data) -> Iterator[tuple[int, Float32]]:
    """Number of the first voxel, and the (n, width) values, of each contiguous part of the data.

    An array is one part. The last tile extends beyond the last voxel.
    """
    if isinstance(data, Tiles):
        yield from data.pieces()
    else:
        yield 0, data


def pieces_with(data: Data, voxels: Ints) -> Iterator[tuple[slice | Ints, Float32, Ints]]:
    """Parts of the data that contain given voxels.

    Yields
    ------
    place : index
        Which of the given voxels.
    values : (n, width) float32
    column : (m,) int64
        Their columns in the values.
    """
    if not isinstance(data, Tiles):
        yield slice(None), data, voxels
        return
    tile = voxels // WIDTH
    order = np.argsort(tile, kind="stable")
    ends = np.flatnonzero(np.diff(tile[order])) + 1
    for place in np.split(order, ends) if len(order) else ():
        number = int(tile[place[0]])
        data.read_ahead(number)
        yield place, data.values[number], voxels[place] - number * WIDTH


def block(data: Data, rows: slice, voxels: slice) -> Float32:
    """A rectangle of the data; a view if the data are an array."""
    return data.block(rows, voxels) if isinstance(data, Tiles) else data[rows, voxels]


def copy_block(data: Data, rows: slice, voxels: slice, out: Float32) -> None:
    """Copy a rectangle of the data into an array of its shape."""
    if not isinstance(data, Tiles):
        out[...] = data[rows, voxels]
        return
    start, stop, _ = voxels.indices(data.shape[1])
    for tile in range(start // WIDTH, -(-stop // WIDTH)):
        data.read_ahead(tile)
        first, last = max(tile * WIDTH, start), min((tile + 1) * WIDTH, stop)
        here = slice(first - tile * WIDTH, last - tile * WIDTH)
        out[:, first - start : last - start] = data.values[tile, rows, here]


def take(data: Data, voxels: AnyArray) -> Float32:
    """(n, m) Copy of some columns."""
    out = np.empty((data.shape[0], len(voxels)), dtype=np.float32)
    for place, values, column in pieces_with(data, voxels):
        out[:, place] = values[:, column]
    return out


def count_constant(data: Data) -> int:
    """Number of voxels that do not vary over the rows."""
    n_voxels, count, step = data.shape[1], 0, WIDTH * 16
    for start in range(0, n_voxels, step):
        values = block(data, slice(None), slice(start, min(start + step, n_voxels)))
        count += int((values == values[0]).all(axis=0).sum())
    return count


def check_folder(folder: str | os.PathLike[str]) -> str:
    """Absolute path of a folder in which scratch files can be created (else `ScratchError`); empty if `folder` is."""
    if folder and not os.path.isdir(folder):
        raise ScratchError(
            f"the scratch folder {folder} {'is a file' if os.path.exists(folder) else 'does not exist'}"
        )
    if not folder:
        return ""
    Tiles(1, 1, os.path.abspath(folder))
    return os.path.abspath(folder)
