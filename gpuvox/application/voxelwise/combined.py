"""Images of the analysis that are made of several: weighted sums of those of a subject's visits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuvox import files, participants
from gpuvox.application.voxelwise.analysis import VoxelwiseAnalysis
from gpuvox.cohort.images import CohortImages
from gpuvox.types import Float32, Float64


def write_combined(images: CohortImages, out: str, analysis: VoxelwiseAnalysis) -> None:
    """Write a 4D image of the weighted sums, a volume for each row of the analysis, and its participants.

    Raises
    ------
    FileError
        An image cannot be read, or is on another grid than the first.
    """
    header = files.read_header(next(iter(images.paths.values())))
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    who, label = analysis.cohort.who, files.Label("gpuvox: images made of those of several visits")
    with (
        participants.sidecar(out, who.ids, who.visits),
        files.open_map(out, grid, header, len(analysis.rows), label=label) as (_, write),
    ):
        for values in _sums(images, analysis, header):
            write(values)


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
    """The same of images in memory: in a 4D nibabel image or array, or an array (n, V)."""
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
    values = np.asarray(held, dtype=np.float64)
    return (values @ weights.T if values.ndim == 4 else weights @ values).astype(np.float32)
