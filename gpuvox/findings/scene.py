"""Images around a mask, turned so that the axes point right, anterior and superior; and tests with their maps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuvox.findings.labels import Region
from gpuvox.grid import Grid
from gpuvox.types import AnyArray, Bools

Scalar = TypeVar("Scalar", bound=np.generic)

MARGIN = 12.0
"""mm of anatomy around the mask."""


@dataclass(frozen=True, eq=False)
class VoxelwiseTest:
    """One contrast of one map, in a scene.

    Attributes
    ----------
    number : int
        From 0, in the order of the report.
    name, map, title, unit, contrast, method : str
    kind : str
        What the statistic is: t or F.
    permutations : int
        0 where it is not said.
    statistic, corrected : (nx, ny, nz) float32
        In the scene; 0 outside the mask.
    significant : (nx, ny, nz) bool
        Where corrected p is under the level.
    peak : (int, int, int)
        Voxel of the largest statistic, among the survivors if there are any.
    critical, observed : float, optional
        The largest statistic of the mask: its critical value at the level, and the observed one.
    two_sided : bool
        p is of the size of the statistic, whatever its sign.
    """

    number: int
    name: str
    map: str
    title: str
    unit: str
    contrast: str
    method: str
    kind: str
    permutations: int
    statistic: NDArray[np.float32]
    corrected: NDArray[np.float32]
    significant: NDArray[np.bool_]
    peak: tuple[int, int, int]
    critical: float | None = None
    observed: float | None = None
    two_sided: bool = False

    @property
    def p(self) -> float:
        """Smallest corrected p; stored as 1 − p in float32, it is a multiple of 1/permutations."""
        return self.exact_p(float(self.corrected.max()))

    def exact_p(self, corrected: float) -> float:
        """p of a value of the corrected map."""
        p = 1 - float(corrected)
        # 0 of approximated p alone: that of the data themselves is at least 1.
        count = round(p * self.permutations)
        return count / self.permutations if count else round(p, 6)

    @property
    def survivors(self) -> int:
        """Number of voxels whose corrected p is under the level."""
        return int(self.significant.sum())

    @property
    def anchor(self) -> str:
        """Where the report shows it."""
        return f"map-{self.number}"

    @property
    def label(self) -> str:
        """Map, if it has a title, and contrast."""
        return f"{self.title}, {self.contrast}" if self.title else self.contrast


@dataclass(frozen=True, eq=False)
class Scene:
    """The box that is shown.

    Attributes
    ----------
    grid : Grid
        Mask of the analysis, on the grid of the files.
    affine : (4, 4) float64
        Voxel of the box to millimetres.
    oriented : bool
        Whether the images say where left is.
    mask : (nx, ny, nz) bool
    underlay : (nx, ny, nz) uint8
        Shades of grey.
    labels : (nx, ny, nz) int64
    regions : dict of int to Region
    """

    grid: Grid
    affine: NDArray[np.float64]
    oriented: bool
    mask: NDArray[np.bool_]
    _turn: Turn
    _box: tuple[slice, slice, slice]
    underlay: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.uint8))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.int64))
    regions: Mapping[int, Region] = field(default_factory=dict)

    @classmethod
    def around(cls, grid: Grid) -> Scene:
        """The box around a mask, with nothing in it yet."""
        affine = np.diag([*grid.voxel_size, 1.0]) if grid.affine is None else grid.affine
        turn = Turn.of(affine)
        turned, mask = turn.affine(affine, grid.shape), turn.apply(grid.mask)
        box = _box(mask, np.linalg.norm(turned[:3, :3], axis=0))
        turned[:3, 3] += turned[:3, :3] @ [part.start for part in box]
        bare = cls(grid, turned, grid.affine is not None, np.ascontiguousarray(mask[box]), turn, box)
        return bare.holding(None, None, {})

    def holding(self, underlay: AnyArray | None, labels: AnyArray | None, regions: Mapping[int, Region]) -> Scene:
        """The same with an underlay and with labels, both in the box."""
        numbers = np.zeros(self.mask.shape, dtype=np.int64) if labels is None else labels
        return replace(self, underlay=_grey(underlay, self.mask), labels=numbers, regions=regions)

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """mm along the axes of the box."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def millimetres(self, voxel: tuple[int, int, int]) -> tuple[float, float, float]:
        """Position of a voxel of the box in millimetres."""
        x, y, z = self.affine[:3, :3] @ voxel + self.affine[:3, 3]
        return float(x), float(y), float(z)

    def voxel_at(self, place: tuple[float, float, float]) -> tuple[int, int, int]:
        """The voxel of the box at a position in millimetres; the nearest one outside of it."""
        index = np.rint(np.linalg.solve(self.affine[:3, :3], np.array(place) - self.affine[:3, 3]))
        x, y, z = (int(i) for i in np.clip(index, 0, np.array(self.mask.shape) - 1))
        return x, y, z

    def shown(self, volume: NDArray[Scalar]) -> NDArray[Scalar]:
        """An image of the files, turned and cut to the box."""
        return np.ascontiguousarray(self._turn.apply(volume)[self._box])

    def region_name(self, number: int) -> str:
        """Name of a label; empty for the background."""
        if not number:
            return ""
        region = self.regions.get(number)
        return f"label {number}" if region is None else readable(region)


def readable(region: Region) -> str:
    """Side and structure in words."""
    structure = region.structure.replace("_", " ").replace("-", " ")
    return structure if region.side == "none" else f"{region.side} {structure}"


@dataclass(frozen=True, eq=False)
class Turn:
    """How the axes of an image are permuted and flipped to point right, anterior and superior, as nearly as may be.

    Attributes
    ----------
    axes : (int, int, int)
        Axis of the image that becomes x, y, z.
    signs : (int, int, int)
        −1 where it is flipped.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> Turn:
        """From the affine of the image."""
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        best = max(itertools.permutations(range(3)), key=lambda axes: _along(cosines, axes))
        x, y, z = best
        signs = [1 if cosines[world, axis] >= 0 else -1 for world, axis in enumerate(best)]
        return cls((x, y, z), (signs[0], signs[1], signs[2]))

    def apply(self, volume: NDArray[Scalar]) -> NDArray[Scalar]:
        """The image with its axes turned."""
        turned = np.transpose(volume, self.axes)
        return turned[tuple(slice(None, None, sign) for sign in self.signs)]

    def affine(self, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Affine of the turned image."""
        back = np.zeros((4, 4))
        back[3, 3] = 1
        for new, (old, sign) in enumerate(zip(self.axes, self.signs)):
            back[old, new] = sign
            back[old, 3] = 0 if sign > 0 else shape[old] - 1
        return affine @ back


def _along(cosines: NDArray[np.float64], axes: tuple[int, ...]) -> float:
    return float(np.prod([abs(cosines[world, axis]) for world, axis in enumerate(axes)]))


def _box(mask: NDArray[np.bool_], size: NDArray[np.float64]) -> tuple[slice, slice, slice]:
    ranges = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN / size[axis]))
        ranges.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, mask.shape[axis])))
    return ranges[0], ranges[1], ranges[2]


def _grey(underlay: NDArray[np.float32] | None, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if underlay is None:
        return np.where(mask, 110, 40).astype(np.uint8)
    low, high = np.percentile(underlay, [1, 99.5])
    if high <= low:
        return np.full(mask.shape, 110, dtype=np.uint8)
    return (np.clip((underlay - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def significant(corrected: NDArray[np.float32], mask: Bools, level: float) -> Bools:
    """Voxels whose corrected p is below a level, strictly, as for clusters; `corrected` is 1 − p."""
    below: Bools = mask & (corrected >= np.nextafter(np.float32(1 - level), np.float32(2)))
    return below


def colour_ends(tests: Sequence[VoxelwiseTest]) -> dict[str, float]:
    """Statistic at the upper end of the colours, by its kind: the same for all tests of a kind."""
    largest: dict[str, float] = {}
    for test in tests:
        size = np.abs(test.statistic) if test.two_sided else test.statistic
        largest[test.kind] = max(largest.get(test.kind, 0.0), float(size.max()))
    return {kind: float(np.ceil(top)) if top > 0 else 1.0 for kind, top in largest.items()}


def peak_of(statistic: NDArray[np.float32], survivors: Bools, mask: Bools) -> tuple[int, int, int]:
    """The voxel of the largest statistic, among the survivors if there are any.

    For a two-sided test, `statistic` is its size.
    """
    among = survivors if survivors.any() else mask
    x, y, z = np.unravel_index(int(np.argmax(np.where(among, statistic, -np.inf))), among.shape)
    return int(x), int(y), int(z)
