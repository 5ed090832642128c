"""Arrays of n × V float32 values in tiles of voxels: in memory, or in a file without a name where memory is too small.

A tile holds all n values of `WIDTH` voxels, one row after the other, so that what a loop over voxels works on is
contiguous, and what is read from a disk is read from one end to the other. The bits of a result do not depend on where
the tiles are.

The file is mapped: its pages belong to the system, which reads ahead (`Tiles.sweep`), keeps what there is room for, and
drops the rest. Threads that sweep at the same time follow each other, so that a page that was read for one is there
for the others (a cooperative scan: Zukowski et al. 2007, VLDB).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from gpuvox.errors import ScratchError
from gpuvox.types import AnyArray, Float32, Ints

WIDTH = 256
"""Voxels of a tile."""
READ_BYTES = 32 << 20
"""What is asked of a file ahead of its use."""
WRITE_BYTES = 64 << 20
"""Rows that are collected before they are written into tiles."""


class Tiles:
    """(n, V) float32 values in tiles.

    Parameters
    ----------
    n, n_voxels : int
    folder : str
        Where the file is made; "" for memory. The file has no name, so nothing is left of it, however the process
        ends.

    Attributes
    ----------
    values : (tiles, n, WIDTH) float32
        0 beyond the last voxel.

    Raises
    ------
    ScratchError
        The folder does not exist, cannot be written, or has no room.
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
        """Ranges of tiles that make up the whole, each read ahead while the one before is used.

        In a file the first is the one that any thread used last.
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
        """Ask the system, where a range of `sweep` begins at this tile, to read the range after it."""
        if self._map is None or tile % self._per_read or not hasattr(mmap, "MADV_WILLNEED"):
            return
        start = tile + self._per_read if tile + self._per_read < len(self.values) else 0
        stop = min(start + self._per_read, len(self.values))
        size = 4 * WIDTH * self.shape[0]
        first = start * size // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, first, stop * size - first)

    def pieces(self) -> Iterator[tuple[int, Float32]]:
        """Number of the first voxel, and the (n, WIDTH) values, of each tile in turn."""
        for start, stop in self.sweep():
            for tile in range(start, stop):
                yield tile * WIDTH, self.values[tile]

    def block(self, rows: slice, voxels: slice) -> Float32:
        """(rows, voxels) A copy of a rectangle, in rows."""
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
        """Rows worth collecting before they are written."""
        return min(self.shape[0], max(1, WRITE_BYTES // (4 * max(self.shape[1], 1))))

    def writer(self) -> Callable[[int, Float32], None]:
        """A function that takes the number and the values (V,) of every row in turn, and writes some at a time."""
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
    """A new file without a name, mapped; room for all of it is claimed, lest a full disk kill the process later."""
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


def _fill(file: Any, size: int) -> None:
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
    """Number of the first voxel, and the (n, width) values, of parts of the data that are contiguous.

    An array is one part. The last tile goes beyond the last voxel.
    """
    if isinstance(data, Tiles):
        yield from data.pieces()
    else:
        yield 0, data


def pieces_with(data: Data, voxels: Ints) -> Iterator[tuple[Any, Float32, Ints]]:
    """Parts of the data that hold some voxels.

    Yields
    ------
    place : index
        Which of the voxels.
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
    """A rectangle of the data; of an array, a view."""
    return data.block(rows, voxels) if isinstance(data, Tiles) else data[rows, voxels]


def take(data: Data, voxels: AnyArray) -> Float32:
    """(n, m) A copy of some columns."""
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
    """The absolute name of a folder in which scratch files can be made (`ScratchError`); an empty one stays empty."""
    if folder and not os.path.isdir(folder):
        raise ScratchError(
            f"the scratch folder {folder} {'is a file' if os.path.exists(folder) else 'does not exist'}"
        )
    if not folder:
        return ""
    Tiles(1, 1, os.path.abspath(folder))
    return os.path.abspath(folder)
