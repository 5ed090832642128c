"""Image series: the images of the rows of a table, as 4D images with a volume for each row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from gpuvox import files, participants
from gpuvox.errors import FileError
from gpuvox.files.targets import check_targets
from gpuvox.grid import Grid
from gpuvox.participants import Rows
from gpuvox.plain import composed, several
from gpuvox.reporter import Progress
from gpuvox.types import AnyArray, Float32

Values = TypeVar("Values", bound=AnyArray)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of the rows of a table: one file for each row, or a 4D image with one volume for each.

    Attributes
    ----------
    headers : dict of int to ImageHeader
        By row; all rows of a 4D image have the same header.
    numbers : dict of int to int
        Row → number of its volume, from 0, in a 4D image; empty for separate images.
    """

    headers: Mapping[int, files.ImageHeader]
    numbers: Mapping[int, int]

    @property
    def stacked(self) -> bool:
        """Whether they are volumes of one 4D image."""
        return bool(self.numbers)

    @property
    def first(self) -> files.ImageHeader:
        """Header of the first image, whose grid the others share."""
        return next(iter(self.headers.values()))

    def volumes(self, rows: Sequence[int]) -> Iterator[Float32]:
        """The volumes of some rows, in the given order, with all voxels."""
        if self.stacked:
            yield from in_order(files.read_volumes(self.first.path), [self.numbers[row] for row in rows])
            return
        for row in rows:
            yield next(files.read_volumes(self.headers[row].path))


def in_order(volumes: Iterator[Values], numbers: Sequence[int]) -> Iterator[Values]:
    """Volumes of a stream, reordered by their numbers; a volume read before its turn is kept in memory."""
    needed, waiting, n = set(numbers), {}, 0
    for number in numbers:
        while number not in waiting:
            values = next(volumes)
            if n in needed:
                waiting[n] = values
            n += 1
        yield waiting.pop(number)


def numbers_of_volumes(
    header: files.ImageHeader, who: Rows, rows: Sequence[int], visit_column: str = ""
) -> list[int]:
    """The volume of each of some rows of a table in a 4D image, from 0.

    It is that of the same participant and visit, if a file beside the image names those of its volumes; see
    `participants.of_volumes`. Otherwise the image needs a volume for each row of the table, in the same order.

    Raises
    ------
    FileError
        A row has no volume; nothing tells the volumes of a participant apart; nothing names the volumes, and there are
        more or fewer than rows.
    """
    named = participants.of_volumes(header.path, visit_column)
    if named is not None:
        return participants.places(who, named, rows)
    if header.shape[3] != len(who.ids):
        raise FileError(
            f"{header.path} has {several(header.shape[3], 'volume')}; {who.origin} has {several(len(who.ids), 'row')}"
        )
    return list(rows)


def find_images(
    source: str, table: pd.DataFrame, rows: Sequence[int], who: Rows, visit_column: str = ""
) -> Images:
    """Find the images of some rows of a table, and check that they are on one grid.

    Parameters
    ----------
    source : str
        A column of the table, with paths relative to it, or a 4D image; see `numbers_of_volumes`.
    table : DataFrame of str
    rows : sequence of int
    who : Rows
        The participant (and visit) of each row of the table.
    visit_column : str
        Column of visits to prefer in a table beside a 4D image.

    Raises
    ------
    FileError
        A path is missing, an image cannot be read, or grids differ; as for `numbers_of_volumes`.
    """
    column = composed(source)
    if column not in table.columns:
        header = files.read_header(source)
        numbers = numbers_of_volumes(header, who, rows, visit_column)
        return Images(dict.fromkeys(rows, header), dict(zip(rows, numbers)))
    headers: dict[int, files.ImageHeader] = {}
    grid = None
    for row in rows:
        path = table[column].iloc[row].strip()
        if path in ("", "n/a"):
            raise FileError(f"{who.origin} has no {column} of {who.named(row)}")
        header = headers[row] = files.read_header(Path(who.origin).parent / path)
        if header.shape[3] != 1:
            raise FileError(
                f"{header.path} has {several(header.shape[3], 'volume')}; expected one, of {who.named(row)}"
            )
        grid = grid or header.grid(np.ones(header.shape[:3], dtype=bool))
        files.check_grid(header, grid, headers[rows[0]].path)
    return Images(headers, {})


def shared_images(images: Images, who: Rows) -> str:
    """A warning about the first file that two rows share, or an empty text; see `participants.shared`."""
    if images.stacked:
        return ""
    return participants.shared([header.path for header in images.headers.values()], who.of(list(images.headers)))


def check_target(out: str, images: Images) -> None:
    """Raise `FileError` if an output image would replace one of its own inputs."""
    check_targets(files.split_suffix(out)[0], (".json",), maps=("",))
    target = os.path.realpath(files.split_suffix(out)[0])
    for header in images.headers.values():
        if os.path.realpath(files.split_suffix(header.path)[0]) == target:
            raise FileError(f"{header.path} is an input and would be replaced; choose another output")


def write_images(
    stack: ExitStack, out: str, like: Images, volumes: Iterator[Float32], who: Rows, text: str
) -> None:
    """Write a 4D image and the participants of its volumes; the files appear when the stack exits without an error."""
    write_volumes(stack, out, like.first, volumes, who.ids, text, who.visits)


def write_volumes(
    stack: ExitStack,
    out: str,
    header: files.ImageHeader,
    volumes: Iterable[Float32],
    ids: Sequence[str],
    text: str,
    visits: Sequence[str] = (),
) -> None:
    """The same of volumes on the grid of a header."""
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    stack.enter_context(participants.sidecar(out, ids, visits))
    label = files.Label.cut(f"gpuvox: {text}")
    _, write = stack.enter_context(files.open_map(out, grid, header, len(ids), label=label))
    for values in volumes:
        write(values)


def counted(volumes: Iterator[Float32], title: str, n: int, progress: Progress) -> Iterator[Float32]:
    """The same volumes, with progress reported after each has been used."""
    for i, values in enumerate(volumes, start=1):
        yield values
        progress(title, i, n)


def copy_volumes(source: str, out: str, keep: NDArray[np.bool_], ids: Sequence[str]) -> None:
    """Write some volumes of a 4D image as another, with the participants in the JSON file beside it.

    Parameters
    ----------
    source, out : path
    keep : (volumes,) bool
        Which volumes are copied.
    ids : sequence of str
        Participants of the volumes that are copied.
    """
    kept = (values for values, is_kept in zip(files.read_volumes(source), keep) if is_kept)
    text = f"{os.path.basename(out)} of the participants in the study"
    with ExitStack() as stack:
        write_volumes(stack, out, files.read_header(source), kept, ids, text)


def on_grid(image: str, grid: Grid) -> Float32:
    """The first volume of an image on a grid, interpolated where it is on another (trilinear; 0 outside the image).

    Raises
    ------
    FileError
        The file is not an image.
    """
    header = files.read_header(image)
    values = np.nan_to_num(next(files.read_volumes(image)))
    own = header.grid(np.ones(header.shape[:3], dtype=bool))
    if own.affine is None or grid.affine is None:
        files.check_grid(header, grid, "the mask")
        return values.astype(np.float32)
    if header.shape[:3] == grid.shape and np.allclose(header.affine, grid.affine, atol=1e-3):
        return values.astype(np.float32)
    volume = values.reshape(header.shape[:3], order="F")
    there = np.linalg.inv(header.affine) @ grid.affine
    found = affine_transform(volume, there[:3, :3], there[:3, 3], output_shape=grid.shape, order=1)
    return np.asarray(grid.to_vector(found.astype(np.float32)))


def mean_image(images: Sequence[str]) -> tuple[Float32, Grid, files.ImageHeader]:
    """Mean over all volumes of images on one grid; NaN counts as 0.

    Returns
    -------
    mean : (voxels,) float32
    grid : Grid
        Every voxel of the first image.
    header : ImageHeader
        Of the first image.

    Raises
    ------
    FileError
        An image is on another grid.
    """
    header = files.read_header(images[0])
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    total, n = np.zeros(grid.n_voxels), 0
    for image in images:
        files.check_grid(files.read_header(image), grid, header.path)
        for values in files.read_volumes(image):
            total += np.nan_to_num(values)
            n += 1
    return (total / n).astype(np.float32), grid, header
