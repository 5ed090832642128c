"""Images that are made for an analysis: some volumes of a 4D image, or weighted sums of those of a subject's visits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox import files, participants
from gpuvox.application.voxelwise.analysis import VoxelwiseAnalysis
from gpuvox.cohort.images import CohortImages
from gpuvox.types import Float32, Float64


def image_of_rows(analysis: VoxelwiseAnalysis, name: str, out: Path) -> Path:
    """A 4D image with a volume for each row of the analysis, of images that are volumes of one, or made of several.

    Parameters
    ----------
    analysis : VoxelwiseAnalysis
    name : str
        Of a set of images, or of a voxelwise covariate.
    out : Path
        The image that is written, with its participants, unless one has these volumes already.

    Raises
    ------
    FileError
        An image cannot be read, or is on another grid than the first.
    """
    images = analysis.sources[name]
    if not images.combined and images.is_whole(analysis.rows):
        return images.paths[analysis.rows[0]]
    header = files.read_header(next(iter(images.paths.values())))
    if images.combined:
        volumes, text = _sums(images, analysis, header), "images made of those of several visits"
    else:
        numbers = [images.volumes[row] for row in analysis.rows]
        volumes, text = _in_order(files.read_volumes(header.path), numbers), "rows of a voxelwise analysis"
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    who, label = analysis.cohort.who, files.Label(f"gpuvox: {text}")
    with (
        participants.sidecar(out, who.ids, who.visits),
        files.open_map(out, grid, header, len(analysis.rows), label=label) as (_, write),
    ):
        for values in volumes:
            write(values)
    return out


def _in_order(volumes: Iterable[Float32], numbers: Sequence[int]) -> Iterator[Float32]:
    """Some volumes in this order; those that come too early are kept until it is their turn."""
    waiting, early, turn = set(numbers), dict[int, Float32](), 0
    for number, values in enumerate(volumes):
        if number in waiting:
            early[number] = values
        while turn < len(numbers) and numbers[turn] in early:
            yield early.pop(numbers[turn])
            turn += 1


def _sums(images: CohortImages, analysis: VoxelwiseAnalysis, header: files.ImageHeader) -> Iterator[Float32]:
    """(V,) float32 of each row, summed in float64."""
    stack = list(files.read_volumes(header.path)) if images.stacked else None
    for row in analysis.rows:
        total: Float64 = np.zeros(math.prod(header.shape[:3]))
        for visit, weight in images.weights[row]:
            values = stack[images.volumes[visit]] if stack else _read(images, visit, header)
            total += weight * values.astype(np.float64)
        yield total.astype(np.float32)


def _read(images: CohortImages, visit: int, header: files.ImageHeader) -> Float32:
    return next(files.read_volumes_like(images.paths[visit], header))


def combine_in_memory(images: CohortImages, analysis: VoxelwiseAnalysis) -> Any:
    """The weighted sums of images in memory: in a 4D nibabel image or array, or an array (n, V)."""
    held = images.memory
    if isinstance(held, list):
        there = [each for each in held if each is not None]
        numbers = {old: new for new, old in enumerate(i for i, each in enumerate(held) if each is not None)}
        is_image = hasattr(there[0], "dataobj")
        held = files.stacked(there) if is_image else np.stack(there, axis=3)
    else:
        numbers = {number: number for number in images.volumes.values()}
    weights = np.zeros((len(analysis.rows), held.shape[-1 if len(held.shape) == 4 else 0]))
    for i, row in enumerate(analysis.rows):
        for visit, weight in images.weights[row]:
            weights[i, numbers[images.volumes[visit]]] = weight
    if hasattr(held, "dataobj"):
        return files.combined_volumes(held, weights)
    values = np.asarray(held)
    if values.ndim == 4:
        return np.moveaxis(files.weighted_sums(np.moveaxis(values, 3, 0), weights), 0, 3)
    return files.weighted_sums(values, weights)
