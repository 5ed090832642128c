"""What the orthogonal viewer shows, packed for JavaScript: integers as base64, x fastest.

The statistic is stored as int16 with a scale of its own, corrected p exactly, as a uint16 multiple of 1/permutations;
mask and labels as runs (value, length) of uint16.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox.findings.figures import COOL, FADED, statistic_colours
from gpuvox.findings.scene import Scene, VoxelwiseTest
from gpuvox.types import AnyArray

LARGEST = 65535
BUDGET = 6e6
"""Bytes, in base64, above which every second (third …) voxel is shown."""


def viewer_data(
    scene: Scene, tests: Sequence[VoxelwiseTest], vmax: Mapping[str, float], level: float
) -> dict[str, Any]:
    """Volumes and their names for the viewer.

    Parameters
    ----------
    scene : Scene
    tests : sequence of VoxelwiseTest
    vmax : dict of str to float
        Statistic at the upper end of the colours, by its kind (t, F).
    level : float
    """
    step = _step(scene, len(tests))
    thin = (slice(None, None, step),) * 3
    mask, labels = scene.mask[thin], scene.labels[thin]
    affine = scene.affine.copy()
    affine[:3, :3] *= step
    colours, cool = (
        (each(np.arange(256))[:, :3] * 255).round().astype(np.uint8) for each in (statistic_colours(), COOL)
    )
    return {
        "shape": list(mask.shape), "affine": affine.tolist(), "step": step, "oriented": scene.oriented,
        "size": [size * step for size in scene.voxel_size], "level": level, "faded": FADED,
        "underlay": pack(scene.underlay[thin], "<u1"), "mask": runs(mask.astype(np.int64)), "labels": runs(labels),
        "names": names(scene, labels), "colours": base64.b64encode(colours.tobytes()).decode(),
        "cool": base64.b64encode(cool.tobytes()).decode(),
        "tests": [_packed(test, thin, mask, scene) | {"vmax": vmax[test.kind]} for test in tests],
    }  # fmt: skip


def _step(scene: Scene, n_tests: int) -> int:
    size = 4 / 3 * (scene.mask.size + 4 * int(scene.mask.sum()) * n_tests)
    return max(1, math.ceil((size / BUDGET) ** (1 / 3) - 1e-9))


def _packed(test: VoxelwiseTest, thin: tuple[slice, ...], mask: NDArray[np.bool_], scene: Scene) -> dict[str, Any]:
    statistic, corrected = (volume[thin] for volume in (test.statistic, test.corrected))
    scale = float(np.abs(test.statistic).max()) / 32767 or 1.0
    count = test.permutations if 0 < test.permutations <= LARGEST else LARGEST
    p = np.rint((1 - corrected.astype(np.float64)) * count)
    return {
        "name": test.name, "title": test.title, "contrast": test.contrast, "method": test.method, "kind": test.kind,
        "peak": list(scene.millimetres(test.peak)), "survivors": test.survivors, "two_sided": test.two_sided,
        "statistic": pack(_inside(statistic / scale, mask), "<i2"), "scale": scale,
        "p": pack(_inside(p, mask), "<u2"), "count": count,
    }  # fmt: skip


def _inside(volume: NDArray, mask: NDArray[np.bool_]) -> NDArray:
    """Values of the mask's voxels, x fastest."""
    return volume.ravel(order="F")[mask.ravel(order="F")]


def pack(values: AnyArray, kind: str) -> str:
    """Integers as base64, x fastest."""
    return base64.b64encode(np.rint(values).ravel(order="F").astype(kind).tobytes()).decode()


def runs(volume: NDArray[np.int64]) -> str:
    """Whole numbers from 0 to 65535 as pairs of value and length."""
    flat = np.clip(volume, 0, LARGEST).ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    pairs = []
    for value, length in zip(flat[starts], np.diff([*starts, flat.size])):
        while length > 0:
            part = min(int(length), LARGEST)
            pairs += [int(value), part]
            length -= part
    return base64.b64encode(np.array(pairs, dtype="<u2").tobytes()).decode()


def names(scene: Scene, labels: NDArray[np.int64]) -> Mapping[str, str]:
    """Names of the labels that there are."""
    return {str(int(number)): scene.region_name(int(number)) for number in np.unique(labels) if number > 0}
